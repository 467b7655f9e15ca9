//! The replay on the real parts: a short past and a moment of live load, and every table must say what the replay says that it
//! produced. A second run goes on where the first one ended.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::support::process::{Role, modelmeter, run};
use super::support::space::{CATCH_UP, ROLLUPS, Space};
use super::support::{message::Topic, wait_for, wait_until};

/// What is compared in the tables of each topic; these columns bear the summary's own names.
const REQUEST_COLUMNS: [&str; 8] = [
    "requests",
    "status_2xx",
    "status_4xx",
    "status_5xx",
    "status_other",
    "unclassified",
    "client_gone",
    "cold_starts",
];
const SAMPLE_COLUMNS: [&str; 3] = ["samples", "waiting_us", "stopping_us"];

fn replay(space: &Space, dir: &Path, more: &[&str]) -> Json {
    let path = |name: &str| dir.join(name).display().to_string();
    let (resume, summary) = (path("replay.json"), path("summary.json"));
    let mut arguments = vec!["replay", "--kafka", &space.kafka];
    arguments.extend(["--requests-topic", &space.topics.requests]);
    arguments.extend(["--replicas-topic", &space.topics.replicas]);
    arguments.extend(["--resume", &resume, "--summary", &summary]);
    arguments.extend(more);
    let (status, text) = run(&arguments);
    assert!(status.success(), "replay: {status}\n{text}");
    let text = std::fs::read_to_string(&summary).expect("a summary");
    serde_json::from_str(&text).expect("JSON")
}

/// One number of a summary, over all deployments.
fn total(summary: &Json, column: &str) -> u64 {
    deployments(summary)
        .map(|(_, produced)| produced[column].as_u64().expect("a number"))
        .sum()
}

fn deployments(summary: &Json) -> impl Iterator<Item = (&String, &Json)> {
    summary["deployments"]
        .as_object()
        .expect("an object")
        .iter()
}

/// Deployments of which something was said.
fn n_with(summaries: &[&Json], column: &str) -> usize {
    let said: BTreeSet<&String> = summaries
        .iter()
        .flat_map(|summary| deployments(summary))
        .filter(|(_, produced)| produced[column].as_u64() > Some(0))
        .map(|(id, _)| id)
        .collect();
    said.len()
}

/// Waits until a table has counted as much as was produced, then holds every number of every deployment against it.
fn assert_table(
    space: &Space,
    table: &str,
    topic: Topic,
    summaries: &[&Json],
    processor: &mut Role,
) {
    let columns: &[&str] = match topic {
        Topic::Requests => &REQUEST_COLUMNS,
        Topic::Replicas => &SAMPLE_COLUMNS,
    };
    let expected: u64 = summaries.iter().map(|s| total(s, columns[0])).sum();
    let sums: Vec<String> = columns
        .iter()
        .map(|c| format!("sum({c}) AS n_{c}"))
        .collect();
    let query = format!(
        "SELECT deployment_id, {} FROM {table} WHERE deployment_id != '' GROUP BY deployment_id ORDER BY deployment_id",
        sums.join(", ")
    );
    let rows = wait_for("the table has counted all of it", CATCH_UP, || {
        assert!(
            processor.is_running(),
            "the processor ended:\n{}",
            processor.tail()
        );
        let rows = space.sql.try_rows(&query)?;
        let first = format!("n_{}", columns[0]);
        let found: u64 = rows.iter().filter_map(|row| row[&first].as_u64()).sum();
        if found < expected {
            return Err(format!("{table}: {found} of {expected}"));
        }
        Ok(rows)
    });
    assert_eq!(rows.len(), n_with(summaries, columns[0]), "{table}");
    for row in &rows {
        let id = row["deployment_id"].as_str().expect("an id");
        for column in columns {
            let produced: u64 = summaries
                .iter()
                .filter_map(|summary| summary["deployments"][id][*column].as_u64())
                .sum();
            assert_eq!(
                row[&format!("n_{column}")].as_u64(),
                Some(produced),
                "{table}, {id}: {column}"
            );
        }
    }
}

#[test]
fn every_table_says_what_the_replay_produced_over_two_runs() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut processor = space.processor(&[]);
    let first = replay(&space, dir.path(), &["--history", "20m", "--for", "3s"]);
    let second = replay(&space, dir.path(), &["--history", "20m", "--for", "2s"]);
    assert_eq!(
        first["until_us"], second["from_us"],
        "the second run goes on where the first one ended"
    );
    let span = |summary: &Json| {
        let of = |name: &str| summary[name].as_i64().expect("a time");
        (of("until_us") - of("from_us")) / 1_000_000
    };
    assert!((1_202..1_400).contains(&span(&first)), "{}", span(&first));
    assert!((2..200).contains(&span(&second)), "{}", span(&second));
    assert!(total(&first, "requests") > 10_000);
    // rare clients may have no replica and no request in so short a time
    let n_deployments = deployments(&first).count();
    assert!((55..=81).contains(&n_deployments), "{n_deployments}");

    let summaries = [&first, &second];
    for (table, topic) in ROLLUPS {
        assert_table(&space, table, topic, &summaries, &mut processor);
    }
    let (agrees, lines) = space.audit();
    assert!(agrees, "the audit disagrees:\n{lines}");
    let letters = space.sql.try_rows(
        "SELECT sum(ledger_late) AS late, sum(ledger_invalid) AS invalid FROM requests_10s WHERE deployment_id = ''",
    );
    let letters = letters.expect("the engine answers");
    assert_eq!(
        (letters[0]["late"].as_u64(), letters[0]["invalid"].as_u64()),
        (Some(0), Some(0)),
        "the processor refuses nothing"
    );
    assert!(processor.stop().success());
}

/// Far more than any machine fills while it is told to stop.
const LONG_PAST: &str = "47h";

#[test]
fn a_replay_told_to_stop_while_it_fills_leaves_the_rest_untold() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut processor = space.processor(&[]);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (resume, summary) = (path("replay.json"), path("summary.json"));
    let mut arguments = vec!["replay", "--kafka", &space.kafka, "--history", LONG_PAST];
    arguments.extend(["--requests-topic", &space.topics.requests]);
    arguments.extend(["--replicas-topic", &space.topics.replicas]);
    arguments.extend(["--resume", &resume, "--summary", &summary]);
    let mut role = Role::start("replay", &arguments, &dir.path().join("replay.log"));
    wait_until("the past is being filled", CATCH_UP, || {
        assert!(role.is_running(), "the replay ended:\n{}", role.tail());
        let rows = space
            .sql
            .try_rows("SELECT sum(requests) AS n FROM requests_10s");
        rows.is_ok_and(|rows| rows[0]["n"].as_u64() > Some(0))
    });
    assert!(role.stop().success(), "{}", role.tail());

    let read = |path: &str| -> Json {
        let text = std::fs::read_to_string(path).expect("a file that the replay leaves");
        serde_json::from_str(&text).expect("JSON")
    };
    let (progress, summary) = (read(&resume), read(&summary));
    assert!(progress["live_from_us"].is_null(), "{progress}");
    assert_eq!(progress["until_us"], summary["until_us"]);
    let of = |name: &str| summary[name].as_i64().expect("a time");
    let filled_s = (of("until_us") - of("from_us")) / 1_000_000;
    assert!((60..46 * 3600).contains(&filled_s), "{filled_s}");
    assert!(
        role.tail().contains("told to stop"),
        "it says so:\n{}",
        role.tail()
    );
    // what it had told is told
    let (table, topic) = ROLLUPS[0];
    assert_table(&space, table, topic, &[&summary], &mut processor);
    assert!(processor.stop().success());
}

#[test]
fn a_replay_without_an_answer_or_with_wrong_flags_ends_with_a_reason() {
    for (arguments, reason) in [
        (["--history", "48h"], "at most 47h"),
        (["--speed", "0"], "above 0"),
    ] {
        let (status, text) = run(&[&["replay", "--kafka", "127.0.0.1:1"], &arguments[..]].concat());
        assert!(!status.success());
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn a_demo_with_a_past_too_long_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data");
    let (status, text) = run(&[
        "demo",
        "--dir",
        &data.display().to_string(),
        "--history",
        "48h",
    ]);
    assert!(!status.success());
    assert!(text.contains("at most 47h"), "{text}");
    assert!(!data.exists(), "nothing was begun");
}

#[test]
fn a_demo_that_cannot_start_says_why_and_keeps_its_logs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let parts = dir.path().join("no-parts").display().to_string();
    let mut command = modelmeter(&["demo", "--parts", &parts, "--history", "5m"]);
    // where a fresh folder is made
    let output = command
        .env("TMPDIR", dir.path())
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("`modelmeter up` ended with exit code 1"),
        "{text}"
    );
    let folder = text
        .split("its data and logs are left in ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .unwrap_or_else(|| panic!("it names its folder: {text}"));
    assert!(Path::new(folder).starts_with(dir.path()), "{folder}");
    assert!(Path::new(folder).join("logs/demo-up.log").exists());
}

/// Starts everything, fills, counts and ends; the machine may be busy.
const DEMO: Duration = Duration::from_secs(240);

#[test]
fn a_demo_checks_its_numbers_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, ready_file) = (path("data"), path("ready.json"));
    let demo = |more: &[&str]| {
        let mut arguments = vec!["demo", "--dir", &data, "--ready-file", &ready_file];
        arguments.extend([
            "--kafka-port",
            "0",
            "--clickhouse-port",
            "0",
            "--dashboard-port",
            "0",
        ]);
        arguments.extend(["--history", "5m"]);
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (status, text) = run(&demo(&["--for", "2s"]));
    assert!(status.success(), "{status}\n{text}");
    assert!(text.contains("demo: checked: "), "{text}");
    assert!(
        !Path::new(&ready_file).exists(),
        "nothing is ready any more"
    );

    // Interrupted while it is live, it ends in order, and well.
    let log = dir.path().join("demo.log");
    let mut role = Role::start("demo", &demo(&[]), &log);
    wait_until("the charts are full", DEMO, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(role.is_running(), "the demo ended:\n{said}");
        said.contains("the charts are full")
    });
    let ready = std::fs::read_to_string(&ready_file).expect("a ready file");
    let ready: Json = serde_json::from_str(&ready).expect("JSON");
    let pids =
        ["kafka", "clickhouse", "processor", "dashboard"].map(|part| ready["pids"][part].as_u64());
    for pid in pids {
        assert!(is_running(pid.expect("every part is up")));
    }
    assert!(role.stop().success());
    wait_until("no part is left", CATCH_UP, || {
        !pids.into_iter().flatten().any(is_running)
    });
    assert!(Path::new(&data).exists(), "a folder that was named stays");
}

/// A zombie has ended: it only waits to be counted by its parent.
fn is_running(pid: u64) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}
