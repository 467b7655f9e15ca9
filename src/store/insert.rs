//! The insert that exactness rests on: one Native block with its Content-Length, every pin in the statement, and the
//! guard evaluated before the part is written.
//!
//! It says how the server answered and no more: whether the rows are in, only the ledger tells ([`super::ledger`]).

use std::fmt::Write;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::columns::{names, structure};
use super::deadline::ANSWER_TIMEOUT;
use super::native::Frames;
use crate::config::StoreAddress;
use crate::core::table::Table;

/// How long to wait for a connection. ClickHouse on the same network answers in milliseconds; past this it is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer is a word or an error's text; more is not worth reading.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What the guard of one partition expects, and what is wrong with an insert that it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub partition: i32,
    /// The ledger's `to` before this insert; 0 where there is no ledger.
    pub to: u64,
}

/// One insert into one table.
pub struct Insert<'a> {
    pub table: Table,
    /// `<topic>/<topic id>`.
    pub ledger: &'a str,
    pub expected: &'a [Expected],
    /// Days since 1970: the ClickHouse partition of every row.
    pub ingested: i64,
    /// The block, in Native format.
    pub body: Frames,
}

/// How the server answered. None of it is believed.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    #[error("no connection to ClickHouse at {authority}")]
    Connect {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("ClickHouse did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection to ClickHouse broke")]
    Http(#[from] hyper::Error),
    #[error("ClickHouse refused the insert with code {code}: {text}")]
    Refused { code: u32, text: String },
}

/// `QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING`: another writer holds the table; wait a little.
pub const CODE_SAME_ID_RUNNING: u32 = 216;
/// `TOO_MANY_PARTS`, and also a block of several ClickHouse partitions.
const CODE_TOO_MANY_PARTS: u32 = 252;
/// `FUNCTION_THROW_IF_VALUE_IS_NON_ZERO`: the guard.
const CODE_THROW_IF: u32 = 395;

impl InsertError {
    /// What an answer says: its status, its header with the exception's code, its text.
    ///
    /// # Errors
    /// When it is not "ok".
    pub fn of_answer(status: u16, code: Option<&str>, text: &str) -> Result<(), Self> {
        let code = code.and_then(|code| code.parse().ok());
        if status == StatusCode::OK.as_u16() && code.is_none() {
            return Ok(());
        }
        let text = text.trim().to_owned();
        Err(Self::Refused {
            code: code.or_else(|| code_in(&text)).unwrap_or(u32::from(status)),
            text,
        })
    }

    /// Another insert into the table is running.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: CODE_SAME_ID_RUNNING,
                ..
            }
        )
    }

    /// The guard said that the ledger is not where it was expected.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: CODE_THROW_IF,
                ..
            }
        )
    }

    /// The block spans ClickHouse partitions: a defect of ours, and sending it again would never help.
    pub fn is_defect(&self) -> bool {
        matches!(self, Self::Refused { code: CODE_TOO_MANY_PARTS, text } if text.contains("partitions for single INSERT block"))
    }
}

/// Settings without which an insert is not one part, or not guarded. In the statement itself, since profiles change
/// what a session has.
///
/// `optimize_on_insert` merges rows of one key before the part is written. A block has hardly a key twice, and two rows
/// in one part are to every reader what two parts give it anyway; but each sketch would be copied, which is a fifth of
/// what the engine spends on an insert and its merges.
const PINS: [(&str, &str); 24] = [
    ("async_insert", "0"),
    ("max_insert_threads", "1"),
    ("max_threads", "1"),
    ("max_partitions_per_insert_block", "1"),
    ("throw_on_max_partitions_per_insert_block", "1"),
    ("min_insert_block_size_rows", "100000000"),
    ("min_insert_block_size_bytes", "100000000000"),
    ("max_insert_block_size", "100000000"),
    ("max_insert_block_size_bytes", "0"),
    ("use_strict_insert_block_limits", "0"),
    ("input_format_parallel_parsing", "0"),
    ("input_format_allow_errors_num", "0"),
    ("input_format_allow_errors_ratio", "0"),
    ("aggregate_functions_null_for_empty", "0"),
    ("limit", "0"),
    ("offset", "0"),
    ("max_execution_time", "0"),
    ("timeout_overflow_mode", "'throw'"),
    ("max_rows_to_read", "0"),
    ("read_overflow_mode", "'throw'"),
    ("additional_table_filters", "{}"),
    ("optimize_on_insert", "0"),
    ("enable_parallel_replicas", "0"),
    ("insert_deduplicate", "0"),
];

/// The pins that this server knows; the others are left out.
#[derive(Debug, Clone)]
pub struct Pins {
    settings: String,
    /// Not known to the server, to be logged once.
    pub missing: Vec<&'static str>,
}

impl Pins {
    /// Asks the server which settings it has.
    ///
    /// # Errors
    /// What the client says.
    pub async fn load(client: &clickhouse::Client) -> Result<Self, clickhouse::error::Error> {
        let known: Vec<String> = client
            .query("SELECT name FROM system.settings WHERE name IN ?")
            .bind(PINS.map(|(name, _)| name).as_slice())
            .fetch_all()
            .await?;
        let (present, missing): (Vec<_>, Vec<_>) = PINS
            .iter()
            .partition(|(name, _)| known.iter().any(|known| known == name));
        let settings = present
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(", ");
        Ok(Self {
            settings,
            missing: missing.iter().map(|(name, _)| *name).collect(),
        })
    }
}

/// The statement; the block follows as its data.
fn statement(insert: &Insert<'_>, pins: &Pins) -> String {
    let table = insert.table.name();
    let (mut guard, mut partitions) = (String::new(), String::new());
    for (i, Expected { partition, to }) in insert.expected.iter().enumerate() {
        let (or, comma) = if i == 0 { ("", "") } else { (" OR ", ", ") };
        let _ = write!(
            guard,
            "{or}maxIf(ledger_to, kafka_partition = {partition}) != {to}"
        );
        let _ = write!(partitions, "{comma}{partition}");
    }
    format!(
        "INSERT INTO {table} (ingested, {names}) SELECT toDate({day}) AS ingested, {names} FROM input('{structure}') \
         WHERE throwIf(ifNull((SELECT {guard} FROM {table} WHERE deployment_id = '' AND ledger = '{ledger}' \
         AND kafka_partition IN ({partitions})), 1), 'fenced') = 0 SETTINGS {settings} FORMAT Native",
        names = names(insert.table),
        day = insert.ingested,
        structure = structure(insert.table).replace('\'', "\\'"),
        ledger = insert.ledger,
        settings = pins.settings,
    )
}

/// Sends one insert and reads the answer. A new connection each: an insert every second is not worth a pool, and a
/// broken connection then never outlives its insert.
///
/// # Errors
/// Whatever went wrong on the way or was answered; the rows may be in all the same.
pub async fn send(
    address: &StoreAddress,
    pins: &Pins,
    insert: &Insert<'_>,
) -> Result<(), InsertError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address.authority))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|source| InsertError::Connect {
            authority: address.authority.clone(),
            source,
        })?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
        let answer = sender.send_request(request(address, pins, insert)).await?;
        let (head, body) = answer.into_parts();
        let code = head
            .headers
            .get("x-clickhouse-exception-code")
            .and_then(|code| code.to_str().ok());
        let text = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        InsertError::of_answer(head.status.as_u16(), code, &String::from_utf8_lossy(&text))
    })
    .await;
    connection.abort();
    answered.unwrap_or(Err(InsertError::Timeout))
}

fn request(address: &StoreAddress, pins: &Pins, insert: &Insert<'_>) -> Request<Frames> {
    // one id a table: a second writer is told to wait while this statement runs
    let query_id = format!("modelmeter:{}.{}", address.database, insert.table.name());
    let path = format!(
        "/?database={}&query_id={}&replace_running_query=0&wait_end_of_query=1&query={}",
        percent_encode(&address.database),
        percent_encode(&query_id),
        percent_encode(&statement(insert, pins)),
    );
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, &address.authority)
        .header("x-clickhouse-user", &address.user)
        .header("x-clickhouse-key", &address.password)
        .header(CONTENT_LENGTH, insert.body.n_bytes())
        .body(insert.body.clone())
        .expect("a percent-encoded path and checked headers make a request")
}

/// The number in `Code: N. DB::Exception: …`.
fn code_in(text: &str) -> Option<u32> {
    let rest = text.split_once("Code: ")?.1;
    rest[..rest.find(|c: char| !c.is_ascii_digit())?]
        .parse()
        .ok()
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_names_every_partition_once() {
        let pins = Pins {
            settings: "async_insert=0".to_owned(),
            missing: Vec::new(),
        };
        let expected = [
            Expected {
                partition: 7,
                to: 100,
            },
            Expected {
                partition: 8,
                to: 0,
            },
        ];
        let insert = Insert {
            table: Table::Requests10s,
            ledger: "t/id",
            expected: &expected,
            ingested: 20_781,
            body: Frames::default(),
        };
        let text = statement(&insert, &pins);
        assert!(text.contains(
            "(SELECT maxIf(ledger_to, kafka_partition = 7) != 100 OR maxIf(ledger_to, kafka_partition = 8) != 0 FROM requests_10s \
             WHERE deployment_id = '' AND ledger = 't/id' AND kafka_partition IN (7, 8))"
        ));
        assert!(text.starts_with("INSERT INTO requests_10s (ingested, deployment_id,"));
        assert!(text.contains("window_start DateTime(\\'UTC\\')"));
    }

    #[test]
    fn answers_are_told_apart() {
        let refused = |code, text: &str| InsertError::Refused {
            code,
            text: text.to_owned(),
        };
        assert!(refused(216, "").is_busy());
        assert!(refused(395, "").is_fenced());
        assert!(
            refused(
                252,
                "Too many partitions for single INSERT block (more than 1)"
            )
            .is_defect()
        );
        assert!(!refused(252, "Too many parts (300)").is_defect());
        assert_eq!(code_in("Code: 60. DB::Exception: no such table"), Some(60));
    }
}
