//! One modelled deployment: requests arrive, wait, are served, fail or are abandoned; replicas come, load, serve and go. A
//! discrete-event simulation, told up to which moment to go on.
//!
//! Every request that arrived is in exactly one place: waiting, running, or counted in [`Counts`] by how it ended.

mod lifecycle;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use super::arrivals::{Arrival, Arrivals};
use super::autoscaler::{Autoscaler, DECIDE_EVERY_US};
use super::profile::Profile;
use super::random::Random;
use super::replica::{Listener, Replica};
use super::request::{End, Fate, Place, Request, event};
use crate::core::event::{Outcome, ReplicaState};

/// How long a replica that was there at the beginning is said to have loaded.
const FORMER_LOAD_US: u64 = 30_000_000;

/// How the requests of a deployment ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub arrived: u64,
    pub completed: u64,
    pub client_gone: u64,
    pub timed_out: u64,
    pub aborted: u64,
    pub refused: u64,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Finish(u64),
    /// The client leaves, or the time limit is reached.
    CutShort(u64),
    Placed(u32, u32),
    Loaded(u32, u32),
    Restart(u32),
    Drained(u32),
    Sample(u32),
    Decide,
}

#[derive(Debug)]
pub struct Deployment {
    profile: Profile,
    random: Random,
    arrivals: Arrivals,
    upcoming: Arrival,
    /// From then on nobody asks any more.
    silent_from_us: i64,
    timeline: BinaryHeap<Reverse<(i64, u64, Due)>>,
    n_scheduled: u64,
    replicas: BTreeMap<u32, Replica>,
    n_replicas_ever: u32,
    requests: HashMap<u64, Request>,
    n_requests_ever: u64,
    queue: VecDeque<u64>,
    autoscaler: Autoscaler,
    last_arrival_us: i64,
    counts: Counts,
}

impl Deployment {
    /// Begins at `start_us` with the initial replicas loaded.
    pub fn new(
        profile: Profile,
        seed: u64,
        mut arrivals: Arrivals,
        silent_from_us: i64,
        start_us: i64,
    ) -> Self {
        let random = Random::of(seed, &profile.id, start_us);
        let upcoming = arrivals.take_next();
        let mut deployment = Self {
            profile,
            random,
            arrivals,
            upcoming,
            silent_from_us,
            timeline: BinaryHeap::new(),
            n_scheduled: 0,
            replicas: BTreeMap::new(),
            n_replicas_ever: 0,
            requests: HashMap::new(),
            n_requests_ever: 0,
            queue: VecDeque::new(),
            autoscaler: Autoscaler::default(),
            last_arrival_us: start_us,
            counts: Counts::default(),
        };
        for _ in 0..deployment.profile.scaling.initial {
            let number = deployment.add_replica(start_us);
            let replica = deployment.replica(number);
            replica.found_serving(FORMER_LOAD_US, start_us);
            deployment.schedule_restart(number, start_us);
        }
        let first = deployment.random.between(0.0, DECIDE_EVERY_US as f64) as i64;
        deployment.schedule(start_us + first, Due::Decide);
        deployment
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Waiting and being served.
    pub fn n_in_flight(&self) -> usize {
        self.requests.len()
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values()
    }

    /// Lets everything happen that happens before `end_us`. What ended in a second that is over by then has been told.
    pub fn advance(&mut self, end_us: i64, out: &mut impl Listener) {
        loop {
            let due = self
                .timeline
                .peek()
                .map_or(i64::MAX, |Reverse((at, _, _))| *at);
            let arrives = if self.upcoming.at_us < self.silent_from_us {
                self.upcoming.at_us
            } else {
                i64::MAX
            };
            if due.min(arrives) >= end_us {
                break;
            }
            if arrives <= due {
                let next = self.arrivals.take_next();
                let arrival = std::mem::replace(&mut self.upcoming, next);
                self.arrive(arrival, out);
            } else if let Some(Reverse((at, _, due))) = self.timeline.pop() {
                self.happen(at, due, out);
            }
        }
        for replica in self.replicas.values_mut() {
            replica.send_ended_batch(&self.profile, end_us, out);
        }
    }

    /// Tells what has ended, though its second is not over.
    pub fn tell_all(&mut self, out: &mut impl Listener) {
        for replica in self.replicas.values_mut() {
            replica.send_batch(&self.profile, out);
        }
    }

    fn schedule(&mut self, at_us: i64, due: Due) {
        self.n_scheduled += 1;
        // the number keeps what falls on one microsecond in the order in which it was scheduled
        self.timeline.push(Reverse((at_us, self.n_scheduled, due)));
    }

    fn happen(&mut self, now: i64, due: Due, out: &mut impl Listener) {
        match due {
            Due::Finish(key) => {
                if let Some(request) = self.requests.get(&key) {
                    let end = request.fate.end();
                    self.end(key, end, now, out);
                }
            }
            Due::CutShort(key) => {
                if let Some(request) = self.requests.get(&key) {
                    let end = request.cut_short();
                    self.end(key, end, now, out);
                }
            }
            Due::Placed(number, boot) => self.load(number, boot, now),
            Due::Loaded(number, boot) => self.serve(number, boot, now),
            Due::Restart(number) => self.restart(number, now, out),
            Due::Drained(number) => self.remove_if_drained(number, now, out),
            Due::Sample(number) => self.sample(number, now, out),
            Due::Decide => self.decide(now),
        }
    }

    fn arrive(&mut self, arrival: Arrival, out: &mut impl Listener) {
        let now = arrival.at_us;
        self.counts.arrived += 1;
        self.last_arrival_us = now;
        let key = self.n_requests_ever;
        self.n_requests_ever += 1;
        if !self.replicas.values().any(Replica::is_staying) {
            // scaled to zero: the request itself wakes the deployment
            self.start_replica(now);
        }
        let is_anyone_serving = self
            .replicas
            .values()
            .any(|replica| replica.state == ReplicaState::Active);
        let request = Request {
            arrived_us: now,
            tokens: arrival.tokens,
            fate: Fate::draw(&self.profile.failures, &mut self.random),
            patience_us: self
                .random
                .log_normal(self.profile.failures.patience_us, 0.8) as i64,
            timeout_us: self.profile.failures.timeout_us,
            met_loading: !is_anyone_serving,
            place: Place::Waiting,
        };
        let is_full = self.queue.len() >= self.profile.failures.queue_limit;
        let cut_at = now + request.patience_us.min(request.timeout_us).max(1);
        self.requests.insert(key, request);
        if is_full {
            return self.end(key, End::Refused, now, out);
        }
        self.schedule(cut_at, Due::CutShort(key));
        self.queue.push_back(key);
        self.dispatch(now);
    }

    /// Gives waiting requests to the replicas that have the most room.
    fn dispatch(&mut self, now: i64) {
        while !self.queue.is_empty() {
            let concurrency = self.profile.serving.concurrency;
            let free = self
                .replicas
                .iter()
                .filter(|(_, r)| r.state == ReplicaState::Active && r.n_running < concurrency)
                .min_by_key(|(_, r)| r.n_running)
                .map(|(&number, _)| number);
            let (Some(number), Some(key)) = (free, self.queue.front().copied()) else {
                return;
            };
            self.queue.pop_front();
            let replica = self.replicas.get_mut(&number).expect("it was just found");
            replica.add_running(1, now);
            let load = replica.n_running as f64 / concurrency as f64;
            let request = self
                .requests
                .get_mut(&key)
                .expect("what waits is a request");
            let place = request.begin(&self.profile.serving, load, &mut self.random);
            request.place = Place::Running {
                replica: number,
                started_us: now,
                active_since_us: replica.active_since_us.unwrap_or(now),
                prefill_us: place.prefill_us,
                service_us: place.service_us,
                n_running: replica.n_running,
            };
            self.schedule(now + place.service_us, Due::Finish(key));
        }
    }

    /// A request ends, and the replica that it was in, or stood before, tells of it.
    fn end(&mut self, key: u64, end: End, now: i64, out: &mut impl Listener) {
        let Some(request) = self.requests.remove(&key) else {
            return;
        };
        let number = match request.place {
            Place::Running { replica, .. } => {
                if let Some(replica) = self.replicas.get_mut(&replica) {
                    replica.add_running(-1, now);
                }
                Some(replica)
            }
            Place::Waiting => {
                self.queue.retain(|&waiting| waiting != key);
                self.reporter()
            }
        };
        let number = match number {
            Some(number) => number,
            None => self.start_replica(now),
        };
        let counts = &mut self.counts;
        *match end.outcome() {
            Outcome::Completed => &mut counts.completed,
            Outcome::ClientGone => &mut counts.client_gone,
            Outcome::TimedOut => &mut counts.timed_out,
            Outcome::Aborted => &mut counts.aborted,
            Outcome::Refused => &mut counts.refused,
        } += 1;
        let event = event(&request, end, now, self.profile.tells_status);
        let replica = self
            .replicas
            .get_mut(&number)
            .expect("a replica with requests stays");
        replica.tell(&self.profile, event, out);
        self.dispatch(now);
    }

    /// The replica that tells of a request which never came into one.
    fn reporter(&self) -> Option<u32> {
        let rank = |replica: &Replica| match replica.state {
            ReplicaState::Active => 0,
            ReplicaState::Loading => 1,
            ReplicaState::Waiting => 2,
            ReplicaState::Stopping => 3,
        };
        self.replicas
            .iter()
            .min_by_key(|(_, replica)| rank(replica))
            .map(|(&number, _)| number)
    }
}

#[cfg(test)]
mod tests;
