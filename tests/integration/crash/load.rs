//! The load of the fault bench: batches and samples of a few deployments at a steady pace, some late, and a little
//! rubbish of every kind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::generator::{self, HOUR, Replica, SECOND, Schemas};
use crate::support::message::{Facts, Message, Topic};
use crate::support::publish::Publisher;
use crate::support::random::Random;
use crate::support::rubbish;

/// A message each: enough to have some in every flush, few enough for the recount after every round.
pub const PACE: Duration = Duration::from_millis(40);

/// How many of the latest messages may be sent a second time: they reach back over more than one flush.
const SENT_AGAIN: usize = 300;

/// Ends the load however the rounds end, or the scope would wait for it for ever.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Publishes at a steady pace until told to stop.
pub fn keep_loading(publisher: &Publisher, mut random: Random, stop: &AtomicBool) {
    let schemas = Schemas::built_in();
    let mut replicas: Vec<_> = (0..8)
        .flat_map(|d| (0..2).map(move |r| (format!("d-{d}"), format!("r-{r}"))))
        .map(|(deployment, replica)| {
            let facts = Facts {
                deployment_name: deployment.clone(),
                model_id: "m".to_owned(),
                model_name: "model".to_owned(),
                environment: "test".to_owned(),
                kind: "production",
                instance_type: "cpu".to_owned(),
            };
            Replica::new(&mut random, &deployment, &replica, &facts)
        })
        .collect();
    let mut latest: Vec<Message> = Vec::new();
    let started = Instant::now();
    for n in 0.. {
        let due = started + PACE * n;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            // The pace of the load, not a wait for something to have happened.
            std::thread::park_timeout(left);
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        // a producer that crashed, or never heard that its message is in, sends it again
        if !latest.is_empty() && random.chance(0.05) {
            publisher.send(random.pick(&latest).clone());
            continue;
        }
        let which = random.between(0, replicas.len() as i64) as usize;
        let message = message(&mut random, &schemas, &mut replicas[which]);
        if message.body.head().is_some() {
            latest.truncate(SENT_AGAIN - 1);
            latest.insert(0, message.clone());
        }
        publisher.send(message);
    }
}

fn message(random: &mut Random, schemas: &Schemas, replica: &mut Replica) -> Message {
    let now = modelmeter::clock::now_us();
    if random.chance(0.03) {
        return rubbish::no_avro(*random.pick(&[Topic::Requests, Topic::Replicas]));
    }
    if random.chance(0.25) {
        let state = *random.pick(&["waiting", "loading", "active", "stopping"]);
        return schemas.sample(replica.sample(random, now, 5 * SECOND, state));
    }
    let n = random.between(1, 8);
    let events = (0..n).map(|_| {
        let age = if random.chance(0.1) {
            random.between(0, 60 * HOUR)
        } else {
            random.between(0, 2 * SECOND)
        };
        generator::event(random, now - age)
    });
    let events = events.collect();
    schemas.batch(replica.batch(events))
}
