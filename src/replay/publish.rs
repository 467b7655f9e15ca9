//! Sends what the model says to Kafka, as any producer would, and knows what was acknowledged. It invents nothing and drops
//! nothing: a full queue makes the model wait, a message that Kafka did not take ends the replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::model::replica::Listener;
use super::summary::Summary;
use crate::bus::avro::{NamedGpu, encode_batch, encode_sample};
use crate::config::{KafkaArgs, TopicArgs};
use crate::core::event::{BatchHead, ReplicaSample, RequestEvent};

/// How long Kafka may be away before a message counts as lost, and the replay with it.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(120);

/// Messages that may wait for Kafka; with some 300 bytes each, 60 MB. The model waits when there are more.
const QUEUE_MESSAGES: &str = "200000";

/// While the queue is full: what a broker takes in this time makes room for hundreds.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    #[error("a message cannot be sent to topic {topic}")]
    Send {
        topic: String,
        #[source]
        source: KafkaError,
    },
    #[error("Kafka has not acknowledged {n} messages within {} s", DELIVERY_DEADLINE.as_secs())]
    Unacknowledged { n: u64 },
}

/// Counts what Kafka says of each message.
#[derive(Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err((error, _)) => {
                tracing::error!(%error, "a message was not delivered");
                &self.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct Publisher {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    topics: TopicArgs,
    buffer: Vec<u8>,
    summary: Summary,
    /// The first failure; what comes after it is not sent any more.
    failure: Option<PublishError>,
}

impl Publisher {
    /// # Errors
    /// When a setting is not valid.
    pub fn new(kafka: &KafkaArgs, summary: Summary) -> Result<Self, PublishError> {
        let deliveries = Deliveries::default();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            // each message once and in its order, acknowledged by all replicas
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", QUEUE_MESSAGES)
            .set(
                "message.timeout.ms",
                DELIVERY_DEADLINE.as_millis().to_string(),
            );
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        let producer = config
            .create_with_context(deliveries.clone())
            .map_err(PublishError::Client)?;
        Ok(Self {
            producer,
            deliveries,
            topics: kafka.topics.clone(),
            buffer: Vec::new(),
            summary,
            failure: None,
        })
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether all that was said could be sent so far.
    ///
    /// # Errors
    /// With the first failure.
    pub fn check(&mut self) -> Result<(), PublishError> {
        match self.deliveries.failed.load(Ordering::Relaxed) {
            0 => self.failure.take().map_or(Ok(()), Err),
            n => Err(PublishError::Unacknowledged { n }),
        }
    }

    /// Waits until Kafka has acknowledged everything.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn flush(&mut self) -> Result<(), PublishError> {
        self.check()?;
        // its own error says only that the time is over
        let _ = self.producer.flush(DELIVERY_DEADLINE);
        self.check()?;
        let acknowledged = self.deliveries.acknowledged.load(Ordering::Relaxed);
        match self.summary.n_messages - acknowledged {
            0 => Ok(()),
            n => Err(PublishError::Unacknowledged { n }),
        }
    }

    fn send(&mut self, topic: Topic, key: &str) {
        if self.failure.is_some() {
            return;
        }
        let topic = match topic {
            Topic::Requests => &self.topics.requests,
            Topic::Replicas => &self.topics.replicas,
        };
        let mut waiting = BaseRecord::to(topic).key(key).payload(&self.buffer);
        loop {
            match self.producer.send(waiting) {
                Ok(()) => {
                    self.summary.n_messages += 1;
                    return;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    waiting = back;
                    std::thread::sleep(QUEUE_PAUSE);
                }
                Err((source, _)) => {
                    self.failure = Some(PublishError::Send {
                        topic: topic.clone(),
                        source,
                    });
                    return;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Topic {
    Requests,
    Replicas,
}

impl Listener for Publisher {
    fn batch(&mut self, head: &BatchHead<'_>, events: &[RequestEvent]) {
        self.buffer.clear();
        encode_batch(head, events, &mut self.buffer);
        self.send(Topic::Requests, head.deployment_id);
        let produced = self.summary.of(head.deployment_id);
        events.iter().for_each(|event| produced.add_event(event));
    }

    fn sample(&mut self, sample: &ReplicaSample<'_>, gpus: &[NamedGpu<'_>]) {
        self.buffer.clear();
        encode_sample(sample, gpus, &[], &mut self.buffer);
        self.send(Topic::Replicas, sample.head.deployment_id);
        self.summary
            .of(sample.head.deployment_id)
            .add_sample(sample);
    }
}
