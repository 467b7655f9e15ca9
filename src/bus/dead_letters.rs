//! What was refused goes to the dead-letters topic, with where it stood and why, before the insert that covers it.
//!
//! At least once: unique by (topic, partition, offset, reason). Value: the original message.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;

use super::member::topic_of;
use crate::config::{KafkaArgs, TopicArgs};
use crate::core::table::Source;

/// How long a dead letter may wait for room in the producer's queue before it counts as failed and is sent again.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Indexes that stay in a letter which the topic finds too large.
const MAX_EVENTS_OF_LARGE_LETTER: usize = 100;

/// Bytes of a letter; the topic's own limit decides what passes, and is 4 MiB by default.
const MAX_LETTER_BYTES: &str = "4500000";

/// A little batching; the flush that waits for the letters comes every few seconds.
const LINGER_MS: &str = "20";

/// How long one try may take before the flush says that it is blocked.
const DELIVERY_TIMEOUT_MS: &str = "10000";

/// A message that was refused, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub source: Source,
    pub offset: u64,
    pub reason: &'static str,
    /// The indexes of the refused events; empty where the message was refused whole.
    pub events: Vec<u32>,
    pub payload: Vec<u8>,
}

pub struct DeadLetters {
    config: ClientConfig,
    /// Made with the first letter: most processors never have one, and its polling thread costs a little all the time.
    producer: Option<FutureProducer>,
    topics: TopicArgs,
}

impl DeadLetters {
    /// # Errors
    /// When a setting is not valid.
    pub fn new(kafka: &KafkaArgs) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("message.max.bytes", MAX_LETTER_BYTES)
            .set("linger.ms", LINGER_MS)
            .set("message.timeout.ms", DELIVERY_TIMEOUT_MS);
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        // a wrong option is told at the start, not with the first letter
        let _: FutureProducer = config.create()?;
        Ok(Self {
            config,
            producer: None,
            topics: kafka.topics.clone(),
        })
    }

    /// Sends them all and waits until Kafka has acknowledged each. What was not acknowledged comes back.
    pub async fn send(
        &mut self,
        letters: Vec<DeadLetter>,
    ) -> Result<(), (Vec<DeadLetter>, KafkaError)> {
        let producer = match self
            .producer
            .take()
            .map_or_else(|| self.config.create(), Ok)
        {
            Ok(producer) => self.producer.insert(producer),
            Err(error) => return Err((letters, error)),
        };
        let (producer, topics) = (&*producer, &self.topics);
        // all at once, so that the producer batches them
        let sending = letters
            .iter()
            .map(|letter| send_one(producer, topics, letter));
        let answers = join_all(sending).await;
        let mut failed = Vec::new();
        let mut last_error = None;
        for (answer, mut letter) in answers.into_iter().zip(letters) {
            let Err(error) = answer else { continue };
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                // where it stood and why can still be told
                letter.payload = Vec::new();
                letter.events.truncate(MAX_EVENTS_OF_LARGE_LETTER);
            }
            last_error = Some(error);
            failed.push(letter);
        }
        if last_error.as_ref().is_some_and(is_fatal) {
            self.producer = None;
        }
        match last_error {
            None => Ok(()),
            Some(error) => Err((failed, error)),
        }
    }
}

/// An idempotent producer that has failed for good says so with every message.
fn is_fatal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}

async fn send_one(
    producer: &FutureProducer,
    topics: &TopicArgs,
    letter: &DeadLetter,
) -> Result<(), KafkaError> {
    let topic = topic_of(topics, letter.source.stream);
    let key = format!(
        "{topic}/{}/{}/{}",
        letter.source.partition, letter.offset, letter.reason
    );
    let events = letter
        .events
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let headers = OwnedHeaders::new_with_capacity(5)
        .insert(Header {
            key: "modelmeter-topic",
            value: Some(topic),
        })
        .insert(Header {
            key: "modelmeter-partition",
            value: Some(&letter.source.partition.to_string()),
        })
        .insert(Header {
            key: "modelmeter-offset",
            value: Some(&letter.offset.to_string()),
        })
        .insert(Header {
            key: "modelmeter-reason",
            value: Some(letter.reason),
        })
        .insert(Header {
            key: "modelmeter-events",
            value: Some(&events),
        });
    let record = FutureRecord::to(&topics.dead_letters)
        .key(&key)
        .payload(&letter.payload)
        .headers(headers);
    producer
        .send(record, QUEUE_TIMEOUT)
        .await
        .map(|_| ())
        .map_err(|(error, _)| error)
}
