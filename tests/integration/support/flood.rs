//! Sends very many messages and keeps none of them: for loads of which only the totals are looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use super::message::{Message, Topic};
use super::space::{PARTITIONS, Space};

/// A delivery is retried by the client until then.
const DELIVERY: Duration = Duration::from_secs(60);

/// Publishes every message and waits until the broker has them all.
pub fn publish(space: &Space, messages: impl Iterator<Item = Message>) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &space.kafka)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .create()
        .expect("a producer");
    for message in messages {
        let topic = name_of(space, message.topic);
        let mut waiting = Some(
            BaseRecord::to(topic)
                .key(&message.key)
                .payload(&message.payload),
        );
        super::wait_for("the producer's queue has room", DELIVERY, || {
            let record = waiting.take().expect("it was given back");
            match producer.send(record) {
                Ok(()) => Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    waiting = Some(back);
                    Err("full".to_owned())
                }
                Err((error, _)) => panic!("not sent: {error}"),
            }
        });
    }
    producer.flush(DELIVERY).expect("the broker confirms");
}

/// One past the last offset of each partition, as the broker says.
pub fn ends(space: &Space) -> BTreeMap<(Topic, i32), u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.kafka)
        .create()
        .expect("a consumer");
    let mut ends = BTreeMap::new();
    for topic in [Topic::Requests, Topic::Replicas] {
        for partition in 0..PARTITIONS {
            let (_, end) = consumer
                .fetch_watermarks(name_of(space, topic), partition, DELIVERY)
                .expect("the broker answers");
            ends.insert((topic, partition), end.unsigned_abs());
        }
    }
    ends
}

fn name_of(space: &Space, topic: Topic) -> &str {
    match topic {
        Topic::Requests => &space.topics.requests,
        Topic::Replicas => &space.topics.replicas,
    }
}
