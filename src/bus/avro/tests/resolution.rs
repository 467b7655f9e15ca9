//! Whatever a writer's schema is, our plan reads what `apache-avro` reads.

use apache_avro::Schema;
use apache_avro::types::Value;
use proptest::prelude::*;

use super::oracle;
use super::writers::{Dice, another_writer, value};
use crate::bus::avro::plan::Plan;
use crate::bus::avro::registry::{BuiltIn, built_in};
use crate::bus::avro::{DecodeError, Message, compile, decode_batch, decode_sample};

fn plan_for(message: Message, writer: &Schema) -> Plan {
    let BuiltIn { schema, fields, .. } = built_in(message);
    compile::compile(message, writer, schema, fields).expect("a writer that fits")
}

/// Writes `value` with `writer` and compares both readings.
fn both_read_alike(message: Message, writer: &Schema, value: Value) {
    let body = oracle::write(writer, value);
    let read =
        oracle::read(writer, &built_in(message).schema, &body).expect("apache-avro reads it");
    let plan = plan_for(message, writer);
    match message {
        Message::RequestBatch => {
            let mut events = Vec::new();
            let head = decode_batch(&plan, &body, &mut events);
            assert_eq!(head, Ok(oracle::head(&read)));
            assert_eq!(events, oracle::events(&read));
        }
        Message::ReplicaSample => {
            let mut gpus = Vec::new();
            let sample = decode_sample(&plan, &body, &mut gpus);
            let (expected, expected_gpus) = oracle::sample(&read);
            assert_eq!(sample, Ok(expected));
            assert_eq!(gpus, expected_gpus);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_our_own_schema_wrote_reads_alike(seed in any::<u64>()) {
        for message in [Message::RequestBatch, Message::ReplicaSample] {
            let writer = &built_in(message).schema;
            both_read_alike(message, writer, value(writer, &mut Dice(seed)));
        }
    }

    #[test]
    fn what_any_other_writer_wrote_reads_alike(seed in any::<u64>()) {
        for message in [Message::RequestBatch, Message::ReplicaSample] {
            let mut dice = Dice(seed);
            let text = another_writer(built_in(message).text, &mut dice);
            let writer = Schema::parse_str(&text).expect("a schema");
            both_read_alike(message, &writer, value(&writer, &mut dice));
        }
    }
}

#[test]
fn a_later_schema_and_an_earlier_one_read_right() {
    let now = built_in(Message::RequestBatch).text;
    let later = now
        .replace(
            r#"{"name": "sequence""#,
            r#"{"name": "region", "type": "string", "default": ""}, {"name": "sequence""#,
        )
        .replace(
            r#"{"name": "cold_start""#,
            r#"{"name": "tokens", "type": ["null", "long"], "default": null}, {"name": "cold_start""#,
        );
    let earlier: String = now
        .lines()
        .filter(|line| !line.contains(r#""cold_start_us""#))
        .collect::<Vec<_>>()
        .join("\n")
        .replace(
            r#"], "default": "completed", "doc": "completed"#,
            r#"], "doc": "completed"#,
        );
    // The straight code knows our own layout and earlier ones; a later one takes the plan's steps.
    for (text, n_fields, is_straight) in [
        (later.as_str(), 13, false),
        (now, 12, true),
        (earlier.as_str(), 11, true),
    ] {
        let writer = Schema::parse_str(text).expect("a schema");
        let plan = plan_for(Message::RequestBatch, &writer);
        assert_eq!(plan.levels[1].steps.len(), n_fields);
        assert_eq!(plan.levels[1].straight.is_some(), is_straight);
        for seed in 0..64 {
            both_read_alike(
                Message::RequestBatch,
                &writer,
                value(&writer, &mut Dice(seed)),
            );
        }
    }
}

/// What the straight code would read without an error and wrongly, did it not look.
#[test]
fn a_writer_that_differs_in_order_alone_takes_the_plans_steps() {
    let now = built_in(Message::RequestBatch).text;
    let swapped = |a: &str, b: &str| {
        let swapped = now.replace(a, "?").replace(b, a).replace('?', b);
        assert_ne!(swapped, now);
        swapped
    };
    for text in [
        swapped(r#""inference_us""#, r#""queue_us""#),
        swapped(r#""request_bytes""#, r#""response_bytes""#),
        swapped(r#""client_gone""#, r#""timed_out""#),
    ] {
        let writer = Schema::parse_str(&text).expect("a schema");
        for seed in 0..16 {
            let drawn = value(&writer, &mut Dice(seed));
            both_read_alike(Message::RequestBatch, &writer, drawn);
        }
    }
}

#[test]
fn a_symbol_of_a_later_writer_is_our_default() {
    let text = built_in(Message::ReplicaSample).text.replace(
        r#""stopping"], "default": "waiting""#,
        r#""stopping", "draining"]"#,
    );
    let writer = Schema::parse_str(&text).expect("a schema");
    let mut drawn = value(&writer, &mut Dice(7));
    let Value::Record(fields) = &mut drawn else {
        panic!("a record");
    };
    let state = fields.iter_mut().find(|(name, _)| name == "state");
    state.expect("a state").1 = Value::Enum(4, "draining".to_owned());
    both_read_alike(Message::ReplicaSample, &writer, drawn);
}

#[test]
fn a_branch_that_we_cannot_hold_is_refused_at_that_value_alone() {
    let text = built_in(Message::RequestBatch).text.replace(
        r#"{"name": "end_to_end_us", "type": "long""#,
        r#"{"name": "end_to_end_us", "type": ["string", "long"]"#,
    );
    let writer = Schema::parse_str(&text).expect("a schema");
    let plan = plan_for(Message::RequestBatch, &writer);
    let mut results = Vec::new();
    for branch in [
        Value::Union(1, Box::new(Value::Long(5))),
        Value::Union(0, Box::new(Value::String("5".to_owned()))),
    ] {
        let mut drawn = value(&writer, &mut Dice(3));
        set_in_events(&mut drawn, "end_to_end_us", &branch);
        let body = oracle::write(&writer, drawn);
        let mut events = Vec::new();
        results.push(decode_batch(&plan, &body, &mut events).err());
        assert!(events.iter().all(|event| event.end_to_end_us == 5));
    }
    let field = "end_to_end_us";
    assert_eq!(results, [None, Some(DecodeError::BadValue { field })]);
}

fn set_in_events(batch: &mut Value, name: &str, to: &Value) {
    let Value::Record(fields) = batch else {
        panic!("a record");
    };
    let events = fields.iter_mut().find(|(name, _)| name == "events");
    let Value::Array(events) = &mut events.expect("events").1 else {
        panic!("an array");
    };
    for event in events {
        let Value::Record(fields) = event else {
            panic!("a record");
        };
        let field = fields.iter_mut().find(|(field, _)| field == name);
        field.expect("the field").1 = to.clone();
    }
}
