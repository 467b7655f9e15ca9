//! The views of requests against the real engine, at every kind of step and alignment. Rows are put
//! into the tables as the processor's folds would stand there, in deltas; what a view must answer is
//! counted from the requests themselves.

use std::collections::BTreeMap;

use clickhouse::Client;

use crate::engine::{execute, migrated, number, rows, try_rows, whole};

const VIEWS: [&str; 5] = [
    "inference_volume",
    "response_time",
    "replicas",
    "cpu",
    "gpu",
];

/// (table suffix, window in seconds)
pub const TIERS: [(&str, i64); 3] = [("10s", 10), ("1m", 60), ("1h", 3600)];

/// Every way in which a step meets a tier: the tier itself, a multiple, and what only a finer one
/// divides.
pub const STEPS: [i64; 12] = [
    10, 20, 30, 60, 90, 120, 300, 3600, 5400, 7200, 86_400, 864_000,
];

/// 2023-11-14T22:13:30Z: aligned to 10 s and to nothing coarser.
pub const BASE: i64 = 1_700_000_010;

/// Long enough for several windows of the coarsest tier.
pub const SPAN: i64 = 3 * 3600 + 1234;

pub fn call(view: &str, deployment: &str, start: i64, stop: i64, step: i64) -> String {
    format!("{view}(deployment = '{deployment}', start = {start}, stop = {stop}, step = {step})")
}

/// Numbers that look random and are the same every time (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn fraction(&mut self) -> f64 {
        (self.below(1 << 20) as f64 + 0.5) / f64::from(1 << 20)
    }
}

/// One request: seconds since 1970, index into `CLASSES`, and microseconds of each reading.
struct Request {
    at: i64,
    class: usize,
    client_gone: bool,
    cold: bool,
    readings: [Option<u64>; 5],
}

const CLASSES: [(&str, &str); 5] = [
    ("status_2xx", "rps_2xx"),
    ("status_4xx", "rps_4xx"),
    ("status_5xx", "rps_5xx"),
    ("status_other", "rps_other"),
    ("unclassified", "rps_unclassified"),
];
const READINGS: [&str; 5] = [
    "end_to_end",
    "inference",
    "first_byte",
    "queue",
    "cold_start",
];

fn requests(random: &mut Random, n: usize) -> Vec<Request> {
    (0..n)
        .map(|_| {
            // Quiet stretches leave steps without requests.
            let at = BASE + random.below(SPAN as u64) as i64;
            let at = if at % 1000 < 300 { at - 300 } else { at };
            let cold = random.below(10) == 0;
            let time = |random: &mut Random| (random.fraction().powi(4) * 5e6) as u64 + 1;
            let mut readings = [(); 5].map(|()| (random.below(3) > 0).then(|| time(random)));
            readings[0] = Some(time(random));
            readings[4] = readings[4].filter(|_| cold);
            Request {
                at: at.max(BASE),
                class: random.below(5) as usize,
                client_gone: random.below(7) == 0,
                cold,
                readings,
            }
        })
        .collect()
}

/// Folds into every tier, in two deltas a window, as two flushes would leave them.
async fn insert_requests(client: &Client, deployment: &str, requests: &[Request]) {
    for (tier, width) in TIERS {
        let mut windows: BTreeMap<(i64, usize), Vec<&Request>> = BTreeMap::new();
        for (i, request) in requests.iter().enumerate() {
            windows
                .entry((request.at - request.at % width, i % 2))
                .or_default()
                .push(request);
        }
        let values: Vec<String> = windows
            .iter()
            .map(|((window, half), of)| format!("({window}, {half}, {})", request_values(of)))
            .collect();
        let classes = CLASSES.map(|(class, _)| class);
        let counts = format!("requests, client_gone, cold_starts, {}", classes.join(", "));
        let structure = format!(
            "window UInt32, half UInt32, {} UInt64, {} Array(Float64)",
            counts.replace(',', " UInt64,"),
            READINGS.join(" Array(Float64), ")
        );
        let states = READINGS
            .map(|r| format!("arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', {r})"));
        for chunk in values.chunks(400) {
            execute(
                client,
                &format!(
                    "INSERT INTO requests_{tier} (ingested, deployment_id, window_start, kafka_partition, ledger, {counts}, {}) \
                     SELECT today(), '{deployment}', window, half, '', {counts}, {} FROM values('{structure}', {})",
                    READINGS.join(", "),
                    states.join(", "),
                    chunk.join(", ")
                ),
            )
            .await;
        }
    }
}

fn request_values(of: &[&Request]) -> String {
    let count = |keep: &dyn Fn(&Request) -> bool| of.iter().filter(|r| keep(r)).count().to_string();
    let mut values = vec![
        of.len().to_string(),
        count(&|r| r.client_gone),
        count(&|r| r.cold),
    ];
    values.extend((0..5).map(|class| count(&|r| r.class == class)));
    values.extend((0..5).map(|reading| {
        let us: Vec<String> = of
            .iter()
            .filter_map(|r| r.readings[reading])
            .map(|us| us.to_string())
            .collect();
        format!("[{}]", us.join(", "))
    }));
    values.join(", ")
}

#[tokio::test]
async fn a_wrong_step_is_an_error_even_without_rows() {
    let client = migrated().await;
    for view in VIEWS {
        for what in ["*", "t", "count()"] {
            for step in [0, 1, 5, 15, 61, 3605] {
                let sql = format!(
                    "SELECT {what} FROM {}",
                    call(view, "nobody", BASE, BASE + 60, step)
                );
                let error = try_rows(&client, &sql).await.expect_err(&sql);
                assert!(
                    error.contains("step must be a positive multiple of 10"),
                    "{sql}: {error}"
                );
            }
        }
        let sql = format!(
            "SELECT * FROM {}",
            call(view, "nobody", BASE, BASE + 60, 10)
        );
        assert!(rows(&client, &sql).await.is_empty(), "{sql}");
        let negative = format!(
            "SELECT * FROM {}",
            call(view, "nobody", BASE, BASE + 60, -10)
        );
        try_rows(&client, &negative).await.expect_err(&negative);
    }
}

#[tokio::test]
async fn requests_add_up_at_every_step() {
    let client = migrated().await;
    let all = requests(&mut Random(7), 3000);
    insert_requests(&client, "d", &all).await;
    insert_requests(&client, "another", &requests(&mut Random(8), 50)).await;
    for step in STEPS {
        for (start, stop) in [
            (BASE, BASE + SPAN),
            (BASE + 1, BASE + 4321),
            (BASE + 3599, BASE + 3601),
            (BASE, BASE),
        ] {
            let mut steps: BTreeMap<i64, Vec<&Request>> = BTreeMap::new();
            let (first, last) = (
                start.div_euclid(step) * step,
                (stop + step - 1).div_euclid(step) * step,
            );
            for request in all
                .iter()
                .filter(|r| (first..last).contains(&(r.at - r.at % step)))
            {
                steps
                    .entry(request.at - request.at % step)
                    .or_default()
                    .push(request);
            }
            check_volume(&client, &steps, [start, stop, step]).await;
            check_times(&client, &steps, [start, stop, step]).await;
        }
    }
}

async fn check_volume(
    client: &Client,
    steps: &BTreeMap<i64, Vec<&Request>>,
    [start, stop, step]: [i64; 3],
) {
    let view = call("inference_volume", "d", start, stop, step);
    let got = rows(
        client,
        &format!("SELECT toUnixTimestamp(t) AS at, * FROM {view}"),
    )
    .await;
    let at: Vec<i64> = got.iter().map(|r| whole(r, "at") as i64).collect();
    assert_eq!(at, steps.keys().copied().collect::<Vec<_>>(), "{view}");
    for (row, of) in got.iter().zip(steps.values()) {
        assert_eq!(whole(row, "seconds") as i64, step, "{view} {row:?}");
        assert_eq!(whole(row, "requests") as usize, of.len(), "{view} {row:?}");
        let n_gone = of.iter().filter(|r| r.client_gone).count();
        assert_eq!(whole(row, "client_gone") as usize, n_gone, "{view} {row:?}");
        assert!(
            close(
                number(row, "rps_client_gone"),
                Some(n_gone as f64 / step as f64)
            ),
            "{view} {row:?}"
        );
        assert_eq!(
            whole(row, "cold_starts") as usize,
            of.iter().filter(|r| r.cold).count(),
            "{view} {row:?}"
        );
        for (class, (_, column)) in CLASSES.iter().enumerate() {
            let n = of.iter().filter(|r| r.class == class).count();
            assert!(
                close(number(row, column), Some(n as f64 / step as f64)),
                "{view} {column} {row:?}"
            );
        }
    }
}

async fn check_times(
    client: &Client,
    steps: &BTreeMap<i64, Vec<&Request>>,
    [start, stop, step]: [i64; 3],
) {
    let view = call("response_time", "d", start, stop, step);
    let got = rows(
        client,
        &format!("SELECT toUnixTimestamp(t) AS at, * FROM {view}"),
    )
    .await;
    let at: Vec<i64> = got.iter().map(|r| whole(r, "at") as i64).collect();
    assert_eq!(at, steps.keys().copied().collect::<Vec<_>>(), "{view}");
    for (row, of) in got.iter().zip(steps.values()) {
        assert_eq!(whole(row, "requests") as usize, of.len(), "{view} {row:?}");
        for (i, reading) in READINGS.iter().enumerate() {
            let mut us: Vec<u64> = of.iter().filter_map(|r| r.readings[i]).collect();
            us.sort_unstable();
            for percent in [50, 90, 95, 99] {
                let column = format!("{reading}_p{percent}_ms");
                let shown = number(row, &column);
                assert!(
                    is_percentile(shown, &us, percent),
                    "{view} {column} is {shown:?} of {us:?}"
                );
            }
        }
    }
}

/// Within 1 % of the value at the rank, or of one between the two that the rank lies between.
fn is_percentile(shown_ms: Option<f64>, sorted_us: &[u64], percent: usize) -> bool {
    let Some(last) = sorted_us.len().checked_sub(1) else {
        return shown_ms.is_none();
    };
    let (low, high) = (
        sorted_us[last * percent / 100],
        sorted_us[(last * percent).div_ceil(100)],
    );
    // The sketch's error, and a rounding of its sums.
    let error = 0.010_000_1;
    shown_ms.is_some_and(|ms| {
        ms * 1e3 >= low as f64 * (1.0 - error) && ms * 1e3 <= high as f64 * (1.0 + error)
    })
}

/// Sums in another order differ in their last digits.
pub fn close(got: Option<f64>, expected: Option<f64>) -> bool {
    match (got, expected) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        (a, b) => a == b,
    }
}
