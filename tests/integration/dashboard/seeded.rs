//! A dashboard of a test's own, and the rows it reads: what the processor's folds would leave.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::process::Role;
use crate::support::space::Space;
use crate::support::sql;

/// A dashboard on a database of its own.
pub struct Dashboard {
    pub space: Space,
    pub role: Role,
    authority: String,
    _dir: tempfile::TempDir,
}

impl Dashboard {
    pub fn start() -> Self {
        let space = Space::new();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (role, authority) = start_on(&space.clickhouse, &space.database, dir.path());
        Self {
            space,
            role,
            authority,
            _dir: dir,
        }
    }

    pub fn get(&self, target: &str) -> (u16, Value) {
        get(&self.authority, target)
    }

    pub fn port(&self) -> &str {
        self.authority.rsplit(':').next().expect("a port")
    }

    /// All of the answer to `GET target` with these header lines.
    pub fn raw(&self, target: &str, headers: &str) -> String {
        raw(&self.authority, target, headers)
    }

    pub fn panel(&self, query: &str) -> Value {
        let (status, body) = self.get(&format!("/api/v1/panel?{query}"));
        assert_eq!(status, 200, "{query}: {body}");
        body
    }
}

pub fn start_on(clickhouse: &str, database: &str, dir: &Path) -> (Role, String) {
    start_with(clickhouse, database, dir, &[])
}

pub fn start_with(clickhouse: &str, database: &str, dir: &Path, more: &[&str]) -> (Role, String) {
    let arguments = [
        "dashboard",
        "--clickhouse",
        clickhouse,
        "--database",
        database,
        "--listen",
        "127.0.0.1:0",
    ];
    let arguments = [&arguments[..], more].concat();
    let mut role = Role::start("dashboard", &arguments, &dir.join("dashboard.log"));
    let url = role.address();
    let authority = url.strip_prefix("http://").expect("a URL").to_owned();
    (role, authority)
}

/// All of the answer to `GET target` with these header lines.
pub fn raw(authority: &str, target: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(authority).expect("it listens");
    let timeout = stream.set_read_timeout(Some(sql::ANSWER));
    timeout.expect("a timeout is taken");
    let head = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Status and body of `GET target`; a body that is no JSON comes as a string.
pub fn get(authority: &str, target: &str) -> (u16, Value) {
    let (status, text) = sql::get(authority, target).expect("an answer");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}

pub fn now() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "rows are put at the present")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// Beginnings of the 10 s windows in seconds since 1970, and what they hold.
pub fn requests(space: &Space, deployment: &str, windows: &[(u64, u64)]) {
    for (window, n) in windows {
        space.sql.execute(&format!(
            "INSERT INTO requests_10s (ingested, deployment_id, window_start, kafka_partition, ledger, requests, status_2xx, status_5xx, \
             end_to_end, inference) SELECT today(), '{deployment}', {window}, 0, '', {n}, {n} - 1, 1, \
             arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', [200000.]), \
             arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', emptyArrayFloat64())"
        ));
    }
}

/// Samples of one replica, 10 s each, all in this state (2 active, 3 stopping).
pub fn samples(space: &Space, deployment: &str, replica: &str, state: u64, windows: &[u64]) {
    let column = ["waiting_us", "loading_us", "active_us", "stopping_us"][state as usize];
    for window in windows {
        let last = (window * 1_000_000 + 9_000_000) * 4 + state;
        space.sql.execute(&format!(
            "INSERT INTO replicas_10s (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, samples, {column}, \
             last_sample, cpu_cores_integral, cpu_cores_us, cpu_cores_max) \
             VALUES (today(), '{deployment}', '{replica}', {window}, 0, '', 2, 10000000, {last}, 15, 10000000, 2.5)"
        ));
    }
}

/// One letter a step.
pub fn letters(coverage: &Value) -> String {
    let letters = coverage.as_array().expect("an array").iter();
    letters
        .map(|letter| letter.as_str().expect("a letter"))
        .collect()
}
