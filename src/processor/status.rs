//! What the processor says of itself: its metrics, and whether it is ready and why not.

mod metrics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use self::metrics::{
    InsertLabels, Metrics, OutcomeLabels, PartitionLabels, ReasonLabels, TableLabels, TopicLabels,
};
use crate::bus::member::topic_of;
use crate::config::TopicArgs;
use crate::core::ledger::LedgerCounts;
use crate::core::table::{Source, Stream, Table};
use crate::probes::Probed;

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

/// Shared by every part of the process; each tells what it knows.
pub struct Status {
    topics: TopicArgs,
    metrics: Metrics,
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
        Self {
            topics: topics.clone(),
            metrics: Metrics::new(),
            readiness: Mutex::default(),
        }
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
        self.metrics
            .events
            .get_or_create(&OutcomeLabels {
                topic: topic.clone(),
                outcome: "accepted",
            })
            .inc_by(counts.events);
        self.metrics
            .events
            .get_or_create(&OutcomeLabels {
                topic,
                outcome: "late",
            })
            .inc_by(counts.late);
        self.metrics
            .repeated
            .get_or_create(&TopicLabels {
                topic: self.topic(stream),
            })
            .inc_by(counts.repeated);
        self.metrics.readings_left_out.inc_by(n_readings_left_out);
    }

    /// A message refused whole (`n_events` 0), or some of its events.
    pub fn tell_refused(&self, stream: Stream, reason: &'static str, n_events: usize) {
        let n = u64::try_from(n_events.max(1)).unwrap_or(1);
        self.metrics
            .refused
            .get_or_create(&ReasonLabels {
                topic: self.topic(stream),
                reason,
            })
            .inc_by(n);
    }

    pub fn tell_dead_letters_left_out(&self, n: u64) {
        self.metrics.dead_letters_left_out.inc_by(n);
    }

    pub fn tell_dead_letters_sent(&self, n: usize) {
        self.metrics
            .dead_letters_sent
            .inc_by(u64::try_from(n).unwrap_or(0));
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
        self.metrics
            .lag_messages
            .get_or_create(&labels)
            .set(i64::try_from(behind).unwrap_or(i64::MAX));
        let age_ms = last_append_ms
            .filter(|_| behind > 0)
            .map_or(0, |append_ms| (now_ms - append_ms).max(0));
        self.metrics
            .lag_seconds
            .get_or_create(&labels)
            .set(age_ms as f64 / 1000.0);
    }

    pub fn tell_windows(&self, source: Source, n: usize, bytes: usize) {
        let labels = self.partition(source);
        self.metrics
            .windows
            .get_or_create(&labels)
            .set(i64::try_from(n).unwrap_or(i64::MAX));
        self.metrics
            .window_bytes
            .get_or_create(&labels)
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A partition is another process's now.
    pub fn forget(&self, source: Source) {
        let labels = self.partition(source);
        self.metrics.lag_messages.remove(&labels);
        self.metrics.lag_seconds.remove(&labels);
        self.metrics.windows.remove(&labels);
        self.metrics.window_bytes.remove(&labels);
    }

    pub fn tell_insert(&self, table: Table, result: InsertResult, took: Duration) {
        let table = table.name();
        self.metrics
            .insert_seconds
            .get_or_create(&TableLabels { table })
            .observe(took.as_secs_f64());
        self.metrics
            .inserts
            .get_or_create(&InsertLabels {
                table,
                result: result.label(),
            })
            .inc();
    }

    pub fn tell_fenced(&self, table: Table, n: usize) {
        self.metrics
            .fenced
            .get_or_create(&TableLabels {
                table: table.name(),
            })
            .inc_by(u64::try_from(n).unwrap_or(0));
    }

    pub fn tell_started_late(&self, n: u32) {
        self.metrics.started_late.inc_by(u64::from(n));
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
        self.metrics
            .partitions_stopped
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
        self.tell_going_on_if(|other| *other == source);
    }

    /// An assignment begins anew: those that had stopped go on but for some.
    pub fn tell_going_on_if(&self, goes_on: impl Fn(&Source) -> bool) {
        let mut readiness = self.readiness();
        readiness.stopped.retain(|source, _| !goes_on(source));
        self.metrics
            .partitions_stopped
            .set(i64::try_from(readiness.stopped.len()).unwrap_or(i64::MAX));
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
        self.metrics.text()
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
        status.tell_going_on_if(|other| *other != source);
        assert_eq!(status.why_not_ready().len(), 1);
        status.tell_going_on_if(|_| true);
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
