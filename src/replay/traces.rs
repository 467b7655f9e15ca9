//! The real traces, carried in the binary so that it works from anywhere; `tests/data/SOURCE.md` says where they are from
//! and under which licences. Parsed once and shared. Nothing is resampled here.

use std::io::Read;
use std::sync::Arc;

use flate2::read::GzDecoder;

const CODE: &[u8] = include_bytes!("../../tests/data/azure_llm_2023_code.csv.gz");
const CONVERSATION: &[u8] = include_bytes!("../../tests/data/azure_llm_2023_conv.csv.gz");
const CLIENTS: &[u8] = include_bytes!("../../tests/data/servegen_deepseek_r1_clients.csv.gz");

/// The length of one window of a client's model.
pub const CLIENT_WINDOW_US: i64 = 600_000_000;

/// Every window of a client's day is there: 24 h of 600 s.
pub const WINDOWS_A_DAY: usize = 144;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("trace {name} cannot be unpacked")]
    Unpack {
        name: &'static str,
        source: std::io::Error,
    },
    #[error("trace {name}, line {line}: not what a trace holds")]
    Line { name: &'static str, line: usize },
    #[error("trace {name} has {found} rows, not {expected}")]
    Rows {
        name: &'static str,
        found: usize,
        expected: usize,
    },
}

/// One real request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Since the trace's first request.
    pub at_us: i64,
    pub tokens: Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    pub context: u32,
    pub generated: u32,
}

/// The real requests of one deployment, in the order of their arrival.
#[derive(Debug, PartialEq, Eq)]
pub struct Recording {
    pub rows: Vec<Row>,
    /// After so long it is played again: the last arrival and one mean distance.
    pub length_us: i64,
}

/// How the requests of one client were spread within ten minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClientWindow {
    pub n_requests: usize,
    pub spread: Spread,
}

/// The distribution of the distances between requests, by its shape: the scale follows from how many there were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    Gamma {
        shape: f64,
    },
    Weibull {
        shape: f64,
    },
    /// Nothing was fitted, as where there were too few.
    Poisson,
}

/// All traces.
#[derive(Debug, Clone)]
pub struct Traces {
    pub code: Arc<Recording>,
    pub conversation: Arc<Recording>,
    /// By client, each with its [`WINDOWS_A_DAY`] windows.
    pub clients: Vec<Arc<[ClientWindow]>>,
}

impl Traces {
    /// # Errors
    /// When the binary carries files that are no traces.
    pub fn load() -> Result<Self, TraceError> {
        Ok(Self {
            code: Arc::new(recording("azure_llm_2023_code", CODE)?),
            conversation: Arc::new(recording("azure_llm_2023_conv", CONVERSATION)?),
            clients: clients("servegen_deepseek_r1_clients", CLIENTS)?,
        })
    }
}

fn unpack(name: &'static str, packed: &[u8]) -> Result<String, TraceError> {
    let mut text = String::new();
    GzDecoder::new(packed)
        .read_to_string(&mut text)
        .map_err(|source| TraceError::Unpack { name, source })?;
    Ok(text)
}

fn recording(name: &'static str, packed: &[u8]) -> Result<Recording, TraceError> {
    let text = unpack(name, packed)?;
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1) {
        let row = request(line).ok_or(TraceError::Line {
            name,
            line: index + 1,
        })?;
        rows.push(row);
    }
    let first = rows.first().map_or(0, |row| row.at_us);
    for row in &mut rows {
        row.at_us -= first;
    }
    rows.sort_by_key(|row| row.at_us);
    let (Some(last), true) = (rows.last(), rows.len() > 1) else {
        return Err(TraceError::Rows {
            name,
            found: rows.len(),
            expected: 2,
        });
    };
    let length_us = last.at_us + last.at_us / (rows.len() as i64 - 1);
    Ok(Recording { rows, length_us })
}

/// `2023-11-16 18:17:03.9799600,4808,10`; every trace lies within one day.
fn request(line: &str) -> Option<Row> {
    let mut fields = line.split(',');
    let (_, time) = fields.next()?.split_once(' ')?;
    let mut parts = time.split(':');
    let hours: i64 = parts.next()?.parse().ok()?;
    let minutes: i64 = parts.next()?.parse().ok()?;
    let (seconds, fraction) = parts.next()?.split_once('.')?;
    let seconds: i64 = seconds.parse().ok()?;
    let micros: i64 = fraction.get(..6)?.parse().ok()?;
    let tokens = Tokens {
        context: fields.next()?.parse().ok()?,
        generated: fields.next()?.parse().ok()?,
    };
    let at_us = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros;
    Some(Row { at_us, tokens })
}

fn clients(name: &'static str, packed: &[u8]) -> Result<Vec<Arc<[ClientWindow]>>, TraceError> {
    let text = unpack(name, packed)?;
    let mut clients: Vec<Vec<ClientWindow>> = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1) {
        let wrong = TraceError::Line {
            name,
            line: index + 1,
        };
        let Some((client, number, window)) = client_window(line) else {
            return Err(wrong);
        };
        if client == clients.len() {
            clients.push(Vec::new());
        }
        // the rows stand by client and then by window, with none left out
        match clients.last_mut() {
            Some(windows) if windows.len() == number => windows.push(window),
            _ => return Err(wrong),
        }
    }
    for windows in &clients {
        if windows.len() != WINDOWS_A_DAY {
            return Err(TraceError::Rows {
                name,
                found: windows.len(),
                expected: WINDOWS_A_DAY,
            });
        }
    }
    Ok(clients.into_iter().map(Arc::from).collect())
}

/// `client,window_start_s,rate_rps,cv,distribution,param1,param2`.
fn client_window(line: &str) -> Option<(usize, usize, ClientWindow)> {
    let fields: Vec<&str> = line.split(',').collect();
    let [client, start, rate, _, distribution, shape, _] = fields[..] else {
        return None;
    };
    let start: i64 = start.parse().ok()?;
    let rate: f64 = rate.parse().ok()?;
    let shape: f64 = shape.parse().ok()?;
    let number = usize::try_from(start * 1_000_000 / CLIENT_WINDOW_US).ok()?;
    let spread = match distribution {
        "Gamma" if shape > 0.0 => Spread::Gamma { shape },
        "Weibull" if shape > 0.0 => Spread::Weibull { shape },
        "" => Spread::Poisson,
        _ => return None,
    };
    // the rates are counts of a window over its length
    let n_requests = (rate * CLIENT_WINDOW_US as f64 / 1e6).round() as usize;
    Some((
        client.parse().ok()?,
        number,
        ClientWindow { n_requests, spread },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_whole() {
        let traces = Traces::load().expect("traces");
        assert_eq!(traces.code.rows.len(), 8_819);
        assert_eq!(traces.conversation.rows.len(), 19_366);
        assert_eq!(traces.clients.len(), 73);
        let generated = |recording: &Recording| -> u64 {
            recording
                .rows
                .iter()
                .map(|row| u64::from(row.tokens.generated))
                .sum()
        };
        assert_eq!(generated(&traces.code), GENERATED_CODE);
        assert_eq!(generated(&traces.conversation), GENERATED_CONVERSATION);
        let a_day: usize = traces
            .clients
            .iter()
            .flat_map(|windows| windows.iter())
            .map(|window| window.n_requests)
            .sum();
        assert_eq!(a_day, 1_383_669);
    }

    /// Counted with another program.
    const GENERATED_CODE: u64 = 245_896;
    const GENERATED_CONVERSATION: u64 = 4_088_665;

    #[test]
    fn a_request_is_read_to_the_microsecond() {
        let row = request("2023-11-16 18:17:03.9799609,4808,10").expect("a request");
        let expected = ((18 * 60 + 17) * 60 + 3) * 1_000_000 + 979_960;
        assert_eq!(
            (row.at_us, row.tokens.context, row.tokens.generated),
            (expected, 4808, 10)
        );
        for bad in ["", "2023-11-16 18:17,1,2", "2023-11-16 18:17:03.97,4,x"] {
            assert_eq!(request(bad), None, "{bad}");
        }
    }
}
