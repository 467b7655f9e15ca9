//! Histories of crashes over one partition: whatever is stored when, every table ends with each message once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::delta::Windows;
use crate::core::event::{OptionalMicros, Outcome, Status};
use crate::core::ids::IdLimits;
use crate::core::ledger::Ledger;
use crate::core::marks::Mark;
use crate::core::recovery::{Boundary, Log, recover};

/// The broker's append time of every message.
const NOW_MS: i64 = 1_800_000_000_000;

const SOURCE: Source = Source {
    stream: Stream::Requests,
    partition: 3,
};

/// What one table holds: requests by (deployment, replica, window), and its ledger.
#[derive(Default, Clone)]
struct StoredTable {
    to: Option<u64>,
    span: u64,
    counts: LedgerCounts,
    requests: BTreeMap<(String, String, u32), u64>,
    /// What the table of marks holds as of each of its boundaries, and how many messages came.
    marks: Vec<(u64, Mark)>,
    boundaries: Vec<u64>,
    messages: u64,
}

impl StoredTable {
    /// What the guarded insert does: all of it, or nothing where the ledger is elsewhere.
    fn insert(&mut self, delta: &Delta) {
        assert_eq!(
            self.to,
            Some(delta.from),
            "a range begins where the last one ended"
        );
        self.to = Some(delta.to);
        self.span += delta.to - delta.from;
        if !delta.table.holds_marks() {
            self.counts.events += delta.counts.events;
            self.counts.late += delta.counts.late;
        }
        self.counts.invalid += delta.counts.invalid;
        match &delta.rows {
            Rows::Requests(Windows { open, ids }) => {
                for open in open.iter() {
                    let counts = open.window.counts.requests();
                    let place = (
                        ids.deployment_id(open.owner).to_string(),
                        String::new(),
                        open.start,
                    );
                    self.add(place, counts, open.window.end_to_end.count());
                }
            }
            Rows::ReplicaRequests(Windows { open, ids }) => {
                for open in open.iter() {
                    let (deployment, replica) = ids.replica_ids(open.owner);
                    let place = (deployment.to_string(), replica.to_string(), open.start);
                    self.add(
                        place,
                        open.window.counts.requests(),
                        open.window.end_to_end.count(),
                    );
                }
            }
            Rows::Marks(changes) => {
                self.boundaries.push(delta.to);
                self.counts.messages += delta.counts.messages;
                for (mark, came) in changes.iter() {
                    self.messages += came.messages;
                    self.marks.push((delta.to, mark.clone()));
                }
                self.messages += changes.forgotten().map_or(0, |came| came.messages);
            }
            Rows::Replicas(_) => unreachable!("a partition of requests"),
        }
    }

    /// The highest boundary at or below an offset, and the marks as they were there.
    fn marks_at(&self, offset: u64) -> Option<(u64, Vec<Mark>)> {
        let at_or_below = |boundary: &&u64| **boundary <= offset;
        let boundary = *self.boundaries.iter().filter(at_or_below).max()?;
        let mut marks: Vec<Mark> = Vec::new();
        for (_, mark) in self.marks.iter().filter(|(to, _)| *to <= boundary) {
            marks.retain(|other| {
                (&other.deployment_id, &other.replica_id) != (&mark.deployment_id, &mark.replica_id)
            });
            marks.push(mark.clone());
        }
        Some((boundary, marks))
    }

    fn add(&mut self, place: (String, String, u32), requests: u64, in_sketch: u64) {
        assert_eq!(requests, in_sketch, "the sketch has every request");
        *self.requests.entry(place).or_default() += requests;
    }
}

/// One message: whose, which of its producer's sequence, and when its events ended, in seconds before now; `None` is a
/// message that cannot be read.
type Sent = (u8, u8, i64, Option<Vec<i64>>);

/// Producers that are remembered: fewer than send.
const MAX_PRODUCERS: usize = 9;

fn event(seconds_ago: i64) -> RequestEvent {
    RequestEvent {
        finished_at_us: NOW_MS * 1000 - seconds_ago * 1_000_000,
        end_to_end_us: 1_000,
        inference_us: OptionalMicros::some(900),
        first_byte_us: OptionalMicros::NONE,
        queue_us: OptionalMicros::NONE,
        cold_start_us: OptionalMicros::NONE,
        request_bytes: 1,
        response_bytes: 1,
        in_flight: 1,
        status: Status::from_code(200),
        outcome: Outcome::Completed,
        cold_start: false,
    }
}

fn fold(partition: &mut Partition, offset: u64, (deployment, replica, sequence, ages): &Sent) {
    partition.begin_message(offset, NOW_MS);
    let Some(ages) = ages else {
        return partition.refuse();
    };
    let (deployment_id, replica_id) = (format!("d{deployment}"), format!("r{replica}"));
    let head = BatchHead {
        deployment_id: &deployment_id,
        replica_id: &replica_id,
        boot_id: [0; 16],
        sequence: *sequence,
        producer: "",
    };
    if !partition.is_new(&head, NOW_MS) {
        return;
    }
    let events: Vec<RequestEvent> = ages.iter().map(|&age| event(age)).collect();
    partition.fold_batch(&head, &events, NOW_MS, &mut Untimely::default());
}

/// What each table must hold in the end, counted one by one.
fn truth(log: &[Sent], table: Table) -> StoredTable {
    let mut truth = StoredTable {
        to: Some(log.len() as u64),
        span: log.len() as u64,
        ..StoredTable::default()
    };
    let mut producers: Vec<((u8, u8), Vec<i64>)> = Vec::new();
    for (deployment, replica, sequence, ages) in log {
        let Some(ages) = ages else {
            truth.counts.invalid += 1;
            continue;
        };
        truth.messages += 1;
        let producer = (*deployment, *replica);
        let found = producers.iter().position(|(other, _)| *other == producer);
        let mut came = found.map_or(Vec::new(), |index| producers.remove(index).1);
        let has_come = came.contains(sequence);
        came.push(*sequence);
        producers.push((producer, came));
        if producers.len() > MAX_PRODUCERS {
            producers.remove(0);
        }
        if has_come || table.holds_marks() {
            continue;
        }
        for age in ages {
            if *age > 48 * 3600 || *age < -300 {
                truth.counts.late += 1;
                continue;
            }
            truth.counts.events += 1;
            let second = u32::try_from(NOW_MS / 1000 - age).expect("after 1970");
            let replica = match table {
                Table::RequestsByReplica1m | Table::RequestsByReplica1h => format!("r{replica}"),
                _ => String::new(),
            };
            *truth
                .requests
                .entry((
                    format!("d{deployment}"),
                    replica,
                    table.tier().expect("a rollup").floor(second),
                ))
                .or_default() += 1;
        }
    }
    truth
}

/// Runs the log through lives that end by `chance`: what to do after a message (0 nothing, 1 a fine flush, 2 a full
/// one), and after how many stored deltas of it the process dies, if at all.
fn run(
    log: &[Sent],
    mut chance: impl Iterator<Item = (u8, Option<usize>)>,
) -> BTreeMap<Table, StoredTable> {
    let mut store: BTreeMap<Table, StoredTable> = Stream::Requests
        .tables()
        .iter()
        .map(|&table| (table, StoredTable::default()))
        .collect();
    let end = log.len() as u64;
    while store.values().any(|table| table.to != Some(end)) {
        let ledgers: Vec<(Table, Option<Ledger>)> = store
            .iter()
            .map(|(&table, stored)| {
                (
                    table,
                    stored.to.map(|to| Ledger {
                        from: 0,
                        to,
                        epoch: 1,
                        ingested: 1,
                    }),
                )
            })
            .collect();
        let log_ends = Log {
            start: 0,
            end,
            committed: None,
        };
        let mut recovery = recover(&ledgers, log_ends).expect("the log is whole");
        let marks_table = store.get_mut(&Table::RequestsMarks).expect("a table");
        let mut marks = Vec::new();
        if let Some((offset, stored)) = marks_table.marks_at(recovery.start) {
            recovery.begin_at(Boundary { offset, epoch: 1 }, log_ends);
            marks = stored;
        }
        for start in recovery.tables.iter().filter(|start| start.needs_heartbeat) {
            let table = store.get_mut(&start.table).expect("a table");
            table.to = Some(start.from);
            table.boundaries.push(start.from);
        }
        live(
            log,
            &mut store,
            Partition::new(
                SOURCE,
                1,
                &recovery,
                Marks::new(marks, MAX_PRODUCERS),
                IdLimits::new(100, 100),
            ),
            &mut chance,
        );
    }
    store
}

/// One life of a process.
fn live(
    log: &[Sent],
    store: &mut BTreeMap<Table, StoredTable>,
    mut partition: Partition,
    chance: &mut impl Iterator<Item = (u8, Option<usize>)>,
) {
    let mut store_flush = |partition: &mut Partition, kind, dies_after: Option<usize>| {
        let mut n_stored = 0;
        let mut is_alive = true;
        partition.flush(kind, |delta| {
            is_alive &= Some(n_stored) != dies_after;
            if is_alive {
                store.get_mut(&delta.table).expect("a table").insert(&delta);
                n_stored += 1;
            }
        });
        is_alive && dies_after.is_none_or(|n| n < n_stored)
    };
    let mut offset = partition.position();
    while let Some(sent) = log.get(usize::try_from(offset).expect("small")) {
        match partition.step(offset) {
            Step::Skip => unreachable!("this log is read once a life"),
            Step::CutFirst => {
                partition.advance_to_cut();
                let (_, dies_after) = chance.next().unwrap_or((0, None));
                if !store_flush(&mut partition, FlushKind::Full, dies_after) {
                    return;
                }
                continue;
            }
            Step::Fold => fold(&mut partition, offset, sent),
        }
        offset += 1;
        let (kind, dies_after) = chance.next().unwrap_or((0, None));
        let kind = match kind {
            0 => continue,
            1 => FlushKind::Fine,
            _ => FlushKind::Full,
        };
        if !store_flush(&mut partition, kind, dies_after) {
            return;
        }
    }
    store_flush(&mut partition, FlushKind::Full, None);
}

fn logs() -> impl Strategy<Value = Vec<Sent>> {
    let age = prop_oneof![6 => 0..180_i64, 2 => 0..90_000_i64, 1 => 172_700..172_900_i64, 1 => -400..0_i64];
    let ages = prop::option::weighted(0.9, prop::collection::vec(age, 1..6));
    prop::collection::vec((0..4_u8, 0..3_u8, 0..9_i64, ages), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_table_counts_every_message_once(
        log in logs(),
        chance in prop::collection::vec((0..3_u8, prop::option::weighted(0.3, 0..7_usize)), 0..160),
    ) {
        let store = run(&log, chance.into_iter());
        for (table, stored) in store {
            let truth = truth(&log, table);
            prop_assert_eq!(stored.to, truth.to, "{:?}", table);
            prop_assert_eq!(stored.span, truth.span, "{:?}", table);
            let counted = LedgerCounts { messages: 0, ..stored.counts };
            prop_assert_eq!(counted, truth.counts, "{:?}", table);
            if table.holds_marks() {
                prop_assert_eq!((stored.messages, stored.counts.messages), (truth.messages, truth.messages));
            }
            prop_assert_eq!(stored.requests, truth.requests, "{:?}", table);
        }
    }
}

#[test]
fn a_range_is_closed_at_its_limits() {
    let recovery = recover(
        &[(Table::Requests10s, None)],
        Log {
            start: 0,
            end: 0,
            committed: None,
        },
    )
    .expect("fresh");
    let marks = Marks::new(Vec::new(), MAX_PRODUCERS);
    let mut partition = Partition::new(SOURCE, 1, &recovery, marks, IdLimits::new(100, 100));
    let mut offset = 0;
    while partition.wants_flush().is_none() {
        let ages = (0..1_000)
            .map(|i| (i64::try_from(offset).expect("small") * 1_000 + i) % 172_800)
            .collect();
        fold(
            &mut partition,
            offset,
            &(
                u8::try_from(offset % 3).expect("small"),
                0,
                i64::try_from(offset).expect("small"),
                Some(ages),
            ),
        );
        partition.apply();
        offset += 1;
        assert!(offset < 1_000, "no limit was reached");
    }
    assert!(partition.n_windows() >= MAX_RANGE_ROWS || partition.state_bytes() >= MAX_RANGE_BYTES);
    let mut n_deltas = 0;
    let flush = partition.flush(FlushKind::Full, |_| n_deltas += 1);
    assert_eq!((n_deltas, flush.position), (1, offset));
    assert_eq!(
        (
            partition.n_windows(),
            partition.state_bytes(),
            partition.wants_flush()
        ),
        (0, 0, None)
    );
}

#[test]
fn a_fine_flush_gives_back_most_of_what_is_fine() {
    let tables = [Table::Requests10s, Table::Requests1m].map(|table| (table, None));
    let log = Log {
        start: 0,
        end: 0,
        committed: None,
    };
    let recovery = recover(&tables, log).expect("fresh");
    let marks = Marks::new(Vec::new(), MAX_PRODUCERS);
    let mut partition = Partition::new(SOURCE, 1, &recovery, marks, IdLimits::new(100, 100));
    // an hour of a request a second: six fine windows to a minute
    fold(&mut partition, 0, &(0, 0, 0, Some((0..3_600).collect())));
    partition.apply();
    let (bytes, fine_bytes) = (partition.flush_bytes(), partition.fine_flush_bytes());
    assert!(
        bytes / 2 < fine_bytes && fine_bytes < bytes,
        "{fine_bytes} of {bytes}"
    );
    partition.flush(FlushKind::Fine, |_| {});
    assert_eq!(partition.fine_flush_bytes(), 0);
    let left = partition.flush_bytes();
    assert!(left < bytes / 2, "{left} of {bytes}");
}
