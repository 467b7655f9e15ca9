//! Sends messages through the real broker and keeps the log as the broker confirmed it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::message::{Logged, Message, Topic};
use super::space::Topics;

/// A delivery is retried by the client until then; the broker is never killed in these tests.
const DELIVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Confirmed(Arc<Mutex<Vec<Arc<Logged>>>>);

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = Box<Message>;

    fn delivery(&self, result: &DeliveryResult<'_>, message: Self::DeliveryOpaque) {
        let delivered = match result {
            Ok(delivered) => delivered,
            Err((error, _)) => panic!("a message was not delivered: {error}"),
        };
        let rdkafka::Timestamp::LogAppendTime(appended_ms) = delivered.timestamp() else {
            panic!(
                "the topic does not keep the broker's append time: {:?}",
                delivered.timestamp()
            );
        };
        self.0
            .lock()
            .expect("nothing panics with it")
            .push(Arc::new(Logged {
                message: *message,
                partition: delivered.partition(),
                offset: delivered.offset(),
                appended_at_us: appended_ms * 1_000,
            }));
    }
}

pub struct Publisher {
    producer: ThreadedProducer<Confirmed>,
    confirmed: Confirmed,
    topics: Topics,
}

impl Publisher {
    pub fn new(kafka: &str, topics: &Topics) -> Self {
        let confirmed = Confirmed::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            // Idempotent: the log holds each message once, in the order sent.
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .create_with_context(confirmed.clone())
            .expect("a producer");
        Self {
            producer,
            confirmed,
            topics: topics.clone(),
        }
    }

    pub fn send(&self, message: Message) {
        let topic = match message.topic {
            Topic::Requests => self.topics.requests.clone(),
            Topic::Replicas => self.topics.replicas.clone(),
        };
        let (key, payload) = (message.key.clone(), message.payload.clone());
        let mut waiting = Some(
            BaseRecord::with_opaque_to(&topic, Box::new(message))
                .key(&key)
                .payload(&payload),
        );
        super::wait_for("the producer's queue has room", DELIVERY, || {
            let record = waiting.take().expect("it was given back");
            match self.producer.send(record) {
                Ok(()) => Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    waiting = Some(back);
                    Err("full".to_owned())
                }
                Err((error, _)) => panic!("not sent: {error}"),
            }
        });
    }

    /// Waits until the broker has confirmed all that was sent.
    pub fn flush(&self) {
        self.producer.flush(DELIVERY).expect("the broker confirms");
    }

    /// The log so far, by topic, partition and offset.
    pub fn log(&self) -> Vec<Arc<Logged>> {
        let mut log = self
            .confirmed
            .0
            .lock()
            .expect("nothing panics with it")
            .clone();
        log.sort_by_key(|l| (l.message.topic, l.partition, l.offset));
        log
    }

    /// The part of the log before these offsets. A processor may have read what the broker has yet to
    /// confirm here, so it waits for that.
    pub fn log_before(&self, topic: Topic, ends: &BTreeMap<i32, u64>) -> Vec<Arc<Logged>> {
        super::wait_for(
            "the broker confirms what was counted already",
            DELIVERY,
            || {
                let mut log = self.log();
                log.retain(|l| {
                    let end = ends.get(&l.partition).copied().unwrap_or(0);
                    l.message.topic == topic && l.offset.unsigned_abs() < end
                });
                let expected: u64 = ends.values().sum();
                if log.len() as u64 == expected {
                    Ok(log)
                } else {
                    Err(format!("{} of {expected}", log.len()))
                }
            },
        )
    }

    /// One past the last offset of each partition that has messages.
    pub fn ends(&self) -> BTreeMap<(Topic, i32), u64> {
        self.log()
            .iter()
            .map(|l| ((l.message.topic, l.partition), l.offset.unsigned_abs() + 1))
            .collect()
    }

    pub fn count(&self) -> usize {
        self.confirmed
            .0
            .lock()
            .expect("nothing panics with it")
            .len()
    }
}
