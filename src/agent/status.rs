//! What the agent says of itself: its metrics, and whether it is ready and why not. Kafka's absence is no reason: requests
//! are served all the same.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
#[cfg(test)]
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio_util::sync::CancellationToken;

use super::loss::Loss;
use super::meter::Meter;
use super::out::outbox::Backlog;
use crate::clock::now_us;
use crate::probes::Probed;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabels {
    reason: &'static str,
}

/// Shared by every part of the agent; each tells what it knows.
pub struct AgentStatus {
    meter: Arc<Meter>,
    stopping: CancellationToken,
    registry: Registry,
    events_recorded: Counter,
    events_delivered: Counter,
    batches_delivered: Counter,
    events_lost: Family<LossLabels, Counter>,
    kafka_errors: Counter,
    spooled_batches: Gauge,
    spooled_events: Gauge,
    spooled_bytes: Gauge,
    spooled_memory_bytes: Gauge,
    spooled_oldest_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    in_flight: Gauge,
    backlog: Mutex<Backlog>,
}

impl AgentStatus {
    pub fn new(meter: Arc<Meter>, stopping: CancellationToken) -> Self {
        let mut status = Self {
            meter,
            stopping,
            registry: Registry::default(),
            events_recorded: Counter::default(),
            events_delivered: Counter::default(),
            batches_delivered: Counter::default(),
            events_lost: Family::default(),
            kafka_errors: Counter::default(),
            spooled_batches: Gauge::default(),
            spooled_events: Gauge::default(),
            spooled_bytes: Gauge::default(),
            spooled_memory_bytes: Gauge::default(),
            spooled_oldest_seconds: Gauge::default(),
            in_flight: Gauge::default(),
            backlog: Mutex::default(),
        };
        status.register();
        status
    }

    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("modelmeter_agent");
        registry.register(
            "events_recorded",
            "Requests that were measured or posted",
            self.events_recorded.clone(),
        );
        registry.register(
            "events_delivered",
            "Requests that Kafka has acknowledged",
            self.events_delivered.clone(),
        );
        registry.register(
            "batches_delivered",
            "Batches and samples that Kafka has acknowledged",
            self.batches_delivered.clone(),
        );
        registry.register(
            "events_lost",
            "Requests lost in this boot, by reason",
            self.events_lost.clone(),
        );
        registry.register(
            "kafka_errors",
            "Errors that the Kafka client told of",
            self.kafka_errors.clone(),
        );
        registry.register(
            "spooled_batches",
            "Batches and samples that wait for Kafka",
            self.spooled_batches.clone(),
        );
        registry.register(
            "spooled_events",
            "Requests that wait for Kafka",
            self.spooled_events.clone(),
        );
        registry.register_with_unit(
            "spooled",
            "What waits for Kafka on the disk",
            Unit::Bytes,
            self.spooled_bytes.clone(),
        );
        registry.register_with_unit(
            "spooled_memory",
            "What waits for Kafka in memory because the disk did not take it",
            Unit::Bytes,
            self.spooled_memory_bytes.clone(),
        );
        registry.register_with_unit(
            "spooled_oldest_age",
            "Age of the oldest batch that waits for Kafka, 0 without",
            Unit::Seconds,
            self.spooled_oldest_seconds.clone(),
        );
        registry.register(
            "in_flight",
            "Requests that have arrived and not ended",
            self.in_flight.clone(),
        );
    }

    pub fn tell_recorded(&self, n_events: u64) {
        self.events_recorded.inc_by(n_events);
    }

    pub fn tell_delivered(&self, n_events: u32) {
        self.events_delivered.inc_by(u64::from(n_events));
        self.batches_delivered.inc();
    }

    pub fn tell_backlog(&self, backlog: Backlog, n_kafka_errors: u64) {
        *self.backlog() = backlog;
        // the client keeps the count; only its publisher tells it
        let told = self.kafka_errors.get();
        self.kafka_errors
            .inc_by(n_kafka_errors.saturating_sub(told));
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // a plain value, whole at any time
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probed for AgentStatus {
    fn why_not_ready(&self) -> Vec<String> {
        if self.stopping.is_cancelled() {
            vec!["the agent is stopping".to_owned()]
        } else {
            Vec::new()
        }
    }

    fn metrics(&self) -> String {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let backlog = *self.backlog();
        self.spooled_batches.set(number(backlog.n_messages));
        self.spooled_events.set(number(backlog.n_events));
        self.spooled_bytes.set(number(backlog.spool_bytes));
        self.spooled_memory_bytes.set(number(backlog.memory_bytes));
        let age_us = backlog
            .oldest_us
            .map_or(0, |oldest_us| (now_us() - oldest_us).max(0));
        self.spooled_oldest_seconds.set(age_us as f64 / 1e6);
        self.in_flight.set(i64::from(self.meter.n_in_flight()));
        for loss in Loss::ALL {
            let labels = LossLabels {
                reason: loss.reason(),
            };
            // the losses only grow, and this is the one place that writes the counter
            self.events_lost
                .get_or_create(&labels)
                .inner()
                .store(self.meter.losses().get(loss), Ordering::Relaxed);
        }
        let mut out = String::new();
        // writing to a String does not fail
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_that_alerts_use() {
        let meter = Arc::new(Meter::new(Instant::now()));
        let stopping = CancellationToken::new();
        let status = AgentStatus::new(meter.clone(), stopping.clone());
        status.tell_recorded(5);
        status.tell_delivered(3);
        meter.losses().add(Loss::SpoolFull, 2);
        let backlog = Backlog {
            n_messages: 1,
            spool_bytes: 4096,
            ..Backlog::default()
        };
        status.tell_backlog(backlog, 2);
        status.tell_backlog(backlog, 3);
        let _ticket = meter.begin(Instant::now());
        let text = status.metrics();
        for line in [
            "modelmeter_agent_events_recorded_total 5",
            "modelmeter_agent_events_delivered_total 3",
            "modelmeter_agent_events_lost_total{reason=\"spool_full\"} 2",
            "modelmeter_agent_spooled_bytes 4096",
            "modelmeter_agent_spooled_batches 1",
            "modelmeter_agent_kafka_errors_total 3",
            "modelmeter_agent_in_flight 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(status.why_not_ready().is_empty());
        stopping.cancel();
        assert_eq!(status.why_not_ready().len(), 1);
    }
}
