//! The dashboard's JSON API against the real engine: values are the views', no data and zero are two things, and what
//! is asked wrongly is said. Rows are put into the tables as the processor's folds would stand there.

mod agreement;
mod seeded;
mod trouble;

use serde_json::{Value, json};

use self::seeded::{Dashboard, letters, now, requests, samples};

#[test]
fn a_panel_is_aligned_and_says_what_the_views_say() {
    let dashboard = Dashboard::start();
    let space = &dashboard.space;
    let start = now() / 600 * 600 - 7200;
    requests(space, "d", &[(start, 10), (start + 20, 4)]);
    samples(space, "d", "r-1", 2, &[start, start + 10, start + 20]);
    let panel = dashboard.panel(&format!("deployment=d&start={start}&stop={}", start + 40));
    assert_eq!(panel["step"], 10);
    assert_eq!(
        (&panel["range"], &panel["refresh_s"]),
        (&Value::Null, &Value::Null)
    );
    let t = json!([start, start + 10, start + 20, start + 30]);
    for (name, chart) in panel["charts"].as_object().expect("charts") {
        assert_eq!(chart["t"], t, "{name}");
        for (series, values) in chart["series"].as_object().expect("series") {
            assert_eq!(values.as_array().map(Vec::len), Some(4), "{name} {series}");
        }
    }
    let names: Vec<_> = panel["charts"]
        .as_object()
        .expect("charts")
        .keys()
        .collect();
    let expected = [
        "cpu",
        "end_to_end",
        "gpu",
        "gpu_memory",
        "inference",
        "memory",
        "replicas",
        "volume",
    ];
    assert_eq!(names, expected);

    let volume = &panel["charts"]["volume"]["series"];
    assert_eq!(volume["requests"], json!([10.0, 0.0, 4.0, null]));
    assert_eq!(volume["rps_2xx"], json!([0.9, 0.0, 0.3, null]));
    assert_eq!(volume["rps_5xx"], json!([0.1, 0.0, 0.1, null]));
    assert_eq!(letters(&panel["coverage"]), "dzdn");
    let charts = &panel["charts"];
    assert_eq!(letters(&charts["inference"]["coverage"]), "dzdn");
    assert_eq!(letters(&charts["cpu"]["coverage"]), "dddn");
    assert_eq!(
        charts["inference"]["series"]["inference_p95_ms"],
        json!([null, null, null, null])
    );
    assert_eq!(
        charts["replicas"]["series"]["active"],
        json!([1.0, 1.0, 1.0, null])
    );
    assert_eq!(
        charts["cpu"]["series"]["usage_cores_avg"],
        json!([1.5, 1.5, 1.5, null])
    );
    assert_eq!(
        charts["cpu"]["series"]["usage_cores_max"],
        json!([2.5, 2.5, 2.5, null])
    );
    assert_eq!(
        charts["gpu"]["series"]["usage_ratio_avg"],
        json!([null, null, null, null])
    );

    // to the last bit what SQL says
    let view = format!(
        "response_time(deployment = 'd', start = {start}, stop = {}, step = 10)",
        start + 40
    );
    let truth = space
        .sql
        .rows(&format!("SELECT end_to_end_p95_ms AS p FROM {view}"));
    let shown = &charts["end_to_end"]["series"]["end_to_end_p95_ms"];
    assert_eq!([&shown[0], &shown[2]], [&truth[0]["p"], &truth[1]["p"]]);
    let p95 = shown[0].as_f64().expect("a time");
    assert!((p95 - 200.0).abs() <= 2.0, "{p95}");
}

#[test]
fn zero_is_told_from_no_data() {
    let dashboard = Dashboard::start();
    let space = &dashboard.space;
    let start = now() / 600 * 600 - 7200;
    let steps: Vec<u64> = (0..6).map(|n| start + 10 * n).collect();
    // one that stops, one that vanishes long before, so that it was gone by then
    samples(space, "stops", "r-1", 2, &steps[..3]);
    samples(space, "stops", "r-1", 3, &steps[3..4]);
    samples(space, "stops", "r-2", 2, &steps[..1]);
    // two of which only one stops
    samples(space, "vanishes", "r-1", 3, &steps[3..4]);
    samples(space, "vanishes", "r-2", 2, &steps[..4]);
    // requests without a sample
    requests(space, "bare", &[(steps[1], 3)]);
    let panel = |deployment: &str, from: u64, to: u64| {
        dashboard.panel(&format!("deployment={deployment}&start={from}&stop={to}"))
    };
    let (from, to) = (start - 10, start + 60);
    assert_eq!(letters(&panel("stops", from, to)["coverage"]), "nzzzzzz");
    assert_eq!(
        letters(&panel("stops", from, to)["charts"]["gpu"]["coverage"]),
        "nddddzz"
    );
    assert_eq!(letters(&panel("vanishes", from, to)["coverage"]), "nzzzznn");
    assert_eq!(letters(&panel("bare", from, to)["coverage"]), "nndnnnn");
    assert_eq!(
        letters(&panel("bare", from, to)["charts"]["cpu"]["coverage"]),
        "nnnnnnn"
    );

    let stopped = panel("stops", from, to);
    assert_eq!(stopped["stopped_since"], start + 39);
    assert_eq!(stopped["charts"]["replicas"]["series"]["active"][6], 0.0);
    assert_eq!(panel("vanishes", from, to)["stopped_since"], Value::Null);
    // all of a later range: what was before it decides
    assert_eq!(
        letters(&panel("stops", start + 100, start + 120)["coverage"]),
        "zz"
    );
    assert_eq!(
        letters(&panel("vanishes", start + 100, start + 120)["coverage"]),
        "nn"
    );
}

/// Within one step of 30 s: whoever had been silent for three intervals when the last one stopped was gone by then.
#[test]
fn a_vanished_replica_does_not_keep_a_deployment_from_zero() {
    let dashboard = Dashboard::start();
    let start = now() / 600 * 600 - 7200;
    for (deployment, last_of_other) in [("gone", start), ("there", start + 10)] {
        samples(&dashboard.space, deployment, "r-2", 2, &[last_of_other]);
        samples(&dashboard.space, deployment, "r-1", 3, &[start + 20]);
    }
    for (deployment, after) in [("gone", "zzz"), ("there", "znn")] {
        let (from, to) = (start - 3000, start + 3000);
        let panel = dashboard.panel(&format!("deployment={deployment}&start={from}&stop={to}"));
        assert_eq!(panel["step"], 30);
        assert_eq!(
            letters(&panel["coverage"])[100..103],
            *after,
            "{deployment}"
        );
    }
}

#[test]
fn what_was_before_the_range_is_found_in_every_tier() {
    let dashboard = Dashboard::start();
    let sql = &dashboard.space.sql;
    let start = now() / 3600 * 3600;
    for (tier, width, ago) in [("10s", 10, 60), ("1m", 60, 3600), ("1h", 3600, 20 * 86_400)] {
        let last = ((start - ago) * 1_000_000 + 9_000_000) * 4 + 3;
        let window = (start - ago) / width * width;
        sql.execute(&format!(
            "INSERT INTO replicas_{tier} (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, samples, stopping_us, last_sample) \
             VALUES (today(), 'of-{tier}', 'r', {window}, 0, '', 1, 5000000, {last})"
        ));
        let query = format!(
            "deployment=of-{tier}&start={}&stop={}",
            start - 30,
            start - 10
        );
        let panel = dashboard.panel(&query);
        assert_eq!(
            (panel["step"].as_u64(), letters(&panel["coverage"])),
            (Some(10), "zz".to_owned()),
            "{tier}"
        );
    }
}

#[test]
fn the_present_is_pending_and_silence_is_dated() {
    let dashboard = Dashboard::start();
    let before = now();
    samples(&dashboard.space, "d", "r-1", 2, &[before / 10 * 10 - 300]);
    let panel = dashboard.panel("deployment=d&range=15m");
    let coverage = letters(&panel["coverage"]);
    assert_eq!(
        (panel["step"].as_u64(), panel["refresh_s"].as_u64()),
        (Some(10), Some(5))
    );
    assert!(
        coverage.contains('z') && coverage.ends_with('p'),
        "{coverage}"
    );
    assert!(coverage.trim_end_matches('p').ends_with('n'), "{coverage}");
    assert_eq!(panel["data_until"], before / 10 * 10 - 291);
    let t = panel["charts"]["volume"]["t"].as_array().expect("steps");
    assert!(
        t.last().and_then(Value::as_u64) <= Some(now()),
        "no step begins in the future"
    );

    // a producer's clock may be ahead: nobody was heard of later than now
    samples(
        &dashboard.space,
        "ahead",
        "r-1",
        2,
        &[now() / 10 * 10, now() / 10 * 10 + 200],
    );
    let until = dashboard.panel("deployment=ahead&range=15m")["data_until"].as_u64();
    assert!(until >= Some(before) && until <= Some(now()), "{until:?}");
}

#[test]
fn every_range_has_its_step() {
    let dashboard = Dashboard::start();
    samples(&dashboard.space, "d", "r-1", 2, &[now() / 10 * 10 - 100]);
    for (range, step, points) in [
        ("15m", 10, 90),
        ("1h", 30, 120),
        ("6h", 60, 360),
        ("24h", 300, 288),
        ("7d", 3600, 168),
    ] {
        let panel = dashboard.panel(&format!("deployment=d&range={range}"));
        assert_eq!(panel["step"], step, "{range}");
        let n = panel["coverage"]
            .as_array()
            .map(Vec::len)
            .expect("an array");
        assert!((points..=points + 1).contains(&n), "{range}: {n}");
        for (name, chart) in panel["charts"].as_object().expect("charts") {
            assert!(chart["error"].is_null(), "{range} {name}: {chart}");
        }
    }
}

#[test]
fn deployments_are_listed_once_with_their_facts() {
    let dashboard = Dashboard::start();
    let sql = &dashboard.space.sql;
    assert_eq!(
        dashboard.get("/api/v1/deployments"),
        (200, json!({"deployments": [], "is_truncated": false}))
    );
    for row in [
        "('a', '', '', '', '', '', '', 100, 900)",
        "('a', 'chat', 'm', 'llama', 'dev', 'development', 'g5', 200, 300)",
        "('a', 'chat', 'm', 'llama', 'prod', 'production', 'g5', 300, 800)",
        "('b', '', '', '', '', '', '', 5, 6)",
    ] {
        sql.execute(&format!(
            "INSERT INTO deployments (deployment_id, deployment_name, model_id, model_name, environment, kind, instance_type, first_seen, last_seen) VALUES {row}"
        ));
    }
    let (status, body) = dashboard.get("/api/v1/deployments");
    assert_eq!(status, 200);
    let expected = json!([
        {"id": "a", "name": "chat", "model_id": "m", "model_name": "llama", "environment": "prod", "kind": "production",
         "instance_type": "g5", "first_seen": 100, "last_seen": 900, "earlier": [
            {"name": "chat", "model_id": "m", "model_name": "llama", "environment": "dev", "kind": "development",
             "instance_type": "g5", "first_seen": 200, "last_seen": 300}]},
        {"id": "b", "name": "", "model_id": "", "model_name": "", "environment": "", "kind": "", "instance_type": "",
         "first_seen": 5, "last_seen": 6, "earlier": []},
    ]);
    assert_eq!(body["deployments"], expected);
}
