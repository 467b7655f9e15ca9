//! The replica's samples: every few seconds, and whenever its state changes, what it was, what is in flight and what it uses.
//! Each speaks for one state, so that a state of half a second is seen for half a second. Told the time, never asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::batcher::head;
use super::sequence::Sequence;
use crate::agent::condition::Condition;
use crate::agent::identity::Identity;
use crate::agent::loss::Loss;
use crate::agent::meter::Meter;
use crate::agent::readings::Readings;
use crate::bus::avro::limits::{MAX_GPUS, MAX_INTERVAL_US};
use crate::bus::avro::{DroppedEvents, NamedGpu, encode_sample};
use crate::core::event::{ReplicaSample, ReplicaState};

/// What the replica uses, since the last call. Takes some milliseconds at most.
pub type ReadResources = Box<dyn FnMut() -> Readings + Send>;

pub struct Sampler {
    meter: Arc<Meter>,
    condition: watch::Receiver<Condition>,
    resources: ReadResources,
    /// Whether requests pass through the agent, so that it knows what is in flight.
    sees_requests: bool,
    interval: Duration,
    last: Instant,
    /// The state since the last sample.
    state: ReplicaState,
    sequence: Sequence,
}

/// A sample as Kafka gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub sequence: i64,
    pub message: Vec<u8>,
}

pub struct SamplerParts {
    pub meter: Arc<Meter>,
    pub condition: watch::Receiver<Condition>,
    pub resources: ReadResources,
    pub sees_requests: bool,
    pub interval: Duration,
}

impl Sampler {
    pub fn new(parts: SamplerParts, now: Instant) -> Self {
        let SamplerParts {
            meter,
            condition,
            resources,
            sees_requests,
            interval,
        } = parts;
        let state = condition.borrow().state;
        Self {
            meter,
            condition,
            resources,
            sees_requests,
            interval,
            last: now,
            state,
            sequence: Sequence::new(),
        }
    }

    /// Its time has come, or the state has changed.
    pub fn is_due(&self, is_stopping: bool, now: Instant) -> bool {
        self.has_changed(is_stopping) || self.due_in(now).is_zero()
    }

    /// Until its time comes.
    pub fn due_in(&self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.last);
        self.interval.saturating_sub(elapsed)
    }

    pub fn has_changed(&self, is_stopping: bool) -> bool {
        self.state_now(is_stopping) != self.state
    }

    fn state_now(&self, is_stopping: bool) -> ReplicaState {
        if is_stopping {
            ReplicaState::Stopping
        } else {
            self.condition.borrow().state
        }
    }

    /// A sample for the time since the last one, in the state that it was in.
    pub fn take(
        &mut self,
        identity: &Identity,
        is_stopping: bool,
        now: Instant,
        now_us: i64,
    ) -> Sample {
        let condition = *self.condition.borrow();
        let next = self.state_now(is_stopping);
        let state = std::mem::replace(&mut self.state, next);
        let elapsed = now.saturating_duration_since(self.last).as_micros();
        self.last = now;
        let in_flight = self.meter.read_in_flight(now);
        let in_flight = self.sees_requests.then_some(in_flight);
        let readings = (self.resources)();
        let sequence = self.sequence.take();
        let sample = ReplicaSample {
            head: head(identity, sequence),
            sampled_at_us: now_us,
            // a longer silence, as of a machine that slept, is a gap
            interval_us: u64::try_from(elapsed)
                .map_or(MAX_INTERVAL_US, |us| us.min(MAX_INTERVAL_US)),
            state,
            model_id: &identity.model_id,
            model_name: &identity.model_name,
            deployment_name: &identity.deployment_name,
            environment: &identity.environment,
            kind: identity.kind,
            instance_type: &identity.instance_type,
            cpu_cores_used: readings.cpu_cores_used,
            cpu_cores_limit: readings.cpu_cores_limit,
            memory_bytes: readings.memory_bytes,
            memory_limit_bytes: readings.memory_limit_bytes,
            in_flight: in_flight.map(|reading| reading.now),
            in_flight_mean: in_flight.map(|reading| reading.mean),
            oldest_in_flight_us: in_flight.and_then(|reading| reading.oldest_us),
            restarts: condition.restarts,
            load_us: condition.load_us,
            dropped: 0,
        };
        let gpus: Vec<_> = readings
            .gpus
            .iter()
            .take(MAX_GPUS)
            .map(|gpu| NamedGpu {
                uuid: &gpu.uuid,
                name: &gpu.name,
                reading: gpu.reading,
            })
            .collect();
        let mut message = Vec::new();
        encode_sample(&sample, &gpus, &self.dropped(), &mut message);
        Sample { sequence, message }
    }

    fn dropped(&self) -> Vec<DroppedEvents<'static>> {
        let losses = self.meter.losses();
        Loss::ALL
            .into_iter()
            .map(|loss| DroppedEvents {
                reason: loss.reason(),
                count: losses.get(loss),
            })
            .filter(|dropped| dropped.count > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::out::fixtures::identity;
    use crate::bus::avro::{SchemaRegistry, decode_sample};

    #[test]
    fn a_sample_says_what_is_and_what_was_lost() {
        let start = Instant::now();
        let meter = Arc::new(Meter::new(start));
        let (_told, condition) = watch::channel(Condition {
            state: ReplicaState::Active,
            restarts: 2,
            load_us: Some(7),
        });
        let parts = SamplerParts {
            meter: meter.clone(),
            condition,
            resources: Box::new(|| Readings {
                memory_bytes: Some(5),
                ..Readings::default()
            }),
            sees_requests: true,
            interval: Duration::from_secs(5),
        };
        let mut sampler = Sampler::new(parts, start);
        meter.losses().add(Loss::SpoolFull, 3);
        meter.losses().add(Loss::Refused, 4);
        let _ticket = meter.begin(start);
        let later = start + Duration::from_secs(4);
        assert!(!sampler.is_due(false, later));
        assert!(sampler.is_due(false, later + Duration::from_secs(1)));
        assert!(sampler.is_due(true, later), "a change of state is told");
        let registry = SchemaRegistry::built_in();
        for (n, is_stopping, state, interval) in [
            (0, false, ReplicaState::Active, 4_000_000),
            // told late: the state since the last sample is the old one
            (1, true, ReplicaState::Active, 0),
            (2, true, ReplicaState::Stopping, 0),
        ] {
            let sample = sampler.take(&identity(), is_stopping, later, 99);
            let (plan, body) = registry.plan(&sample.message).expect("a known schema");
            let said = decode_sample(plan, body, &mut Vec::new()).expect("valid");
            assert_eq!(
                (said.head.sequence, said.state, said.dropped),
                (n, state, 7)
            );
            assert_eq!((said.in_flight, said.memory_bytes), (Some(1), Some(5)));
            assert_eq!((said.restarts, said.load_us), (2, Some(7)));
            assert_eq!((said.interval_us, said.sampled_at_us), (interval, 99));
        }
    }
}
