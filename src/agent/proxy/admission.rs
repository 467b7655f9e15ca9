//! Who goes on to the model server, and when: requests wait for the model to load, then for a place among those that run
//! at once. Both waits are bounded in number, and each is measured apart.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::record::Record;
use crate::agent::condition::Condition;
use crate::core::event::ReplicaState;

/// Requests that may wait for a model to load; one more is answered 503. Each holds its client's connection or stream.
const MAX_HELD: usize = 4096;

/// Why a request does not reach the model server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the queue before the model server is full")]
    QueueFull,
    #[error("too many requests wait for the model to load")]
    TooManyHeld,
    #[error("the model is still loading")]
    StillLoading,
}

/// The way to the model server.
pub struct Admission {
    condition: watch::Receiver<Condition>,
    hold: Option<Duration>,
    held: Room,
    queue: Option<Queue>,
}

/// How many run at once, and how many may wait for that.
struct Queue {
    places: Arc<Semaphore>,
    waiting: Room,
}

/// So many and no more.
struct Room {
    n: AtomicUsize,
    max: usize,
}

/// A place in a room, given back however the wait ends.
struct Place<'a>(&'a AtomicUsize);

impl Admission {
    pub fn new(
        condition: watch::Receiver<Condition>,
        hold: Option<Duration>,
        max_concurrency: Option<NonZeroU32>,
        max_queue: usize,
    ) -> Self {
        Self {
            condition,
            hold,
            held: Room::new(MAX_HELD),
            queue: max_concurrency.map(|max| Queue {
                places: Arc::new(Semaphore::new(max.get() as usize)),
                waiting: Room::new(max_queue),
            }),
        }
    }

    /// Waits until the request may be handed over. Its place comes back with the record.
    ///
    /// # Errors
    /// When it may not wait, or waited too long.
    pub async fn admit(&self, record: &mut Record) -> Result<(), Refused> {
        if is_starting(self.condition.borrow().state) {
            Box::pin(self.meet_cold_start(record)).await?;
        }
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let places = queue.places.clone();
        let permit = if let Ok(permit) = places.clone().try_acquire_owned() {
            permit
        } else {
            let _waiting = queue.waiting.enter().ok_or(Refused::QueueFull)?;
            places.acquire_owned().await.expect("never closed")
        };
        record.permit = Some(permit);
        Ok(())
    }

    async fn meet_cold_start(&self, record: &mut Record) -> Result<(), Refused> {
        let Some(longest) = self.hold else {
            // the server answers as it can
            record.met_cold_start(None);
            return Ok(());
        };
        let began = Instant::now();
        let Some(_held) = self.held.enter() else {
            record.met_cold_start(None);
            return Err(Refused::TooManyHeld);
        };
        let mut condition = self.condition.clone();
        let ready = condition.wait_for(|now| !is_starting(now.state));
        let is_ready = timeout(longest, ready).await.is_ok_and(|it| it.is_ok());
        record.met_cold_start(Some(began.elapsed()));
        if is_ready {
            Ok(())
        } else {
            Err(Refused::StillLoading)
        }
    }
}

impl Room {
    const fn new(max: usize) -> Self {
        Self {
            n: AtomicUsize::new(0),
            max,
        }
    }

    fn enter(&self) -> Option<Place<'_>> {
        self.n
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.max).then_some(n + 1)
            })
            .ok()
            .map(|_| Place(&self.n))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const fn is_starting(state: ReplicaState) -> bool {
    matches!(state, ReplicaState::Waiting | ReplicaState::Loading)
}
