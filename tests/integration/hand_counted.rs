//! The recount itself, on cases small enough to be counted by hand.

use crate::support::expect::Expect;
use crate::support::generator::{self, HOUR, MINUTE, Replica, SECOND, Schemas, event};
use crate::support::message::{Batch, Body, Event, Facts, Gpu, Logged, Message, Sample, Topic};
use crate::support::random::Random;
use crate::support::recount::{Question, Truth};

/// Noon of some day; all cases lie around it.
const NOON: i64 = 1_800_014_400 * SECOND;

fn facts(kind: &'static str) -> Facts {
    let text = || "f".to_owned();
    Facts {
        deployment_name: text(),
        model_id: text(),
        model_name: text(),
        environment: text(),
        kind,
        instance_type: text(),
    }
}

fn logged(offset: i64, mut body: Body) -> Logged {
    // each is a message of its own: what comes twice under one sequence is counted once
    match &mut body {
        Body::Batch(batch) => batch.head.sequence = offset,
        Body::Sample(sample) => sample.head.sequence = offset,
        Body::Garbage(_) => {}
    }
    let topic = if matches!(body, Body::Sample(_)) {
        Topic::Replicas
    } else {
        Topic::Requests
    };
    let message = Message {
        topic,
        key: "d".to_owned(),
        payload: vec![offset as u8],
        body,
    };
    Logged {
        message,
        partition: 1,
        offset,
        appended_at_us: NOON,
    }
}

fn batch(events: Vec<Event>) -> Batch {
    Replica::new(&mut Random::new(1), "d", "r", &facts("production")).batch(events)
}

fn request(finished_at_us: i64, end_to_end_us: i64, status: Option<i32>) -> Event {
    let outcome = "completed";
    Event {
        end_to_end_us,
        status,
        outcome,
        inference_us: None,
        ..event(&mut Random::new(2), finished_at_us)
    }
}

fn sample(
    replica: &str,
    kind: &'static str,
    at: i64,
    interval_us: i64,
    state: &'static str,
) -> Sample {
    let mut random = Random::new(3);
    let sample = Replica::new(&mut random, "d", replica, &facts(kind)).sample(
        &mut random,
        at,
        interval_us,
        state,
    );
    Sample {
        cpu_cores_used: None,
        cpu_cores_limit: None,
        memory_bytes: None,
        gpus: Vec::new(),
        ..sample
    }
}

fn ask(step: i64) -> Question<'static> {
    Question {
        deployment: "d",
        start: NOON / SECOND - 3600,
        stop: NOON / SECOND + 3600,
        step,
    }
}

#[test]
fn classes_and_rates_are_counted_by_completion() {
    let statuses = [
        Some(200),
        Some(299),
        Some(300),
        Some(499),
        Some(599),
        Some(600),
        Some(-1),
        None,
    ];
    let mut events: Vec<_> = statuses.iter().map(|s| request(NOON, 5, *s)).collect();
    events.push(Event {
        outcome: "client_gone",
        ..request(NOON + 10 * SECOND - 1, 5, Some(200))
    });
    events.push(request(NOON + 10 * SECOND, 5, Some(200)));
    let log = [logged(0, Body::Batch(batch(events)))];
    let rows = Truth::of(&log).inference_volume(&ask(10));
    assert_eq!(
        rows.keys().copied().collect::<Vec<_>>(),
        [NOON / SECOND, NOON / SECOND + 10]
    );
    let row = &rows[&(NOON / SECOND)];
    assert_eq!(row["requests"], Expect::Count(9));
    assert_eq!(row["rps_2xx"], Expect::PerSecond(3.0));
    assert_eq!(row["rps_4xx"], Expect::PerSecond(1.0));
    assert_eq!(row["rps_5xx"], Expect::PerSecond(1.0));
    assert_eq!(row["rps_other"], Expect::PerSecond(3.0));
    assert_eq!(row["rps_unclassified"], Expect::PerSecond(1.0));
    assert_eq!(row["client_gone"], Expect::Count(2));
}

#[test]
fn percentiles_lie_between_order_statistics() {
    let events = [0, 1000, 2000, 4000]
        .map(|us| request(NOON, us, None))
        .to_vec();
    let log = [logged(0, Body::Batch(batch(events)))];
    let row = &Truth::of(&log).response_time(&ask(60))[&(NOON / SECOND)];
    assert_eq!(
        row["end_to_end_p50_ms"],
        Expect::Percentile {
            low: 1.0,
            high: 2.0
        }
    );
    assert_eq!(
        row["end_to_end_p99_ms"],
        Expect::Percentile {
            low: 2.0,
            high: 4.0
        }
    );
    assert_eq!(row["inference_p50_ms"], Expect::Null);
    let zero = [logged(0, Body::Batch(batch(vec![request(NOON, 0, None)])))];
    let row = &Truth::of(&zero).response_time(&ask(60))[&(NOON / SECOND)];
    assert_eq!(
        row["end_to_end_p50_ms"],
        Expect::Percentile {
            low: 0.001,
            high: 0.001
        }
    );
}

#[test]
fn the_append_time_decides_what_is_too_late_and_too_early() {
    let at = [
        NOON - 48 * HOUR,
        NOON - 48 * HOUR - 1,
        NOON + 5 * MINUTE,
        NOON + 5 * MINUTE + 1,
        i64::MIN,
    ];
    let events = at.map(|at| request(at, 5, None)).to_vec();
    let garbage = logged(1, Body::Garbage(&["bad_framing"]));
    let log = [logged(0, Body::Batch(batch(events))), garbage];
    let truth = Truth::of(&log);
    let ledger = &truth.ledgers[&(Topic::Requests, 1)];
    assert_eq!(
        (ledger.to, ledger.events, ledger.late, ledger.invalid),
        (2, 2, 3, 1)
    );
    let letters = &truth.dead_letters[&(Topic::Requests, 1, 0)];
    let of = |i: usize| (letters[i].reasons.clone(), letters[i].events.clone());
    assert_eq!(of(0), (vec!["late"], Some(vec![1, 4])));
    assert_eq!(of(1), (vec!["early"], Some(vec![3])));
    assert!(truth.dead_letters.contains_key(&(Topic::Requests, 1, 1)));
}

#[test]
fn a_sample_is_split_at_the_edges_of_steps() {
    let log = [
        logged(
            0,
            Body::of(sample(
                "a",
                "production",
                NOON + 4 * SECOND,
                12 * SECOND,
                "active",
            )),
        ),
        logged(
            1,
            Body::of(sample(
                "b",
                "production",
                NOON + 10 * SECOND,
                10 * SECOND,
                "loading",
            )),
        ),
        logged(
            2,
            Body::of(sample(
                "c",
                "development",
                NOON + 10 * SECOND,
                5 * SECOND,
                "loading",
            )),
        ),
        logged(
            3,
            Body::of(sample("d", "production", NOON + 30 * SECOND, 0, "active")),
        ),
    ];
    let truth = Truth::of(&log);
    let rows = truth.replicas(&ask(10));
    let noon = NOON / SECOND;
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [noon - 10, noon]);
    assert_eq!(rows[&(noon - 10)]["active"], Expect::PerSecond(8.0));
    assert_eq!(rows[&noon]["active"], Expect::PerSecond(9.0));
    assert_eq!(rows[&noon]["starting"], Expect::PerSecond(10.0));
    assert_eq!(truth.cpu(&ask(10))[&noon]["replicas"], Expect::Count(3));
}

#[test]
fn readings_are_means_of_replicas_means() {
    let used = |replica: &str, at: i64, interval, cores, limit| Sample {
        cpu_cores_used: cores,
        cpu_cores_limit: limit,
        ..sample(replica, "production", at, interval, "active")
    };
    let log = [
        // Replica a: 1 core for 2 s, 4 cores for 8 s: 3.4. Replica b: 1 core. Replica c: unknown.
        logged(
            0,
            Body::of(used(
                "a",
                NOON + 2 * SECOND,
                2 * SECOND,
                Some(1.0),
                Some(4.0),
            )),
        ),
        logged(
            1,
            Body::of(used(
                "a",
                NOON + 10 * SECOND,
                8 * SECOND,
                Some(4.0),
                Some(4.0),
            )),
        ),
        logged(
            2,
            Body::of(used(
                "b",
                NOON + 5 * SECOND,
                5 * SECOND,
                Some(1.0),
                Some(0.0),
            )),
        ),
        logged(
            3,
            Body::of(used("c", NOON + 5 * SECOND, 5 * SECOND, None, Some(2.0))),
        ),
    ];
    let row = &Truth::of(&log).cpu(&ask(10))[&(NOON / SECOND)];
    assert_eq!(row["usage_cores_avg"], Expect::Mean((3.4 + 1.0) / 2.0));
    assert_eq!(row["usage_cores_max"], Expect::Exactly(4.0));
    assert_eq!(
        row["limit_cores_avg"],
        Expect::Mean((4.0 + 0.0 + 2.0) / 3.0)
    );
    assert_eq!(row["usage_ratio_avg"], Expect::Mean(0.85));
    assert_eq!(row["memory_bytes_avg"], Expect::Null);
    assert_eq!(row["replicas"], Expect::Count(3));
}

#[test]
fn a_gpu_that_cannot_be_read_is_no_zero() {
    let gpu = |utilization, used, total| Gpu {
        uuid: "u".to_owned(),
        name: "n".to_owned(),
        utilization,
        sm_activity: None,
        memory_used_bytes: used,
        memory_total_bytes: total,
    };
    let with = |replica: &str, gpus| Sample {
        gpus,
        ..sample(replica, "production", NOON + SECOND, SECOND, "active")
    };
    let log = [
        logged(
            0,
            Body::of(with(
                "a",
                vec![gpu(Some(0.5), Some(10), Some(20)), gpu(None, None, None)],
            )),
        ),
        logged(
            1,
            Body::of(with(
                "b",
                vec![
                    gpu(Some(0.0), Some(30), None),
                    gpu(Some(1.0), Some(50), Some(100)),
                ],
            )),
        ),
        logged(2, Body::of(with("c", Vec::new()))),
    ];
    let row = &Truth::of(&log).gpu(&ask(10))[&(NOON / SECOND)];
    assert_eq!(row["replicas"], Expect::Count(3));
    assert_eq!(row["gpus"], Expect::Count(4));
    assert_eq!(row["usage_ratio_avg"], Expect::Mean(0.5));
    assert_eq!(row["usage_ratio_max"], Expect::Exactly(1.0));
    assert_eq!(row["memory_used_bytes_avg"], Expect::Mean(25.0));
    assert_eq!(row["memory_used_bytes_max"], Expect::Exactly(50.0));
    assert_eq!(row["memory_total_bytes_avg"], Expect::Mean(60.0));
    assert_eq!(row["memory_ratio_avg"], Expect::Mean(0.5));
    assert_eq!(row["sm_activity_avg"], Expect::Null);
}

#[test]
fn a_range_is_aligned_outward() {
    let events = [-1, 0, 59, 60]
        .map(|s| request(NOON + s * SECOND, 5, None))
        .to_vec();
    let log = [logged(0, Body::Batch(batch(events)))];
    let truth = Truth::of(&log);
    let rows = |start, stop| {
        let question = Question {
            deployment: "d",
            start: NOON / SECOND + start,
            stop: NOON / SECOND + stop,
            step: 60,
        };
        truth
            .inference_volume(&question)
            .keys()
            .map(|t| t - NOON / SECOND)
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(30, 31), [0]);
    assert_eq!(rows(30, 61), [0, 60]);
    assert_eq!(rows(-1, 0), [-60]);
    assert_eq!(rows(30, 30), [0]);
    assert_eq!(rows(0, 0), [] as [i64; 0]);
}

/// A failing run must be repeatable, and another seed must be another load.
#[test]
fn a_seed_repeats_its_load() {
    let load = |seed| generator::load(&mut Random::new(seed), &Schemas::built_in(), NOON);
    let (first, again, other) = (load(7), load(7), load(8));
    let payloads = |messages: &[Message]| {
        messages
            .iter()
            .map(|m| m.payload.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(payloads(&first), payloads(&again));
    assert_ne!(payloads(&first), payloads(&other));
    let n_of = |topic| first.iter().filter(|m| m.topic == topic).count();
    println!(
        "{} batches and {} samples",
        n_of(Topic::Requests),
        n_of(Topic::Replicas)
    );
    assert!(n_of(Topic::Requests) > 1_000 && n_of(Topic::Replicas) > 1_500);
}
