//! The agent from a posted event to the views, on the real broker and engine: with Kafka away, killed, with a torn spool or
//! none, and with all flags wrong.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::support::agent::{Agent, Logged, NOWHERE, key_of, spooled, wait_spooled};
use super::support::process::run;
use super::support::space::{CATCH_UP, Space};
use super::support::wait_for;

/// One answer of the agent, on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);

fn agent(space: &Space, kafka: &str, dir: &Path, more: &[&str]) -> (Agent, String) {
    let agent = Agent::start(space, kafka, dir, more);
    let address = agent.events.clone();
    (agent, address)
}

/// Posts events numbered by their duration; the status line and text of the answer.
pub fn post(address: &str, numbers: std::ops::Range<u64>) -> String {
    let now = modelmeter::clock::now_us();
    let event = |n| format!(r#"{{"finished_at":{now},"end_to_end_us":{n},"status":200}}"#);
    let events: Vec<_> = numbers.map(event).collect();
    post_body(address, &format!("[{}]", events.join(",")))
}

fn post_body(address: &str, body: &str) -> String {
    let authority = address.strip_prefix("http://").expect("an http URL");
    let mut stream = TcpStream::connect(authority).expect("the agent listens");
    stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .expect("the agent takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

pub fn assert_accepted(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[test]
fn posted_events_appear_in_the_views() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let _processor = space.processor(&[]);
    let (mut agent, address) = agent(&space, &space.kafka, dir.path(), &[]);
    assert_accepted(&post(&address, 1..8));
    let wrong = post_body(&address, r#"[{"finished_at":1,"end_to_end_us":1}]"#);
    assert!(
        wrong.contains("400") && wrong.contains("event 0: finished_at:"),
        "{wrong}"
    );
    assert_accepted(&post(&address, 8..11));
    let now = modelmeter::clock::now_us() / 1_000_000;
    let of = |view: &str, sums: &str| {
        let range = format!("start = {}, stop = {}, step = 10", now - 600, now + 600);
        let query = format!("SELECT {sums} FROM {view}(deployment = 'd', {range})");
        let rows = space.sql.try_rows(&query)?;
        Ok::<_, String>(rows[0]["n"].as_f64())
    };
    wait_for("all of it is in the views", CATCH_UP, || {
        let requests = of("inference_volume", "sum(requests) AS n")?;
        let active = of("replicas", "sum(active) AS n")?;
        match (requests, active) {
            (Some(10.0), Some(active)) if active > 0.0 => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    assert!(agent.role.stop().success());
    assert!(
        agent.role.tail().contains("0 batches with 0 events stay"),
        "{}",
        agent.role.tail()
    );
}

#[test]
fn what_kafka_did_not_take_is_sent_by_the_next_start_as_it_was() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut first, address) = agent(&space, NOWHERE, dir.path(), &[]);
    for n in 0..3 {
        assert_accepted(&post(&address, n * 10..n * 10 + 10));
        wait_spooled(dir.path(), (n as u32 + 1) * 10);
    }
    assert!(first.role.stop().success());
    let left: BTreeSet<_> = spooled(dir.path())
        .iter()
        .filter(|name| name.n_events > 0)
        .map(key_of)
        .collect();
    assert!(
        first
            .role
            .tail()
            .contains("with 30 events stay in the spool"),
        "{}",
        first.role.tail()
    );
    let (mut second, address) = agent(&space, &space.kafka, dir.path(), &[]);
    assert_accepted(&post(&address, 30..31));
    let logged = Logged::wait(&space, 31);
    assert_eq!(logged.numbers(), (0..31).collect::<Vec<_>>());
    assert_eq!(
        logged.n_messages,
        logged.batches.len(),
        "nothing is there twice"
    );
    let there: BTreeSet<_> = logged.batches.keys().copied().collect();
    assert_eq!(
        there.difference(&left).count(),
        1,
        "the new boot's one batch"
    );
    assert!(left.is_subset(&there), "the old boot and sequences");
    assert!(second.role.stop().success());
    assert_eq!(spooled(dir.path()), []);
}

#[test]
fn a_kill_loses_no_more_than_the_open_batch() {
    const ROUNDS: u64 = 4;
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    for round in 0..ROUNDS {
        let kafka = if round % 2 == 0 {
            NOWHERE
        } else {
            &space.kafka
        };
        let (mut agent, address) = agent(&space, kafka, dir.path(), &[]);
        assert_accepted(&post(&address, round * 100..round * 100 + 50));
        // on the disk, or in Kafka already
        wait_for("the first half has left memory", CATCH_UP, || {
            let on_disk: u32 = spooled(dir.path()).iter().map(|name| name.n_events).sum();
            let n = Logged::read(&space).numbers().len() as u64 + u64::from(on_disk);
            (n >= (round + 1) * 50)
                .then_some(())
                .ok_or_else(|| n.to_string())
        });
        assert_accepted(&post(&address, round * 100 + 50..round * 100 + 60));
        agent.role.kill();
    }
    let (mut last, _) = agent(&space, &space.kafka, dir.path(), &[]);
    let logged = Logged::wait(&space, ROUNDS as usize * 50);
    let there: BTreeSet<_> = logged.numbers().into_iter().collect();
    assert_eq!(
        there.len(),
        logged.numbers().len(),
        "an event is in one batch"
    );
    for round in 0..ROUNDS {
        let sure = round * 100..round * 100 + 50;
        assert!(
            sure.into_iter().all(|n| there.contains(&n)),
            "round {round}: {there:?}"
        );
    }
    assert!(last.role.stop().success());
}

#[test]
fn torn_files_and_a_full_spool_are_counted() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut first, address) = agent(&space, NOWHERE, dir.path(), &[]);
    assert_accepted(&post(&address, 0..7));
    wait_spooled(dir.path(), 7);
    first.role.kill();
    for name in spooled(dir.path()) {
        let file = dir.path().join(format!("spool/deployment-d/0/{name}"));
        let bytes = std::fs::read(&file).expect("there");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("torn");
    }
    let more = ["--spool-bytes", "65536", "--sample-interval", "5m"];
    let (second, address) = agent(&space, NOWHERE, dir.path(), &more);
    let metric = |name: &str| second.metric(name);
    wait_for("the torn batch is counted", CATCH_UP, || {
        match metric("events_lost_total{reason=\"spool_damaged\"}") {
            Some(7) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    let mut n_posted = 0;
    wait_for("the spool is full", CATCH_UP, || {
        assert_accepted(&post(&address, n_posted..n_posted + 1));
        n_posted += 1;
        let (lost, bytes) = (
            metric("events_lost_total{reason=\"spool_full\"}"),
            metric("spooled_bytes").expect("a gauge"),
        );
        assert!(bytes <= 65536, "{bytes}");
        (lost > Some(0))
            .then_some(())
            .ok_or_else(|| format!("{lost:?}, {bytes}"))
    });
    wait_for("each event waits or is counted", CATCH_UP, || {
        let lost = metric("events_lost_total{reason=\"spool_full\"}");
        let waiting = metric("spooled_events");
        match (lost, waiting) {
            (Some(lost), Some(waiting)) if lost + waiting == n_posted => Ok(()),
            seen => Err(format!("{seen:?} of {n_posted}")),
        }
    });
}

#[test]
fn without_a_disk_events_go_from_memory() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    // a file where the folder should be: nobody can write there, not even root
    std::fs::write(dir.path().join("spool"), b"").expect("written");
    let (mut agent, address) = agent(&space, &space.kafka, dir.path(), &[]);
    assert_accepted(&post(&address, 0..5));
    assert_eq!(Logged::wait(&space, 5).numbers(), [0, 1, 2, 3, 4]);
    assert!(agent.role.stop().success());
}

#[test]
fn everything_wrong_with_the_flags_is_said_at_once() {
    let (status, text) = run(&[
        "agent",
        "--replica-id",
        "a b",
        "--kind",
        "x",
        "--spool-bytes",
        "1",
    ]);
    assert!(!status.success());
    for told in [
        "--deployment-id",
        "--replica-id",
        "--kind",
        "--kafka",
        "--spool-bytes",
        "--events-listen",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn check_says_what_it_found() {
    let space = Space::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let spool = dir.path().display().to_string();
    let check = |topic: &str| {
        run(&[
            "agent",
            "--check",
            "--deployment-id",
            "d",
            "--kafka",
            &space.kafka,
            "--requests-topic",
            topic,
            "--replicas-topic",
            &space.topics.replicas,
            "--spool",
            &spool,
            "--events-listen",
            "127.0.0.1:0",
        ])
    };
    let (status, text) = check(&space.topics.requests);
    assert!(status.success(), "{text}");
    let (status, text) = check("missing");
    assert!(
        !status.success() && text.contains("missing does not exist"),
        "{text}"
    );
}

#[test]
fn a_wrapped_server_ends_the_agent_with_its_code() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let spool = dir.path().display().to_string();
    let mut arguments = vec![
        "agent",
        "--deployment-id",
        "d",
        "--kafka",
        NOWHERE,
        "--spool",
        &spool,
    ];
    arguments.extend([
        "--events-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    arguments.extend(["--shutdown-deadline", "1s", "--", "sh", "-c", "exit 7"]);
    let (status, text) = run(&arguments);
    assert_eq!(status.code(), Some(7), "{text}");
    assert!(
        text.contains("2 batches with 0 events stay"),
        "samples of its life and of its end: {text}"
    );
}
