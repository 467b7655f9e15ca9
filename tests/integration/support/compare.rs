//! Holds what SQL says against the recount: the tables at whatever offset they have come to, and the
//! views once everything is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::expect::{self, Expect, Row, Rows};
use super::generator::SECOND;
use super::message::{Event, Facts, Sample, Topic};
use super::publish::Publisher;
use super::recount::{self, Ledger, QUANTILES, Question, TIMES, Truth};
use super::space::{LEDGER_TABLES, Space};
use super::sql::Record;

/// Differences that a failure shows; the first few say it all.
const SHOWN: usize = 12;

/// A row of a table: partition, deployment, replica (or none), window.
type Key = (i32, String, String, i64);

fn tier(table: &str) -> i64 {
    match table.rsplit('_').next() {
        Some("10s") => 10,
        Some("1m") => 60,
        _ => 3600,
    }
}

fn integer(row: &Record, column: &str) -> u64 {
    row[column].as_u64().unwrap_or_else(|| panic!("{column} is {} in {row:?}", row[column]))
}

fn text(row: &Record, column: &str) -> String {
    row.get(column).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

fn columns_of(table: &str) -> String {
    let sums = |names: &str| names.split(' ').map(|n| format!("sum({n}) AS {n}_")).collect::<Vec<_>>().join(", ");
    let maxima = |names: &str| names.split(' ').map(|n| format!("max({n}) AS {n}_")).collect::<Vec<_>>().join(", ");
    let ledger = format!("max(ledger_to) AS to, {}", sums("ledger_events ledger_late ledger_invalid"));
    let classes = "requests status_2xx status_4xx status_5xx status_other unclassified client_gone cold_starts";
    let own = match table {
        _ if table.starts_with("requests_by_replica") => {
            format!("replica_id, {}, {}", sums(classes), maxima("in_flight_max"))
        }
        _ if table.starts_with("requests") => {
            let more = "completed timed_out aborted refused request_bytes response_bytes";
            format!("'' AS replica_id, {}, {}, {}", sums(classes), sums(more), maxima("in_flight_max"))
        }
        _ => {
            let all = Truth::replica_window(&[]);
            let of = |end: &str| all.keys().filter(|k| k.ends_with(end)).cloned().collect::<Vec<_>>().join(" ");
            let counted = sums(&format!("samples {} {}", of("_us"), of("_integral")));
            let highest = format!("{} gpus_max oldest_in_flight_us_max restarts_max load_us_max dropped_max", of("_max"));
            format!("replica_id, {counted}, {}, max(last_sample) AS last_sample_", maxima(&highest))
        }
    };
    format!("kafka_partition, deployment_id, toUnixTimestamp(window_start) AS w, {ledger}, {own}")
}

/// Reads a table in one query, so that its rows and its ledger belong together, cuts the log where the
/// ledger stands, and compares. Gives how far the ledger has come, by partition.
///
/// # Errors
/// The differences, in words.
pub fn table(space: &Space, name: &str, topic: Topic, publisher: &Publisher) -> Result<BTreeMap<i32, u64>, String> {
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
            data.insert((partition, deployment, text(&row, "replica_id"), integer(&row, "w") as i64), row);
        }
    }
    let tos = ledgers.iter().map(|(partition, ledger)| (*partition, ledger.to)).collect();
    let log = publisher.log_before(topic, &tos);
    let truth = Truth::of(log.iter().map(AsRef::as_ref));
    let mut wrong = Vec::new();
    for (partition, ledger) in &ledgers {
        let expected = truth.ledgers.get(&(topic, *partition)).cloned().unwrap_or_default();
        if *ledger != expected {
            wrong.push(format!("partition {partition}: ledger {ledger:?}, expected {expected:?}"));
        }
    }
    let expected = expected_rows(&truth, name);
    wrong.extend(data.keys().filter(|k| !expected.contains_key(*k)).map(|k| format!("{k:?} should not be there")));
    for (key, row) in &expected {
        match data.get(key) {
            None => wrong.push(format!("{key:?} is missing: {row:?}")),
            Some(got) => wrong.extend(expect::compare(got, row, 1.0).err().map(|e| format!("{key:?}: {e}"))),
        }
    }
    verdict(name, &wrong)?;
    Ok(tos)
}

fn verdict(what: &str, wrong: &[String]) -> Result<(), String> {
    match wrong {
        [] => Ok(()),
        _ => Err(format!("{what}: {} differences\n{}", wrong.len(), wrong[..wrong.len().min(SHOWN)].join("\n"))),
    }
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
        let replica = if by_replica { seen.head.replica_id.clone() } else { String::new() };
        windows.entry((seen.partition, seen.head.deployment_id.clone(), replica, w)).or_default().push(seen.item);
    }
    windows.into_iter().map(|(key, events)| (key, request_row(&events, by_replica))).collect()
}

fn request_row(events: &[&Event], by_replica: bool) -> Row {
    let mut row = recount::counts(events);
    let most = events.iter().map(|e| e.in_flight.unsigned_abs()).max().unwrap_or(0);
    row.insert("in_flight_max".to_owned(), Expect::Count(most.into()));
    if !by_replica {
        for outcome in ["completed", "timed_out", "aborted", "refused"] {
            let n = events.iter().filter(|e| e.outcome == outcome).count();
            row.insert(outcome.to_owned(), Expect::Count(n as u64));
        }
        let sum = |of: fn(&Event) -> i64| Expect::Count(events.iter().map(|e| of(e).unsigned_abs()).sum());
        row.insert("request_bytes".to_owned(), sum(|e| e.request_bytes));
        row.insert("response_bytes".to_owned(), sum(|e| e.response_bytes));
    }
    row.into_iter().map(|(name, value)| (format!("{name}_"), value)).collect()
}

/// A replica's row holds what its samples cover of the window, and counts those that end in it.
fn replica_rows(truth: &Truth<'_>, window: i64) -> BTreeMap<Key, Row> {
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for deployment in truth.deployments() {
        let all = Question { deployment, start: 0, stop: i64::from(u32::MAX), step: window };
        for (t, covering) in truth.samples_by_step(&all) {
            let mut replicas: BTreeMap<Key, Vec<_>> = BTreeMap::new();
            for one in covering {
                let key = (one.1.partition, deployment.to_owned(), one.1.head.replica_id.clone(), t);
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
        *ended.entry((seen.partition, seen.head.deployment_id.clone(), seen.head.replica_id.clone(), w)).or_default() += 1;
    }
    for (key, count) in ended {
        rows.entry(key).or_insert_with(|| Truth::replica_window(&[])).insert("samples".to_owned(), Expect::Count(count));
    }
    let named = |row: Row| {
        let mut row: Row = row.into_iter().map(|(name, value)| (format!("{name}_"), value)).collect();
        row.entry("samples_".to_owned()).or_insert(Expect::Count(0));
        row
    };
    rows.into_iter().map(|(key, row)| (key, named(row))).collect()
}

/// Every table against the truth at its own ledger.
///
/// # Errors
/// The differences of the first table that has some.
pub fn tables(space: &Space, publisher: &Publisher) -> Result<(), String> {
    LEDGER_TABLES.iter().try_for_each(|(name, topic)| table(space, name, *topic, publisher).map(drop))
}

pub const VIEWS: [&str; 5] = ["inference_volume", "response_time", "replicas", "cpu", "gpu"];

fn recounted(truth: &Truth<'_>, view: &str, question: &Question<'_>) -> Rows {
    match view {
        "inference_volume" => truth.inference_volume(question),
        "response_time" => truth.response_time(question),
        "replicas" => truth.replicas(question),
        "cpu" => truth.cpu(question),
        _ => truth.gpu(question),
    }
}

/// One view's answer to one question against the recount's.
///
/// # Errors
/// The differences, in words.
pub fn view(space: &Space, truth: &Truth<'_>, name: &str, question: &Question<'_>) -> Result<usize, String> {
    let Question { deployment, start, stop, step } = question;
    let query = format!(
        "SELECT toUnixTimestamp(t) AS at, * FROM {name}(deployment = '{deployment}', start = {start}, stop = {stop}, step = {step})"
    );
    let before = modelmeter::clock::now_us() / SECOND;
    let rows = space.sql.try_rows(&query).map_err(|e| format!("{query}: {e}"))?;
    let after = modelmeter::clock::now_us() / SECOND;
    let mut expected = recounted(truth, name, question);
    let mut wrong = Vec::new();
    let total = rows.len();
    for row in &rows {
        let t = integer(row, "at") as i64;
        let seconds = row["seconds"].as_f64().unwrap_or(f64::NAN);
        // The view reads the clock at a moment between ours.
        let span = |now: i64| ((t + step).min(now) - t).max(1) as f64;
        if !(span(before)..=span(after)).contains(&seconds) {
            wrong.push(format!("{t}: {seconds} seconds, expected {} to {}", span(before), span(after)));
        }
        match expected.remove(&t) {
            None => wrong.push(format!("{t} should not be there: {row:?}")),
            Some(expected) => {
                // Nothing may stand beside what the contract names.
                let known = |c: &&String| expected.contains_key(*c) || ["t", "at", "seconds"].contains(&c.as_str());
                wrong.extend(row.keys().filter(|c| !known(c)).map(|c| format!("{t}: unknown column {c}")));
                wrong.extend(expect::compare(row, &expected, seconds).err().map(|e| format!("{t}: {e}")));
            }
        }
    }
    wrong.extend(expected.iter().map(|(t, row)| format!("{t} is missing: {row:?}")));
    verdict(&query, &wrong)?;
    Ok(total)
}

/// What is kept of a replica for all time: when it was last heard, and its highest marks.
///
/// # Errors
/// The differences, in words.
pub fn replica_maxima(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    let mut replicas: BTreeMap<(String, String), Vec<&Sample>> = BTreeMap::new();
    for seen in &truth.samples {
        let key = (seen.head.deployment_id.clone(), seen.head.replica_id.clone());
        replicas.entry(key).or_default().push(seen.item);
    }
    for (table, _) in LEDGER_TABLES.iter().filter(|(table, _)| table.starts_with("replicas")) {
        let query = format!(
            "SELECT deployment_id, replica_id, intDiv(max(last_sample), 4) AS heard, max(gpus_max) AS gpus,
               max(restarts_max) AS restarts, max(oldest_in_flight_us_max) AS oldest, max(load_us_max) AS load,
               max(dropped_max) AS dropped
             FROM {table} WHERE deployment_id != '' GROUP BY deployment_id, replica_id"
        );
        let rows = space.sql.try_rows(&query)?;
        let mut wrong = Vec::new();
        if rows.len() != replicas.len() {
            wrong.push(format!("{} replicas, expected {}", rows.len(), replicas.len()));
        }
        for row in &rows {
            let key = (text(row, "deployment_id"), text(row, "replica_id"));
            let Some(samples) = replicas.get(&key) else {
                wrong.push(format!("{key:?} should not be there"));
                continue;
            };
            // A sample that covers nothing may or may not carry its marks along.
            let most = |of: fn(&Sample) -> i64, bare: bool| {
                let of = samples.iter().filter(|s| bare || s.interval_us > 0).map(|s| of(s));
                of.max().unwrap_or(0).unsigned_abs()
            };
            let marks: [(&str, fn(&Sample) -> i64); 6] = [
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
            QUANTILES.iter().enumerate().map(|(i, (label, _))| format!("{array}[{}] AS {time}_{label}", i + 1)).collect::<Vec<_>>().join(", ")
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
            let key = (seen.head.deployment_id.clone(), seen.head.replica_id.clone(), w.unsigned_abs());
            windows.entry(key).or_default().push(seen.item);
        }
        let mut wrong = Vec::new();
        for row in space.sql.try_rows(&query)? {
            let key = (text(&row, "deployment_id"), text(&row, "replica_id"), integer(&row, "w"));
            let events = windows.remove(&key).unwrap_or_default();
            let mut expected = recount::percentiles(&events, &TIMES[..2]);
            // Plain SQL gives NaN of no value; the views turn that into NULL.
            expected.retain(|_, value| *value != Expect::Null);
            wrong.extend(expect::compare(&row, &expected, 1.0).err().map(|e| format!("{key:?}: {e}")));
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
        let got: BTreeMap<(String, u64), u64> =
            rows.iter().map(|r| ((text(r, "deployment_id"), integer(r, "code")), integer(r, "n"))).collect();
        let mut expected: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for seen in &truth.events {
            if let Some(code @ 100..=599) = seen.item.status {
                *expected.entry((seen.head.deployment_id.clone(), code.unsigned_abs().into())).or_default() += 1;
            }
        }
        if got != expected {
            return Err(format!("{table}: status codes {got:?}\nexpected {expected:?}"));
        }
    }
    Ok(())
}

/// The dropdowns' table: a row for each set of facts ever told, and one without facts where none was.
///
/// # Errors
/// The differences, in words.
pub fn deployments(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    const FACTS: [&str; 7] =
        ["deployment_id", "deployment_name", "model_id", "model_name", "environment", "kind", "instance_type"];
    let rows = space.sql.try_rows(&format!(
        "SELECT {0}, toUnixTimestamp(min(first_seen)) AS first, toUnixTimestamp(max(last_seen)) AS last
         FROM deployments GROUP BY {0}",
        FACTS.join(", ")
    ))?;
    let got: BTreeSet<Vec<String>> = rows.iter().map(|r| FACTS.iter().map(|f| text(r, f)).collect()).collect();
    let with_facts = |id: &str, f: &Facts| {
        [id, &f.deployment_name, &f.model_id, &f.model_name, &f.environment, f.kind, &f.instance_type].map(str::to_owned).to_vec()
    };
    let without = |id: &str| [id, "", "", "", "", "", ""].map(str::to_owned).to_vec();
    let facts = truth.facts();
    let told: BTreeSet<_> = facts.iter().filter_map(|(id, f)| f.map(|f| with_facts(id, f))).collect();
    let silent = |id: &str| !facts.iter().any(|(other, f)| *other == id && f.is_some());
    let must: BTreeSet<_> = facts.iter().filter(|(id, f)| f.is_none() && silent(id)).map(|(id, _)| without(id)).collect();
    let may: BTreeSet<_> = facts.iter().filter(|(_, f)| f.is_none()).map(|(id, _)| without(id)).collect();
    let mut wrong: Vec<_> = told.union(&must).filter(|row| !got.contains(*row)).map(|row| format!("{row:?} is missing")).collect();
    wrong.extend(got.iter().filter(|row| !told.contains(*row) && !may.contains(*row)).map(|row| format!("{row:?} should not be there")));
    wrong.extend(rows.iter().filter(|r| integer(r, "first") > integer(r, "last")).map(|r| format!("{r:?}: last before first")));
    verdict("deployments", &wrong)
}
