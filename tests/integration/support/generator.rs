//! Makes the load of the truth test: every state, kind, status class, outcome and null that the wire
//! allows, spread over two days. It knows what it said, and nothing of how it is counted.

use std::collections::BTreeMap;

use super::message::{Batch, Body, Event, Facts, Gpu, Head, Message, Sample, Topic};
use super::random::Random;
use super::rubbish;
use super::wire::{self, Writer};

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// The wire's limit on what one sample may speak for.
const LONGEST_INTERVAL: i64 = 5 * MINUTE;

/// Among them what sixteen bits would take for a 200 or for none.
const STATUSES: [i32; 25] = [
    200,
    200,
    200,
    201,
    204,
    299,
    300,
    304,
    399,
    400,
    404,
    429,
    499,
    500,
    503,
    599,
    100,
    199,
    600,
    -1,
    99,
    65_535,
    65_736,
    i32::MAX,
    i32::MIN,
];
const OUTCOMES: [&str; 5] = [
    "completed",
    "client_gone",
    "timed_out",
    "aborted",
    "refused",
];

/// The current schemas, as producers use them.
pub struct Schemas {
    pub batch: Writer,
    pub sample: Writer,
}

impl Schemas {
    pub fn built_in() -> Self {
        let folder = super::root().join("schemas");
        Self {
            batch: Writer::read(&folder.join("request_batch.avsc")),
            sample: Writer::read(&folder.join("replica_sample.avsc")),
        }
    }

    pub fn batch(&self, batch: Batch) -> Message {
        Message {
            topic: Topic::Requests,
            key: batch.head.deployment_id.clone(),
            payload: self.batch.write(&wire::batch(&batch)),
            body: Body::Batch(batch),
        }
    }

    pub fn sample(&self, sample: Sample) -> Message {
        Message {
            topic: Topic::Replicas,
            key: sample.head.deployment_id.clone(),
            payload: self.sample.write(&wire::sample(&sample)),
            body: Body::of(sample),
        }
    }
}

/// One start of one replica; numbers its messages as the wire wants it.
pub struct Replica {
    head: Head,
    next_batch: i64,
    next_sample: i64,
    pub facts: Facts,
}

impl Replica {
    pub fn new(random: &mut Random, deployment: &str, replica: &str, facts: &Facts) -> Self {
        Self {
            head: Head {
                deployment_id: deployment.to_owned(),
                replica_id: replica.to_owned(),
                boot_id: random.boot_id(),
                sequence: 0,
                producer: "generator/1".to_owned(),
            },
            next_batch: 0,
            next_sample: 0,
            facts: facts.clone(),
        }
    }

    pub fn batch(&mut self, events: Vec<Event>) -> Batch {
        let head = Head {
            sequence: self.next_batch,
            ..self.head.clone()
        };
        self.next_batch += 1;
        Batch { head, events }
    }

    /// A sample with a state and an interval, and random readings.
    pub fn sample(
        &mut self,
        random: &mut Random,
        at: i64,
        interval_us: i64,
        state: &'static str,
    ) -> Sample {
        let head = Head {
            sequence: self.next_sample,
            ..self.head.clone()
        };
        self.next_sample += 1;
        let limit: f64 = *random.pick(&[0.0, 0.5, 4.0, 64.0]);
        let memory_limit = *random.pick(&[0, 1 << 30, 64 << 30]);
        Sample {
            head,
            sampled_at_us: at,
            interval_us,
            state,
            facts: self.facts.clone(),
            cpu_cores_used: random.maybe(0.8, |r| r.unit() * limit.max(0.1) * 1.2),
            cpu_cores_limit: random.maybe(0.8, |_| limit),
            memory_bytes: random.maybe(0.8, |r| r.between(0, 80 << 30)),
            memory_limit_bytes: random.maybe(0.8, |_| memory_limit),
            gpus: gpus(random),
            in_flight: random.maybe(0.8, |r| r.between(0, 200) as i32),
            in_flight_mean: random.maybe(0.8, |r| r.unit() * 200.0),
            oldest_in_flight_us: random.maybe(0.5, |r| r.between(0, HOUR)),
            restarts: random.between(0, 4) as i32,
            load_us: random.maybe(0.5, |r| r.between(0, HOUR)),
            dropped: [("queue_full", 0.1), ("too_large", 0.1)]
                .iter()
                .filter_map(|(reason, p)| {
                    random.maybe(*p, |r| ((*reason).to_owned(), r.between(0, 9)))
                })
                .collect(),
        }
    }
}

/// No GPU, one, or two of which the second may be unreadable; each reading may be missing by itself.
fn gpus(random: &mut Random) -> Vec<Gpu> {
    let count = *random.pick(&[0, 1, 2, 2]);
    (0..count)
        .map(|index| {
            let readable = if index == 1 && random.chance(0.5) {
                0.0
            } else {
                0.85
            };
            Gpu {
                uuid: format!("GPU-{index}"),
                name: "H100".to_owned(),
                utilization: random.maybe(readable, |r| *r.pick(&[0.0, 0.25, 0.73, 1.0])),
                sm_activity: random.maybe(readable, Random::unit),
                memory_used_bytes: random.maybe(readable, |r| r.between(0, 80 << 30)),
                memory_total_bytes: random.maybe(readable, |r| *r.pick(&[80 << 30, 40 << 30, 0])),
            }
        })
        .collect()
}

/// A request that finished then; any status, outcome and null.
pub fn event(random: &mut Random, finished_at_us: i64) -> Event {
    let end_to_end_us = match random.between(0, 200) {
        0 => 0,
        1 => 1,
        2 => 7 * DAY,
        3 => 1_000_000_000_000_000,
        _ => random.log_normal(120_000.0, 1.4),
    };
    let part = |r: &mut Random| (end_to_end_us as f64 * r.unit()) as i64;
    let cold_start = random.chance(0.1);
    Event {
        finished_at_us,
        end_to_end_us,
        inference_us: random.maybe(0.8, part),
        first_byte_us: random.maybe(0.7, part),
        queue_us: random.maybe(0.7, part),
        status: random.maybe(0.9, |r| *r.pick(&STATUSES)),
        outcome: random.pick::<&str>(&OUTCOMES),
        cold_start,
        // A wait without the mark, and the mark without a wait, are both on the wire.
        cold_start_us: if cold_start != random.chance(0.1) {
            Some(part(random))
        } else {
            None
        },
        request_bytes: random.between(0, 1 << 20),
        response_bytes: random.between(0, 1 << 30),
        in_flight: random.between(0, 300) as i32,
    }
}

/// A completion time: mostly anywhere in the episode, some exactly on a window's edge or just below.
fn moment(random: &mut Random, (from, to): (i64, i64)) -> i64 {
    let at = random.between(from, to);
    match random.between(0, 20) {
        0 => at / (10 * SECOND) * (10 * SECOND),
        1 => at / (10 * SECOND) * (10 * SECOND) - 1,
        2 => at / HOUR * HOUR,
        _ => at,
    }
}

/// A time outside what is accepted, or close to its edge: the append time in the log decides.
fn odd_moment(random: &mut Random, now: i64) -> i64 {
    match random.between(0, 14) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => 0,
        3 => -1,
        4 | 5 => now - 48 * HOUR - random.between(SECOND, 20 * HOUR),
        6 => now - 48 * HOUR + random.between(-20 * SECOND, 90 * SECOND),
        7 => now + 5 * MINUTE + random.between(-10 * SECOND, 90 * SECOND),
        8 => now + 3 * DAY,
        9 => now + 4 * MINUTE,
        10 => now - 47 * HOUR,
        11 => now - 3_650 * DAY,
        12 => now + 3_650 * DAY,
        _ => now + random.between(8 * MINUTE, DAY),
    }
}

fn facts(name: &str, kind: &'static str) -> Facts {
    Facts {
        deployment_name: format!("{name} name"),
        model_id: format!("model-{name}"),
        model_name: "a 'quoted' \\ model".to_owned(),
        environment: "production-eu".to_owned(),
        kind,
        instance_type: "a2-highgpu".to_owned(),
    }
}

/// What a deployment of the load has.
struct Shape {
    deployment: String,
    facts: Facts,
    replicas: usize,
    samples: bool,
    requests: bool,
}

fn shapes() -> Vec<Shape> {
    let shape = |deployment: &str, kind, replicas, samples, requests| Shape {
        deployment: deployment.to_owned(),
        facts: facts(deployment, kind),
        replicas,
        samples,
        requests,
    };
    vec![
        shape("chat", "production", 3, true, true),
        shape("Embed_v2.1:blue-green", "production", 4, true, true),
        shape("notebook", "development", 2, true, true),
        shape(&"x".repeat(128), "production", 1, true, true),
        shape("no-samples", "production", 2, false, true),
        shape("no-requests", "production", 2, true, false),
        shape("__starts_with_underscores", "development", 1, true, true),
    ]
}

/// The whole load, in the order in which it happened; the caller shuffles.
pub fn load(random: &mut Random, schemas: &Schemas, now: i64) -> Vec<Message> {
    let episodes = [
        (now - 47 * HOUR, now - 47 * HOUR + 12 * MINUTE),
        (now - 5 * HOUR - 10 * MINUTE, now - 4 * HOUR - 40 * MINUTE),
        (now - 15 * MINUTE, now + 4 * MINUTE),
    ];
    let mut messages = Vec::new();
    for shape in shapes() {
        for episode in episodes {
            for index in 0..shape.replicas {
                // Replicas come and go: some live in part of an episode only, ids are used again.
                let late_start = random.between(0, 4 * MINUTE) * i64::from(random.chance(0.5));
                let life = (
                    episode.0 + late_start,
                    episode.1 - random.between(0, 2 * MINUTE),
                );
                let mut facts = shape.facts.clone();
                if episode.0 > now - HOUR && index == 0 {
                    facts.environment = "production-us".to_owned();
                }
                let mut replica =
                    Replica::new(random, &shape.deployment, &format!("r-{index}"), &facts);
                if shape.samples {
                    messages.extend(life_in_samples(random, schemas, &mut replica, life, now));
                }
                if shape.requests {
                    messages.extend(life_in_requests(random, schemas, &mut replica, life, now));
                }
            }
        }
    }
    messages.extend(rubbish::messages(random, schemas, now));
    messages
}

/// Samples of one life: mostly every 5 s, some lost, some overlapping, some speaking for minutes.
fn life_in_samples(
    random: &mut Random,
    schemas: &Schemas,
    replica: &mut Replica,
    (from, to): (i64, i64),
    now: i64,
) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut at = from;
    while at < to {
        let since = match random.between(0, 40) {
            0 => LONGEST_INTERVAL,
            1 => random.between(1, LONGEST_INTERVAL),
            2 => 61 * SECOND,
            _ => random.between(4_900_000, 5_100_000),
        };
        at += since;
        if at >= to || random.chance(0.08) {
            continue;
        }
        let interval = match random.between(0, 30) {
            0 => 0,
            1 => (since * 2).min(LONGEST_INTERVAL),
            2 => 1,
            _ => since,
        };
        let state = match (at - from) * 10 / (to - from) {
            0 => "waiting",
            1 | 2 => "loading",
            9 => "stopping",
            _ => *random.pick(&["active", "active", "active", "loading", "stopping"]),
        };
        let edge = if random.chance(0.1) {
            at / (10 * SECOND) * (10 * SECOND)
        } else {
            at
        };
        messages.push(schemas.sample(replica.sample(random, edge, interval, state)));
    }
    for _ in 0..2 {
        let at = odd_moment(random, now);
        messages.push(schemas.sample(replica.sample(random, at, 5 * SECOND, "active")));
    }
    messages
}

/// Batches of one life: of one event up to many, some with refused events among accepted ones.
fn life_in_requests(
    random: &mut Random,
    schemas: &Schemas,
    replica: &mut Replica,
    life: (i64, i64),
    now: i64,
) -> Vec<Message> {
    (0..50)
        .map(|index| {
            let count = *random.pick(&[1, 1, 3, 10, 25]);
            let odd = match index {
                0 => 1.0,
                1..=4 => 0.4,
                _ => 0.0,
            };
            let events = (0..count)
                .map(|_| {
                    let at = if random.chance(odd) {
                        odd_moment(random, now)
                    } else {
                        moment(random, life)
                    };
                    event(random, at)
                })
                .collect();
            schemas.batch(replica.batch(events))
        })
        .collect()
}

/// Messages between one that is sent twice and the second time.
const REPEATED_WITHIN: usize = 200;

/// Puts messages in a random order in which each producer's stand as it numbered them, give or take a few, and repeats
/// some a little later, as a producer does whose acknowledgement was lost.
pub fn mix(random: &mut Random, messages: &mut Vec<Message>) {
    random.shuffle(messages);
    let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (place, message) in messages.iter().enumerate() {
        if let Some(head) = message.body.head() {
            let producer = (
                message.topic,
                head.deployment_id.clone(),
                head.replica_id.clone(),
                head.boot_id,
            );
            places.entry(producer).or_default().push(place);
        }
    }
    let sequence = |message: &Message| message.body.head().map_or(0, |head| head.sequence);
    for places in places.values() {
        let mut of_producer: Vec<Message> = places
            .iter()
            .map(|&place| messages[place].clone())
            .collect();
        of_producer.sort_by_cached_key(|message| sequence(message) + random.between(0, 20));
        for (&place, message) in places.iter().zip(of_producer) {
            messages[place] = message;
        }
    }
    for place in (0..messages.len()).rev() {
        if messages[place].body.head().is_some() && random.chance(0.02) {
            let later = place + random.between(1, REPEATED_WITHIN as i64) as usize;
            messages.insert(later.min(messages.len()), messages[place].clone());
        }
    }
}
