//! Which port each part listens on: the one asked for, else the one of last time, else the usual
//! one, and any free one where that is taken. The choice is kept in the folder, so that clients
//! find everything where it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::local::ports::{self, FreePort};

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no free port for {part} on 127.0.0.1")]
    NoPort {
        part: &'static str,
        source: io::Error,
    },
    #[error("{path} cannot be written", path = .path.display())]
    Remember { path: PathBuf, source: io::Error },
}

/// What was asked for; None is the usual port or that of last time, 0 any free one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub kafka: Option<u16>,
    pub clickhouse: Option<u16>,
    pub dashboard: Option<u16>,
}

/// The ports, as chosen and as kept in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub kafka: u16,
    pub clickhouse: u16,
    pub processor: u16,
    /// A folder from before there was a page has none.
    #[serde(default)]
    pub dashboard: u16,
}

/// The usual ports: those that the clients of each part try first.
const USUAL_KAFKA: u16 = 9092;
const USUAL_CLICKHOUSE: u16 = 8123;
const USUAL_DASHBOARD: u16 = 8080;

/// The processor's pages are read by address from the ready file; it needs no usual port.
const ANY: u16 = 0;

/// One part's choice: the ports to try in order, the first free one wins.
struct Choice {
    part: &'static str,
    tried: Vec<u16>,
}

impl Choice {
    fn new(part: &'static str, wanted: Option<u16>, last: Option<u16>, usual: u16) -> Self {
        let tried = match wanted {
            Some(ANY) => vec![last],
            Some(port) => vec![Some(port)],
            None => vec![last, Some(usual)],
        };
        Self {
            part,
            tried: tried
                .into_iter()
                .flatten()
                .filter(|&port| port != ANY)
                .collect(),
        }
    }

    /// The port, held, and a word where it is not the first that was tried.
    fn claim(&self) -> Result<(FreePort, Option<String>), AddressError> {
        if let Some(port) = self.tried.iter().find_map(|&port| ports::claim(port).ok()) {
            let note = (Some(&port.number) != self.tried.first()).then(|| self.note(port.number));
            return Ok((port, note));
        }
        let port = ports::claim_any().map_err(|source| AddressError::NoPort {
            part: self.part,
            source,
        })?;
        let note = (!self.tried.is_empty()).then(|| self.note(port.number));
        Ok((port, note))
    }

    fn note(&self, taken_instead: u16) -> String {
        let wanted = self.tried.first().copied().unwrap_or(ANY);
        format!("port {wanted} is taken: {} gets {taken_instead}", self.part)
    }
}

impl Addresses {
    /// Chooses all ports, none twice, and a line for each that is another than expected.
    ///
    /// # Errors
    /// When the machine has no free port.
    pub fn choose(wanted: Wanted, last: Option<Self>) -> Result<(Self, Vec<String>), AddressError> {
        let kafka = Choice::new("Kafka", wanted.kafka, last.map(|l| l.kafka), USUAL_KAFKA);
        let clickhouse = Choice::new(
            "ClickHouse",
            wanted.clickhouse,
            last.map(|l| l.clickhouse),
            USUAL_CLICKHOUSE,
        );
        let dashboard = Choice::new(
            "the page",
            wanted.dashboard,
            last.map(|l| l.dashboard),
            USUAL_DASHBOARD,
        );
        let processor = Choice::new("the processor", Some(ANY), last.map(|l| l.processor), ANY);
        // All are held until the last is chosen.
        let (kafka, first) = kafka.claim()?;
        let (clickhouse, second) = clickhouse.claim()?;
        let (dashboard, third) = dashboard.claim()?;
        // Nobody asked for the processor's port, so nobody is told that it moved.
        let (processor, _) = processor.claim()?;
        let chosen = Self {
            kafka: kafka.number,
            clickhouse: clickhouse.number,
            processor: processor.number,
            dashboard: dashboard.number,
        };
        Ok((
            chosen,
            [first, second, third].into_iter().flatten().collect(),
        ))
    }

    /// Those of last time; None where there are none, or none that can be read.
    pub fn last(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Keeps them for the next time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&self, path: &Path) -> Result<(), AddressError> {
        let text = serde_json::to_vec_pretty(self).expect("numbers are JSON");
        fs::write(path, text).map_err(|source| AddressError::Remember {
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        ports::claim_any().expect("a free port").number
    }

    #[test]
    fn ports_of_last_time_are_taken_again_where_they_are_free() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ports.json");
        assert_eq!(Addresses::last(&path), None);
        let any = Wanted {
            kafka: Some(0),
            clickhouse: Some(0),
            dashboard: Some(0),
        };
        let (first, notes) = Addresses::choose(any, None).expect("free ports");
        assert_eq!(notes, Vec::<String>::new());
        first.remember(&path).expect("written");
        assert_eq!(Addresses::last(&path), Some(first));
        for wanted in [any, Wanted::default()] {
            let (again, notes) = Addresses::choose(wanted, Some(first)).expect("free ports");
            assert_eq!((again, notes), (first, Vec::new()));
        }
    }

    #[test]
    fn a_folder_without_a_page_gets_a_port_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ports.json");
        let kafka = free_port();
        let text = format!(r#"{{"kafka": {kafka}, "clickhouse": 2, "processor": 3}}"#);
        fs::write(&path, text).expect("written");
        let last = Addresses::last(&path).expect("it is read");
        assert_eq!(last.dashboard, ANY);
        let wanted = Wanted {
            kafka: None,
            clickhouse: Some(0),
            dashboard: Some(0),
        };
        let (chosen, _) = Addresses::choose(wanted, Some(last)).expect("free ports");
        assert_eq!(chosen.kafka, kafka);
        assert_ne!(chosen.dashboard, ANY);
    }

    #[test]
    fn a_taken_port_gives_way_to_a_free_one_and_is_told() {
        let taken = ports::claim_any().expect("a free port");
        let wanted = Wanted {
            kafka: Some(taken.number),
            clickhouse: Some(free_port()),
            dashboard: Some(free_port()),
        };
        let (chosen, notes) = Addresses::choose(wanted, None).expect("free ports");
        assert_ne!(chosen.kafka, taken.number);
        assert_eq!(Some(chosen.clickhouse), wanted.clickhouse);
        assert_eq!(
            notes,
            [format!(
                "port {} is taken: Kafka gets {}",
                taken.number, chosen.kafka
            )]
        );
    }

    #[test]
    fn what_is_asked_for_comes_before_what_was_last() {
        let last = Addresses {
            kafka: free_port(),
            clickhouse: free_port(),
            processor: free_port(),
            dashboard: free_port(),
        };
        let wanted = Wanted {
            kafka: Some(free_port()),
            clickhouse: None,
            dashboard: None,
        };
        let (chosen, _) = Addresses::choose(wanted, Some(last)).expect("free ports");
        assert_eq!(Some(chosen.kafka), wanted.kafka);
        assert_eq!(chosen.clickhouse, last.clickhouse);
    }
}
