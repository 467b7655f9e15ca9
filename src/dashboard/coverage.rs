//! What each step of a panel is: data, zero, none, or not read yet. No data and zero are told apart here alone, from
//! requests and samples together; a view makes no row up.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// From an event to the chart: a sample's interval, the flush, the query. A step that reaches beyond it may still be
/// empty because nobody has read it yet.
const PENDING_S: u32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Coverage {
    #[serde(rename = "d")]
    Data,
    /// Samples but no request, or all replicas had stopped.
    #[serde(rename = "z")]
    Zero,
    #[serde(rename = "n")]
    None,
    #[serde(rename = "p")]
    Pending,
}

/// The last state of a deployment's replicas in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastState {
    pub at_us: u64,
    /// Some replica was not stopping.
    pub is_running: bool,
}

/// What is known of the steps of a range.
pub struct Known<'a> {
    pub steps: &'a [u32],
    pub step: u32,
    pub now: u32,
    /// Steps with requests.
    pub asked: BTreeSet<u32>,
    pub states: BTreeMap<u32, LastState>,
    /// The state before the first step, if any replica was ever known then.
    pub before: Option<LastState>,
}

impl Known<'_> {
    /// The same at longer steps, of which these have requests.
    pub fn at<'b>(&self, steps: &'b [u32], step: u32, asked: BTreeSet<u32>) -> Known<'b> {
        // in their order: the last state of a long step is that of the last short one
        let states = self
            .states
            .iter()
            .map(|(at, state)| (at / step * step, *state));
        Known {
            steps,
            step,
            now: self.now,
            asked,
            states: states.collect(),
            before: self.before,
        }
    }

    /// Of everything that is counted by request.
    pub fn of_requests(&self) -> Vec<Coverage> {
        let stopped = self.stopped_steps();
        let of_step = |(t, is_stopped): (&u32, bool)| {
            if self.asked.contains(t) {
                Coverage::Data
            } else if self.states.contains_key(t) || is_stopped {
                Coverage::Zero
            } else {
                self.empty(*t)
            }
        };
        self.steps.iter().zip(stopped).map(of_step).collect()
    }

    /// Of a chart of replicas with rows for these steps. Zero is no replica at all; what a replica does not tell is
    /// none.
    pub fn of_samples(&self, rows: &BTreeSet<u32>) -> Vec<Coverage> {
        let stopped = self.stopped_steps();
        let of_step = |(t, is_stopped): (&u32, bool)| {
            if rows.contains(t) {
                Coverage::Data
            } else if is_stopped {
                Coverage::Zero
            } else {
                self.empty(*t)
            }
        };
        self.steps.iter().zip(stopped).map(of_step).collect()
    }

    /// When the last replica stopped, where nothing has sampled since.
    pub fn stopped_since_us(&self) -> Option<u64> {
        let last = self
            .states
            .last_key_value()
            .map(|(_, state)| *state)
            .or(self.before)?;
        (!last.is_running).then_some(last.at_us)
    }

    /// For each step, whether all replicas had stopped before or in it.
    fn stopped_steps(&self) -> Vec<bool> {
        let mut is_stopped = self.before.is_some_and(|state| !state.is_running);
        let mut of_step = |t: &u32| {
            if let Some(state) = self.states.get(t) {
                is_stopped = !state.is_running;
                return false;
            }
            is_stopped
        };
        self.steps.iter().map(&mut of_step).collect()
    }

    fn empty(&self, t: u32) -> Coverage {
        if t.saturating_add(self.step) > self.now.saturating_sub(PENDING_S)
            && self.step <= PENDING_S
            || t > self.now.saturating_sub(PENDING_S)
        {
            Coverage::Pending
        } else {
            Coverage::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPED: LastState = LastState {
        at_us: 9,
        is_running: false,
    };
    const RUNNING: LastState = LastState {
        at_us: 7,
        is_running: true,
    };

    fn known<'a>(steps: &'a [u32], asked: &[u32], states: &[(u32, LastState)]) -> Known<'a> {
        Known {
            steps,
            step: 10,
            now: 1000,
            asked: asked.iter().copied().collect(),
            states: states.iter().copied().collect(),
            before: None,
        }
    }

    fn letters(coverage: Vec<Coverage>) -> String {
        let letter = |c: &Coverage| serde_json::to_string(c).expect("a letter").replace('"', "");
        coverage.iter().map(letter).collect()
    }

    #[test]
    fn zero_needs_samples_and_none_is_everything_else() {
        let steps = [10, 20, 30, 40];
        let known = known(&steps, &[10], &[(10, RUNNING), (20, RUNNING)]);
        assert_eq!(letters(known.of_requests()), "dznn");
        assert_eq!(letters(known.of_samples(&BTreeSet::from([10, 20]))), "ddnn");
        assert_eq!(known.stopped_since_us(), None);
    }

    #[test]
    fn stopped_replicas_are_zero_until_one_comes_back_and_vanishes() {
        let steps = [10, 20, 30, 40, 50, 60];
        let known = known(&steps, &[], &[(20, STOPPED), (50, RUNNING)]);
        assert_eq!(letters(known.of_requests()), "nzzzzn");
        assert_eq!(
            letters(known.of_samples(&BTreeSet::from([20, 50]))),
            "ndzzdn"
        );
    }

    #[test]
    fn a_deployment_that_had_stopped_before_the_range_is_zero_in_all_of_it() {
        let steps = [10, 20];
        let mut known = known(&steps, &[20], &[]);
        known.before = Some(STOPPED);
        assert_eq!(letters(known.of_requests()), "zd");
        assert_eq!(known.stopped_since_us(), Some(9));
        known.before = Some(RUNNING);
        assert_eq!(letters(known.of_requests()), "nd");
        assert_eq!(known.stopped_since_us(), None);
    }

    #[test]
    fn a_long_step_ends_with_the_last_state_of_its_short_ones() {
        let (short, long) = ([0, 10, 20, 30, 40, 50], [0, 20, 40]);
        let known = known(&short, &[], &[(0, RUNNING), (10, STOPPED), (20, RUNNING)]);
        let of = |asked: &[u32]| known.at(&long, 20, asked.iter().copied().collect());
        assert_eq!(letters(of(&[]).of_requests()), "zzn");
        assert_eq!(letters(of(&[40]).of_requests()), "zzd");
        let stopped = super::tests::known(&short, &[], &[(0, RUNNING), (10, STOPPED)]);
        let long = stopped.at(&long, 20, BTreeSet::new());
        assert_eq!(letters(long.of_requests()), "zzz");
    }

    #[test]
    fn what_cannot_have_been_read_yet_is_pending() {
        let steps = [960, 970, 980, 990];
        assert_eq!(letters(known(&steps, &[], &[]).of_requests()), "nnpp");
        assert_eq!(letters(known(&steps, &[990], &[]).of_requests()), "nnpd");
    }
}
