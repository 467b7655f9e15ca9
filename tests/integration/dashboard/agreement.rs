//! The panel's statements against the public views, over rows in which every column differs: each series of every chart,
//! for each width of windows.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::seeded::{Dashboard, now};
use crate::support::space::Space;

type Rows = Vec<Map<String, Value>>;

/// A panel and its views take seconds: a second try is far from the next minute.
const N_TRIES: usize = 5;

/// Which view a chart shows, under the same names.
const VIEW_OF: [(&str, &str); 8] = [
    ("cpu", "cpu"),
    ("end_to_end", "response_time"),
    ("gpu", "gpu"),
    ("gpu_memory", "gpu"),
    ("inference", "response_time"),
    ("memory", "cpu"),
    ("replicas", "replicas"),
    ("volume", "inference_volume"),
];

const READINGS: [&str; 11] = [
    "cpu_cores",
    "cpu_limit",
    "cpu_ratio",
    "memory_bytes",
    "memory_limit",
    "memory_ratio",
    "gpu_utilization",
    "gpu_sm_activity",
    "gpu_memory_used",
    "gpu_memory_total",
    "gpu_memory_ratio",
];
const WITH_HIGHEST: [&str; 4] = [
    "cpu_cores",
    "memory_bytes",
    "gpu_utilization",
    "gpu_memory_used",
];

#[test]
fn every_series_of_every_tier_is_the_views() {
    let dashboard = Dashboard::start();
    // the ends of the first range are no whole latency steps
    let present = now() / 30 * 30 - 10;
    for (tier, width, n, ingested) in [
        ("10s", 10, 100, "toDate(w)"),
        ("1m", 60, 1450, "toDate(w)"),
        ("1h", 3600, 150, "toStartOfMonth(w)"),
    ] {
        let first = (present - n * width) / width * width;
        fill(&dashboard.space, tier, width, (first, n + 2), ingested);
    }
    // 10 s, 1 min, 5 min, 1 h; each but the first ends now, where the coarse windows end and the fine ones go on
    for (seconds, step, latency_step) in [
        (900, 10, 30),
        (6 * 3600, 60, 900),
        (86_400, 300, 900),
        (6 * 86_400, 3600, 21_600),
    ] {
        let start = present - seconds;
        let query = format!("deployment=d&start={start}&stop={present}");
        let (panel, truths) = within_a_minute(&dashboard, &query);
        assert_eq!(panel["step"], step, "{query}");
        assert_eq!(panel["latency_step"], latency_step, "{query}");
        for (chart, _) in VIEW_OF {
            let is_of_times = ["end_to_end", "inference"].contains(&chart);
            let expected = if is_of_times { latency_step } else { step };
            assert_eq!(panel["charts"][chart]["step"], expected, "{chart}");
        }
        for ((chart, _), rows) in VIEW_OF.into_iter().zip(&truths) {
            agree(&panel, chart, rows);
        }
        if step == 10 {
            the_strip_is_the_tables(&dashboard.space, &panel);
        }
    }
}

/// The totals over seconds that are no whole latency steps.
fn the_strip_is_the_tables(space: &Space, panel: &Value) {
    for period in ["recent", "range"] {
        let told = &panel["strip"][period];
        let times = ["end_to_end", "inference", "queue"]
            .map(|name| format!("quantilesDDMerge(0.01, 0.95)({name})[1] / 1000 AS {name}_p95_ms"));
        let rows = space.sql.rows(&format!(
            "SELECT toFloat64(sum(requests)) AS requests, {} FROM requests_10s \
             WHERE deployment_id = 'd' AND window_start >= {} AND window_start < {}",
            times.join(", "),
            told["start"],
            told["stop"],
        ));
        for (name, truth) in &rows[0] {
            let (shown, truth) = (told[name].as_f64(), truth.as_f64().expect("a number"));
            let error = (shown.expect("a number") - truth).abs();
            assert!(
                error <= 1e-9 * truth,
                "{period} {name}: {shown:?} for {truth}"
            );
        }
    }
}

/// The panel, and the rows of each chart's view. With the minute the edge moves between coarse and fine windows, which
/// hold different numbers here: what was read on both sides of it is read again.
fn within_a_minute(dashboard: &Dashboard, query: &str) -> (Value, Vec<Rows>) {
    for _ in 0..N_TRIES {
        let minute = now() / 60;
        let panel = dashboard.panel(query);
        let truths = VIEW_OF.map(|(chart, view)| truth(&dashboard.space, &panel, chart, view));
        if now() / 60 == minute {
            return (panel, truths.into());
        }
    }
    panic!("a panel and its views were not read within a minute: {query}");
}

fn truth(space: &Space, panel: &Value, chart: &str, view: &str) -> Rows {
    let answer = &panel["charts"][chart];
    let series = answer["series"].as_object().expect("series");
    let names: Vec<String> = series
        .keys()
        .map(|name| format!("CAST({name}, 'Nullable(Float64)') AS {name}"))
        .collect();
    space.sql.rows(&format!(
        "SELECT toUnixTimestamp(t) AS at, {} FROM {view}(deployment = 'd', start = {}, stop = {}, step = {})",
        names.join(", "),
        panel["start"],
        panel["stop"],
        answer["step"],
    ))
}

fn agree(panel: &Value, chart: &str, rows: &Rows) {
    let answer = &panel["charts"][chart];
    let series = answer["series"].as_object().expect("series");
    let truth: BTreeMap<u64, &Map<String, Value>> = rows
        .iter()
        .map(|row| (row["at"].as_u64().expect("a time"), row))
        .collect();
    let number = |of: &Value| of.as_u64().expect("a number");
    let is_of_times = ["end_to_end", "inference"].contains(&chart);
    let least = if is_of_times { 24 } else { 50 };
    assert!(truth.len() >= least, "{chart}: {} steps", truth.len());
    for (name, values) in series {
        let mut n_numbers = 0;
        for (t, value) in answer["t"]
            .as_array()
            .expect("t")
            .iter()
            .zip(values.as_array().expect("values"))
        {
            let at = t.as_u64().expect("a time");
            // the open step grows between two questions, and its length with it
            let is_open = at + number(&answer["step"]) + 30 > number(&panel["now"]);
            let Some(row) = truth.get(&at).filter(|_| !is_open) else {
                continue;
            };
            match (value.as_f64(), row[name].as_f64()) {
                (Some(shown), Some(known)) => {
                    let error = (shown - known).abs();
                    assert!(
                        error <= 1e-9 * known.abs(),
                        "{chart} {name} {at}: {shown}, {known}"
                    );
                    n_numbers += 1;
                }
                (shown, known) => assert_eq!(shown, known, "{chart} {name} {at}"),
            }
        }
        assert!(n_numbers > 0, "{chart} {name}: nothing was compared");
    }
}

/// Rows of two replicas and of requests, each number another; every fifth window lacks one replica's readings, and every
/// seventh has a sample that ends where it begins and covers nothing of it.
fn fill(space: &Space, tier: &str, width: u64, (first, n): (u64, u64), ingested: &str) {
    let random = |name: &str, most: u64| format!("cityHash64('{name}', w, r) % {most}");
    let window = format!(
        "FROM (SELECT toDateTime({first} + number * {width}, 'UTC') AS w FROM numbers({n})) AS windows \
         CROSS JOIN (SELECT arrayJoin([1, 2]) AS r) AS replicas"
    );
    let mut columns = vec![
        "ingested",
        "deployment_id",
        "replica_id",
        "window_start",
        "ledger",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    let mut values = vec![
        ingested.to_owned(),
        "'d'".to_owned(),
        "concat('r-', toString(r))".to_owned(),
        "w".to_owned(),
        "''".to_owned(),
    ];
    for state in ["waiting", "loading", "active", "stopping"] {
        columns.push(format!("{state}_us"));
        values.push(format!(
            "if(toUnixTimestamp(w) / {width} % 7 = 0, 0, {})",
            random(state, 9_999_999)
        ));
    }
    for reading in READINGS {
        let is_read = format!(
            "toUnixTimestamp(w) / {width} % 7 != 0 AND (r = 1 OR toUnixTimestamp(w) / {width} % 5 != 0)"
        );
        columns.push(format!("{reading}_integral"));
        values.push(format!(
            "if({is_read}, {} / 7., 0)",
            random(reading, 1_000_000)
        ));
        columns.push(format!("{reading}_us"));
        values.push(format!("if({is_read}, 1 + {}, 0)", random("us", 9_999_999)));
        if WITH_HIGHEST.contains(&reading) {
            columns.push(format!("{reading}_max"));
            values.push(format!(
                "if({is_read}, {} / 3., 0)",
                random("max", 1_000_000)
            ));
        }
    }
    columns.extend(["gpus_max".to_owned(), "last_sample".to_owned()]);
    values.extend([
        random("gpus", 8),
        "toUInt64(toUnixTimestamp(w)) * 4000000 + 2".to_owned(),
    ]);
    space.sql.execute(&format!(
        "INSERT INTO replicas_{tier} ({}) SELECT {} {window}",
        columns.join(", "),
        values.join(", ")
    ));
    let sketch = |name: &str| {
        format!(
            "arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', arrayMap(i -> toFloat64(1 + cityHash64('{name}', w, r, i) % 900000), range(20)))"
        )
    };
    let counts = [
        "status_2xx",
        "status_4xx",
        "status_5xx",
        "status_other",
        "unclassified",
        "client_gone",
        "cold_starts",
    ];
    let numbers = counts.map(|name| format!("1 + {}", random(name, 50)));
    space.sql.execute(&format!(
        "INSERT INTO requests_{tier} (ingested, deployment_id, window_start, kafka_partition, ledger, requests, {}, end_to_end, inference, queue) \
         SELECT {ingested}, 'd', w, r, '', 5 + {}, {}, {}, {}, {} {window}",
        counts.join(", "),
        // so few that times take a longer step
        random("requests", 20),
        numbers.join(", "),
        sketch("end_to_end"),
        sketch("inference"),
        sketch("queue"),
    ));
}
