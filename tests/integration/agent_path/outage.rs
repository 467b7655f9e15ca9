//! Kafka away at the start, killed under load, away while agents are replaced, and a disk that stops taking files: no
//! request fails, and each is in the topic once or counted.

use std::collections::BTreeSet;
use std::path::Path;

use crate::agent::{assert_accepted, post};
use crate::support::agent::{Agent, Logged, key_of, spool_of, spooled};
use crate::support::parts::Parts;
use crate::support::process::Role;
use crate::support::space::{CATCH_UP, Space};
use crate::support::wait_for;

use super::load::{Load, number_of};
use super::model::Model;
use super::views;

/// Requests in each state of Kafka.
const SOME: usize = 400;

/// What the agent keeps in memory, and a batch of posted events, at least.
const MEMORY_BYTES: u64 = 16 << 20;
const POSTED: u64 = 8_000;

struct Bench {
    parts: Parts,
    space: Space,
    model: Model,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let parts = Parts::start();
        Self {
            space: Space::on(&parts.addresses()),
            parts,
            model: Model::start(),
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn agent(&self) -> Agent {
        let upstream = format!("http://{}", self.model.address);
        let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
        Agent::start(&self.space, &self.space.kafka, self.dir.path(), &flags)
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn wait_delivered(agent: &Agent, n: u64) {
    wait_for("kafka has it", CATCH_UP, || {
        match agent.metric("events_delivered_total") {
            Some(seen) if seen >= n => Ok(()),
            seen => Err(format!("{seen:?} of {n}")),
        }
    });
}

/// Batches in the folder of the agent that holds this place.
fn batches_in(dir: &Path) -> BTreeSet<crate::support::agent::Key> {
    let names = spooled(dir);
    let of_requests = names.iter().filter(|name| name.n_events > 0);
    of_requests.map(key_of).collect()
}

#[test]
fn whatever_kafka_does_no_request_fails_and_each_is_told_once() {
    let mut bench = Bench::new();
    // in order, since a topic that was made a moment before a kill may be gone after it
    assert!(bench.parts.broker.stop().success());
    let first = bench.agent();
    let load = Load::start();
    load.aim(first.requests);
    load.wait_for_more(SOME);
    assert_eq!(first.metric("events_delivered_total"), Some(0));
    // it comes up under an agent that has never seen it
    bench.parts.restart_broker();
    wait_delivered(&first, SOME as u64);
    for _ in 0..2 {
        load.wait_for_more(SOME);
        bench.parts.broker.kill();
        load.wait_for_more(SOME);
        bench.parts.restart_broker();
        wait_delivered(&first, load.n_completed() as u64);
    }
    // a restart with Kafka there: nothing stays behind
    let mut first = first;
    load.aim(None);
    assert!(first.role.stop().success());
    assert_eq!(batches_in(bench.dir()), BTreeSet::new());
    let mut second = bench.agent();
    load.aim(second.requests);
    load.wait_for_more(SOME);
    wait_delivered(&second, SOME as u64);
    // an upgrade without it: the new one begins before the old one ends, with places of their own in the spool
    assert!(bench.parts.broker.stop().success());
    load.wait_for_more(SOME);
    let third = bench.agent();
    load.aim(third.requests);
    load.wait_for_more(SOME);
    assert!(second.role.stop().success());
    let left = batches_in(bench.dir());
    assert!(!left.is_empty(), "{}", second.role.tail());
    bench.parts.restart_broker();
    load.wait_for_more(SOME);
    let known = load.stop();
    assert_eq!(known.uncertain, [0; 0], "requests failed");
    let mut third = third;
    let logged = Logged::wait(&bench.space, known.completed.len());
    assert!(third.role.stop().success());
    assert_eq!(logged.repeated, BTreeSet::new());
    assert_eq!(logged.gaps(), []);
    let there: BTreeSet<u64> = logged.events().map(number_of).collect();
    assert_eq!(there.len(), logged.events().count(), "a request twice");
    let completed: BTreeSet<u64> = known.completed.iter().map(|&(number, _)| number).collect();
    assert!(there == completed, "not what was asked");
    assert!(left.iter().all(|key| logged.batches.contains_key(key)));
    let boots: BTreeSet<_> = logged.batches.keys().map(|&(boot, _)| boot).collect();
    assert_eq!(boots.len(), 3);
    agrees_in_sql(&bench.space, completed.len() as u64);
}

fn agrees_in_sql(space: &Space, n: u64) {
    let _processor: Role = space.processor(&[]);
    wait_for(
        "all of it is in the views",
        CATCH_UP,
        || match views::volume(space)? {
            volume if volume.requests == n && volume.ok == n => Ok(()),
            volume => Err(format!("{volume:?} of {n}")),
        },
    );
    wait_for("the audit agrees", CATCH_UP, || {
        let (is_right, text) = space.audit();
        if is_right { Ok(()) } else { Err(text) }
    });
}

#[test]
fn a_disk_that_stops_taking_files_costs_no_request_and_what_goes_is_counted() {
    let mut bench = Bench::new();
    // in order, since a topic that was made a moment before a kill may be gone after it
    assert!(bench.parts.broker.stop().success());
    let agent = bench.agent();
    let load = Load::start();
    load.aim(agent.requests);
    load.wait_for_more(SOME);
    // a file where the folder was: nobody can write there, not even root
    let (folder, aside) = (spool_of(bench.dir()), bench.dir().join("aside"));
    std::fs::rename(&folder, &aside).expect("moved away");
    std::fs::write(&folder, b"").expect("written");
    let in_memory = || agent.metric("spooled_memory_bytes").expect("a gauge");
    wait_for("batches are kept in memory", CATCH_UP, || {
        match in_memory() {
            0 => Err("0".to_owned()),
            _ => Ok(()),
        }
    });
    let mut n_posted = 0;
    wait_for("the memory is full", CATCH_UP, || {
        let answer = post(&agent.events, n_posted..n_posted + POSTED);
        if !answer.starts_with("HTTP/1.1 503") {
            assert_accepted(&answer);
            n_posted += POSTED;
        }
        let (bytes, lost) = (in_memory(), agent.lost("memory_full"));
        assert!(bytes <= MEMORY_BYTES, "{bytes}");
        if lost > Some(0) {
            Ok(())
        } else {
            Err(format!("{bytes} bytes, {lost:?} lost"))
        }
    });
    let lost_then = agent.lost("memory_full").expect("counted");
    // the disk comes back; what it had from before is still there
    std::fs::remove_file(&folder).expect("the file");
    std::fs::rename(&aside, &folder).expect("moved back");
    load.wait_for_more(SOME);
    let known = load.stop();
    assert_eq!(known.uncertain, [0; 0], "requests failed");
    bench.parts.restart_broker();
    let all = known.completed.len() as u64 + n_posted;
    wait_for("each is delivered or counted", CATCH_UP, || {
        let losses = ["memory_full", "queue_full", "spool_damaged", "spool_full"];
        let lost: Option<u64> = losses.iter().map(|reason| agent.lost(reason)).sum();
        let delivered = agent.metric("events_delivered_total");
        match (lost, delivered) {
            (Some(lost), Some(delivered)) if lost + delivered == all => Ok(()),
            seen => Err(format!("{seen:?} of {all}; {lost_then} when it was full")),
        }
    });
    let mut agent = agent;
    assert!(agent.role.stop().success());
    let logged = Logged::read(&bench.space);
    assert_eq!(logged.repeated, BTreeSet::new());
    let n_there = logged.events().count() as u64;
    println!(
        "agent disk: {all} events, {n_there} in the topic, {lost_then} lost when memory was full"
    );
    assert!(n_there < all && n_there + lost_then <= all);
    assert!(!logged.gaps().is_empty(), "what went had numbers");
}
