//! Holds the tables against the recount at whatever offset they have come to: counts to the last one.

use std::collections::BTreeMap;

use super::compare::{integer, text, tier, verdict};
use super::expect::{self, Expect, Row};
use super::generator::SECOND;
use super::message::{Event, Topic};
use super::publish::Publisher;
use super::recount::{self, Ledger, Question, Truth};
use super::space::{ROLLUPS, Space};
use super::sql::Record;

/// A row of a table: partition, deployment, replica (or none), window.
type Key = (i32, String, String, i64);

fn columns_of(table: &str) -> String {
    let sums = |names: &str| {
        names
            .split(' ')
            .map(|n| format!("sum({n}) AS {n}_"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let maxima = |names: &str| {
        names
            .split(' ')
            .map(|n| format!("max({n}) AS {n}_"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let ledger = format!(
        "max(ledger_to) AS to, {}",
        sums("ledger_events ledger_late ledger_invalid")
    );
    let classes = "requests status_2xx status_4xx status_5xx status_other unclassified client_gone cold_starts";
    let own = match table {
        _ if table.starts_with("requests_by_replica") => {
            format!("replica_id, {}, {}", sums(classes), maxima("in_flight_max"))
        }
        _ if table.starts_with("requests") => {
            let more = "completed timed_out aborted refused request_bytes response_bytes";
            format!(
                "'' AS replica_id, {}, {}, {}",
                sums(classes),
                sums(more),
                maxima("in_flight_max")
            )
        }
        _ => {
            let all = Truth::replica_window(&[]);
            let of = |end: &str| {
                all.keys()
                    .filter(|k| k.ends_with(end))
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let counted = sums(&format!("samples {} {}", of("_us"), of("_integral")));
            let highest = format!(
                "{} gpus_max oldest_in_flight_us_max restarts_max load_us_max dropped_max",
                of("_max")
            );
            format!(
                "replica_id, {counted}, {}, max(last_sample) AS last_sample_",
                maxima(&highest)
            )
        }
    };
    format!("kafka_partition, deployment_id, toUnixTimestamp(window_start) AS w, {ledger}, {own}")
}

/// Reads a table in one query, so that its rows and its ledger belong together, cuts the log where the
/// ledger stands, and compares. Gives how far the ledger has come, by partition.
///
/// # Errors
/// The differences, in words.
pub fn compare(
    space: &Space,
    name: &str,
    topic: Topic,
    publisher: &Publisher,
) -> Result<BTreeMap<i32, u64>, String> {
    let query = format!(
        "SELECT {} FROM {name} GROUP BY kafka_partition, deployment_id, w, replica_id",
        columns_of(name)
    );
    let rows = space.sql.try_rows(&query)?;
    let mut ledgers = BTreeMap::new();
    let mut data: BTreeMap<Key, Record> = BTreeMap::new();
    for row in rows {
        let partition = integer(&row, "kafka_partition") as i32;
        let deployment = text(&row, "deployment_id");
        if deployment.is_empty() {
            let ledger = Ledger {
                to: integer(&row, "to"),
                events: integer(&row, "ledger_events_"),
                late: integer(&row, "ledger_late_"),
                invalid: integer(&row, "ledger_invalid_"),
            };
            ledgers.insert(partition, ledger);
        } else {
            data.insert(
                (
                    partition,
                    deployment,
                    text(&row, "replica_id"),
                    integer(&row, "w") as i64,
                ),
                row,
            );
        }
    }
    let tos = ledgers
        .iter()
        .map(|(partition, ledger)| (*partition, ledger.to))
        .collect();
    let log = publisher.log_before(topic, &tos);
    let truth = Truth::of(log.iter().map(AsRef::as_ref));
    let mut wrong = Vec::new();
    for (partition, ledger) in &ledgers {
        let expected = truth
            .ledgers
            .get(&(topic, *partition))
            .cloned()
            .unwrap_or_default();
        if *ledger != expected {
            wrong.push(format!(
                "partition {partition}: ledger {ledger:?}, expected {expected:?}"
            ));
        }
    }
    let expected = expected_rows(&truth, name);
    wrong.extend(
        data.keys()
            .filter(|k| !expected.contains_key(*k))
            .map(|k| format!("{k:?} should not be there")),
    );
    for (key, row) in &expected {
        match data.get(key) {
            None => wrong.push(format!("{key:?} is missing: {row:?}")),
            Some(got) => wrong.extend(
                expect::compare(got, row, 1.0)
                    .err()
                    .map(|e| format!("{key:?}: {e}")),
            ),
        }
    }
    verdict(name, &wrong)?;
    Ok(tos)
}

fn expected_rows(truth: &Truth<'_>, table: &str) -> BTreeMap<Key, Row> {
    let window = tier(table);
    if table.starts_with("replicas") {
        return replica_rows(truth, window);
    }
    let by_replica = table.starts_with("requests_by_replica");
    let mut windows: BTreeMap<Key, Vec<&Event>> = BTreeMap::new();
    for seen in &truth.events {
        let w = seen.item.finished_at_us.div_euclid(window * SECOND) * window;
        let replica = if by_replica {
            seen.head.replica_id.clone()
        } else {
            String::new()
        };
        windows
            .entry((seen.partition, seen.head.deployment_id.clone(), replica, w))
            .or_default()
            .push(seen.item);
    }
    windows
        .into_iter()
        .map(|(key, events)| (key, request_row(&events, by_replica)))
        .collect()
}

fn request_row(events: &[&Event], by_replica: bool) -> Row {
    let mut row = recount::counts(events);
    let most = events
        .iter()
        .map(|e| e.in_flight.unsigned_abs())
        .max()
        .unwrap_or(0);
    row.insert("in_flight_max".to_owned(), Expect::Count(most.into()));
    if !by_replica {
        for outcome in ["completed", "timed_out", "aborted", "refused"] {
            let n = events.iter().filter(|e| e.outcome == outcome).count();
            row.insert(outcome.to_owned(), Expect::Count(n as u64));
        }
        let sum = |of: fn(&Event) -> i64| {
            Expect::Count(events.iter().map(|e| of(e).unsigned_abs()).sum())
        };
        row.insert("request_bytes".to_owned(), sum(|e| e.request_bytes));
        row.insert("response_bytes".to_owned(), sum(|e| e.response_bytes));
    }
    row.into_iter()
        .map(|(name, value)| (format!("{name}_"), value))
        .collect()
}

/// A replica's row holds what its samples cover of the window, and counts those that end in it.
fn replica_rows(truth: &Truth<'_>, window: i64) -> BTreeMap<Key, Row> {
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for deployment in truth.deployments() {
        let all = Question {
            deployment,
            start: 0,
            stop: i64::from(u32::MAX),
            step: window,
        };
        for (t, covering) in truth.samples_by_step(&all) {
            let mut replicas: BTreeMap<Key, Vec<_>> = BTreeMap::new();
            for one in covering {
                let key = (
                    one.1.partition,
                    deployment.to_owned(),
                    one.1.head.replica_id.clone(),
                    t,
                );
                replicas.entry(key).or_default().push(one);
            }
            for (key, covering) in replicas {
                rows.insert(key, Truth::replica_window(&covering));
            }
        }
    }
    let mut ended: BTreeMap<Key, u64> = BTreeMap::new();
    for seen in &truth.samples {
        let w = (seen.item.sampled_at_us - 1).div_euclid(window * SECOND) * window;
        *ended
            .entry((
                seen.partition,
                seen.head.deployment_id.clone(),
                seen.head.replica_id.clone(),
                w,
            ))
            .or_default() += 1;
    }
    for (key, count) in ended {
        rows.entry(key)
            .or_insert_with(|| Truth::replica_window(&[]))
            .insert("samples".to_owned(), Expect::Count(count));
    }
    let named = |row: Row| {
        let mut row: Row = row
            .into_iter()
            .map(|(name, value)| (format!("{name}_"), value))
            .collect();
        row.entry("samples_".to_owned()).or_insert(Expect::Count(0));
        row
    };
    rows.into_iter()
        .map(|(key, row)| (key, named(row)))
        .collect()
}

/// Every table against the truth at its own ledger.
///
/// # Errors
/// The differences of the first table that has some.
pub fn compare_all(space: &Space, publisher: &Publisher) -> Result<(), String> {
    ROLLUPS
        .iter()
        .try_for_each(|(name, topic)| compare(space, name, *topic, publisher).map(drop))
}
