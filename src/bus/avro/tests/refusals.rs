//! What is refused, each at the edge of its limit and for its reason.

use super::messages::{EVENT, GPU, HEAD, batch_error, error, framed_error, sample};
use crate::bus::avro::encode::put_long;
use crate::bus::avro::limits::{
    MAX_DROPPED_REASONS, MAX_EVENTS_PER_BATCH, MAX_GPUS, MAX_MESSAGE_BYTES,
};
use crate::bus::avro::{
    DecodeError, DroppedEvents, SchemaRegistry, decode_sample, encode_batch, encode_sample,
};
use crate::core::event::{BatchHead, ReplicaSample};

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
