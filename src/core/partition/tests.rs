//! Histories of crashes over one partition: whatever is stored when, every table ends with each message once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::delta::Windows;
use crate::core::event::{OptionalMicros, Outcome, Status};
use crate::core::ids::IdLimits;
use crate::core::ledger::Ledger;
use crate::core::recovery::{Log, recover};

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
        self.counts.events += delta.counts.events;
        self.counts.late += delta.counts.late;
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
            Rows::Replicas(_) => unreachable!("a partition of requests"),
        }
    }

    fn add(&mut self, place: (String, String, u32), requests: u64, in_sketch: u64) {
        assert_eq!(requests, in_sketch, "the sketch has every request");
        *self.requests.entry(place).or_default() += requests;
    }
}

/// One message: whose, and when its events ended, in seconds before now; `None` is a message that cannot be read.
type Sent = (u8, u8, Option<Vec<i64>>);

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

fn fold(partition: &mut Partition, offset: u64, (deployment, replica, ages): &Sent) {
    partition.begin_message(offset, NOW_MS);
    let Some(ages) = ages else {
        return partition.refuse();
    };
    let (deployment_id, replica_id) = (format!("d{deployment}"), format!("r{replica}"));
    let head = BatchHead {
        deployment_id: &deployment_id,
        replica_id: &replica_id,
        boot_id: [0; 16],
        sequence: 0,
        producer: "",
    };
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
    for (deployment, replica, ages) in log {
        let Some(ages) = ages else {
            truth.counts.invalid += 1;
            continue;
        };
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
                    table.tier().floor(second),
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
        let recovery = recover(
            &ledgers,
            Log {
                start: 0,
                end,
                committed: None,
            },
        )
        .expect("the log is whole");
        for start in recovery.tables.iter().filter(|start| start.needs_heartbeat) {
            store.get_mut(&start.table).expect("a table").to = Some(start.from);
        }
        live(
            log,
            &mut store,
            Partition::new(SOURCE, 1, &recovery, IdLimits::new(100, 100)),
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
    prop::collection::vec((0..4_u8, 0..3_u8, ages), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_table_counts_every_message_once(
        log in logs(),
        chance in prop::collection::vec((0..3_u8, prop::option::weighted(0.3, 0..6_usize)), 0..120),
    ) {
        let store = run(&log, chance.into_iter());
        for (table, stored) in store {
            let truth = truth(&log, table);
            prop_assert_eq!(stored.to, truth.to, "{:?}", table);
            prop_assert_eq!(stored.span, truth.span, "{:?}", table);
            prop_assert_eq!(stored.counts, truth.counts, "{:?}", table);
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
    let mut partition = Partition::new(SOURCE, 1, &recovery, IdLimits::new(100, 100));
    let mut offset = 0;
    while partition.wants_flush().is_none() {
        let ages = (0..1_000)
            .map(|i| (i64::try_from(offset).expect("small") * 1_000 + i) % 172_800)
            .collect();
        fold(
            &mut partition,
            offset,
            &(u8::try_from(offset % 3).expect("small"), 0, Some(ages)),
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
