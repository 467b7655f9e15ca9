//! What the simulated store reads out of an insert: rows, ledgers and marks, from the very columns that would be sent.

use super::{LedgerEntry, MarkRow, Part, Row, Statement};
use crate::core::ids::OTHER;
use crate::core::ledger::LedgerCounts;
use crate::core::marks::{Mark, Sequences};
use crate::core::table::Table;
use crate::processor::delivery::Insertion;
use crate::processor::heads::Heads;
use crate::store::columns::{columns, is_by_replica};
use crate::store::native::Chunk;

impl Statement {
    pub fn of(insertion: &Insertion, heads: &Heads) -> Self {
        let mut part = Part {
            ingested: insertion.ingested,
            ..Part::default()
        };
        for share in &insertion.shares {
            read_chunk(insertion.table, &share.chunk, &mut part);
        }
        Self {
            table: insertion.table,
            ledger: heads.ledger(insertion.stream()),
            expected: insertion.expected(heads),
            part,
        }
    }

    /// The same in two inserts, the ledger in the second.
    pub fn split(self) -> [Self; 2] {
        let mut second = self.clone();
        let mut first = self;
        second.part.rows = first.part.rows.split_off(first.part.rows.len() / 2);
        first.part.ledgers.clear();
        [first, second]
    }
}

/// Reads the rows of a chunk, as a store would.
fn read_chunk(table: Table, chunk: &Chunk, part: &mut Part) {
    let index = |name: &str| {
        let found = columns(table).iter().position(|column| column.name == name);
        found.expect("a column of the table")
    };
    let n = chunk.n_rows();
    let u32s = |name| fixed(chunk.column(index(name)), n).map(u32::from_le_bytes);
    let u64s = |name| {
        fixed(chunk.column(index(name)), n)
            .map(u64::from_le_bytes)
            .collect::<Vec<_>>()
    };
    let strings = |name| texts(chunk.column(index(name)));
    let (deployments, ledgers) = (strings("deployment_id"), strings("ledger"));
    let replicas = is_by_replica(table).then(|| strings("replica_id"));
    let starts: Vec<u32> = if table.holds_marks() {
        vec![0; n]
    } else {
        u32s("window_start").collect()
    };
    let partitions: Vec<u32> = u32s("kafka_partition").collect();
    let epochs: Vec<i32> = u32s("ledger_epoch").map(u32::cast_signed).collect();
    let counted = u64s(table.counted());
    let [from, to, span, events, late, invalid] = [
        "ledger_from",
        "ledger_to",
        "ledger_span",
        "ledger_events",
        "ledger_late",
        "ledger_invalid",
    ]
    .map(u64s);
    if table.holds_marks() {
        part.marks.extend(read_marks(table, chunk));
    }
    for row in 0..n {
        if table.holds_marks() && !deployments[row].is_empty() {
            // whose messages they were is known only as long as their producer is remembered
            part.rows.push(Row {
                partition: partitions[row],
                place: (String::new(), String::new(), 0),
                counted: counted[row],
            });
            continue;
        }
        if ledgers[row].is_empty() {
            let replica = replicas.as_ref().map_or("", |replicas| &replicas[row]);
            // a sample's interval reaches into windows that do not count it
            if counted[row] > 0 {
                part.rows.push(Row {
                    partition: partitions[row],
                    place: (deployments[row].clone(), replica.to_owned(), starts[row]),
                    counted: counted[row],
                });
            }
            continue;
        }
        part.ledgers.push(LedgerEntry {
            ledger: ledgers[row].clone(),
            partition: partitions[row],
            from: from[row],
            to: to[row],
            epoch: epochs[row],
            span: span[row],
            counts: LedgerCounts {
                events: events[row],
                late: late[row],
                invalid: invalid[row],
                ..LedgerCounts::default()
            },
        });
    }
}

fn read_marks(table: Table, chunk: &Chunk) -> Vec<MarkRow> {
    let column = |name: &str| {
        let index = columns(table).iter().position(|column| column.name == name);
        chunk.column(index.expect("a column of the table"))
    };
    let n = chunk.n_rows();
    let u64s = |name| {
        let values = fixed(column(name), n).map(u64::from_le_bytes);
        values.collect::<Vec<_>>()
    };
    let (deployments, replicas) = (texts(column("deployment_id")), texts(column("replica_id")));
    let boots: Vec<[u8; 16]> = fixed(column("boot_id"), n).collect();
    let partitions = fixed(column("kafka_partition"), n).map(u32::from_le_bytes);
    let partitions: Vec<u32> = partitions.collect();
    let [range_to, first, last, seen, last_offset, last_append_ms] = [
        "range_to",
        "first_sequence",
        "last_sequence",
        "seen",
        "last_offset",
        "last_append_ms",
    ]
    .map(u64s);
    let is_mark = |row: &usize| !["", OTHER].contains(&deployments[*row].as_str());
    let mark = |row: usize| MarkRow {
        partition: partitions[row],
        range_to: range_to[row],
        mark: Mark {
            deployment_id: deployments[row].as_str().into(),
            replica_id: replicas[row].as_str().into(),
            boot_id: boots[row],
            producer: "".into(),
            sequences: Sequences {
                first: first[row],
                last: last[row],
                seen: seen[row],
            },
            last_offset: last_offset[row],
            last_append_ms: last_append_ms[row].cast_signed(),
        },
    };
    (0..n).filter(is_mark).map(mark).collect()
}

fn fixed<const N: usize>(column: &[u8], n: usize) -> impl Iterator<Item = [u8; N]> {
    assert_eq!(column.len(), n * N, "a value a row");
    column.as_chunks::<N>().0.iter().copied()
}

fn texts(mut column: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((&length, rest)) = column.split_first() {
        assert!(length < 0x80, "the simulation's ids are short");
        let (text, rest) = rest.split_at(usize::from(length));
        all.push(String::from_utf8(text.to_vec()).expect("ids are text"));
        column = rest;
    }
    all
}
