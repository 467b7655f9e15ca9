//! Bytes that mean harm: nothing panics and nothing is held past the named limits.

use apache_avro::Schema;
use proptest::prelude::*;

use super::messages::{EVENT, HEAD, error};
use super::oracle;
use super::writers::{Dice, another_writer, value};
use crate::bus::avro::encode::{put_long, put_text};
use crate::bus::avro::plan::SKIPPED;
use crate::bus::avro::registry::{BuiltIn, built_in};
use crate::bus::avro::{DecodeError, Message, SchemaRegistry, compile, decode_batch, encode_batch};

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
