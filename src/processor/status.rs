//! What the processor says of itself: its metrics, and whether it is ready and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::bus::member::topic_of;
use crate::config::TopicArgs;
use crate::core::ledger::LedgerCounts;
use crate::core::table::{Source, Stream, Table};
use crate::probes::Probed;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    topic: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    topic: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    table: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InsertLabels {
    table: &'static str,
    result: &'static str,
}

/// How an insert ended, as the ledger told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertResult {
    Stored,
    Retried,
    Fenced,
}

impl InsertResult {
    const fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Retried => "retried",
            Self::Fenced => "fenced",
        }
    }
}

type Seconds = Gauge<f64, AtomicU64>;

/// Shared by every part of the process; each tells what it knows.
pub struct Status {
    topics: TopicArgs,
    registry: Registry,
    /// By topic and outcome: accepted, late.
    events: Family<OutcomeLabels, Counter>,
    /// Messages and events refused, by topic and reason.
    refused: Family<ReasonLabels, Counter>,
    repeated: Family<TopicLabels, Counter>,
    dead_letters_sent: Counter,
    dead_letters_left_out: Counter,
    readings_left_out: Counter,
    lag_messages: Family<PartitionLabels, Gauge>,
    lag_seconds: Family<PartitionLabels, Seconds>,
    windows: Family<PartitionLabels, Gauge>,
    window_bytes: Family<PartitionLabels, Gauge>,
    insert_seconds: Family<TableLabels, Histogram>,
    inserts: Family<InsertLabels, Counter>,
    fenced: Family<TableLabels, Counter>,
    started_late: Counter,
    partitions_stopped: Gauge,
    readiness: Mutex<Readiness>,
}

#[derive(Default)]
struct Readiness {
    has_joined: bool,
    /// What keeps the processor from writing now.
    blocked: Option<String>,
    stopped: BTreeMap<Source, String>,
    missing_topics: BTreeSet<Stream>,
}

impl Status {
    pub fn new(topics: &TopicArgs) -> Self {
        let mut status = Self {
            topics: topics.clone(),
            registry: Registry::default(),
            events: Family::default(),
            refused: Family::default(),
            repeated: Family::default(),
            dead_letters_sent: Counter::default(),
            dead_letters_left_out: Counter::default(),
            readings_left_out: Counter::default(),
            lag_messages: Family::default(),
            lag_seconds: Family::default(),
            windows: Family::default(),
            window_bytes: Family::default(),
            insert_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
            inserts: Family::default(),
            fenced: Family::default(),
            started_late: Counter::default(),
            partitions_stopped: Gauge::default(),
            readiness: Mutex::default(),
        };
        status.register();
        status
    }

    fn register(&mut self) {
        let registry = self
            .registry
            .sub_registry_with_prefix("modelmeter_processor");
        registry.register(
            "events",
            "Events and samples by topic and outcome",
            self.events.clone(),
        );
        registry.register(
            "refused",
            "Messages, or events within one, refused by topic and reason",
            self.refused.clone(),
        );
        registry.register(
            "repeated_messages",
            "Messages that had come before: their producer sent them twice, and they are counted once",
            self.repeated.clone(),
        );
        registry.register(
            "dead_letters_sent",
            "Dead letters that Kafka acknowledged",
            self.dead_letters_sent.clone(),
        );
        registry.register(
            "dead_letters_left_out",
            "Refused messages beyond the limit a second: counted only",
            self.dead_letters_left_out.clone(),
        );
        registry.register(
            "readings_left_out",
            "Readings of replicas past a limit, counted under __other__",
            self.readings_left_out.clone(),
        );
        registry.register(
            "lag_messages",
            "Messages in the log that are not folded yet",
            self.lag_messages.clone(),
        );
        registry.register_with_unit(
            "lag",
            "Age of the last folded message while there are more, 0 without",
            Unit::Seconds,
            self.lag_seconds.clone(),
        );
        registry.register("open_windows", "Windows in memory", self.windows.clone());
        registry.register_with_unit(
            "open_windows",
            "Memory of the windows",
            Unit::Bytes,
            self.window_bytes.clone(),
        );
        registry.register_with_unit(
            "insert",
            "Time from sending an insert to its answer",
            Unit::Seconds,
            self.insert_seconds.clone(),
        );
        registry.register(
            "inserts",
            "Inserts by what the ledger said",
            self.inserts.clone(),
        );
        registry.register(
            "fenced_writes",
            "Partitions whose insert was refused because another process had written",
            self.fenced.clone(),
        );
        registry.register(
            "tables_started_late",
            "Ledgers begun above the log's start because a table had none",
            self.started_late.clone(),
        );
        registry.register(
            "partitions_stopped",
            "Partitions that cannot go on; /readyz says why",
            self.partitions_stopped.clone(),
        );
    }

    fn topic(&self, stream: Stream) -> String {
        topic_of(&self.topics, stream).to_owned()
    }

    fn partition(&self, source: Source) -> PartitionLabels {
        PartitionLabels {
            topic: self.topic(source.stream),
            partition: source.partition,
        }
    }

    /// What was folded since the last call for this partition.
    pub fn tell_folded(&self, stream: Stream, counts: LedgerCounts, n_readings_left_out: u64) {
        let topic = self.topic(stream);
        self.events
            .get_or_create(&OutcomeLabels {
                topic: topic.clone(),
                outcome: "accepted",
            })
            .inc_by(counts.events);
        self.events
            .get_or_create(&OutcomeLabels {
                topic,
                outcome: "late",
            })
            .inc_by(counts.late);
        self.repeated
            .get_or_create(&TopicLabels {
                topic: self.topic(stream),
            })
            .inc_by(counts.repeated);
        self.readings_left_out.inc_by(n_readings_left_out);
    }

    /// A message refused whole (`n_events` 0), or some of its events.
    pub fn tell_refused(&self, stream: Stream, reason: &'static str, n_events: usize) {
        let n = u64::try_from(n_events.max(1)).unwrap_or(1);
        self.refused
            .get_or_create(&ReasonLabels {
                topic: self.topic(stream),
                reason,
            })
            .inc_by(n);
    }

    pub fn tell_dead_letters_left_out(&self, n: u64) {
        self.dead_letters_left_out.inc_by(n);
    }

    pub fn tell_dead_letters_sent(&self, n: usize) {
        self.dead_letters_sent.inc_by(u64::try_from(n).unwrap_or(0));
    }

    /// How far a partition is behind its log's end.
    pub fn tell_lag(
        &self,
        source: Source,
        position: u64,
        log_end: u64,
        last_append_ms: Option<i64>,
        now_ms: i64,
    ) {
        let labels = self.partition(source);
        let behind = log_end.saturating_sub(position);
        self.lag_messages
            .get_or_create(&labels)
            .set(i64::try_from(behind).unwrap_or(i64::MAX));
        let age_ms = last_append_ms
            .filter(|_| behind > 0)
            .map_or(0, |append_ms| (now_ms - append_ms).max(0));
        self.lag_seconds
            .get_or_create(&labels)
            .set(age_ms as f64 / 1000.0);
    }

    pub fn tell_windows(&self, source: Source, n: usize, bytes: usize) {
        let labels = self.partition(source);
        self.windows
            .get_or_create(&labels)
            .set(i64::try_from(n).unwrap_or(i64::MAX));
        self.window_bytes
            .get_or_create(&labels)
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A partition is another process's now.
    pub fn forget(&self, source: Source) {
        let labels = self.partition(source);
        self.lag_messages.remove(&labels);
        self.lag_seconds.remove(&labels);
        self.windows.remove(&labels);
        self.window_bytes.remove(&labels);
    }

    pub fn tell_insert(&self, table: Table, result: InsertResult, took: Duration) {
        let table = table.name();
        self.insert_seconds
            .get_or_create(&TableLabels { table })
            .observe(took.as_secs_f64());
        self.inserts
            .get_or_create(&InsertLabels {
                table,
                result: result.label(),
            })
            .inc();
    }

    pub fn tell_fenced(&self, table: Table, n: usize) {
        self.fenced
            .get_or_create(&TableLabels {
                table: table.name(),
            })
            .inc_by(u64::try_from(n).unwrap_or(0));
    }

    pub fn tell_started_late(&self, n: u32) {
        self.started_late.inc_by(u64::from(n));
    }

    /// The group has given this process its share, which may be nothing.
    pub fn tell_joined(&self) {
        self.readiness().has_joined = true;
    }

    /// What keeps the processor from writing; `None` once it writes again.
    pub fn tell_blocked(&self, why: Option<String>) {
        self.readiness().blocked = why;
    }

    /// A partition cannot go on.
    pub fn tell_stopped(&self, source: Source, why: String) {
        let mut readiness = self.readiness();
        readiness.stopped.insert(source, why);
        self.partitions_stopped
            .set(i64::try_from(readiness.stopped.len()).unwrap_or(i64::MAX));
    }

    /// Whether a stream's topic is there.
    pub fn tell_topic(&self, stream: Stream, is_there: bool) {
        let missing = &mut self.readiness().missing_topics;
        let is_new = if is_there {
            missing.remove(&stream)
        } else {
            missing.insert(stream)
        };
        if is_new {
            tracing::error!(topic = self.topic(stream), is_there, "a topic went or came");
        }
    }

    /// A partition that had stopped goes on.
    pub fn tell_going_on(&self, source: Source) {
        let mut readiness = self.readiness();
        readiness.stopped.remove(&source);
        self.partitions_stopped
            .set(i64::try_from(readiness.stopped.len()).unwrap_or(i64::MAX));
    }

    /// An assignment begins anew: what stopped before may go on now.
    pub fn tell_none_stopped(&self) {
        self.readiness().stopped.clear();
        self.partitions_stopped.set(0);
    }

    fn readiness(&self) -> std::sync::MutexGuard<'_, Readiness> {
        // the lock guards plain values that are whole at any time
        self.readiness
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Probed for Status {
    fn why_not_ready(&self) -> Vec<String> {
        let readiness = self.readiness();
        let mut reasons = Vec::new();
        if !readiness.has_joined {
            reasons.push("the consumer group has not assigned partitions yet".to_owned());
        }
        reasons.extend(readiness.blocked.clone());
        for stream in &readiness.missing_topics {
            reasons.push(format!("topic {} does not exist", self.topic(*stream)));
        }
        for (source, why) in &readiness.stopped {
            reasons.push(format!(
                "{}/{} has stopped: {why}",
                self.topic(source.stream),
                source.partition
            ));
        }
        reasons
    }

    fn metrics(&self) -> String {
        let mut out = String::new();
        // writing to a String does not fail
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status::new(&TopicArgs {
            requests: "q".to_owned(),
            replicas: "r".to_owned(),
            dead_letters: "d".to_owned(),
        })
    }

    #[test]
    fn readiness_says_why_not() {
        let status = status();
        assert_eq!(status.why_not_ready().len(), 1);
        status.tell_joined();
        assert!(status.why_not_ready().is_empty());
        let source = Source {
            stream: Stream::Requests,
            partition: 3,
        };
        status.tell_stopped(source, "gone".to_owned());
        status.tell_blocked(Some("ClickHouse is down".to_owned()));
        assert_eq!(
            status.why_not_ready(),
            ["ClickHouse is down", "q/3 has stopped: gone"]
        );
        status.tell_blocked(None);
        status.tell_none_stopped();
        assert!(status.why_not_ready().is_empty());
    }

    #[test]
    fn metrics_have_the_names_that_alerts_use() {
        let status = status();
        let source = Source {
            stream: Stream::Requests,
            partition: 3,
        };
        status.tell_lag(source, 5, 9, Some(1_000), 3_500);
        status.tell_refused(Stream::Requests, "bad_framing", 0);
        status.tell_insert(
            Table::Requests10s,
            InsertResult::Stored,
            Duration::from_millis(3),
        );
        let text = status.metrics();
        for line in [
            "modelmeter_processor_lag_messages{topic=\"q\",partition=\"3\"} 4",
            "modelmeter_processor_lag_seconds{topic=\"q\",partition=\"3\"} 2.5",
            "modelmeter_processor_refused_total{topic=\"q\",reason=\"bad_framing\"} 1",
            "modelmeter_processor_inserts_total{table=\"requests_10s\",result=\"stored\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        status.forget(source);
        assert!(!status.metrics().contains("partition=\"3\""));
    }
}
