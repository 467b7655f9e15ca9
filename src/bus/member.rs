//! The process's member of the consumer group: it learns which partitions are ours, and never fetches a message.
//!
//! Its partitions are assigned and paused at once; the workers' own consumers read them. While ClickHouse is slow or
//! down the member is still polled, so that the group does not take the partitions away for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::config::{KafkaArgs, TopicArgs};
use crate::core::table::{Source, Stream};

/// How long the group waits for a member that says nothing, in ms.
const SESSION_TIMEOUT_MS: &str = "10000";

/// A tenth of the session: a lost heartbeat or two cost nothing.
const HEARTBEAT_INTERVAL_MS: &str = "1000";

/// How long a revocation waits for the last flush. Half of the session, after which the group would give the partitions
/// away anyway.
pub const REVOKE_DEADLINE: Duration = Duration::from_secs(5);

/// What the callback waits beyond the deadline for the answer to reach it.
const REVOKE_MARGIN: Duration = Duration::from_millis(500);

/// How often the member looks for commits and its end between polls.
const POLL: Duration = Duration::from_millis(100);

/// Commits that may wait for the member's thread. They are advisory: one that finds no room is left out, the next one
/// says more.
const COMMIT_QUEUE: usize = 16;

/// What the group decided.
#[derive(Debug)]
pub enum Membership {
    Assigned(Vec<Source>),
    /// Everything that was assigned is to be given up; the sender is dropped or used once nothing is written any more.
    Revoked(std_mpsc::SyncSender<()>),
    /// This process is no member any more and cannot become one again; why, in Kafka's words.
    Ended(String),
}

/// As whom a process joins.
#[derive(Debug, Clone)]
pub struct MemberIdentity {
    pub group: String,
    /// The same at each start of one process: the group gives the next one what the last one had, and puts the last one
    /// out. Without it each start is a stranger.
    pub instance_id: Option<String>,
}

/// What is stored of a partition, for those who watch the group's lag.
#[derive(Debug, Clone)]
pub struct Commit {
    pub source: Source,
    pub offset: u64,
    /// The ledger that the offset belongs to: it stands in the commit's metadata, so that it says nothing of another topic
    /// of the same name.
    pub ledger: Arc<str>,
}

/// A handle on the member's thread.
pub struct Member {
    commits: std_mpsc::SyncSender<Vec<Commit>>,
    is_leaving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Joins the group. What it decides arrives on `decisions`.
    ///
    /// # Errors
    /// When a setting is not valid or the subscription is refused.
    pub fn join(
        kafka: &KafkaArgs,
        identity: &MemberIdentity,
        decisions: mpsc::Sender<Membership>,
    ) -> Result<Self, KafkaError> {
        let is_leaving = Arc::new(AtomicBool::new(false));
        let topics = kafka.topics.clone();
        let context = Context {
            topics: topics.clone(),
            decisions,
            is_leaving: is_leaving.clone(),
            is_named: identity.instance_id.is_some(),
            is_assigned: AtomicBool::new(false),
        };
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("group.id", &identity.group)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            .set("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set_log_level(RDKafkaLogLevel::Warning);
        if let Some(instance_id) = &identity.instance_id {
            config.set("group.instance.id", instance_id);
        }
        for option in &kafka.options {
            config.set(&option.key, &option.value);
        }
        let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
        consumer.subscribe(&[&topics.requests, &topics.replicas])?;
        let (commits, to_commit) = std_mpsc::sync_channel(COMMIT_QUEUE);
        let leaving = is_leaving.clone();
        let thread = std::thread::Builder::new()
            .name("group-member".to_owned())
            .spawn(move || poll(&consumer, &topics, &to_commit, &leaving))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self {
            commits,
            is_leaving,
            thread: Some(thread),
        })
    }

    /// Commits what is stored, for those who watch the group's lag. The ledger alone says where to go on.
    pub fn commit(&self, positions: Vec<Commit>) {
        if !positions.is_empty() {
            // a full queue means that the next commit says more
            let _ = self.commits.try_send(positions);
        }
    }

    /// Ends the membership: the group is left, or under a name the place in it is kept for a session. Nothing may be written
    /// any more.
    pub fn leave(mut self) {
        self.is_leaving.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(
    consumer: &BaseConsumer<Context>,
    topics: &TopicArgs,
    to_commit: &std_mpsc::Receiver<Vec<Commit>>,
    is_leaving: &AtomicBool,
) {
    loop {
        // paused from the start, so a message is one that was fetched between assign and pause: the workers read it
        match consumer.poll(POLL) {
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                let told = consumer.client().fatal_error();
                let reason = told.map_or_else(|| error.to_string(), |(_, reason)| reason);
                // the receiver is gone only when the process ends
                let _ = consumer
                    .context()
                    .decisions
                    .blocking_send(Membership::Ended(reason));
                return;
            }
            Some(Err(error)) => {
                tracing::warn!(error = %error, "the group's member reports an error");
            }
            Some(Ok(_)) | None => {}
        }
        while let Ok(positions) = to_commit.try_recv() {
            if let Err(error) = commit(consumer, topics, &positions) {
                tracing::debug!(error = %error, "an advisory commit failed");
            }
        }
        if is_leaving.load(Ordering::Acquire) {
            while let Ok(positions) = to_commit.try_recv() {
                let _ = commit(consumer, topics, &positions);
            }
            return;
        }
    }
}

fn commit(
    consumer: &BaseConsumer<Context>,
    topics: &TopicArgs,
    positions: &[Commit],
) -> Result<(), KafkaError> {
    if !consumer.context().may_commit() {
        return Ok(());
    }
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for position in positions {
        let source = position.source;
        let offset = Offset::Offset(i64::try_from(position.offset).unwrap_or(i64::MAX));
        let mut element = list.add_partition(topic_of(topics, source.stream), source.partition);
        element.set_offset(offset)?;
        element.set_metadata(&*position.ledger);
    }
    consumer.commit(&list, CommitMode::Async)
}

/// The topic that carries a stream.
pub fn topic_of(topics: &TopicArgs, stream: Stream) -> &str {
    match stream {
        Stream::Requests => &topics.requests,
        Stream::Replicas => &topics.replicas,
    }
}

struct Context {
    topics: TopicArgs,
    decisions: mpsc::Sender<Membership>,
    is_leaving: Arc<AtomicBool>,
    is_named: bool,
    is_assigned: AtomicBool,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(error = %error, reason, "kafka");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoked(consumer),
            other => {
                tracing::error!(error = %RDKafkaErrorCode::from(other), "a rebalance failed");
                self.revoked(consumer);
            }
        }
    }
}

impl Context {
    /// A named member that joins anew has another id from Kafka than before. A commit under the one before, such as one of
    /// a process that stood still, is taken for another process's of that name, and would end the membership.
    fn may_commit(&self) -> bool {
        !self.is_named || self.is_assigned.load(Ordering::Relaxed)
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        // an offset of its own keeps librdkafka from looking one up for a partition that is never fetched here
        let _ = list.set_all_offsets(Offset::Offset(0));
        if let Err(error) = consumer.assign(list).and_then(|()| consumer.pause(list)) {
            tracing::error!(error = %error, "an assignment was refused");
        }
        self.is_assigned.store(true, Ordering::Relaxed);
        let sources = list
            .elements()
            .iter()
            .filter_map(|element| self.source_of(element.topic(), element.partition()))
            .collect();
        // the receiver is gone only when the process ends
        let _ = self.decisions.blocking_send(Membership::Assigned(sources));
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>) {
        self.is_assigned.store(false, Ordering::Relaxed);
        if !self.is_leaving.load(Ordering::Acquire) {
            let (done, is_done) = std_mpsc::sync_channel(1);
            if self
                .decisions
                .blocking_send(Membership::Revoked(done))
                .is_ok()
            {
                // an answer, a dropped sender and a timeout are alike: the ledger's guard stops who writes too late
                let _ = is_done.recv_timeout(REVOKE_DEADLINE + REVOKE_MARGIN);
            }
        }
        if let Err(error) = consumer.unassign() {
            tracing::error!(error = %error, "an assignment could not be given up");
        }
    }

    fn source_of(&self, topic: &str, partition: i32) -> Option<Source> {
        let stream = Stream::ALL
            .into_iter()
            .find(|&stream| topic_of(&self.topics, stream) == topic)?;
        Some(Source { stream, partition })
    }
}
