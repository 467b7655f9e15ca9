//! What is asked wrongly, under a wrong name, or while ClickHouse is away.

use std::time::Duration;

use serde_json::{Value, json};

use super::seeded::{Dashboard, get, now, raw, requests, samples, start_on, start_with};
use crate::support::wait_for;

/// A panel is a few queries; the machine may be busy.
const ANSWER: Duration = Duration::from_secs(30);
#[test]
fn what_is_asked_wrongly_is_said() {
    let dashboard = Dashboard::start();
    for (target, status, code, says) in [
        (
            "/api/v1/panel",
            400,
            "bad_parameter",
            "deployment: is missing",
        ),
        (
            "/api/v1/panel?deployment=d&range=2h",
            400,
            "bad_parameter",
            "range: is one of 15m",
        ),
        (
            "/api/v1/panel?deployment=d&step=10",
            400,
            "bad_parameter",
            "step: is no parameter",
        ),
        (
            "/api/v1/panel?deployment=d&start=0&stop=99999999",
            400,
            "bad_parameter",
            "stop: is more than 100 days",
        ),
        (
            "/api/v1/panel?deployment=%27)%20OR%201=1--",
            400,
            "bad_parameter",
            "deployment: an id is",
        ),
        (
            "/api/v1/panel?deployment=nobody",
            404,
            "unknown_deployment",
            "nobody",
        ),
        (
            "/api/v1/deployments?x=1",
            400,
            "bad_parameter",
            "x: is no parameter",
        ),
        ("/api/v2/panel", 404, "not_found", "/api/v1/panel"),
        ("/page/../Cargo.toml", 404, "not_found", "there is nothing"),
    ] {
        let (got, body) = dashboard.get(target);
        assert_eq!(
            (got, body["error"]["code"].as_str()),
            (status, Some(code)),
            "{target}: {body}"
        );
        let message = body["error"]["message"].as_str().expect("a sentence");
        assert!(message.contains(says), "{target}: {message}");
    }
}

/// What a stranger's page would do: its name is pointed at 127.0.0.1, and the browser sends it as Host.
#[test]
fn a_name_that_is_pointed_here_is_not_answered() {
    let dashboard = Dashboard::start();
    let port = dashboard.port();
    for target in ["/", "/api/v1/deployments", "/livez", "/page/app.js"] {
        for host in [
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ] {
            let answer = dashboard.raw(target, &format!("Host: {host}\r\n"));
            assert!(
                answer.starts_with("HTTP/1.1 200 "),
                "{target} {host}: {answer}"
            );
        }
        let answer = dashboard.raw(target, &format!("Host: rebound.example:{port}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        assert!(answer.contains("\"code\":\"host_not_allowed\""), "{answer}");
        assert!(answer.contains("rebound.example"), "{answer}");
        assert!(answer.contains("--allow-host"), "{answer}");
    }
    assert!(dashboard.raw("/", "").starts_with("HTTP/1.1 403 "));
}

#[test]
fn a_host_that_was_allowed_is_answered() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let allowed = [
        "--allow-host",
        "metrics.example.com",
        "--allow-host",
        "m.example",
    ];
    let (mut role, authority) = start_with("http://127.0.0.1:9", "default", dir.path(), &allowed);
    for (host, status) in [
        ("metrics.example.com", 200),
        ("m.example:443", 200),
        ("localhost", 200),
        ("other.example", 403),
    ] {
        let answer = raw(&authority, "/livez", &format!("Host: {host}\r\n"));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {answer}"
        );
    }
    assert!(role.stop().success(), "an orderly end");
}

#[test]
fn what_cannot_be_read_leaves_the_rest_alone() {
    let dashboard = Dashboard::start();
    let start = now() / 10 * 10 - 600;
    requests(&dashboard.space, "d", &[(start, 4)]);
    samples(&dashboard.space, "d", "r-1", 2, &[start]);
    // times alone, then all of requests
    for (lost, failed, n_shown) in [
        (
            "inference",
            &["end_to_end", "inference"][..],
            Some(json!(4.0)),
        ),
        ("cold_starts", &["volume", "end_to_end", "inference"], None),
    ] {
        let drop = format!("ALTER TABLE requests_10s DROP COLUMN {lost}");
        dashboard.space.sql.execute(&drop);
        let panel = dashboard.panel(&format!("deployment=d&start={start}&stop={}", start + 10));
        for (name, chart) in panel["charts"].as_object().expect("charts") {
            let is_failed = failed.contains(&name.as_str());
            let code = is_failed.then_some("clickhouse_refused");
            assert_eq!(chart["error"]["code"].as_str(), code, "{lost}, {name}");
        }
        let strip = panel.get("strip").expect("the key is there");
        let range = strip.get("range").and_then(Value::as_object);
        assert_eq!(
            range.map(|range| range["requests"].clone()),
            n_shown,
            "{lost}"
        );
        let p95 = range.map(|range| range["end_to_end_p95_ms"].clone());
        assert!(p95.is_none_or(|p95| p95.is_null()), "{lost}");
        assert_eq!(strip.is_null(), range.is_none(), "{lost}");
        let active = &panel["charts"]["replicas"]["series"]["active"];
        assert_eq!(active, &json!([1.0]), "{lost}");
    }
}

#[test]
fn it_lives_without_clickhouse_and_ends_in_order() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", taken.local_addr().expect("bound"));
    drop(taken);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut role, authority) = start_on(&nobody, "default", dir.path());
    assert_eq!(get(&authority, "/livez").0, 200);
    let (status, reason) = get(&authority, "/readyz");
    assert_eq!(
        (status, reason),
        (503, json!("ClickHouse cannot be reached\n"))
    );
    let (status, body) = get(&authority, "/api/v1/panel?deployment=d");
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("clickhouse_unreachable"))
    );
    assert!(role.stop().success(), "an orderly end");

    let mut dashboard = Dashboard::start();
    wait_for("it is ready", ANSWER, || match dashboard.get("/readyz") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(dashboard.role.stop().success(), "an orderly end");
}
