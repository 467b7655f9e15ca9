//! Kafka away at the start, killed under load, and away while agents are replaced: no request fails, and each is in the
//! topic once.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::agent::{Agent, Logged, key_of, spooled};
use crate::support::parts::Parts;
use crate::support::process::Role;
use crate::support::space::{CATCH_UP, Space};
use crate::support::wait_for;

use super::load::{Load, number_of};
use super::model::Model;
use super::views;

/// Requests in each state of Kafka.
pub const SOME: usize = 400;

pub struct Bench {
    pub parts: Parts,
    pub space: Space,
    model: Model,
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let parts = Parts::start();
        Self {
            space: Space::on(&parts.addresses()),
            parts,
            model: Model::start(),
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub fn agent(&self) -> Agent {
        let upstream = format!("http://{}", self.model.address);
        let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
        Agent::start(&self.space, &self.space.kafka, self.dir.path(), &flags)
    }

    pub fn dir(&self) -> &Path {
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
