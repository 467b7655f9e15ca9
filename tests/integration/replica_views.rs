//! The views of replicas against the real engine, at every kind of step and alignment. Rows are put
//! into the tables as the processor's folds would stand there, in deltas; what a view must answer is
//! added up from the samples themselves.

use std::collections::BTreeMap;

use clickhouse::Client;

use crate::engine::{execute, migrated, number, rows, whole};
use crate::views::{BASE, Random, SPAN, STEPS, TIERS, call, close};

/// A sample's interval in microseconds since 1970, its state, and each reading with its highest.
struct Sample {
    replica: u64,
    from: i64,
    to: i64,
    state: usize,
    gpus: u64,
    readings: [Option<(f64, f64)>; 11],
}

const STATES: [&str; 4] = ["waiting", "loading", "active", "stopping"];

/// (reading, has a maximum, column of its mean, column of its maximum)
const MEASURES: [(&str, bool, &str, &str); 11] = [
    ("cpu_cores", true, "usage_cores_avg", "usage_cores_max"),
    ("cpu_limit", false, "limit_cores_avg", ""),
    ("cpu_ratio", true, "usage_ratio_avg", ""),
    ("memory_bytes", true, "memory_bytes_avg", "memory_bytes_max"),
    ("memory_limit", false, "memory_limit_bytes_avg", ""),
    ("memory_ratio", true, "memory_ratio_avg", ""),
    (
        "gpu_utilization",
        true,
        "usage_ratio_avg",
        "usage_ratio_max",
    ),
    ("gpu_sm_activity", true, "sm_activity_avg", ""),
    (
        "gpu_memory_used",
        true,
        "memory_used_bytes_avg",
        "memory_used_bytes_max",
    ),
    ("gpu_memory_total", false, "memory_total_bytes_avg", ""),
    ("gpu_memory_ratio", true, "memory_ratio_avg", ""),
];
/// Where the GPU's begin among the measures.
const GPU: usize = 6;

fn samples(random: &mut Random) -> Vec<Sample> {
    let mut all = Vec::new();
    for replica in 0..4 {
        let mut from = BASE * 1_000_000 + random.below(2_000_000_000) as i64;
        while from < (BASE + SPAN) * 1_000_000 {
            let to = from + 1 + random.below(40_000_000) as i64;
            let readings = [(); 11].map(|()| {
                let value = random.below(1 << 30) as f64;
                (random.below(3) > 0).then_some((value, value + 7.0))
            });
            let state = random.below(4) as usize;
            all.push(Sample {
                replica,
                from,
                to,
                state,
                gpus: random.below(3),
                readings,
            });
            // Now and then nothing is heard for a while, or two intervals overlap.
            from = to + [0, 0, 0, 400_000_000, -5_000_000][random.below(5) as usize];
        }
    }
    all
}

/// What samples add up to over a stretch of time.
#[derive(Clone, Default)]
struct Covered {
    state_us: [i64; 4],
    integral: [f64; 11],
    covered_us: [i64; 11],
    top: [f64; 11],
    gpus: u64,
}

/// Per window of `width` seconds and replica.
fn fold<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    width: i64,
) -> BTreeMap<(i64, u64), Covered> {
    let mut windows: BTreeMap<(i64, u64), Covered> = BTreeMap::new();
    let width_us = width * 1_000_000;
    for sample in samples {
        let mut from = sample.from;
        while from < sample.to {
            let start = from - from.rem_euclid(width_us);
            let us = sample.to.min(start + width_us) - from;
            let window = windows
                .entry((start / 1_000_000, sample.replica))
                .or_default();
            window.state_us[sample.state] += us;
            window.gpus = window.gpus.max(sample.gpus);
            for (i, reading) in sample.readings.iter().enumerate() {
                if let Some((value, top)) = reading {
                    window.integral[i] += value * us as f64 / 1e6;
                    window.covered_us[i] += us;
                    window.top[i] = window.top[i].max(*top);
                }
            }
            from += us;
        }
    }
    windows
}

async fn insert_samples(client: &Client, deployment: &str, samples: &[Sample]) {
    let mut columns = STATES.map(|s| format!("{s}_us")).to_vec();
    for (reading, has_max, ..) in MEASURES {
        columns.extend([format!("{reading}_integral"), format!("{reading}_us")]);
        columns.extend(has_max.then(|| format!("{reading}_max")));
    }
    for (tier, width) in TIERS {
        for half in 0..2 {
            let kept = samples
                .iter()
                .enumerate()
                .filter(|(i, _)| i % 2 == half)
                .map(|(_, s)| s);
            let values: Vec<String> = fold(kept, width)
                .iter()
                .map(|((window, replica), c)| {
                    format!(
                        "(today(), '{deployment}', 'r{replica}', {window}, {half}, '', 1, {}, {})",
                        c.gpus,
                        covered_values(c)
                    )
                })
                .collect();
            for chunk in values.chunks(1000) {
                execute(
                    client,
                    &format!(
                        "INSERT INTO replicas_{tier} (ingested, deployment_id, replica_id, window_start, kafka_partition, \
                         ledger, samples, gpus_max, {}) VALUES {}",
                        columns.join(", "),
                        chunk.join(", ")
                    ),
                )
                .await;
            }
        }
    }
}

fn covered_values(covered: &Covered) -> String {
    let mut values: Vec<String> = covered.state_us.iter().map(ToString::to_string).collect();
    for (i, (_, has_max, ..)) in MEASURES.iter().enumerate() {
        values.extend([
            format!("{:?}", covered.integral[i]),
            covered.covered_us[i].to_string(),
        ]);
        values.extend(has_max.then(|| format!("{:?}", covered.top[i])));
    }
    values.join(", ")
}

#[tokio::test]
async fn samples_add_up_at_every_step() {
    let client = migrated().await;
    let all = samples(&mut Random(11));
    insert_samples(&client, "d", &all).await;
    insert_samples(&client, "another", &samples(&mut Random(12))[..20]).await;
    for step in STEPS {
        for (start, stop) in [
            (BASE, BASE + SPAN),
            (BASE + 1, BASE + 4321),
            (BASE + 3599, BASE + 3601),
            (BASE, BASE),
        ] {
            let (first, last) = (
                start.div_euclid(step) * step,
                (stop + step - 1).div_euclid(step) * step,
            );
            let mut steps: BTreeMap<i64, Vec<Covered>> = BTreeMap::new();
            for ((t, _), covered) in fold(all.iter(), step) {
                if (first..last).contains(&t) {
                    steps.entry(t).or_default().push(covered);
                }
            }
            for view in ["replicas", "cpu", "gpu"] {
                let call = call(view, "d", start, stop, step);
                let got = rows(
                    &client,
                    &format!("SELECT toUnixTimestamp(t) AS at, * FROM {call} "),
                )
                .await;
                let at: Vec<i64> = got.iter().map(|r| whole(r, "at") as i64).collect();
                assert_eq!(at, steps.keys().copied().collect::<Vec<_>>(), "{call}");
                for (row, replicas) in got.iter().zip(steps.values()) {
                    let expected = match view {
                        "replicas" => replica_means(replicas, step),
                        _ => usage(replicas, view),
                    };
                    for (column, value) in expected {
                        assert!(
                            close(number(row, &column), value),
                            "{call} {column} is not {value:?}: {row:?}"
                        );
                    }
                }
            }
        }
    }
}

fn replica_means(replicas: &[Covered], step: i64) -> Vec<(String, Option<f64>)> {
    let mean = |states: &[usize]| {
        let us: i64 = replicas
            .iter()
            .flat_map(|r| states.iter().map(|s| r.state_us[*s]))
            .sum();
        Some(us as f64 / 1e6 / step as f64)
    };
    let mut columns: Vec<(String, Option<f64>)> =
        (0..4).map(|s| (STATES[s].to_owned(), mean(&[s]))).collect();
    columns.push(("starting".to_owned(), mean(&[0, 1])));
    columns.push(("seconds".to_owned(), Some(step as f64)));
    columns
}

fn usage(replicas: &[Covered], view: &str) -> Vec<(String, Option<f64>)> {
    let measures = if view == "cpu" {
        0..GPU
    } else {
        GPU..MEASURES.len()
    };
    let mut columns = vec![("replicas".to_owned(), Some(replicas.len() as f64))];
    if view == "gpu" {
        columns.push((
            "gpus".to_owned(),
            Some(replicas.iter().map(|r| r.gpus).sum::<u64>() as f64),
        ));
    }
    for i in measures {
        let (_, _, mean_column, max_column) = MEASURES[i];
        let having: Vec<&Covered> = replicas.iter().filter(|r| r.covered_us[i] > 0).collect();
        let sum: f64 = having
            .iter()
            .map(|r| r.integral[i] * 1e6 / r.covered_us[i] as f64)
            .sum();
        columns.push((
            mean_column.to_owned(),
            (!having.is_empty()).then(|| sum / having.len() as f64),
        ));
        if !max_column.is_empty() {
            columns.push((
                max_column.to_owned(),
                having.iter().map(|r| r.top[i]).reduce(f64::max),
            ));
        }
    }
    columns
}
