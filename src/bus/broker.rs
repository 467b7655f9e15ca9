//! Asks the broker what an assignment needs to know: topic ids, log starts and ends, committed offsets.
//!
//! Every call blocks; async callers go through `spawn_blocking`.

use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::member::topic_of;
use crate::config::{KafkaArgs, TopicArgs};
use crate::core::recovery::Log;
use crate::core::table::{Source, Stream};

/// How long one question may take. A broker that is up answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("kafka did not answer about {about}")]
    Kafka {
        about: String,
        #[source]
        source: KafkaError,
    },
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("kafka did not say topic {topic}'s id: {text}")]
    TopicId { topic: String, text: String },
}

/// A client that only asks.
pub struct Broker {
    consumer: BaseConsumer,
    topics: TopicArgs,
}

impl Broker {
    /// # Errors
    /// When a setting is not valid.
    pub fn new(kafka: &KafkaArgs, group: &str) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("group.id", group)
            .set("enable.auto.commit", "false");
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        Ok(Self {
            consumer: config.create()?,
            topics: kafka.topics.clone(),
        })
    }

    /// Start and end of a partition's log, and what the group committed for the topic of this ledger. A commit that names
    /// another one is of a topic of the same name that was deleted; one that names none is believed.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn log(&self, source: Source, ledger: &str) -> Result<Log, BrokerError> {
        let topic = topic_of(&self.topics, source.stream);
        let failed = |error| BrokerError::Kafka {
            about: format!("{topic}/{}", source.partition),
            source: error,
        };
        let (start, end) = self
            .consumer
            .fetch_watermarks(topic, source.partition, TIMEOUT)
            .map_err(failed)?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, source.partition);
        let committed = self
            .consumer
            .committed_offsets(list, TIMEOUT)
            .map_err(failed)?;
        let committed = committed
            .elements()
            .first()
            .filter(|element| ["", ledger].contains(&element.metadata()))
            .and_then(|element| match element.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            });
        let number = |offset: i64| u64::try_from(offset).unwrap_or(0);
        Ok(Log {
            start: number(start),
            end: number(end),
            committed,
        })
    }

    /// What a topic's ledger rows are filed under: `<topic>/<topic id>`.
    ///
    /// # Errors
    /// When the broker does not answer, or the topic is not there.
    pub fn ledger(&self, stream: Stream) -> Result<String, BrokerError> {
        let id = self.topic_id(stream)?;
        Ok(format!("{}/{id}", topic_of(&self.topics, stream)))
    }

    /// A topic's id, which tells a topic from another one of the same name: base64, as Kafka's tools print it.
    fn topic_id(&self, stream: Stream) -> Result<String, BrokerError> {
        let topic = topic_of(&self.topics, stream);
        let topic_name = || topic.to_owned();
        describe_topic_id(&self.consumer, topic).map_err(|no_id| match no_id {
            NoId::NoTopic => BrokerError::NoTopic {
                topic: topic_name(),
            },
            NoId::NoAnswer(text) => BrokerError::TopicId {
                topic: topic_name(),
                text,
            },
        })
    }
}

enum NoId {
    NoTopic,
    NoAnswer(String),
}

fn describe_topic_id(consumer: &BaseConsumer, topic: &str) -> Result<String, NoId> {
    let name = CString::new(topic).map_err(|error| NoId::NoAnswer(error.to_string()))?;
    let timeout_ms = i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object is made and destroyed here; the strings that the result and the id own are copied before
    // their owners are destroyed; the handle outlives the call.
    unsafe {
        let handle = consumer.client().native_ptr();
        let queue = sys::rd_kafka_queue_new(handle);
        let mut names = [name.as_ptr()];
        let collection =
            sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        sys::rd_kafka_DescribeTopics(handle, collection, std::ptr::null(), queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms);
        let answer = if event.is_null() {
            Err(NoId::NoAnswer("no answer".to_owned()))
        } else {
            id_in_event(event)
        };
        sys::rd_kafka_event_destroy(event);
        sys::rd_kafka_TopicCollection_destroy(collection);
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// # Safety
/// `event` is the live result of a DescribeTopics call.
unsafe fn id_in_event(event: *mut sys::rd_kafka_event_t) -> Result<String, NoId> {
    // SAFETY: everything read here belongs to the event, which the caller keeps alive.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event));
        if code != RDKafkaErrorCode::NoError {
            return Err(NoId::NoAnswer(
                CStr::from_ptr(sys::rd_kafka_event_error_string(event))
                    .to_string_lossy()
                    .into_owned(),
            ));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut n = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut n);
        if result.is_null() || n == 0 {
            return Err(NoId::NoAnswer("an empty answer".to_owned()));
        }
        let description = *topics;
        let error = sys::rd_kafka_TopicDescription_error(description);
        if !error.is_null() {
            match RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::UnknownTopicOrPartition => return Err(NoId::NoTopic),
                _ => {
                    let text = CStr::from_ptr(sys::rd_kafka_error_string(error));
                    return Err(NoId::NoAnswer(text.to_string_lossy().into_owned()));
                }
            }
        }
        let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(description));
        Ok(CStr::from_ptr(id).to_string_lossy().into_owned())
    }
}
