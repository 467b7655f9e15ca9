//! Producers that send twice, or of whose sequence something is lost: counted once in every table whatever dies, and told.

use crate::support::generator::{Replica, SECOND, Schemas, event};
use crate::support::message::{Facts, Message, Topic};
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::recount::Truth;
use crate::support::space::{CATCH_UP, Space};
use crate::support::{tables, wait_until};

const BATCHES: usize = 30;

/// One replica's batches, and some samples of it.
fn messages(random: &mut Random, deployment: &str) -> Vec<Message> {
    let schemas = Schemas::built_in();
    let facts = Facts {
        deployment_name: String::new(),
        model_id: String::new(),
        model_name: String::new(),
        environment: String::new(),
        kind: "production",
        instance_type: String::new(),
    };
    let mut replica = Replica::new(random, deployment, "r", &facts);
    let now = modelmeter::clock::now_us();
    let mut all = Vec::new();
    for _ in 0..BATCHES {
        let events = (0..5).map(|i| event(random, now - i * SECOND)).collect();
        all.push(schemas.batch(replica.batch(events)));
        all.push(schemas.sample(replica.sample(random, now, 5 * SECOND, "active")));
    }
    all
}

fn send(publisher: &Publisher, messages: &[Message]) {
    for message in messages {
        publisher.send(message.clone());
    }
    publisher.flush();
}

#[test]
fn what_is_sent_twice_is_counted_once_and_what_is_missing_is_told() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("sent twice"));
    let whole = messages(&mut random, "whole");
    let mut lossy = messages(&mut random, "lossy");
    // the batches 10 to 12: each stands before its sample
    for lost in [24, 22, 20] {
        lossy.remove(lost);
    }
    let mut processor = space.processor(&[]);
    send(&publisher, &whole[..40]);
    send(&publisher, &lossy);
    // its coarse tables lag a minute: here the fine ones alone have the messages
    wait_until("the fine tables have them", CATCH_UP, || {
        let ledger = space.ledger("requests_10s");
        let ends = publisher.ends();
        ledger.is_ok_and(|ledger| {
            let has = |(&(topic, partition), &end): (&(Topic, i32), &u64)| {
                topic != Topic::Requests || ledger.get(&partition).is_some_and(|&to| to >= end)
            };
            ends.iter().all(has)
        })
    });
    // sent again across a crash of the processor, which reads a part of the log anew for its coarse tables
    processor.kill();
    send(&publisher, &whole);
    let mut successor = space.processor(&[]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut successor]);
    send(&publisher, &whole[30..]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut successor]);

    let log = publisher.log();
    let truth = Truth::of(log.iter().map(AsRef::as_ref));
    assert_eq!(truth.n_repeated, 40 + 30);
    tables::compare_all(&space, &publisher).unwrap_or_else(|e| panic!("{e}"));
    let producers: Vec<String> = space
        .sql
        .rows("SELECT stream, deployment_id, producer, first_sequence, last_sequence, messages, repeated, missing FROM producers ORDER BY ALL")
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].to_string().replace('"', "");
            let name = |name: &str| row[name].as_str().expect("text").to_owned();
            format!(
                "{} {} {} {}-{} messages {} repeated {} missing {}",
                name("stream"),
                name("deployment_id"),
                name("producer"),
                number("first_sequence"),
                number("last_sequence"),
                number("messages"),
                number("repeated"),
                number("missing")
            )
        })
        .collect();
    assert_eq!(
        producers,
        [
            "replicas lossy generator/1 0-29 messages 30 repeated 0 missing 0",
            "replicas whole generator/1 0-29 messages 65 repeated 35 missing 0",
            "requests lossy generator/1 0-29 messages 27 repeated 0 missing 3",
            "requests whole generator/1 0-29 messages 65 repeated 35 missing 0",
        ]
    );
    let (agrees, lines) = space.audit();
    assert!(agrees, "{lines}");
    assert!(lines.contains("lossy/r start "), "{lines}");
    assert!(
        lines.contains("4 starts of producers: 3 messages never came, 70 came again"),
        "{lines}"
    );
    assert!(successor.stop().success(), "{}", successor.tail());
}
