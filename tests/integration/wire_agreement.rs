//! The generator's messages before the product's decoder alone: what is meant to be good is read, what is
//! rubbish is refused for one of its reasons. So a failure of the truth test is not sought in the bytes.

use modelmeter::bus::avro::{Message, SchemaRegistry, decode_batch, decode_sample};

use crate::support::generator::{self, Schemas};
use crate::support::message::{Body, Topic};
use crate::support::random::{self, Random};

fn read(registry: &SchemaRegistry, topic: Topic, payload: &[u8]) -> Result<(), &'static str> {
    let (plan, body) = registry.plan(payload).map_err(|e| e.reason())?;
    match (plan.message(), topic) {
        (Message::RequestBatch, Topic::Requests) => decode_batch(plan, body, &mut Vec::new())
            .map(drop)
            .map_err(|e| e.reason()),
        (Message::ReplicaSample, Topic::Replicas) => decode_sample(plan, body, &mut Vec::new())
            .map(drop)
            .map_err(|e| e.reason()),
        _ => Err("wrong_message"),
    }
}

#[test]
fn good_messages_are_read_and_rubbish_is_refused_for_its_reason() {
    let mut random = Random::new(random::seed("wire"));
    let now = modelmeter::clock::now_us();
    let registry = SchemaRegistry::built_in();
    let mut refused = 0;
    for message in generator::load(&mut random, &Schemas::built_in(), now) {
        let outcome = read(&registry, message.topic, &message.payload);
        match (&message.body, outcome) {
            (Body::Garbage(reasons), Err(reason)) => {
                assert!(
                    reasons.contains(&reason),
                    "refused as {reason}, expected {reasons:?}: {:02x?}",
                    message.payload
                );
                refused += 1;
            }
            (Body::Garbage(reasons), Ok(())) => {
                panic!("taken, expected {reasons:?}: {:02x?}", message.payload)
            }
            (body, outcome) => assert_eq!(outcome, Ok(()), "{body:?}"),
        }
    }
    assert!(refused > 100, "{refused} refused");
}
