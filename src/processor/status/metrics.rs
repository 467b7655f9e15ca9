//! The processor's metrics by name, with their labels.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabels {
    pub topic: String,
    pub partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub topic: String,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub topic: String,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabels {
    pub topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableLabels {
    pub table: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InsertLabels {
    pub table: &'static str,
    pub result: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

pub struct Metrics {
    registry: Registry,
    /// By topic and outcome: accepted, late.
    pub events: Family<OutcomeLabels, Counter>,
    /// Messages and events refused, by topic and reason.
    pub refused: Family<ReasonLabels, Counter>,
    pub repeated: Family<TopicLabels, Counter>,
    pub dead_letters_sent: Counter,
    pub dead_letters_left_out: Counter,
    pub readings_left_out: Counter,
    pub lag_messages: Family<PartitionLabels, Gauge>,
    pub lag_seconds: Family<PartitionLabels, Seconds>,
    pub windows: Family<PartitionLabels, Gauge>,
    pub window_bytes: Family<PartitionLabels, Gauge>,
    pub insert_seconds: Family<TableLabels, Histogram>,
    pub inserts: Family<InsertLabels, Counter>,
    pub fenced: Family<TableLabels, Counter>,
    pub started_late: Counter,
    pub partitions_stopped: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
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
        };
        metrics.register();
        metrics
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

    /// All of them as a scrape reads them.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // writing to a String does not fail
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
