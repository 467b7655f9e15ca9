//! Ids without end: whatever is made up outside, totals stay exact and memory stays bounded.
//!
//! `IDS` of the environment says how many deployments, and how many replicas of one, there are (`make attack-test`).

use std::time::Duration;

use crate::support::flood;
use crate::support::generator::{self, HOUR, Replica, SECOND, Schemas};
use crate::support::message::{Facts, Message};
use crate::support::random::{self, Random};
use crate::support::space::{ROLLUPS, Space};

/// Without `IDS`: more than are kept apart between two coarse flushes.
const IDS: usize = 30_000;

/// What the longest run takes on a slow machine.
const COUNTED: Duration = Duration::from_secs(1800);

/// The peak of a processor's memory, in MiB: the aim. What is counted is all of it, code and librdkafka too.
const MOST_MIB: u64 = 512;

/// What an attack varies.
#[derive(Clone, Copy)]
enum Made {
    Deployments,
    Replicas,
}

/// A batch and a sample for each made-up id; times within what is accepted, so that each opens windows of its own.
fn flood(random: &mut Random, made: Made, n: usize) -> impl Iterator<Item = Message> {
    let schemas = Schemas::built_in();
    let now = modelmeter::clock::now_us();
    let facts = Facts {
        deployment_name: "x".repeat(100),
        model_id: "m".to_owned(),
        model_name: "y".repeat(100),
        environment: "test".to_owned(),
        kind: "production",
        instance_type: "cpu".to_owned(),
    };
    (0..n).flat_map(move |i| {
        let (deployment, replica) = match made {
            Made::Deployments => (format!("attack-{i:0>100}"), "r".to_owned()),
            Made::Replicas => ("attack".to_owned(), format!("{i:0>100}")),
        };
        let mut replica = Replica::new(random, &deployment, &replica, &facts);
        let age = if random.chance(0.5) {
            random.between(0, 10 * SECOND)
        } else {
            random.between(0, 47 * HOUR)
        };
        let event = generator::event(random, now - age);
        let batch = schemas.batch(replica.batch(vec![event]));
        let sample = schemas.sample(replica.sample(random, now - age, 5 * SECOND, "active"));
        [batch, sample]
    })
}

#[test]
fn ids_without_end_leave_totals_exact_and_memory_bounded() {
    let n = random::number("IDS", IDS);
    let mut random = Random::new(random::seed("cardinality"));
    let space = Space::new();
    // as an installation has it: nothing is flushed early but by the limits
    let mut processor =
        space.processor(&["--flush-interval", "3s", "--coarse-flush-interval", "60s"]);
    for made in [Made::Deployments, Made::Replicas] {
        flood::publish(&space, flood(&mut random, made, n));
    }
    let ends = flood::ends(&space);
    space.wait_until_counted_within(COUNTED, &ends, &mut [&mut processor]);
    for (table, _) in ROLLUPS {
        let counted = if table.starts_with("requests") {
            "requests"
        } else {
            "samples"
        };
        let rows = space.sql.rows(&format!("SELECT sum({counted}) AS n, uniq(deployment_id) AS d FROM {table} WHERE deployment_id != ''"));
        assert_eq!(rows[0]["n"].as_u64(), Some(2 * n as u64), "{table}");
    }
    let (agrees, lines) = space.audit();
    assert!(agrees, "{lines}");
    let peak = processor.peak_memory_mib();
    println!("cardinality: {n} deployments and {n} replicas: {peak} MiB at most");
    assert!(peak < MOST_MIB, "{peak} MiB");
}
