//! Holds against the recount what no view shows: a replica's marks and sketches, status codes, and the
//! dropdowns' table.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{integer, text, tier, verdict};
use super::expect::{self, Expect};
use super::generator::SECOND;
use super::message::{Event, Facts, Sample};
use super::recount::{self, QUANTILES, TIMES, Truth};
use super::space::{ROLLUPS, Space};

type Mark = fn(&Sample) -> i64;

/// What is kept of a replica for all time: when it was last heard, and its highest marks.
///
/// # Errors
/// The differences, in words.
pub fn replica_maxima(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    let mut replicas: BTreeMap<(String, String), Vec<&Sample>> = BTreeMap::new();
    for seen in &truth.samples {
        let key = (
            seen.head.deployment_id.clone(),
            seen.head.replica_id.clone(),
        );
        replicas.entry(key).or_default().push(seen.item);
    }
    for (table, _) in ROLLUPS
        .iter()
        .filter(|(table, _)| table.starts_with("replicas"))
    {
        let query = format!(
            "SELECT deployment_id, replica_id, intDiv(max(last_sample), 4) AS heard, max(gpus_max) AS gpus,
               max(restarts_max) AS restarts, max(oldest_in_flight_us_max) AS oldest, max(load_us_max) AS load,
               max(dropped_max) AS dropped
             FROM {table} WHERE deployment_id != '' GROUP BY deployment_id, replica_id"
        );
        let rows = space.sql.try_rows(&query)?;
        let mut wrong = Vec::new();
        if rows.len() != replicas.len() {
            wrong.push(format!(
                "{} replicas, expected {}",
                rows.len(),
                replicas.len()
            ));
        }
        for row in &rows {
            let key = (text(row, "deployment_id"), text(row, "replica_id"));
            let Some(samples) = replicas.get(&key) else {
                wrong.push(format!("{key:?} should not be there"));
                continue;
            };
            // A sample that covers nothing may or may not carry its marks along.
            let most = |of: fn(&Sample) -> i64, bare: bool| {
                let of = samples
                    .iter()
                    .filter(|s| bare || s.interval_us > 0)
                    .map(|s| of(s));
                of.max().unwrap_or(0).unsigned_abs()
            };
            let marks: [(&str, Mark); 6] = [
                ("heard", |s| s.sampled_at_us),
                ("gpus", |s| s.gpus.len() as i64),
                ("restarts", |s| s.restarts.into()),
                ("oldest", |s| s.oldest_in_flight_us.unwrap_or(0)),
                ("load", |s| s.load_us.unwrap_or(0)),
                ("dropped", |s| s.dropped.iter().map(|(_, n)| n).sum()),
            ];
            for (mark, of) in marks {
                let got = integer(row, mark);
                let range = most(of, mark == "heard")..=most(of, true);
                if !range.contains(&got) {
                    wrong.push(format!("{key:?}: {mark} {got}, expected {range:?}"));
                }
            }
        }
        verdict(table, &wrong)?;
    }
    Ok(())
}

/// The sketches by replica, which no view shows.
///
/// # Errors
/// The differences, in words.
pub fn replica_percentiles(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    for table in ["requests_by_replica_1m", "requests_by_replica_1h"] {
        let merged = |time: &str| {
            let array = format!("quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)({time})");
            QUANTILES
                .iter()
                .enumerate()
                .map(|(i, (label, _))| format!("{array}[{}] AS {time}_{label}", i + 1))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let query = format!(
            "SELECT deployment_id, replica_id, toUnixTimestamp(window_start) AS w, {}, {} FROM {table}
             WHERE deployment_id != '' GROUP BY deployment_id, replica_id, w",
            merged("end_to_end"),
            merged("inference")
        );
        let window = tier(table);
        let mut windows: BTreeMap<(String, String, u64), Vec<&Event>> = BTreeMap::new();
        for seen in &truth.events {
            let w = seen.item.finished_at_us.div_euclid(window * SECOND) * window;
            let key = (
                seen.head.deployment_id.clone(),
                seen.head.replica_id.clone(),
                w.unsigned_abs(),
            );
            windows.entry(key).or_default().push(seen.item);
        }
        let mut wrong = Vec::new();
        for row in space.sql.try_rows(&query)? {
            let key = (
                text(&row, "deployment_id"),
                text(&row, "replica_id"),
                integer(&row, "w"),
            );
            let events = windows.remove(&key).unwrap_or_default();
            let mut expected = recount::percentiles(&events, &TIMES[..2]);
            // Plain SQL gives NaN of no value; the views turn that into NULL.
            expected.retain(|_, value| *value != Expect::Null);
            wrong.extend(
                expect::compare(&row, &expected, 1.0)
                    .err()
                    .map(|e| format!("{key:?}: {e}")),
            );
        }
        wrong.extend(windows.keys().map(|key| format!("{key:?} is missing")));
        verdict(table, &wrong)?;
    }
    Ok(())
}

/// Requests by status code in all, where the code is one that HTTP knows.
///
/// # Errors
/// The differences, in words.
pub fn status_codes(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    for table in ["requests_1m", "requests_1h"] {
        let query = format!(
            "SELECT deployment_id, code, sum(n) AS n FROM
               (SELECT deployment_id, sumMap(status_codes) AS codes FROM {table} WHERE deployment_id != '' GROUP BY deployment_id)
             ARRAY JOIN mapKeys(codes) AS code, mapValues(codes) AS n GROUP BY deployment_id, code HAVING code BETWEEN 100 AND 599"
        );
        let rows = space.sql.try_rows(&query)?;
        let got: BTreeMap<(String, u64), u64> = rows
            .iter()
            .map(|r| {
                (
                    (text(r, "deployment_id"), integer(r, "code")),
                    integer(r, "n"),
                )
            })
            .collect();
        let mut expected: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for seen in &truth.events {
            if let Some(code @ 100..=599) = seen.item.status {
                *expected
                    .entry((seen.head.deployment_id.clone(), code.unsigned_abs().into()))
                    .or_default() += 1;
            }
        }
        if got != expected {
            return Err(format!(
                "{table}: status codes {got:?}\nexpected {expected:?}"
            ));
        }
    }
    Ok(())
}

/// When something was first and last seen, in whole seconds.
type Span = (i64, i64);

const FACTS: [&str; 7] = [
    "deployment_id",
    "deployment_name",
    "model_id",
    "model_name",
    "environment",
    "kind",
    "instance_type",
];

fn with_facts(id: &str, facts: Option<&Facts>) -> Vec<String> {
    let Some(facts) = facts else {
        return [id, "", "", "", "", "", ""].map(str::to_owned).to_vec();
    };
    let row = [
        id,
        &facts.deployment_name,
        &facts.model_id,
        &facts.model_name,
        &facts.environment,
        facts.kind,
        &facts.instance_type,
    ];
    row.map(str::to_owned).to_vec()
}

/// Every row that the dropdowns' table may show, with its span: facts as samples told them, and one without
/// facts for each deployment that was asked.
fn dropdowns(truth: &Truth<'_>) -> BTreeMap<Vec<String>, Span> {
    let mut rows: BTreeMap<Vec<String>, Span> = BTreeMap::new();
    let mut see = |row: Vec<String>, at_us: i64| {
        let at = at_us.div_euclid(SECOND);
        let span = rows.entry(row).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    for seen in &truth.samples {
        let row = with_facts(&seen.head.deployment_id, Some(&seen.item.facts));
        see(row, seen.item.sampled_at_us);
    }
    for seen in &truth.events {
        see(
            with_facts(&seen.head.deployment_id, None),
            seen.item.finished_at_us,
        );
    }
    rows
}

/// The dropdowns' table: a row for each set of facts ever told, and one without facts where none was.
///
/// # Errors
/// The differences, in words.
pub fn deployments(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    let rows = space.sql.try_rows(&format!(
        "SELECT {0}, toUnixTimestamp(min(first_seen)) AS first, toUnixTimestamp(max(last_seen)) AS last
         FROM deployments GROUP BY {0}",
        FACTS.join(", ")
    ))?;
    let mut expected = dropdowns(truth);
    let has_facts: BTreeSet<_> = truth
        .samples
        .iter()
        .map(|s| &s.head.deployment_id)
        .collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let key: Vec<_> = FACTS.iter().map(|f| text(row, f)).collect();
        let Some((first, last)) = expected.remove(&key) else {
            wrong.push(format!("{key:?} should not be there"));
            continue;
        };
        // A sample may be dated by its last microsecond, which a whole second's belongs to the one before.
        let is_near = |got: u64, at: i64| (at - 1..=at).contains(&(got as i64));
        if !is_near(integer(row, "first"), first) || !is_near(integer(row, "last"), last) {
            wrong.push(format!("{row:?}: expected {first} to {last}"));
        }
    }
    // Beside facts a row without them is hidden, so it need not be there.
    let needed = |key: &&Vec<String>| !key[5].is_empty() || !has_facts.contains(&key[0]);
    wrong.extend(
        expected
            .keys()
            .filter(needed)
            .map(|key| format!("{key:?} is missing")),
    );
    verdict("deployments", &wrong)
}
