//! Bytes that mean harm: nothing panics, nothing is held past the named limits, and each kind is
//! refused for a reason of its own.

use apache_avro::Schema;
use proptest::prelude::*;

use super::oracle;
use super::writers::{Dice, another_writer, value};
use crate::bus::avro::encode::{put_long, put_text};
use crate::bus::avro::limits::{
    MAX_DROPPED_REASONS, MAX_EVENTS_PER_BATCH, MAX_GPUS, MAX_MESSAGE_BYTES,
};
use crate::bus::avro::plan::{Plan, SKIPPED};
use crate::bus::avro::registry::{BuiltIn, built_in};
use crate::bus::avro::{
    DecodeError, DroppedEvents, Message, NamedGpu, SchemaRegistry, compile, decode_batch,
    decode_sample, encode_batch, encode_sample,
};
use crate::core::event::{
    BatchHead, GpuReading, Kind, OptionalMicros, Outcome, ReplicaSample, ReplicaState,
    RequestEvent, Status,
};

const HEAD: BatchHead<'static> = BatchHead {
    deployment_id: "d",
    replica_id: "r",
    boot_id: [7; 16],
    sequence: 1,
    producer: "p",
};

const EVENT: RequestEvent = RequestEvent {
    finished_at_us: 1_767_225_600_000_000,
    end_to_end_us: 1_000,
    inference_us: OptionalMicros::some(900),
    first_byte_us: OptionalMicros::NONE,
    queue_us: OptionalMicros::NONE,
    cold_start_us: OptionalMicros::NONE,
    request_bytes: 1,
    response_bytes: 2,
    in_flight: 3,
    status: Status::from_code(200),
    outcome: Outcome::Completed,
    cold_start: false,
};

const GPU: NamedGpu<'static> = NamedGpu {
    uuid: "u",
    name: "n",
    reading: GpuReading {
        utilization: Some(0.5),
        sm_activity: None,
        memory_used_bytes: Some(1),
        memory_total_bytes: Some(2),
    },
};

fn sample() -> ReplicaSample<'static> {
    ReplicaSample {
        head: HEAD,
        sampled_at_us: 1_767_225_600_000_000,
        interval_us: 5_000_000,
        state: ReplicaState::Active,
        model_id: "",
        model_name: "",
        deployment_name: "",
        environment: "",
        kind: Kind::Production,
        instance_type: "",
        cpu_cores_used: Some(1.0),
        cpu_cores_limit: None,
        memory_bytes: None,
        memory_limit_bytes: None,
        in_flight: Some(1),
        in_flight_mean: Some(1.0),
        oldest_in_flight_us: None,
        restarts: 0,
        load_us: None,
        dropped: 0,
    }
}

fn batch_error(head: &BatchHead<'_>, events: &[RequestEvent]) -> Option<DecodeError> {
    let mut framed = Vec::new();
    encode_batch(head, events, &mut framed);
    framed_error(&framed)
}

/// The error of a framed message of either kind, and that nothing of it is left behind.
fn framed_error(framed: &[u8]) -> Option<DecodeError> {
    let registry = SchemaRegistry::built_in();
    let (plan, body) = registry.plan(framed).expect("a frame");
    error(plan, body)
}

fn error(plan: &Plan, body: &[u8]) -> Option<DecodeError> {
    let mut events = vec![EVENT];
    let mut gpus = Vec::new();
    let error = match plan.message() {
        Message::RequestBatch => decode_batch(plan, body, &mut events).err(),
        Message::ReplicaSample => decode_sample(plan, body, &mut gpus).err(),
    };
    if error.is_some() {
        assert_eq!((events.len(), gpus.len()), (1, 0));
    }
    // A vector doubles, so twice the limit is the most that it can hold.
    assert!(events.capacity() <= 2 * (MAX_EVENTS_PER_BATCH + 1));
    assert!(gpus.capacity() <= 2 * MAX_GPUS);
    if let Some(error) = &error {
        assert!(DecodeError::REASONS.contains(&error.reason()));
    }
    error
}

fn sample_error(change: impl FnOnce(&mut ReplicaSample<'static>)) -> Option<DecodeError> {
    let mut sample = sample();
    change(&mut sample);
    let mut framed = Vec::new();
    encode_sample(&sample, &[GPU], &[], &mut framed);
    framed_error(&framed)
}

#[test]
fn limits_hold_at_their_edge() {
    assert_eq!(batch_error(&HEAD, &[]), Some(DecodeError::NoEvents));
    assert_eq!(batch_error(&HEAD, &[EVENT; MAX_EVENTS_PER_BATCH]), None);
    let one_more = [EVENT; MAX_EVENTS_PER_BATCH + 1];
    assert_eq!(
        batch_error(&HEAD, &one_more),
        Some(DecodeError::TooManyEvents)
    );

    let dropped = DroppedEvents {
        reason: "r",
        count: 1,
    };
    for (n_gpus, n_reasons, expected) in [
        (MAX_GPUS, MAX_DROPPED_REASONS, None),
        (MAX_GPUS + 1, 0, Some(DecodeError::TooManyGpus)),
        (
            0,
            MAX_DROPPED_REASONS + 1,
            Some(DecodeError::TooManyReasons),
        ),
    ] {
        let (gpus, dropped) = (vec![GPU; n_gpus], vec![dropped; n_reasons]);
        let mut framed = Vec::new();
        encode_sample(&sample(), &gpus, &dropped, &mut framed);
        assert_eq!(framed_error(&framed), expected);
    }

    let registry = SchemaRegistry::built_in();
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[EVENT], &mut framed);
    let (plan, _) = registry.plan(&framed).expect("a frame");
    let bytes = MAX_MESSAGE_BYTES - 9;
    assert_eq!(
        error(plan, &vec![0; bytes]),
        Some(DecodeError::TooLarge { bytes })
    );
}

#[test]
fn ids_and_texts_are_held_to_their_form() {
    let long = "x".repeat(129);
    for id in ["", "a b", "a/b", "é", &long] {
        let head = BatchHead {
            deployment_id: id,
            ..HEAD
        };
        let field = "deployment_id";
        assert_eq!(
            batch_error(&head, &[EVENT]),
            Some(DecodeError::BadId { field }),
            "{id}"
        );
        let head = BatchHead {
            replica_id: id,
            ..HEAD
        };
        let field = "replica_id";
        assert_eq!(
            batch_error(&head, &[EVENT]),
            Some(DecodeError::BadId { field }),
            "{id}"
        );
    }
    let head = BatchHead {
        deployment_id: &long[1..],
        ..HEAD
    };
    assert_eq!(batch_error(&head, &[EVENT]), None);

    let text = "é".repeat(128);
    let longer = format!("{text}.");
    let head = BatchHead {
        producer: &text,
        ..HEAD
    };
    assert_eq!(batch_error(&head, &[EVENT]), None);
    let head = BatchHead {
        producer: &longer,
        ..HEAD
    };
    let field = "producer";
    assert_eq!(
        batch_error(&head, &[EVENT]),
        Some(DecodeError::BadText { field })
    );
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[EVENT], &mut framed);
    let at = framed
        .iter()
        .position(|&byte| byte == b'p')
        .expect("the producer");
    framed[at] = 0xff;
    assert_eq!(framed_error(&framed), Some(DecodeError::BadText { field }));
}

#[test]
fn values_out_of_range_are_refused() {
    let bad = |field| Some(DecodeError::BadValue { field });
    assert_eq!(sample_error(|_| ()), None);
    assert_eq!(sample_error(|s| s.head.sequence = -1), bad("sequence"));
    assert_eq!(sample_error(|s| s.interval_us = 300_000_000), None);
    assert_eq!(
        sample_error(|s| s.interval_us = 300_000_001),
        bad("interval_us")
    );
    for value in [-1.0, f64::NAN, f64::INFINITY, f64::MAX, -f64::MIN_POSITIVE] {
        assert_eq!(
            sample_error(|s| s.cpu_cores_used = Some(value)),
            bad("cpu_cores_used")
        );
    }
    assert_eq!(sample_error(|s| s.sampled_at_us = i64::MIN), None);

    for (utilization, expected) in [
        (1.0 + 1e-10, None),
        (1.01, bad("utilization")),
        (-0.01, bad("utilization")),
        (f64::NAN, bad("utilization")),
    ] {
        let mut gpu = GPU;
        gpu.reading.utilization = Some(utilization);
        let mut framed = Vec::new();
        encode_sample(&sample(), &[gpu], &[], &mut framed);
        assert_eq!(framed_error(&framed), expected, "{utilization}");
        if expected.is_none() {
            let registry = SchemaRegistry::built_in();
            let (plan, body) = registry.plan(&framed).expect("a frame");
            let mut gpus = Vec::new();
            decode_sample(plan, body, &mut gpus).expect("rounding");
            assert_eq!(gpus[0].utilization, Some(1.0));
        }
    }
}

/// A batch of one event whose fields after the time are these, one byte each on the wire.
fn event_of_bytes(fields: [u8; 11]) -> Option<DecodeError> {
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[], &mut framed);
    framed.pop();
    put_long(1, &mut framed);
    put_long(0, &mut framed);
    framed.extend_from_slice(&fields);
    framed.push(0);
    framed_error(&framed)
}

#[test]
fn each_field_of_an_event_is_checked_where_it_stands() {
    let fields = [2, 0, 0, 0, 0, 0, 0, 0, 4, 6, 8];
    assert_eq!(event_of_bytes(fields), None);
    let bad = |field| Some(DecodeError::BadValue { field });
    let malformed = |field| Some(DecodeError::Malformed { field });
    // -1 where no sign may be; no such branch; no such symbol; no boolean.
    for (at, byte, expected) in [
        (0, 1, bad("end_to_end_us")),
        (1, 4, malformed("inference_us")),
        (5, 10, malformed("outcome")),
        (5, 1, malformed("outcome")),
        (6, 2, malformed("cold_start")),
        (8, 1, bad("request_bytes")),
        (9, 1, bad("response_bytes")),
        (10, 1, bad("in_flight")),
    ] {
        let mut fields = fields;
        fields[at] = byte;
        assert_eq!(event_of_bytes(fields), expected);
    }
}

#[test]
fn a_null_that_is_minus_one_is_not_taken_for_null() {
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[], &mut framed);
    framed.pop();
    // One event; inference_us is the union's second branch, and there -1.
    framed.extend_from_slice(&[2, 0, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let field = "inference_us";
    assert_eq!(framed_error(&framed), Some(DecodeError::BadValue { field }));
}

#[test]
fn a_message_cut_short_or_too_long_is_refused() {
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[EVENT, EVENT], &mut framed);
    for end in 10..framed.len() {
        let error = framed_error(&framed[..end]).expect("cut short");
        assert_eq!(error.reason(), "truncated", "at {end}: {error}");
    }
    framed.push(0);
    assert_eq!(
        framed_error(&framed),
        Some(DecodeError::TrailingBytes { bytes: 1 })
    );
}

#[test]
fn blocks_may_be_several_and_may_tell_their_bytes() {
    let mut one = Vec::new();
    encode_batch(&HEAD, &[EVENT], &mut one);
    let mut none = Vec::new();
    encode_batch(&HEAD, &[], &mut none);
    let event = &one[none.len()..one.len() - 1];
    let mut framed = none[..none.len() - 1].to_vec();
    for counted in [false, true, false] {
        if counted {
            put_long(-2, &mut framed);
            put_long(2 * event.len() as i64, &mut framed);
        } else {
            put_long(2, &mut framed);
        }
        framed.extend_from_slice(event);
        framed.extend_from_slice(event);
    }
    framed.push(0);
    let registry = SchemaRegistry::built_in();
    let (plan, body) = registry.plan(&framed).expect("a frame");
    let mut events = Vec::new();
    assert_eq!(decode_batch(plan, body, &mut events), Ok(HEAD));
    assert_eq!(events, [EVENT; 6]);
}

#[test]
fn a_count_that_the_payload_cannot_hold_reserves_nothing() {
    let mut none = Vec::new();
    encode_batch(&HEAD, &[], &mut none);
    for (count, expected) in [
        (10_000, "truncated"),
        (10_001, "too_many_events"),
        (i64::MAX, "too_many_events"),
        (i64::MIN, "too_many_events"),
    ] {
        let mut framed = none[..none.len() - 1].to_vec();
        put_long(count, &mut framed);
        if count < 0 {
            put_long(1, &mut framed);
        }
        let registry = SchemaRegistry::built_in();
        let (plan, body) = registry.plan(&framed).expect("a frame");
        let mut events = Vec::new();
        let error = decode_batch(plan, body, &mut events).expect_err("a bomb");
        assert_eq!((error.reason(), events.capacity()), (expected, 0));
    }
}

/// A batch of a writer with one more field, of this type, before all others.
fn with_added_field(kind: &str, bytes: &[u8]) -> Option<DecodeError> {
    let text = built_in(Message::RequestBatch).text.replacen(
        r#"{"name": "deployment_id""#,
        &format!(r#"{{"name": "added", "type": {kind}}}, {{"name": "deployment_id""#),
        1,
    );
    let writer = Schema::parse_str(&text).expect("a schema");
    let BuiltIn { schema, fields, .. } = built_in(Message::RequestBatch);
    let plan = compile::compile(Message::RequestBatch, &writer, schema, fields).expect("fits");
    let mut framed = Vec::new();
    encode_batch(&HEAD, &[EVENT], &mut framed);
    let body = [bytes, &framed[10..]].concat();
    error(&plan, &body)
}

#[test]
fn what_is_skipped_costs_no_more_than_its_bytes() {
    let list =
        r#"{"type": "record", "name": "L", "fields": [{"name": "n", "type": ["null", "L"]}]}"#;
    let endless = r#"{"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}"#;
    let mut count = Vec::new();
    put_long(i64::MAX >> 8, &mut count);
    let bomb = [count.as_slice(), &[0]].concat();
    let nulls = r#"{"type": "array", "items": "null"}"#;
    assert_eq!(with_added_field(nulls, &bomb), None);
    let empties = r#"{"type": "array", "items": {"type": "record", "name": "E", "fields": []}}"#;
    assert_eq!(with_added_field(empties, &bomb), None);
    let doubles = r#"{"type": "array", "items": "double"}"#;
    let field = SKIPPED;
    let truncated = Some(DecodeError::Truncated { field });
    assert_eq!(with_added_field(doubles, &bomb), truncated);
    assert_eq!(with_added_field(r#""string""#, &count), truncated);
    // Items are taken from the rest of the message, until there is one that is none.
    let malformed = Some(DecodeError::Malformed { field });
    for kind in [
        r#"{"type": "map", "values": "null"}"#,
        r#"{"type": "array", "items": "string"}"#,
    ] {
        assert_eq!(with_added_field(kind, &bomb), malformed);
    }

    let nested = |depth| [vec![2; depth], vec![0]].concat();
    assert_eq!(with_added_field(list, &nested(20)), None);
    assert_eq!(
        with_added_field(list, &nested(1_000_000)),
        Some(DecodeError::TooDeep)
    );
    assert_eq!(with_added_field(endless, &[]), Some(DecodeError::TooDeep));

    let mut told = Vec::new();
    put_long(-1, &mut told);
    put_text("five bytes and more", &mut told);
    told.push(0);
    assert_eq!(
        with_added_field(r#"{"type": "array", "items": "string"}"#, &told),
        None
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(
        body in proptest::collection::vec(any::<u8>(), 0..400), seed in any::<u64>(),
    ) {
        let registry = SchemaRegistry::built_in();
        let _ = registry.plan(&body);
        for message in [Message::RequestBatch, Message::ReplicaSample] {
            let BuiltIn { text, schema, fields, .. } = built_in(message);
            let writer = Schema::parse_str(&another_writer(text, &mut Dice(seed))).expect("a schema");
            for writer in [schema, &writer] {
                let plan = compile::compile(message, writer, schema, fields).expect("fits");
                error(&plan, &body);
            }
        }
    }

    #[test]
    fn valid_bytes_that_were_tampered_with_are_read_or_refused(seed in any::<u64>()) {
        for message in [Message::RequestBatch, Message::ReplicaSample] {
            let mut dice = Dice(seed);
            let BuiltIn { text, schema, fields, .. } = built_in(message);
            let writer = Schema::parse_str(&another_writer(text, &mut dice)).expect("a schema");
            let plan = compile::compile(message, &writer, schema, fields).expect("fits");
            let mut body = oracle::write(&writer, value(&writer, &mut dice));
            for _ in 0..16 {
                let at = dice.below(body.len());
                match dice.below(4) {
                    0 => body[at] ^= 1 << dice.below(8),
                    1 => body[at] = dice.roll() as u8,
                    2 => { body.insert(at, 0xff); }
                    _ => { body.remove(at); }
                }
                if body.is_empty() { break }
                error(&plan, &body);
            }
        }
    }
}
