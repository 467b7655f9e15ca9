//! Messages that must be refused whole: counted as invalid, set aside with a reason, and no more.

use super::generator::{HOUR, MINUTE, Replica, SECOND, Schemas, event};
use super::message::{Body, Facts, Message, Sample, Topic};
use super::random::Random;
use super::wire;

/// Framing: marker and fingerprint.
const FRAME: usize = 10;

type Spoil = fn(&mut Sample);
type Reasons = &'static [&'static str];
const FRAMING: Reasons = &["bad_framing"];
const SCHEMA: Reasons = &["unknown_schema"];
const WRONG_MESSAGE: Reasons = &["wrong_message"];
const TRUNCATED: Reasons = &["truncated"];
const BAD_TEXT: Reasons = &["bad_text"];
const NO_EVENTS: Reasons = &["no_events"];
const TOO_MANY: Reasons = &["too_many_events", "truncated"];
const BAD_ID: Reasons = &["bad_id"];
const BAD_VALUE: Reasons = &["bad_value"];

/// Three rounds of every kind of rubbish, on the topic where it hurts.
pub fn messages(random: &mut Random, schemas: &Schemas, now: i64) -> Vec<Message> {
    (0..3)
        .flat_map(|_| {
            let mut all = bad_frames(random, schemas, now);
            all.extend(bad_batches(random, schemas, now));
            all.extend(bad_samples(random, schemas, now));
            all
        })
        .collect()
}

/// Something that was meant for another topic.
pub fn no_avro(topic: Topic) -> Message {
    garbage(
        topic,
        "rubbish",
        b"{\"deployment_id\": \"json\"}".to_vec(),
        FRAMING,
    )
}

fn garbage(topic: Topic, key: &str, payload: Vec<u8>, reasons: Reasons) -> Message {
    Message {
        topic,
        key: key.to_owned(),
        payload,
        body: Body::Garbage(reasons),
    }
}

fn replica(random: &mut Random) -> Replica {
    let facts = Facts {
        deployment_name: "must never be seen".to_owned(),
        model_id: String::new(),
        model_name: String::new(),
        environment: String::new(),
        kind: "production",
        instance_type: String::new(),
    };
    Replica::new(random, "rubbish", "r", &facts)
}

fn bad_frames(random: &mut Random, schemas: &Schemas, now: i64) -> Vec<Message> {
    let mut speaker = replica(random);
    let events = vec![event(random, now - HOUR), event(random, now - HOUR)];
    let good_batch = schemas.batch(speaker.batch(events)).payload;
    let good_sample = schemas
        .sample(speaker.sample(random, now - HOUR, 5 * SECOND, "active"))
        .payload;
    let cut = random.between(FRAME as i64, good_batch.len() as i64) as usize;
    let mut unknown = good_batch.clone();
    unknown[5] ^= 0x55;
    let mut no_marker = good_batch.clone();
    no_marker[0] = 0;
    // an id of 16 GiB, announced in five bytes
    let bomb = [&good_batch[..FRAME], &[0xFE, 0xFF, 0xFF, 0xFF, 0x7F]].concat();
    let mut trailing = good_batch.clone();
    trailing.push(0);
    let bytes = (0..random.between(1, 200))
        .map(|_| random.next() as u8 | 1)
        .collect::<Vec<u8>>();
    let of = |topic, payload: Vec<u8>, reasons| garbage(topic, "rubbish", payload, reasons);
    vec![
        of(Topic::Requests, Vec::new(), FRAMING),
        of(Topic::Replicas, Vec::new(), FRAMING),
        of(
            Topic::Requests,
            b"{\"deployment_id\": \"json\"}".to_vec(),
            FRAMING,
        ),
        of(Topic::Requests, good_batch[..FRAME - 1].to_vec(), FRAMING),
        of(Topic::Requests, no_marker, FRAMING),
        // 0xC3 is odd: the first byte decides, and it is the marker's only by a chance of 1 in 128.
        of(Topic::Replicas, [vec![1], bytes].concat(), FRAMING),
        of(Topic::Requests, unknown, SCHEMA),
        of(Topic::Requests, good_batch[..cut].to_vec(), TRUNCATED),
        of(
            Topic::Replicas,
            good_sample[..good_sample.len() - 1].to_vec(),
            TRUNCATED,
        ),
        of(Topic::Requests, bomb, BAD_TEXT),
        of(Topic::Requests, trailing, BAD_VALUE),
        of(Topic::Requests, good_sample, WRONG_MESSAGE),
        of(Topic::Replicas, good_batch, WRONG_MESSAGE),
    ]
}

fn bad_batches(random: &mut Random, schemas: &Schemas, now: i64) -> Vec<Message> {
    let mut all = Vec::new();
    let mut push =
        |payload: Vec<u8>, reasons| all.push(garbage(Topic::Requests, "rubbish", payload, reasons));
    let ids = ["", "a b", "a/b", "ümlaut", "a\u{0}b", "__other__ "].map(str::to_owned);
    for id in ids.into_iter().chain(["y".repeat(129)]) {
        let mut batch = replica(random).batch(vec![event(random, now - HOUR)]);
        batch.head.deployment_id = id.clone();
        push(schemas.batch(batch.clone()).payload, BAD_ID);
        batch.head.deployment_id = "rubbish".to_owned();
        batch.head.replica_id = id;
        push(schemas.batch(batch).payload, BAD_ID);
    }
    for spoil in 0..6 {
        let mut events: Vec<_> = (0..5).map(|_| event(random, now - HOUR)).collect();
        let spoilt = &mut events[random.between(0, 5) as usize];
        match spoil {
            0 => spoilt.end_to_end_us = -1,
            1 => spoilt.inference_us = Some(i64::MIN),
            2 => spoilt.queue_us = Some(-5),
            3 => spoilt.request_bytes = -1,
            4 => spoilt.in_flight = -1,
            _ => spoilt.cold_start_us = Some(-1),
        }
        push(
            schemas.batch(replica(random).batch(events)).payload,
            BAD_VALUE,
        );
    }
    let mut backwards = replica(random).batch(vec![event(random, now - HOUR)]);
    backwards.head.sequence = -1;
    push(schemas.batch(backwards).payload, BAD_VALUE);
    let none = replica(random).batch(Vec::new());
    let empty = schemas.batch(none).payload;
    // The array of no event is one zero byte, the last one: a huge count in its place.
    let mut huge = empty[..empty.len() - 1].to_vec();
    huge.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x02]);
    push(empty, NO_EVENTS);
    push(huge, TOO_MANY);
    let event = event(random, now - MINUTE);
    push(
        schemas
            .batch(replica(random).batch(vec![event; 10_001]))
            .payload,
        TOO_MANY,
    );
    all
}

fn bad_samples(random: &mut Random, schemas: &Schemas, now: i64) -> Vec<Message> {
    let spoils: [(Spoil, Reasons); 9] = [
        (|s| s.interval_us = 5 * MINUTE + 1, BAD_VALUE),
        (|s| s.interval_us = -1, BAD_VALUE),
        (|s| s.cpu_cores_used = Some(f64::NAN), BAD_VALUE),
        (|s| s.cpu_cores_used = Some(f64::INFINITY), BAD_VALUE),
        (|s| s.cpu_cores_limit = Some(-0.5), BAD_VALUE),
        (|s| s.memory_bytes = Some(-1), BAD_VALUE),
        (|s| s.in_flight_mean = Some(-1.0), BAD_VALUE),
        (|s| s.head.deployment_id = String::new(), BAD_ID),
        (|s| s.head.replica_id = "a b".to_owned(), BAD_ID),
    ];
    let mut all: Vec<_> = spoils
        .into_iter()
        .map(|(spoil, reasons)| {
            let mut sample = replica(random).sample(random, now - HOUR, 5 * SECOND, "active");
            spoil(&mut sample);
            garbage(
                Topic::Replicas,
                "rubbish",
                schemas.sample(sample).payload,
                reasons,
            )
        })
        .collect();
    // An Avro enum index that no symbol has; the state follows a name of known length.
    let sample = replica(random).sample(random, now - HOUR, 5 * SECOND, "stopping");
    let mut payload = schemas.sample(sample.clone()).payload;
    let prefix = schemas.sample.write(&wire::sample(&Sample {
        state: "active",
        ..sample
    }));
    let state = payload
        .iter()
        .zip(&prefix)
        .position(|(a, b)| a != b)
        .expect("the state differs");
    payload[state] = 0x7E;
    all.push(garbage(Topic::Replicas, "rubbish", payload, &["malformed"]));
    all
}
