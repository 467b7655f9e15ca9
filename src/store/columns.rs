//! The columns that a block of each table has, in order, with their ClickHouse types.
//!
//! `schemas/clickhouse/` creates the tables; a test compares the two on the real engine.

use std::fmt::Write;
use std::sync::LazyLock;

use crate::core::replica_window::ReadingKind;
use crate::core::table::{Stream, Table};

/// A sketch's type: 1 % relative accuracy, and the four levels that the views ask for.
pub const SKETCH: &str = "AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64)";

const STRING: &str = "String";
const UINT64: &str = "UInt64";
const UINT32: &str = "UInt32";
const FLOAT64: &str = "Float64";

/// Columns of sums over requests, as `rows` writes them.
const REQUEST_COUNTS: [&str; 6] = [
    "requests",
    "status_2xx",
    "status_4xx",
    "status_5xx",
    "status_other",
    "unclassified",
];
const REQUEST_OUTCOMES: [&str; 8] = [
    "client_gone",
    "completed",
    "timed_out",
    "aborted",
    "refused",
    "cold_starts",
    "request_bytes",
    "response_bytes",
];
const REQUEST_SKETCHES: [&str; 5] = [
    "end_to_end",
    "inference",
    "first_byte",
    "queue",
    "cold_start",
];

/// One column of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_name: &'static str,
}

fn column(name: impl Into<String>, type_name: &'static str) -> Column {
    Column {
        name: name.into(),
        type_name,
    }
}

/// The columns of a table's block; `ingested`, one constant an insert, stands in the statement instead.
pub fn columns(table: Table) -> &'static [Column] {
    static COLUMNS: LazyLock<Vec<Vec<Column>>> =
        LazyLock::new(|| Table::ALL.iter().map(|&table| make(table)).collect());
    &COLUMNS[table as usize]
}

fn make(table: Table) -> Vec<Column> {
    if table.holds_marks() {
        return make_marks();
    }
    let by_replica = is_by_replica(table);
    let mut all = vec![column("deployment_id", STRING)];
    all.extend(by_replica.then(|| column("replica_id", STRING)));
    all.extend([
        column("window_start", "DateTime('UTC')"),
        column("kafka_partition", UINT32),
        column("ledger", STRING),
    ]);
    match table.stream() {
        Stream::Requests => {
            all.extend(REQUEST_COUNTS.map(|name| column(name, UINT64)));
            if by_replica {
                all.extend(["client_gone", "cold_starts"].map(|name| column(name, UINT64)));
            } else {
                all.extend(REQUEST_OUTCOMES.map(|name| column(name, UINT64)));
            }
            all.push(column("in_flight_max", UINT32));
            let n_sketches = if by_replica {
                2
            } else {
                REQUEST_SKETCHES.len()
            };
            all.extend(
                REQUEST_SKETCHES[..n_sketches]
                    .iter()
                    .map(|&name| column(name, SKETCH)),
            );
            if has_status_codes(table) {
                all.push(column("status_codes", "Map(UInt16, UInt64)"));
            }
        }
        Stream::Replicas => {
            all.extend(
                [
                    "samples",
                    "waiting_us",
                    "loading_us",
                    "active_us",
                    "stopping_us",
                    "last_sample",
                ]
                .map(|name| column(name, UINT64)),
            );
            for kind in ReadingKind::ALL {
                all.push(column(format!("{}_integral", kind.column()), FLOAT64));
                all.push(column(format!("{}_us", kind.column()), UINT64));
                all.extend(
                    kind.has_max()
                        .then(|| column(format!("{}_max", kind.column()), FLOAT64)),
                );
            }
            all.push(column("gpus_max", UINT32));
            all.extend(
                [
                    "oldest_in_flight_us_max",
                    "restarts_max",
                    "load_us_max",
                    "dropped_max",
                ]
                .map(|name| column(name, UINT64)),
            );
        }
    }
    all.extend(ledger_columns());
    all
}

fn make_marks() -> Vec<Column> {
    let mut all = vec![
        column("deployment_id", STRING),
        column("replica_id", STRING),
        column("boot_id", "FixedString(16)"),
        column("kafka_partition", UINT32),
        column("ledger", STRING),
        column("range_to", UINT64),
        column("producer", STRING),
    ];
    all.extend(
        [
            "first_sequence",
            "last_sequence",
            "seen",
            "last_offset",
            "last_append_ms",
            "messages",
            "repeated",
        ]
        .map(|name| column(name, UINT64)),
    );
    all.push(column("missing", "Int64"));
    all.extend(ledger_columns());
    all
}

fn ledger_columns() -> impl Iterator<Item = Column> {
    let place = [("from", UINT64), ("to", UINT64), ("epoch", "Int32")];
    let counts = ["span", "gap", "events", "late", "invalid", "erased"].map(|name| (name, UINT64));
    let all = place.into_iter().chain(counts);
    all.map(|(name, type_name)| column(format!("ledger_{name}"), type_name))
}

/// The table has a row a replica.
pub const fn is_by_replica(table: Table) -> bool {
    !matches!(
        table,
        Table::Requests10s | Table::Requests1m | Table::Requests1h
    ) && !table.holds_marks()
}

/// The table counts requests by status code.
pub const fn has_status_codes(table: Table) -> bool {
    matches!(table, Table::Requests1m | Table::Requests1h)
}

/// `name type, …`, as `input()` and `file()` take it.
pub fn structure(table: Table) -> String {
    columns(table)
        .iter()
        .fold(String::new(), |mut text, column| {
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}{} {}", column.name, column.type_name);
            text
        })
}

/// The columns' names, separated by commas.
pub fn names(table: Table) -> String {
    columns(table)
        .iter()
        .map(|column| column.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
