//! Where the library's thread leaves what it reads, and a sample takes it. The lock is held for a few copies, never
//! during a call into the library.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::readings::NamedGpu;
use crate::core::event::GpuReading;

/// Sum and weight of what was read since the last sample.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    pub fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    pub fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }

    fn get(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// What one look at one GPU found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    pub utilization: Mean,
    pub sm_activity: Mean,
    pub memory_used: Mean,
    pub memory_total_bytes: Option<u64>,
}

impl Look {
    fn merge(&mut self, other: &Self) {
        self.utilization.merge(other.utilization);
        self.sm_activity.merge(other.sm_activity);
        self.memory_used.merge(other.memory_used);
        self.memory_total_bytes = other.memory_total_bytes.or(self.memory_total_bytes);
    }

    fn reading(&self) -> GpuReading {
        GpuReading {
            utilization: self.utilization.get(),
            sm_activity: self.sm_activity.get(),
            memory_used_bytes: self.memory_used.get().map(|bytes| bytes.round() as u64),
            memory_total_bytes: self.memory_total_bytes,
        }
    }
}

#[derive(Debug)]
struct Entry {
    uuid: String,
    name: String,
    /// None where no look was taken since the last sample.
    since_taken: Option<Look>,
    looked_at: Option<Instant>,
    /// Given again by a sample that comes before the next look.
    last: GpuReading,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// When the thread last gave a sign; none before its first call.
    sign: Option<Instant>,
    /// Between calls the thread only waits, which is no hang.
    is_calling: bool,
    given_up: bool,
    ended: bool,
}

#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
    /// Rung when the board is given up, so that a waiting thread ends at once.
    bell: Condvar,
}

const NO_READING: GpuReading = GpuReading {
    utilization: None,
    sm_activity: None,
    memory_used_bytes: None,
    memory_total_bytes: None,
};

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can be left half done: a poisoned lock is as good as another.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread is about to call the library. False where nobody waits for it any more.
    pub fn calls(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.sign = Some(now);
        state.is_calling = true;
        !state.given_up
    }

    /// The thread's calls came back; it waits this long before the next. False where nobody waits for it any more.
    pub fn rests(&self, pause: Duration) -> bool {
        let mut state = self.lock();
        state.is_calling = false;
        let waited = self
            .bell
            .wait_timeout_while(state, pause, |state| !state.given_up);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.given_up
    }

    pub fn ends(&self) {
        let mut state = self.lock();
        state.is_calling = false;
        state.ended = true;
    }

    /// These are the GPUs, in this order; those known before keep what was read of them.
    pub fn set_gpus(&self, gpus: &[(String, String)]) {
        let mut state = self.lock();
        let mut before = std::mem::take(&mut state.entries);
        state.entries = gpus
            .iter()
            .map(|(uuid, name)| {
                before
                    .iter()
                    .position(|entry| entry.uuid == *uuid)
                    .map_or_else(
                        || Entry {
                            uuid: uuid.clone(),
                            name: name.clone(),
                            since_taken: None,
                            looked_at: None,
                            last: NO_READING,
                        },
                        |at| before.swap_remove(at),
                    )
            })
            .collect();
    }

    /// One look at the GPU at this place.
    pub fn add(&self, at: usize, look: &Look, now: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(at) {
            entry.since_taken.get_or_insert_default().merge(look);
            entry.looked_at = Some(now);
        }
    }

    /// What was read since the last call; a GPU whose last look is older than `stale` has no readings.
    pub fn take(&self, now: Instant, stale: Duration) -> Vec<NamedGpu> {
        let mut state = self.lock();
        let take = |entry: &mut Entry| {
            let look = entry.since_taken.take();
            let is_fresh = entry
                .looked_at
                .is_some_and(|at| now.saturating_duration_since(at) <= stale);
            if !is_fresh {
                entry.last = NO_READING;
            } else if let Some(look) = look {
                entry.last = look.reading();
            }
            NamedGpu {
                uuid: entry.uuid.clone(),
                name: entry.name.clone(),
                reading: entry.last,
            }
        };
        state.entries.iter_mut().map(take).collect()
    }

    pub fn has_hung(&self, now: Instant, patience: Duration) -> bool {
        let state = self.lock();
        state.is_calling
            && state
                .sign
                .is_some_and(|sign| now.saturating_duration_since(sign) > patience)
    }

    pub fn give_up(&self) {
        self.lock().given_up = true;
        self.bell.notify_all();
    }

    pub fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// A board for the next thread: the same GPUs, nothing read.
    pub fn successor(&self) -> Self {
        let names: Vec<_> = self
            .lock()
            .entries
            .iter()
            .map(|entry| (entry.uuid.clone(), entry.name.clone()))
            .collect();
        let board = Self::default();
        board.set_gpus(&names);
        board
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(10);

    fn look(utilization: f64, weight: f64, used: f64) -> Look {
        let mut look = Look::default();
        look.utilization.add(utilization, weight);
        look.memory_used.add(used, 1.0);
        look
    }

    #[test]
    fn a_sample_has_the_mean_of_all_looks_since_the_one_before() {
        let board = Board::default();
        board.set_gpus(&[("GPU-0".to_owned(), "a".to_owned())]);
        let now = Instant::now();
        let take = |at| board.take(at, STALE)[0].reading;
        board.add(0, &look(0.25, 3.0, 100.0), now);
        board.add(0, &look(0.75, 1.0, 300.0), now);
        let both = take(now);
        assert_eq!(both.utilization, Some(0.375));
        assert_eq!(both.memory_used_bytes, Some(200));
        assert_eq!(take(now), both, "given again before the next look");
        board.add(0, &look(1.0, 1.0, 5.0), now);
        assert_eq!(
            take(now).utilization,
            Some(1.0),
            "the earlier looks are gone"
        );
        assert_eq!(take(now + STALE * 2), NO_READING);
    }
}
