//! What a replay has produced, by deployment: the truth that a check of the tables starts from. It counts the messages as they
//! are sent, by the definitions of the README and with no help from the code that folds them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::event::{Outcome, ReplicaSample, ReplicaState, RequestEvent};

/// All of it, as `--summary` writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub seed: u64,
    /// The model's time, microseconds since 1970: from where to where.
    pub from_us: i64,
    pub until_us: i64,
    pub n_messages: u64,
    pub deployments: BTreeMap<String, Produced>,
}

/// What one deployment's producers said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produced {
    pub requests: u64,
    pub status_2xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    pub status_other: u64,
    pub unclassified: u64,
    pub client_gone: u64,
    pub completed: u64,
    pub timed_out: u64,
    pub aborted: u64,
    pub refused: u64,
    pub cold_starts: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub samples: u64,
    pub waiting_us: u64,
    pub loading_us: u64,
    pub active_us: u64,
    pub stopping_us: u64,
    /// True for one whose loading replicas count as active.
    pub is_development: bool,
}

impl Produced {
    pub fn add_event(&mut self, event: &RequestEvent) {
        self.requests += 1;
        let class = match event.status() {
            None => &mut self.unclassified,
            Some(200..=299) => &mut self.status_2xx,
            Some(400..=499) => &mut self.status_4xx,
            Some(500..=599) => &mut self.status_5xx,
            Some(_) => &mut self.status_other,
        };
        *class += 1;
        let is_gone = event.outcome == Outcome::ClientGone || event.status() == Some(499);
        self.client_gone += u64::from(is_gone);
        match event.outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::ClientGone => {}
        }
        self.cold_starts += u64::from(event.cold_start);
        self.request_bytes += event.request_bytes;
        self.response_bytes += event.response_bytes;
    }

    pub fn add_sample(&mut self, sample: &ReplicaSample<'_>) {
        self.samples += 1;
        *match sample.state {
            ReplicaState::Waiting => &mut self.waiting_us,
            ReplicaState::Loading => &mut self.loading_us,
            ReplicaState::Active => &mut self.active_us,
            ReplicaState::Stopping => &mut self.stopping_us,
        } += sample.interval_us;
        self.is_development = sample.kind == crate::core::event::Kind::Development;
    }
}

impl Summary {
    pub fn n_requests(&self) -> u64 {
        self.deployments.values().map(|d| d.requests).sum()
    }

    pub fn n_samples(&self) -> u64 {
        self.deployments.values().map(|d| d.samples).sum()
    }

    /// What was produced by this deployment so far.
    pub fn of(&mut self, deployment_id: &str) -> &mut Produced {
        // looked up first, since only the first message of a deployment needs the id as a key of its own
        if !self.deployments.contains_key(deployment_id) {
            self.deployments
                .insert(deployment_id.to_owned(), Produced::default());
        }
        self.deployments
            .get_mut(deployment_id)
            .expect("it was just put there")
    }
}
