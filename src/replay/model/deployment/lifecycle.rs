//! How a modelled deployment's replicas come and go: they wait for a machine, load the model, serve, are restarted, drain, and
//! say every few seconds how they are. Which requests they serve is not decided here.

use super::{Deployment, Due, End};
use crate::core::event::ReplicaState;
use crate::replay::model::autoscaler::{DECIDE_EVERY_US, Seen};
use crate::replay::model::profile::SECOND;
use crate::replay::model::replica::{Listener, Replica};

/// Between two samples of a replica.
pub const SAMPLE_EVERY_US: i64 = 5 * SECOND;

/// A replica that stops lets its requests finish; how often it looks whether they have.
const DRAIN_LOOK_US: i64 = 10 * SECOND;

/// The spread of the times to find a machine and to load a model, of their logarithm.
const START_SPREAD: f64 = 0.3;

impl Deployment {
    pub(super) fn replica(&mut self, number: u32) -> &mut Replica {
        self.replicas.get_mut(&number).expect("it was just added")
    }

    pub(super) fn add_replica(&mut self, now: i64) -> u32 {
        let number = self.n_replicas_ever;
        self.n_replicas_ever += 1;
        let replica = Replica::new(&self.profile, &mut self.random, now);
        self.replicas.insert(number, replica);
        self.schedule(now + SAMPLE_EVERY_US, Due::Sample(number));
        number
    }

    /// A new replica: it waits for a machine, then loads the model.
    pub(super) fn start_replica(&mut self, now: i64) -> u32 {
        let number = self.add_replica(now);
        let wait = self
            .random
            .log_normal(self.profile.scaling.place_us, START_SPREAD);
        self.schedule(now + wait as i64, Due::Placed(number, 0));
        number
    }

    pub(super) fn load(&mut self, number: u32, boot: u32, now: i64) {
        let of_boot = |r: &&mut Replica| r.boot == boot && r.is_staying();
        let Some(replica) = self.replicas.get_mut(&number).filter(of_boot) else {
            return;
        };
        replica.begin_loading(now);
        self.schedule_load(number, boot, now);
    }

    fn schedule_load(&mut self, number: u32, boot: u32, now: i64) {
        let load = self
            .random
            .log_normal(self.profile.scaling.load_us, START_SPREAD);
        self.schedule(now + load as i64, Due::Loaded(number, boot));
    }

    pub(super) fn serve(&mut self, number: u32, boot: u32, now: i64) {
        let of_boot = |r: &&mut Replica| r.boot == boot && r.is_staying();
        let Some(replica) = self.replicas.get_mut(&number).filter(of_boot) else {
            return;
        };
        replica.begin_serving(now);
        if boot == 0 {
            self.schedule_restart(number, now);
        }
        self.dispatch(now);
    }

    pub(super) fn schedule_restart(&mut self, number: u32, now: i64) {
        let after = self
            .random
            .exponential(self.profile.failures.restart_every_us);
        self.schedule(now + after as i64, Due::Restart(number));
    }

    /// The model server ends with all that runs in it, and loads again: a crash, or a live reload.
    pub(super) fn restart(&mut self, number: u32, now: i64, out: &mut impl Listener) {
        let Some(replica) = self.replicas.get(&number) else {
            return;
        };
        if replica.state == ReplicaState::Stopping {
            return;
        }
        if replica.state == ReplicaState::Active {
            let mut lost: Vec<u64> = self
                .requests
                .iter()
                .filter(|(_, request)| request.is_in(number))
                .map(|(&key, _)| key)
                .collect();
            // the map has no order, and the model must have one
            lost.sort_unstable();
            // it takes no new ones while the old ones end
            self.replica(number).begin_loading(now);
            for key in lost {
                self.end(key, End::Aborted, now, out);
            }
            let replica = self.replicas.get_mut(&number).expect("it is still there");
            replica.reboot(&self.profile, &mut self.random, now, out);
            let boot = replica.boot;
            self.schedule_load(number, boot, now);
        }
        self.schedule_restart(number, now);
    }

    pub(super) fn sample(&mut self, number: u32, now: i64, out: &mut impl Listener) {
        let oldest = self
            .requests
            .values()
            .filter(|request| request.is_in(number))
            .map(|request| (now - request.arrived_us).unsigned_abs())
            .max();
        if let Some(replica) = self.replicas.get_mut(&number) {
            replica.send_sample(&self.profile, &mut self.random, (now, oldest), out);
            self.schedule(now + SAMPLE_EVERY_US, Due::Sample(number));
        }
    }

    pub(super) fn remove_if_drained(&mut self, number: u32, now: i64, out: &mut impl Listener) {
        let Some(replica) = self.replicas.get_mut(&number) else {
            return;
        };
        if replica.n_running > 0 {
            return self.schedule(now + DRAIN_LOOK_US, Due::Drained(number));
        }
        replica.send_batch(&self.profile, out);
        replica.send_sample(&self.profile, &mut self.random, (now, None), out);
        self.replicas.remove(&number);
    }

    pub(super) fn decide(&mut self, now: i64) {
        let n_replicas = self.replicas.values().filter(|r| r.is_staying()).count();
        let seen = Seen {
            at_us: now,
            n_requests: self.requests.len(),
            n_replicas,
            concurrency: self.profile.serving.concurrency,
            idle_us: now - self.last_arrival_us,
        };
        let wanted = self.autoscaler.decide(&self.profile.scaling, seen);
        for _ in n_replicas..wanted {
            self.start_replica(now);
        }
        for _ in wanted..n_replicas {
            self.stop_one(now);
        }
        self.schedule(now + DECIDE_EVERY_US, Due::Decide);
    }

    /// Those go first that serve nobody yet, then the one with the fewest requests.
    fn stop_one(&mut self, now: i64) {
        let chosen = self
            .replicas
            .iter_mut()
            .filter(|(_, replica)| replica.is_staying())
            .min_by_key(|(_, r)| (r.state == ReplicaState::Active, r.n_running));
        if let Some((&number, replica)) = chosen {
            replica.state = ReplicaState::Stopping;
            self.schedule(now + DRAIN_LOOK_US, Due::Drained(number));
        }
    }
}
