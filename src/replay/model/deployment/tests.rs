//! The laws that every modelled deployment keeps, held against random profiles of load.

use std::collections::BTreeMap;

use super::*;
use crate::bus::avro::NamedGpu;
use crate::core::event::{BatchHead, ReplicaSample, RequestEvent};
use crate::replay::fleet::{Beginning, Fleet};
use crate::replay::model::profile::SECOND;
use crate::replay::summary::Summary;
use crate::replay::traces::Traces;

const START: i64 = 1_790_000_000_000_000;
const MINUTE: i64 = 60 * SECOND;

/// One producer's messages: deployment, replica, boot.
type Source = (String, String, [u8; 16]);

/// Keeps what was said, by who said it.
#[derive(Default)]
struct Heard {
    batches: BTreeMap<Source, Vec<Vec<RequestEvent>>>,
    /// Sequence, end and length of each sample.
    samples: BTreeMap<Source, Vec<(i64, i64, u64)>>,
    summary: Summary,
    last_states: BTreeMap<(String, String), ReplicaState>,
    most_in_flight: BTreeMap<String, u32>,
}

fn source(head: &BatchHead<'_>) -> Source {
    let (deployment, replica) = (head.deployment_id, head.replica_id);
    (deployment.to_owned(), replica.to_owned(), head.boot_id)
}

impl Listener for Heard {
    fn batch(&mut self, head: &BatchHead<'_>, events: &[RequestEvent]) {
        let batches = self.batches.entry(source(head)).or_default();
        assert_eq!(head.sequence, batches.len() as i64, "no gap, from 0");
        assert!(!events.is_empty() && events.len() <= 10_000);
        assert!(events.is_sorted_by_key(|event| event.finished_at_us));
        if let Some(before) = batches.last() {
            let second = |event: &RequestEvent| event.finished_at_us / SECOND;
            let (ended, begins) = (before.last().map(second), events.first().map(second));
            assert!(ended < begins, "one batch a second");
        }
        batches.push(events.to_vec());
        let produced = self.summary.of(head.deployment_id);
        events.iter().for_each(|event| produced.add_event(event));
        let most = self
            .most_in_flight
            .entry(head.deployment_id.to_owned())
            .or_default();
        *most = events.iter().map(|e| e.in_flight).fold(*most, u32::max);
    }

    fn sample(&mut self, sample: &ReplicaSample<'_>, gpus: &[NamedGpu<'_>]) {
        let samples = self.samples.entry(source(&sample.head)).or_default();
        assert_eq!(sample.head.sequence, samples.len() as i64, "no gap, from 0");
        samples.push((
            sample.head.sequence,
            sample.sampled_at_us,
            sample.interval_us,
        ));
        let replica = (sample.head.deployment_id, sample.head.replica_id);
        let replica = (replica.0.to_owned(), replica.1.to_owned());
        self.last_states.insert(replica, sample.state);
        for ratio in gpus.iter().filter_map(|gpu| gpu.reading.utilization) {
            assert!((0.0..=1.0).contains(&ratio));
        }
        self.summary
            .of(sample.head.deployment_id)
            .add_sample(sample);
    }
}

fn fleet(seed: u64, start_us: i64, speed: f64) -> Fleet {
    fleet_of(seed, start_us, speed, false)
}

fn fleet_of(seed: u64, start_us: i64, speed: f64, is_continued: bool) -> Fleet {
    let beginning = Beginning {
        seed,
        start_us,
        live_from_us: start_us + 40 * MINUTE,
        speed,
        is_continued,
    };
    Fleet::new(&Traces::load().expect("traces"), beginning)
}

/// Long enough for waves, for silences and for what follows them.
const END: i64 = START + 80 * MINUTE;

/// Plays to the end in steps of this length.
fn played(seed: u64, speed: f64, step_us: i64) -> (Fleet, Heard) {
    let mut fleet = fleet(seed, START, speed);
    let mut heard = Heard::default();
    let mut reached = START;
    while reached < END {
        reached = (reached + step_us).min(END);
        fleet.advance(reached, &mut heard);
    }
    fleet.tell_all(&mut heard);
    (fleet, heard)
}

#[test]
fn every_request_is_somewhere_once_and_places_are_never_exceeded() {
    for (seed, speed) in [(1, 1.0), (2, 3.0)] {
        let (fleet, mut heard) = played(seed, speed, MINUTE);
        let mut arrived = 0;
        for deployment in fleet.deployments() {
            let counts = deployment.counts();
            let profile = deployment.profile();
            let ended = counts.completed
                + counts.client_gone
                + counts.timed_out
                + counts.aborted
                + counts.refused;
            let here = deployment.n_in_flight() as u64;
            assert_eq!(counts.arrived, ended + here, "{}", profile.id);
            let running: usize = deployment.replicas().map(|r| r.n_running).sum();
            assert_eq!(here, (running + deployment.queue.len()) as u64);
            let told = heard.summary.of(&profile.id).clone();
            assert_eq!(told.requests, ended, "{}", profile.id);
            assert_eq!(told.completed, counts.completed);
            assert_eq!(told.refused, counts.refused);
            let most = heard.most_in_flight.get(&profile.id).copied().unwrap_or(0);
            assert!(
                most as usize <= profile.serving.concurrency,
                "{}",
                profile.id
            );
            arrived += counts.arrived;
        }
        assert!(arrived > 40_000, "{arrived} requests are no load");
    }
}

#[test]
fn messages_do_not_depend_on_the_steps() {
    let (_, coarse) = played(1, 1.0, 17 * MINUTE);
    let (_, fine) = played(1, 1.0, 700_123);
    assert_eq!(coarse.summary, fine.summary);
    assert_eq!(coarse.samples, fine.samples);
    assert!(coarse.batches == fine.batches, "the same batches");
    let (_, other) = played(2, 1.0, 17 * MINUTE);
    assert_ne!(coarse.summary, other.summary);
}

#[test]
fn samples_of_a_replica_follow_one_another_without_gap_or_overlap() {
    let (_, heard) = played(3, 1.0, MINUTE);
    let mut by_replica: BTreeMap<(String, String), Vec<(i64, u64)>> = BTreeMap::new();
    for ((deployment, replica, _), samples) in &heard.samples {
        let of = by_replica
            .entry((deployment.clone(), replica.clone()))
            .or_default();
        of.extend(samples.iter().map(|&(_, at, interval)| (at, interval)));
    }
    for (replica, mut samples) in by_replica {
        samples.sort_unstable();
        for pair in samples.windows(2) {
            let [(before, _), (at, interval)] = pair else {
                unreachable!("windows of two")
            };
            assert_eq!(at - before, *interval as i64, "{replica:?}");
        }
    }
}

/// A page calls a deployment scaled to zero once its last replica has said that it stops. A run before this one may have ended
/// with that replica running.
#[test]
fn what_idles_to_zero_says_so_in_a_run_that_goes_on() {
    let mut fleet = fleet_of(1, START, 1.0, true);
    let mut heard = Heard::default();
    fleet.advance(END, &mut heard);
    let may_go = |d: &&Deployment| d.profile().scaling.min == 0;
    let at_zero: Vec<&str> = fleet
        .deployments()
        .iter()
        .filter(may_go)
        .filter(|deployment| deployment.replicas().count() == 0)
        .map(|deployment| deployment.profile().id.as_str())
        .collect();
    assert!(at_zero.contains(&"batch-labelling"), "{at_zero:?}");
    assert!(at_zero.len() > 3, "clients go, too: {at_zero:?}");
    for id in at_zero {
        let mut states = heard
            .last_states
            .iter()
            .filter(|((deployment, _), _)| deployment == id)
            .map(|(_, state)| *state)
            .peekable();
        assert!(states.peek().is_some(), "{id} says something");
        assert!(
            states.all(|state| state == ReplicaState::Stopping),
            "{id} says that it stopped"
        );
    }
    assert_eq!(heard.summary.of("batch-labelling").requests, 0);
}

#[test]
fn the_fleet_shows_what_it_is_meant_to() {
    let (fleet, mut heard) = played(1, 1.0, MINUTE);
    assert_eq!(fleet.deployments().len(), 81);
    let zero = fleet
        .deployments()
        .iter()
        .find(|d| d.profile().id == "batch-labelling")
        .expect("the one scaled to zero");
    assert_eq!(zero.replicas().count(), 0);
    let of = |heard: &mut Heard, id: &str| heard.summary.of(id).clone();
    assert!(of(&mut heard, "batch-labelling").requests > 100);
    assert!(of(&mut heard, "batch-labelling").stopping_us > 0);
    let old = of(&mut heard, "legacy-summaries");
    assert_eq!((old.unclassified, old.requests > 0), (old.requests, true));
    let overloaded = of(&mut heard, "flash-sale-chat");
    assert!(overloaded.refused > 50 && overloaded.client_gone > 50);
    assert!(overloaded.completed > overloaded.refused);
    let development = of(&mut heard, "chat-assistant-dev");
    assert!(development.is_development && development.loading_us > 0);
    let cold: u64 = heard
        .summary
        .deployments
        .values()
        .map(|d| d.cold_starts)
        .sum();
    assert!(cold > 0, "a rare client meets a replica that loads");
}
