//! A worker's consumer: assigned its partitions at given offsets, read with librdkafka's batch call.
//!
//! It never subscribes. A batch call on the queue of a consumer that subscribes answers rebalances by itself, with no
//! error and no messages; so membership is another consumer's job ([`super::member`]).
//!
//! The batch call costs half of what `BaseConsumer::poll` costs a message, and is only in librdkafka's C interface.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys as sys;

use crate::config::{KafkaArgs, TopicArgs};
use crate::core::table::{Source, Stream};

/// Messages that one call hands over at most.
const BATCH: usize = 4096;

/// librdkafka's settings for throughput and exactness; `-X` may change the former, and is refused the latter. Measured on
/// one core: the queue must be short enough to stay in the cache, and asked for again within milliseconds, or the batch
/// call runs dry between fetches.
const FETCH_SETTINGS: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // an offset that the log no longer has stops its partition, and is never guessed
    ("auto.offset.reset", "error"),
    // some 20 ms of work ahead; with a million, what waits is first cleared by the kernel and then cold in the cache
    ("queued.min.messages", "20000"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "50"),
    // of each partition, and of all of them, compressed; a larger batch comes alone. What was unpacked stays until its last
    // message is folded, so that with 4 MiB of each a flood of small, alike messages held 100 MiB more
    ("fetch.message.max.bytes", "1048576"),
    ("fetch.max.bytes", "8388608"),
    ("check.crcs", "true"),
];

/// Where one partition is to be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub source: Source,
    pub offset: u64,
    /// Leader epoch of what was read before; −1 where unknown. Kafka then says when its log was cut.
    pub epoch: i32,
}

/// One message; its payload lives as long as the batch.
pub struct Message<'a> {
    pub source: Source,
    pub offset: u64,
    /// The broker's append time, ms since 1970.
    pub append_ms: i64,
    pub payload: &'a [u8],
    /// librdkafka's own; null for a message that no broker gave.
    native: *const sys::rd_kafka_message_t,
}

/// What a fetch gives, by index: the broker's batch, or a simulated one.
pub trait Messages {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message or error at `index`; none for a message of a topic that nobody assigned.
    fn get(&self, index: usize) -> Option<Result<Message<'_>, FetchError>>;
}

#[cfg(test)]
impl<'a> Message<'a> {
    /// A message that no broker gave.
    pub const fn simulated(source: Source, offset: u64, append_ms: i64, payload: &'a [u8]) -> Self {
        Self {
            source,
            offset,
            append_ms,
            payload,
            native: std::ptr::null(),
        }
    }
}

impl Message<'_> {
    /// The leader epoch that the message was appended in; −1 where unknown.
    pub fn leader_epoch(&self) -> i32 {
        if self.native.is_null() {
            return -1;
        }
        // SAFETY: the message is alive as long as the batch that `self` borrows from.
        unsafe { sys::rd_kafka_message_leader_epoch(self.native) }
    }
}

/// What a fetch can hand over beside messages.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchError {
    /// This partition can not be read on: its offset is gone, its log was cut, or the topic is gone.
    Partition { source: Source, text: String },
    /// Something that librdkafka retries by itself.
    Transient(String),
}

/// Why a consumer has nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    #[error(transparent)]
    Client(#[from] KafkaError),
    #[error("librdkafka refused the assignment: {0}")]
    Refused(#[from] RDKafkaErrorCode),
}

pub struct Fetcher {
    consumer: BaseConsumer,
    queue: *mut sys::rd_kafka_queue_t,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    topics: TopicArgs,
    /// Which stream a topic's handle means; two entries at most.
    known: RefCell<Vec<(*mut sys::rd_kafka_topic_t, Stream)>>,
}

impl Fetcher {
    /// Creates the consumer, which fetches up to `fetch_ahead_kib` KiB ahead, on the calling thread: librdkafka's threads inherit its CPU affinity.
    ///
    /// # Errors
    /// When a setting is not valid.
    pub fn new(kafka: &KafkaArgs, group: &str, fetch_ahead_kib: usize) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("group.id", group)
            .set("queued.max.messages.kbytes", fetch_ahead_kib.to_string());
        for (key, value) in FETCH_SETTINGS {
            config.set(key, value);
        }
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        let consumer: BaseConsumer = config.create()?;
        // SAFETY: the handle is valid as long as `consumer`; the queue is destroyed in `drop`, before it.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Ok(Self {
            consumer,
            queue,
            buffer: Vec::with_capacity(BATCH),
            topics: kafka.topics.clone(),
            known: RefCell::default(),
        })
    }

    /// A consumer that reads these partitions; see [`Self::new`]. It is assigned once in its life: librdkafka up to 2.15
    /// aborts the process when an assignment is replaced before the fetchers of the one before have stopped (its issue
    /// 5573), and it does not tell when they have.
    ///
    /// # Errors
    /// When a setting is not valid, or the assignment is refused.
    pub fn assigned(
        kafka: &KafkaArgs,
        group: &str,
        fetch_ahead_kib: usize,
        starts: &[Start],
    ) -> Result<Self, AssignError> {
        let fetcher = Self::new(kafka, group, fetch_ahead_kib)?;
        fetcher.assign(starts)?;
        Ok(fetcher)
    }

    fn topic(&self, stream: Stream) -> &str {
        match stream {
            Stream::Requests => &self.topics.requests,
            Stream::Replicas => &self.topics.replicas,
        }
    }

    fn assign(&self, starts: &[Start]) -> Result<(), RDKafkaErrorCode> {
        let size = i32::try_from(starts.len()).unwrap_or(i32::MAX);
        // SAFETY: the list is made, filled and destroyed here; topic names are NUL-terminated and copied by the call.
        let error = unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(size);
            for start in starts {
                let topic = CString::new(self.topic(start.source.stream)).unwrap_or_default();
                let item = sys::rd_kafka_topic_partition_list_add(
                    list,
                    topic.as_ptr(),
                    start.source.partition,
                );
                (*item).offset = i64::try_from(start.offset).unwrap_or(i64::MAX);
                sys::rd_kafka_topic_partition_set_leader_epoch(item, start.epoch);
            }
            let error = sys::rd_kafka_assign(self.consumer.client().native_ptr(), list);
            sys::rd_kafka_topic_partition_list_destroy(list);
            error
        };
        match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::NoError => Ok(()),
            code => Err(code),
        }
    }

    /// Hands over what is queued, waiting up to `timeout_ms` for the batch to fill.
    pub fn fetch(&mut self, timeout_ms: i32) -> Batch<'_> {
        self.buffer.clear();
        // SAFETY: the buffer has room for BATCH pointers, and the call says how many it wrote.
        unsafe {
            let n = sys::rd_kafka_consume_batch_queue(
                self.queue,
                timeout_ms,
                self.buffer.as_mut_ptr(),
                BATCH,
            );
            self.buffer.set_len(usize::try_from(n).unwrap_or(0));
        }
        Batch { fetcher: self }
    }

    /// The log's end as of the last fetch, without asking the broker.
    pub fn log_end(&self, source: Source) -> Option<u64> {
        let topic = CString::new(self.topic(source.stream)).ok()?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: both out-pointers live across the call; the name is NUL-terminated.
        let error = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                topic.as_ptr(),
                source.partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (RDKafkaErrorCode::from(error) == RDKafkaErrorCode::NoError)
            .then(|| u64::try_from(high).ok())?
    }

    fn stream_of(&self, handle: *mut sys::rd_kafka_topic_t) -> Option<Stream> {
        if let Some(&(_, stream)) = self
            .known
            .borrow()
            .iter()
            .find(|(known, _)| *known == handle)
        {
            return Some(stream);
        }
        if handle.is_null() {
            return None;
        }
        // SAFETY: the handle comes from a live message, and its name is NUL-terminated.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(handle)) }.to_string_lossy();
        let stream = match &*name {
            name if name == self.topics.requests => Stream::Requests,
            name if name == self.topics.replicas => Stream::Replicas,
            _ => return None,
        };
        self.known.borrow_mut().push((handle, stream));
        Some(stream)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // SAFETY: the queue was got in `new` and is not used after this; the consumer outlives it.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
    }
}

/// The messages of one call, destroyed together.
pub struct Batch<'a> {
    fetcher: &'a mut Fetcher,
}

impl Messages for Batch<'_> {
    fn len(&self) -> usize {
        self.fetcher.buffer.len()
    }

    fn get(&self, index: usize) -> Option<Result<Message<'_>, FetchError>> {
        let native = *self.fetcher.buffer.get(index)?;
        // SAFETY: the batch owns the message until it is dropped.
        let raw = unsafe { &*native };
        let stream = self.fetcher.stream_of(raw.rkt);
        let code = RDKafkaErrorCode::from(raw.err);
        if code != RDKafkaErrorCode::NoError {
            return Some(Err(self.error(native, stream, code)));
        }
        let stream = stream?;
        let payload = if raw.payload.is_null() {
            &[]
        } else {
            // SAFETY: payload and length belong to the message, which lives as long as the batch.
            unsafe { std::slice::from_raw_parts(raw.payload.cast::<u8>(), raw.len) }
        };
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive and the out-pointer lives across the call.
        let append_ms = unsafe { sys::rd_kafka_message_timestamp(native, &raw mut kind) };
        let source = Source {
            stream,
            partition: raw.partition,
        };
        if kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME {
            // the time rule and the ingest day rest on the broker's clock
            let text =
                "the topic's message.timestamp.type is not LogAppendTime any more".to_owned();
            return Some(Err(FetchError::Partition { source, text }));
        }
        Some(Ok(Message {
            source,
            offset: u64::try_from(raw.offset).unwrap_or(0),
            append_ms,
            payload,
            native,
        }))
    }
}

impl Batch<'_> {
    /// The log's end as of this fetch, without asking the broker.
    pub fn log_end(&self, source: Source) -> Option<u64> {
        self.fetcher.log_end(source)
    }

    fn error(
        &self,
        native: *const sys::rd_kafka_message_t,
        stream: Option<Stream>,
        code: RDKafkaErrorCode,
    ) -> FetchError {
        // SAFETY: the message is alive, and the text belongs to it or is static.
        let (text, partition) = unsafe {
            let text = sys::rd_kafka_message_errstr(native);
            let text = if text.is_null() {
                code.to_string()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            };
            (text, (*native).partition)
        };
        let is_final = matches!(
            code,
            RDKafkaErrorCode::AutoOffsetReset
                // librdkafka reads on behind a batch that it cannot read: its messages would be lost in silence
                | RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::UnknownTopicId
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
        );
        match stream {
            Some(stream) if is_final => FetchError::Partition {
                source: Source { stream, partition },
                text,
            },
            _ => FetchError::Transient(text),
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for native in self.fetcher.buffer.drain(..) {
            // SAFETY: each message was handed over by the batch call and is destroyed once.
            unsafe { sys::rd_kafka_message_destroy(native) };
        }
    }
}
