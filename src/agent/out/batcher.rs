//! Events become batches: closed by count, by bytes or by age, and numbered. Knows no clock, no disk and no Kafka.

use std::time::{Duration, Instant};

use super::sequence::Sequence;
use crate::agent::identity::{Identity, PRODUCER};
use crate::bus::avro::encode_batch;
use crate::bus::avro::limits::MAX_EVENTS_PER_BATCH;
use crate::core::event::{BatchHead, RequestEvent};

/// What an event takes in a message at most: five nullable longs, eight others, two small ones, each at its longest.
pub const MAX_EVENT_BYTES: usize = 96;

/// A batch's events at their longest: far below the topic's 4 MiB, and large enough that the head does not count.
pub const MAX_BATCH_BYTES: usize = 768 << 10;

/// Where a batch is closed by count. At the wire's limit the longest events would pass [`MAX_BATCH_BYTES`].
pub const MAX_BATCH_EVENTS: usize = {
    let by_bytes = MAX_BATCH_BYTES / MAX_EVENT_BYTES;
    if by_bytes < MAX_EVENTS_PER_BATCH {
        by_bytes
    } else {
        MAX_EVENTS_PER_BATCH
    }
};

/// A closed batch, as Kafka gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub sequence: i64,
    pub n_events: u32,
    pub message: Vec<u8>,
}

/// The batch that is open.
pub struct Batcher {
    events: Vec<RequestEvent>,
    opened: Option<Instant>,
    interval: Duration,
    sequence: Sequence,
}

impl Batcher {
    pub const fn new(interval: Duration) -> Self {
        Self {
            events: Vec::new(),
            opened: None,
            interval,
            sequence: Sequence::new(),
        }
    }

    /// Takes an event; gives the batch that it filled.
    #[must_use]
    pub fn add(&mut self, event: RequestEvent, now: Instant, identity: &Identity) -> Option<Batch> {
        self.events.push(event);
        self.opened.get_or_insert(now);
        if self.events.len() >= MAX_BATCH_EVENTS {
            self.close(identity)
        } else {
            None
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The open batch, if it is old enough.
    #[must_use]
    pub fn close_if_due(&mut self, now: Instant, identity: &Identity) -> Option<Batch> {
        let opened = self.opened?;
        let is_due = now.saturating_duration_since(opened) >= self.interval;
        is_due.then(|| self.close(identity)).flatten()
    }

    /// The open batch; none when nothing is in it, so that no number is used up.
    #[must_use]
    pub fn close(&mut self, identity: &Identity) -> Option<Batch> {
        self.opened = None;
        if self.events.is_empty() {
            return None;
        }
        let sequence = self.sequence.take();
        let head = head(identity, sequence);
        let mut message = Vec::new();
        encode_batch(&head, &self.events, &mut message);
        let n_events = u32::try_from(self.events.len()).expect("at most MAX_BATCH_EVENTS");
        self.events.clear();
        Some(Batch {
            sequence,
            n_events,
            message,
        })
    }
}

/// What a message of this boot begins with.
pub(super) fn head(identity: &Identity, sequence: i64) -> BatchHead<'_> {
    BatchHead {
        deployment_id: &identity.deployment_id,
        replica_id: &identity.replica_id,
        boot_id: identity.boot_id,
        sequence,
        producer: PRODUCER,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::out::fixtures::{event, identity};
    use crate::bus::avro::{SchemaRegistry, decode_batch};
    use crate::core::event::{OptionalMicros, Outcome, Status};

    fn decoded(batch: &Batch) -> (i64, Vec<RequestEvent>) {
        let registry = SchemaRegistry::built_in();
        let (plan, body) = registry.plan(&batch.message).expect("a known schema");
        let mut events = Vec::new();
        let head = decode_batch(plan, body, &mut events).expect("valid");
        assert_eq!(head.boot_id, identity().boot_id);
        (head.sequence, events)
    }

    #[test]
    fn the_longest_event_keeps_its_limit() {
        let longest = RequestEvent {
            finished_at_us: i64::MIN,
            end_to_end_us: u64::MAX >> 1,
            inference_us: OptionalMicros::some(u64::MAX >> 1),
            first_byte_us: OptionalMicros::some(u64::MAX >> 1),
            queue_us: OptionalMicros::some(u64::MAX >> 1),
            cold_start_us: OptionalMicros::some(u64::MAX >> 1),
            request_bytes: u64::MAX >> 1,
            response_bytes: u64::MAX >> 1,
            in_flight: u32::MAX,
            status: Status::from_code(65_534),
            outcome: Outcome::Refused,
            cold_start: true,
        };
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let identity = identity();
        encode_batch(&head(&identity, 0), &[longest], &mut one);
        encode_batch(&head(&identity, 0), &[longest, longest], &mut two);
        assert!(two.len() - one.len() <= MAX_EVENT_BYTES);
    }

    #[test]
    fn a_batch_is_closed_by_its_age_and_by_its_count() {
        let start = Instant::now();
        let identity = identity();
        let mut batcher = Batcher::new(Duration::from_secs(1));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(batcher.close_if_due(at(5000), &identity), None);
        assert_eq!(batcher.add(event(1), at(5000), &identity), None);
        assert_eq!(batcher.close_if_due(at(5999), &identity), None);
        let batch = batcher.close_if_due(at(6000), &identity).expect("due");
        assert_eq!(decoded(&batch), (0, vec![event(1)]));
        for n in 0..MAX_BATCH_EVENTS - 1 {
            assert_eq!(batcher.add(event(n as u64), at(6000), &identity), None);
        }
        let batch = batcher.add(event(7), at(6000), &identity).expect("full");
        assert_eq!(
            (batch.sequence, batch.n_events as usize),
            (1, MAX_BATCH_EVENTS)
        );
        assert_eq!(batcher.close(&identity), None);
    }

    proptest! {
        /// Whatever comes when: every event leaves once, in its order, in batches numbered without gaps.
        #[test]
        fn every_event_leaves_once(steps in prop::collection::vec((0u64..700, 0usize..30), 1..60)) {
            let (start, identity) = (Instant::now(), identity());
            let mut batcher = Batcher::new(Duration::from_secs(1));
            let (mut now, mut n_in, mut batches) = (start, 0, Vec::new());
            for (ms, n) in steps {
                now += Duration::from_millis(ms);
                for _ in 0..n {
                    batches.extend(batcher.add(event(n_in), now, &identity));
                    n_in += 1;
                }
                batches.extend(batcher.close_if_due(now, &identity));
            }
            batches.extend(batcher.close(&identity));
            let mut out = Vec::new();
            for (sequence, batch) in (0..).zip(&batches) {
                let (found, events) = decoded(batch);
                prop_assert_eq!(found, sequence);
                prop_assert_eq!(events.len(), batch.n_events as usize);
                out.extend(events.iter().map(|event| event.end_to_end_us));
            }
            prop_assert_eq!(out, (0..n_in).collect::<Vec<_>>());
        }
    }
}
