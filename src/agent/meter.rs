//! Where requests meet the metrics: a bounded queue that never makes anyone wait, and what is in flight.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;

use super::loss::{Loss, Losses};
use crate::core::event::RequestEvent;

/// Finished requests that may wait for the publisher: at 50,000 a second it has 160 ms, and looks every 20.
pub const EVENT_QUEUE: usize = 8192;

/// Finished and unfinished requests of one replica.
pub struct Meter {
    queue: ArrayQueue<RequestEvent>,
    /// The publisher's thread, once it runs. It parks when it is idle; unparking it otherwise is one atomic instruction.
    publisher: OnceLock<Thread>,
    losses: Losses,
    /// Held for some instructions at a time, by the proxy's one thread and, at each sample, by the sampler.
    in_flight: Mutex<InFlight>,
}

/// What is in flight, and the integral of how much was.
struct InFlight {
    /// Start by slot; free slots are none.
    started: Vec<Option<Instant>>,
    free: Vec<u32>,
    n: u32,
    changed: Instant,
    sampled: Instant,
    request_seconds: f64,
}

/// In flight, at a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InFlightReading {
    pub now: u32,
    /// Time-weighted, since the reading before.
    pub mean: f64,
    /// Age of the oldest request; none when nothing is in flight.
    pub oldest_us: Option<u64>,
}

/// A request's place among those in flight, given back when it ends.
#[derive(Debug)]
pub struct Ticket {
    slot: u32,
    /// Requests in flight when this one arrived, itself included.
    pub in_flight: u32,
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self {
            queue: ArrayQueue::new(EVENT_QUEUE),
            publisher: OnceLock::new(),
            losses: Losses::default(),
            in_flight: Mutex::new(InFlight {
                started: Vec::new(),
                free: Vec::new(),
                n: 0,
                changed: now,
                sampled: now,
                request_seconds: 0.0,
            }),
        }
    }

    /// A request has arrived. Its ticket must come back by [`Self::end`].
    pub fn begin(&self, now: Instant) -> Ticket {
        let mut in_flight = self.lock();
        in_flight.advance(now);
        in_flight.n += 1;
        let slot = in_flight.free.pop().unwrap_or_else(|| {
            in_flight.started.push(None);
            u32::try_from(in_flight.started.len() - 1)
                .expect("the limit on connections keeps requests far below 2^32")
        });
        in_flight.started[slot as usize] = Some(now);
        Ticket {
            slot,
            in_flight: in_flight.n,
        }
    }

    /// The request of this ticket has ended, however it did.
    pub fn end(&self, ticket: Ticket, now: Instant) {
        let mut in_flight = self.lock();
        in_flight.advance(now);
        in_flight.n -= 1;
        in_flight.started[ticket.slot as usize] = None;
        in_flight.free.push(ticket.slot);
    }

    /// Leaves an event for the publisher. When the queue is full the oldest goes, counted.
    pub fn record(&self, event: RequestEvent) {
        if self.queue.force_push(event).is_some() {
            self.losses.add(Loss::QueueFull, 1);
        }
        self.wake();
    }

    /// From now on, events wake this thread if it is parked.
    pub fn wake_for_events(&self, publisher: Thread) {
        // one publisher a meter: a second one finds the place taken, and nothing wakes it but its clock
        let _ = self.publisher.set(publisher);
    }

    /// Wakes the publisher if it is parked.
    pub fn wake(&self) {
        if let Some(publisher) = self.publisher.get() {
            publisher.unpark();
        }
    }

    /// The oldest event that waits.
    pub fn take(&self) -> Option<RequestEvent> {
        self.queue.pop()
    }

    /// Events that wait.
    pub fn n_waiting(&self) -> usize {
        self.queue.len()
    }

    pub const fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Requests in flight now.
    pub fn n_in_flight(&self) -> u32 {
        self.lock().n
    }

    /// What is in flight, and its mean since this was last asked.
    pub fn read_in_flight(&self, now: Instant) -> InFlightReading {
        let mut in_flight = self.lock();
        in_flight.advance(now);
        let seconds = now
            .saturating_duration_since(in_flight.sampled)
            .as_secs_f64();
        let mean = if seconds > 0.0 {
            in_flight.request_seconds / seconds
        } else {
            f64::from(in_flight.n)
        };
        in_flight.sampled = now;
        in_flight.request_seconds = 0.0;
        let oldest = in_flight.started.iter().flatten().min();
        let age = oldest.map(|&started| now.saturating_duration_since(started).as_micros());
        InFlightReading {
            now: in_flight.n,
            mean,
            oldest_us: age.map(|us| u64::try_from(us).unwrap_or(u64::MAX)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        // nothing in between can panic half-way
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.changed).as_secs_f64();
        self.request_seconds += seconds * f64::from(self.n);
        self.changed = self.changed.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn in_flight_is_weighted_by_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let meter = Meter::new(start);
        let first = meter.begin(at(0));
        let second = meter.begin(at(500));
        assert_eq!((first.in_flight, second.in_flight), (1, 2));
        meter.end(first, at(750));
        let reading = meter.read_in_flight(at(1000));
        assert_eq!((reading.now, reading.oldest_us), (1, Some(500_000)));
        assert!((reading.mean - 1.25).abs() < 1e-9, "{}", reading.mean);
        meter.end(second, at(1000));
        let reading = meter.read_in_flight(at(2000));
        assert_eq!(
            (reading.now, reading.mean, reading.oldest_us),
            (0, 0.0, None)
        );
    }
}
