//! The Kafka client of the publisher's thread: takes messages, tells what became of each. Its queue and memory are bounded;
//! it never waits. Which message is given to it when is the publisher's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::message::Name;
use crate::bus::avro::limits::MAX_MESSAGE_BYTES;
use crate::bus::member::topic_of;
use crate::config::{KafkaArgs, TopicArgs};

/// The client's own queue, in KiB: more than the outbox gives it at a time. When it is full the outbox keeps the rest.
pub const CLIENT_QUEUE_KIB: u64 = 4 << 10;

/// Messages in that queue. The smallest are some 100 bytes, and 1,000 a second are far past one replica's.
pub const CLIENT_QUEUE_MESSAGES: u64 = 10_000;

/// A request's bytes, as librdkafka has it by itself: what the outbox gives at a time must fit into one.
const REQUEST_BYTES: &str = "1000000";

/// Events of the client that a look hears, so that a talkative log (`--kafka-option debug=all`) keeps no answer back.
const MAX_EVENTS_A_LOOK: usize = 256;

/// A batch already is one; this only lets the batches of a backlog share a request.
const LINGER_MS: &str = "5";

/// For ever: how long a batch is kept is the spool's to decide, and an idempotent client that gives up on a message may
/// have sent it.
const MESSAGE_TIMEOUT_MS: &str = "0";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the Kafka client cannot be made; is every --kafka-option right?")]
    Settings(#[source] KafkaError),
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Delivered,
    /// Kafka will not take this message, ever.
    Refused,
    /// Not now: it is to be sent again.
    Returned,
}

/// Answers since they were last asked for, at most as many as messages were given. And how often Kafka was in trouble.
#[derive(Clone, Default)]
struct Answers {
    answers: Arc<Mutex<Vec<(u64, Answer)>>>,
    n_errors: Arc<AtomicU64>,
    /// Everything that the client said: deliveries, errors, lines of its log.
    n_events: Arc<AtomicU64>,
}

impl Answers {
    fn add(&self, id: u64, answer: Answer) {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, answer));
    }
}

impl ClientContext for Answers {
    fn error(&self, error: KafkaError, reason: &str) {
        self.n_events.fetch_add(1, Ordering::Relaxed);
        self.n_errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, reason, "kafka is in trouble");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.n_events.fetch_add(1, Ordering::Relaxed);
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(facility, message, "librdkafka"),
            RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "librdkafka"),
        }
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        self.n_events.fetch_add(1, Ordering::Relaxed);
        let answer = match result {
            Ok(_) => Answer::Delivered,
            Err((error, _)) => {
                self.n_errors.fetch_add(1, Ordering::Relaxed);
                answer_of(error)
            }
        };
        self.add(id as u64, answer);
    }
}

/// Only what is wrong with the message itself is final; topics are made and rights are given later.
fn answer_of(error: &KafkaError) -> Answer {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessage | Code::InvalidRecord) => {
            Answer::Refused
        }
        _ => Answer::Returned,
    }
}

pub struct Client {
    config: ClientConfig,
    producer: BaseProducer<Answers>,
    answers: Answers,
    topics: TopicArgs,
}

impl Client {
    /// Kafka need not be there.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn new(kafka: &KafkaArgs) -> Result<Self, ClientError> {
        let mut config = ClientConfig::new();
        config
            .set("compression.type", "lz4")
            .set("linger.ms", LINGER_MS);
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", MESSAGE_TIMEOUT_MS)
            .set("batch.size", REQUEST_BYTES)
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("queue.buffering.max.kbytes", CLIENT_QUEUE_KIB.to_string())
            .set(
                "queue.buffering.max.messages",
                CLIENT_QUEUE_MESSAGES.to_string(),
            );
        let answers = Answers::default();
        let producer = config
            .create_with_context(answers.clone())
            .map_err(ClientError::Settings)?;
        Ok(Self {
            config,
            producer,
            answers,
            topics: kafka.topics.clone(),
        })
    }

    /// Takes a message; what is given here is answered here, or by [`Self::answers`] later. None when it was taken.
    pub fn send(&self, id: u64, name: Name, key: &str, message: &[u8]) -> Option<Answer> {
        let id = usize::try_from(id).expect("ids fit into 64 bits");
        let record = BaseRecord::with_opaque_to(topic_of(&self.topics, name.stream), id)
            .key(key)
            .payload(message);
        match self.producer.send(record) {
            Ok(()) => None,
            Err((error, _)) => {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    self.answers.n_errors.fetch_add(1, Ordering::Relaxed);
                }
                Some(answer_of(&error))
            }
        }
    }

    /// What the client has learned since it was last asked, on threads of its own.
    pub fn answers(&self) -> Vec<(u64, Answer)> {
        let n_events = || self.answers.n_events.load(Ordering::Relaxed);
        for _ in 0..MAX_EVENTS_A_LOOK {
            let before = n_events();
            // one event, be it a batch's answers or a line of the log, which comes by the same queue
            self.producer.poll(Duration::ZERO);
            if n_events() == before {
                break;
            }
        }
        let answers = self.answers.answers.lock();
        std::mem::take(&mut *answers.unwrap_or_else(PoisonError::into_inner))
    }

    /// An idempotent client that lost its place gives up for good; a new one takes over, and what was under way comes back.
    pub fn renew_if_fatal(&mut self) {
        let Some((code, reason)) = self.producer.client().fatal_error() else {
            return;
        };
        tracing::warn!(%code, reason, "the kafka client gave up; a new one takes over");
        match self.config.create_with_context(self.answers.clone()) {
            // dropping the old one answers all that it still had with "returned"
            Ok(producer) => self.producer = producer,
            Err(error) => tracing::warn!(%error, "a new kafka client cannot be made"),
        }
    }

    pub fn n_errors(&self) -> u64 {
        self.answers.n_errors.load(Ordering::Relaxed)
    }
}
