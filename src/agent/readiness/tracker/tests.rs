//! The states of a replica, answer by answer.

use std::time::Duration;

use super::*;
use Outcome::{NotReady, Ready, Refused};
use ReplicaState::{Active, Loading, Stopping, Waiting};

struct Story {
    tracker: Tracker,
    began: Instant,
}

impl Story {
    fn new() -> Self {
        let began = Instant::now();
        let thresholds = Thresholds {
            successes: 2,
            failures: 3,
        };
        Self {
            tracker: Tracker::new(thresholds, began),
            began,
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }

    /// Answers a second apart from here on.
    fn answers(&mut self, from: u64, outcomes: &[Outcome]) {
        for (second, &outcome) in (from..).zip(outcomes) {
            self.tracker.checked(outcome, self.at(second));
        }
    }

    fn child(&mut self, pid: Option<u32>, started: u64, restarts: u64, is_stopping: bool) {
        let started = self.at(started);
        self.tracker.child(&ChildStatus {
            pid,
            started,
            restarts,
            is_stopping,
        });
    }

    #[track_caller]
    fn is(&self, state: ReplicaState, restarts: u64, load_s: Option<u64>) {
        let load_us = load_s.map(|seconds| seconds * 1_000_000);
        assert_eq!(
            self.tracker.condition(),
            Condition {
                state,
                restarts,
                load_us
            }
        );
    }
}

#[test]
fn it_loads_until_enough_successes_in_a_row() {
    let mut story = Story::new();
    story.answers(1, &[Refused, NotReady, Ready, NotReady, Ready]);
    story.is(Loading, 0, None);
    story.answers(6, &[Ready]);
    story.is(Active, 0, Some(6));
}

#[test]
fn a_few_failures_are_forgiven_and_more_mean_loading() {
    let mut story = Story::new();
    story.answers(
        1,
        &[Ready, Ready, NotReady, NotReady, Ready, NotReady, NotReady],
    );
    story.is(Active, 0, Some(2));
    story.answers(8, &[NotReady]);
    story.is(Loading, 0, Some(2));
    // It was there all the time: no restart, and no load.
    story.answers(9, &[Ready, Ready]);
    story.is(Active, 0, Some(2));
}

#[test]
fn a_server_of_somebody_else_that_was_gone_has_been_restarted() {
    let mut story = Story::new();
    story.answers(1, &[Ready, Ready, Refused, Refused, NotReady]);
    story.is(Loading, 0, Some(2));
    story.answers(10, &[Ready, Ready]);
    story.is(Active, 1, Some(8));
    // one refused connection is no crash
    story.answers(
        12,
        &[Refused, Ready, NotReady, NotReady, NotReady, Ready, Ready],
    );
    story.is(Active, 1, Some(8));
}

#[test]
fn a_child_that_crashed_waits_loads_and_counts() {
    let mut story = Story::new();
    story.child(Some(7), 1, 0, false);
    story.answers(2, &[Refused, Ready, Ready]);
    story.is(Active, 0, Some(3));
    story.child(None, 1, 0, false);
    story.is(Waiting, 0, Some(3));
    assert!(!story.tracker.has_process());
    story.child(Some(8), 20, 1, false);
    story.is(Loading, 1, Some(3));
    story.answers(21, &[Ready, Ready]);
    story.is(Active, 1, Some(2));
    // A restart that was so quick that only its count was seen.
    story.child(Some(9), 30, 2, false);
    story.is(Loading, 2, Some(2));
}

#[test]
fn one_that_was_told_to_end_is_stopping_whatever_it_answers() {
    let mut story = Story::new();
    story.child(Some(7), 0, 0, false);
    story.answers(1, &[Ready, Ready]);
    story.child(Some(7), 0, 0, true);
    story.is(Stopping, 0, Some(2));
    story.answers(3, &[Ready, Ready, Refused]);
    story.child(None, 0, 0, true);
    story.is(Stopping, 0, Some(2));
}
