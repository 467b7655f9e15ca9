//! Which table a view reads, and what it makes of the present: the youngest windows, the last step,
//! NULL and zero, rows that are no data, and what its COMMENT says.

use clickhouse::Client;
use modelmeter::store::migrate::docs;

use crate::engine::{execute, migrated, number, rows, whole};

const VIEWS: [&str; 5] = [
    "inference_volume",
    "response_time",
    "replicas",
    "cpu",
    "gpu",
];

/// Seconds by which the coarser tables lag at most.
const LAG: u64 = 120;

/// 2023-11-15T00:00:00Z: old, and aligned to every tier.
const OLD: u64 = 1_700_006_400;

fn call(view: &str, deployment: &str, start: u64, stop: u64, step: u64) -> String {
    format!("{view}(deployment = '{deployment}', start = {start}, stop = {stop}, step = {step})")
}

async fn now(client: &Client) -> u64 {
    whole(
        &rows(client, "SELECT toUnixTimestamp(now()) AS now").await[0],
        "now",
    )
}

/// `requests` in every window of a tier between two times.
async fn fill(client: &Client, tier: &str, width: u64, span: std::ops::Range<u64>, requests: u64) {
    execute(
        client,
        &format!(
            "INSERT INTO requests_{tier} (ingested, deployment_id, window_start, kafka_partition, ledger, requests, status_2xx) \
             SELECT today(), 'd', {} + number * {width}, 0, '', {requests}, {requests} FROM numbers({})",
            span.start,
            (span.end - span.start) / width
        ),
    )
    .await;
}

/// Windows count differently in each table, so that an answer tells which tables it was read from.
async fn fill_tellingly(client: &Client, from: u64, to: u64) {
    fill(client, "10s", 10, from..to, 1).await;
    fill(client, "1m", 60, from..to, 1_000).await;
    fill(client, "1h", 3600, from..to, 1_000_000).await;
}

#[tokio::test]
async fn old_windows_come_from_the_coarsest_table_that_divides_the_step() {
    let client = migrated().await;
    fill_tellingly(&client, OLD, OLD + 86_400).await;
    for (step, requests) in [
        (10, 1),
        (50, 5),
        (60, 1_000),
        (90, 9),
        (300, 5_000),
        (3_600, 1_000_000),
        (3_660, 61_000),
        (7_200, 2_000_000),
        (86_400, 24_000_000),
    ] {
        let view = call("inference_volume", "d", OLD + 43_200, OLD + 43_201, step);
        let got = rows(&client, &format!("SELECT * FROM {view}")).await;
        assert_eq!(got.len(), 1, "{view}");
        assert_eq!(whole(&got[0], "requests"), requests, "{view}");
    }
}

#[tokio::test]
async fn the_youngest_windows_come_from_the_finest_table() {
    let client = migrated().await;
    let day = now(&client).await / 86_400 * 86_400;
    fill_tellingly(&client, day - 86_400, day + 2 * 86_400).await;
    for (step, tier, coarse) in [
        (60, 60, 1_000),
        (120, 60, 1_000),
        (3_600, 3_600, 1_000_000),
        (7_200, 3_600, 1_000_000),
    ] {
        // The cut moves; an answer that was given on both sides of it is asked for again.
        let (cut, got) = loop {
            let before = (now(&client).await - LAG) / tier * tier;
            let view = call(
                "inference_volume",
                "d",
                before - 5 * step,
                before + 5 * step,
                step,
            );
            let got = rows(
                &client,
                &format!("SELECT toUnixTimestamp(t) AS at, * FROM {view}"),
            )
            .await;
            if (now(&client).await - LAG) / tier * tier == before {
                break (before, got);
            }
        };
        assert!(got.len() >= 10, "step {step}");
        for row in got {
            let t = whole(&row, "at");
            let old = cut.clamp(t, t + step) - t;
            let expected = old / tier * coarse + (step - old) / 10;
            assert_eq!(
                whole(&row, "requests"),
                expected,
                "step {step}, cut at {cut}: {row:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_last_step_is_as_long_as_it_lies_in_the_past() {
    let client = migrated().await;
    let start = now(&client).await;
    fill(
        &client,
        "10s",
        10,
        start / 10 * 10 - 600..start / 10 * 10 + 600,
        7,
    )
    .await;
    let before = now(&client).await;
    let view = call("inference_volume", "d", before - 300, before + 300, 10);
    let got = rows(
        &client,
        &format!("SELECT toUnixTimestamp(t) AS at, * FROM {view}"),
    )
    .await;
    let after = now(&client).await;
    let mut n_partial = 0;
    for row in got {
        let (t, seconds) = (whole(&row, "at"), whole(&row, "seconds"));
        let length = |now: u64| (t + 10).min(now).saturating_sub(t).max(1);
        assert!(
            (length(before)..=length(after)).contains(&seconds),
            "{row:?} between {before} and {after}"
        );
        assert_eq!(
            number(&row, "rps_2xx"),
            Some(7.0 / seconds as f64),
            "{row:?}"
        );
        n_partial += usize::from(seconds < 10);
    }
    assert!(n_partial >= 30, "steps of the future are one second long");
}

#[tokio::test]
async fn unknown_is_null_and_zero_is_zero() {
    let client = migrated().await;
    execute(
        &client,
        &format!(
            "INSERT INTO requests_10s (ingested, deployment_id, window_start, kafka_partition, ledger, requests, unclassified) \
             VALUES (today(), 'd', {OLD}, 0, '', 1, 1)"
        ),
    )
    .await;
    let sample = |replica: &str, covered: u32| {
        format!(
            "(today(), 'd', '{replica}', {OLD}, 0, '', 1, 10000000, 0, {covered}, 0, 0, {covered}, 0, {covered})"
        )
    };
    // Of the two, one read an idle CPU and GPU, the other nothing; a third was only counted here, and
    // its interval lies elsewhere.
    execute(
        &client,
        &format!(
            "INSERT INTO replicas_10s (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, samples, \
             active_us, cpu_cores_integral, cpu_cores_us, cpu_cores_max, gpu_utilization_integral, gpu_utilization_us, \
             memory_bytes_integral, memory_bytes_us) VALUES {}, {}, (today(), 'd', 'gone', {OLD}, 0, '', 1, 0, 0, 0, 0, 0, 0, 0, 0), \
             (today(), 'd', 'gone', {}, 0, '', 1, 0, 0, 0, 0, 0, 0, 0, 0)",
            sample("reads", 10_000_000),
            sample("cannot", 0),
            OLD + 10
        ),
    )
    .await;
    let ask = async |view| {
        rows(
            &client,
            &format!("SELECT * FROM {}", call(view, "d", OLD, OLD + 30, 10)),
        )
        .await
    };
    let times = ask("response_time").await;
    assert!(
        times.len() == 1 && number(&times[0], "queue_p99_ms").is_none(),
        "{times:?}"
    );
    let volume = ask("inference_volume").await;
    assert_eq!(number(&volume[0], "rps_5xx"), Some(0.0));
    let replicas = ask("replicas").await;
    assert_eq!(
        (replicas.len(), number(&replicas[0], "active")),
        (1, Some(2.0)),
        "{replicas:?}"
    );
    assert_eq!(number(&replicas[0], "starting"), Some(0.0));
    let cpu = ask("cpu").await;
    assert_eq!((cpu.len(), whole(&cpu[0], "replicas")), (1, 2), "{cpu:?}");
    assert_eq!(number(&cpu[0], "usage_cores_avg"), Some(0.0));
    assert_eq!(number(&cpu[0], "usage_cores_max"), Some(0.0));
    assert_eq!(number(&cpu[0], "limit_cores_avg"), None);
    assert_eq!(number(&cpu[0], "memory_ratio_avg"), None);
    let gpu = ask("gpu").await;
    assert_eq!(number(&gpu[0], "usage_ratio_avg"), Some(0.0));
    assert_eq!(number(&gpu[0], "memory_used_bytes_max"), None);
    assert_eq!(whole(&gpu[0], "gpus"), 0);
}

#[tokio::test]
async fn ledger_rows_are_no_data_and_neither_is_what_nobody_sent() {
    let client = migrated().await;
    for tier in ["requests_10s", "replicas_10s"] {
        execute(
            &client,
            &format!(
                "INSERT INTO {tier} (ingested, deployment_id, window_start, kafka_partition, ledger, ledger_from, ledger_to, ledger_span) \
                 VALUES (today(), '', 0, 3, 'topic/id', 5, 9, 4)"
            ),
        )
        .await;
    }
    for view in VIEWS {
        for deployment in ["", "nobody"] {
            // Times below 10,000 s are not read as such by the engine; the range reaches 1970 by its step.
            let view = call(view, deployment, 10_000, 20_000, 864_000);
            assert!(
                rows(&client, &format!("SELECT * FROM {view}"))
                    .await
                    .is_empty(),
                "{view}"
            );
        }
        let backwards = call(view, "d", OLD + 60, OLD, 10);
        assert!(
            rows(&client, &format!("SELECT * FROM {backwards}"))
                .await
                .is_empty(),
            "{backwards}"
        );
    }
}

#[tokio::test]
async fn a_view_reads_what_it_needs_and_no_more() {
    let client = migrated().await;
    // Marks stand every 1,024 rows at most: one deployment and range may cost a few of them.
    const AT_MOST: u64 = 3 * 1_024;
    fill(&client, "10s", 10, OLD..OLD + 3_000_000, 1).await;
    fill(&client, "1m", 60, OLD..OLD + 3_000_000, 1).await;
    for (step, at_least) in [(10, 864), (60, 144), (3_600, 0)] {
        let view = call("response_time", "d", OLD + 600_000, OLD + 608_640, step);
        let mut cursor = client
            .query(&format!("SELECT * FROM {view}"))
            .fetch_bytes("JSON")
            .expect("a query");
        let answer: serde_json::Value =
            serde_json::from_slice(&cursor.collect().await.expect("an answer")).expect("JSON");
        let n_read = answer["statistics"]["rows_read"]
            .as_u64()
            .expect("rows_read");
        let most = if step == 3_600 { 10 } else { AT_MOST };
        assert!(n_read <= most, "step {step} reads {n_read} rows");
        assert!(n_read >= at_least, "step {step} reads {n_read} rows");
    }
}

#[tokio::test]
async fn the_comment_defines_each_column_in_its_place() {
    let client = migrated().await;
    for doc in docs::views() {
        let has_steps = !doc.arguments.is_empty();
        let view = if has_steps {
            call(&doc.name, "d", OLD, OLD + 60, 10)
        } else {
            doc.name.clone()
        };
        let described = rows(&client, &format!("DESCRIBE (SELECT * FROM {view})")).await;
        let columns: Vec<&str> = described
            .iter()
            .map(|r| r["name"].as_str().expect("a name"))
            .collect();
        let defined: Vec<&str> = doc.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(columns, defined, "{}", doc.name);
        let sql = format!(
            "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = '{}'",
            doc.name
        );
        let comment = rows(&client, &sql).await.remove(0)["comment"]
            .as_str()
            .expect("a comment")
            .to_owned();
        for column in &doc.columns {
            assert!(
                comment.contains(&format!("\n{}", column.name))
                    && comment.contains(&column.meaning),
                "{comment}"
            );
        }
        for row in described.iter().filter(|_| has_steps) {
            let nullable = row["type"]
                .as_str()
                .expect("a type")
                .starts_with("Nullable");
            let column = row["name"].as_str().expect("a name");
            let is_reading = ["_ms", "_avg", "_max"]
                .iter()
                .any(|suffix| column.ends_with(suffix));
            assert_eq!(nullable, is_reading, "{} {column}", doc.name);
        }
    }
}
