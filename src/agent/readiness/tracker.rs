//! The replica's state from checks and from what its process does. Reads no clock and asks nobody: times come in.

use std::time::Instant;

use super::check::Outcome;
use crate::agent::child::ChildStatus;
use crate::agent::condition::Condition;
use crate::core::event::ReplicaState;

/// Answers in a row that change the state.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    pub successes: u32,
    pub failures: u32,
}

#[derive(Debug)]
pub struct Tracker {
    thresholds: Thresholds,
    condition: Condition,
    n_successes: u32,
    n_failures: u32,
    /// When the load began that is not over yet; none once the server was ready.
    loading_since: Option<Instant>,
    /// The first of the failures in a row that found nobody listening: there the server was gone.
    gone_since: Option<Instant>,
    /// The start of the child that was seen last.
    child_started: Option<Instant>,
    has_process: bool,
}

impl Tracker {
    pub fn new(thresholds: Thresholds, now: Instant) -> Self {
        Self {
            thresholds,
            condition: Condition::UNSEEN,
            n_successes: 0,
            n_failures: 0,
            loading_since: Some(now),
            gone_since: None,
            child_started: None,
            has_process: true,
        }
    }

    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether there is anybody to ask.
    pub fn has_process(&self) -> bool {
        self.has_process
    }

    /// What the wrapped process does. A new start is a new load.
    pub fn child(&mut self, status: &ChildStatus) {
        self.condition.restarts = status.restarts;
        self.has_process = status.pid.is_some();
        if self.condition.state == ReplicaState::Stopping {
            return;
        }
        if status.is_stopping {
            self.stopping();
        } else if status.pid.is_none() {
            self.begin_anew(ReplicaState::Waiting);
        } else if self.child_started.replace(status.started) != Some(status.started)
            || self.condition.state == ReplicaState::Waiting
        {
            self.begin_anew(ReplicaState::Loading);
            self.loading_since = Some(status.started);
        }
    }

    /// One answer. After the end was told, none counts.
    pub fn checked(&mut self, outcome: Outcome, now: Instant) {
        if self.condition.state == ReplicaState::Stopping {
            return;
        }
        match outcome {
            Outcome::Ready => self.succeeded(now),
            Outcome::NotReady => self.failed(),
            Outcome::Refused => {
                // Nobody listens: of a server that was ready and that somebody else starts, this is how its end looks.
                if self.condition.state == ReplicaState::Active && self.child_started.is_none() {
                    self.gone_since.get_or_insert(now);
                }
                self.failed();
            }
        }
    }

    /// For good.
    pub fn stopping(&mut self) {
        self.condition.state = ReplicaState::Stopping;
    }

    fn begin_anew(&mut self, state: ReplicaState) {
        self.condition.state = state;
        self.n_successes = 0;
        self.n_failures = 0;
    }

    fn succeeded(&mut self, now: Instant) {
        self.n_failures = 0;
        self.n_successes = self.n_successes.saturating_add(1);
        if self.condition.state == ReplicaState::Active {
            // It was never away for as long as the threshold: one refused connection is no crash.
            self.gone_since = None;
        }
        if self.n_successes < self.thresholds.successes {
            return;
        }
        self.condition.state = ReplicaState::Active;
        if let Some(gone) = self.gone_since.take() {
            self.condition.restarts += 1;
            self.loading_since = Some(gone);
        }
        // One that was only unready for a while has loaded nothing: its load stays what it was.
        if let Some(since) = self.loading_since.take() {
            let load = now.saturating_duration_since(since);
            self.condition.load_us = Some(u64::try_from(load.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn failed(&mut self) {
        self.n_successes = 0;
        self.n_failures = self.n_failures.saturating_add(1);
        if self.n_failures >= self.thresholds.failures
            && self.condition.state == ReplicaState::Active
        {
            self.condition.state = ReplicaState::Loading;
        }
    }
}

#[cfg(test)]
mod tests;
