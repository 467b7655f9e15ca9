//! `apache-avro` as the judge: its bytes for a value, and its reading of bytes, resolved to our
//! schema, as our types.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

use crate::core::event::{
    BatchHead, GpuReading, Kind, OptionalMicros, Outcome, ReplicaSample, ReplicaState,
    RequestEvent, Status,
};

pub(super) fn write(schema: &Schema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema)
        .build()
        .expect("a schema without outside names")
        .write_value_to_vec(value)
        .expect("a value of this schema")
}

pub(super) fn read(writer: &Schema, reader: &Schema, mut body: &[u8]) -> Option<Value> {
    GenericDatumReader::builder(writer)
        .reader_schema(reader)
        .build()
        .expect("schemas that resolve")
        .read_value(&mut body)
        .ok()
        .filter(|_| body.is_empty())
}

fn field<'v>(record: &'v Value, name: &str) -> &'v Value {
    let Value::Record(fields) = record else {
        panic!("{record:?} is no record");
    };
    match &fields.iter().find(|(n, _)| n == name).expect(name).1 {
        Value::Union(_, value) => value,
        value => value,
    }
}

fn integer(record: &Value, name: &str) -> Option<i64> {
    match field(record, name) {
        Value::Int(value) => Some(i64::from(*value)),
        Value::Long(value) | Value::TimestampMicros(value) => Some(*value),
        Value::Null => None,
        other => panic!("{name} is {other:?}"),
    }
}

fn count(record: &Value, name: &str) -> Option<u64> {
    integer(record, name).map(|value| u64::try_from(value).expect("made without a sign"))
}

fn double(record: &Value, name: &str) -> Option<f64> {
    match field(record, name) {
        Value::Double(value) => Some(*value),
        Value::Null => None,
        other => panic!("{name} is {other:?}"),
    }
}

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    match field(record, name) {
        Value::String(text) => text,
        other => panic!("{name} is {other:?}"),
    }
}

fn symbol(record: &Value, name: &str) -> usize {
    match field(record, name) {
        Value::Enum(at, _) => *at as usize,
        other => panic!("{name} is {other:?}"),
    }
}

fn items<'v>(record: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    match field(record, name) {
        Value::Array(items) => items.iter(),
        other => panic!("{name} is {other:?}"),
    }
}

pub(super) fn head(record: &Value) -> BatchHead<'_> {
    let Value::Fixed(16, boot_id) = field(record, "boot_id") else {
        panic!("no boot_id");
    };
    BatchHead {
        deployment_id: text(record, "deployment_id"),
        replica_id: text(record, "replica_id"),
        boot_id: boot_id[..].try_into().expect("sixteen bytes"),
        sequence: integer(record, "sequence").expect("not null"),
        producer: text(record, "producer"),
    }
}

pub(super) fn events(batch: &Value) -> Vec<RequestEvent> {
    let micros = |event, name| OptionalMicros::from(count(event, name));
    items(batch, "events")
        .map(|event| RequestEvent {
            finished_at_us: integer(event, "finished_at").expect("not null"),
            end_to_end_us: count(event, "end_to_end_us").expect("not null"),
            inference_us: micros(event, "inference_us"),
            first_byte_us: micros(event, "first_byte_us"),
            queue_us: micros(event, "queue_us"),
            cold_start_us: micros(event, "cold_start_us"),
            request_bytes: count(event, "request_bytes").expect("not null"),
            response_bytes: count(event, "response_bytes").expect("not null"),
            in_flight: count(event, "in_flight").expect("not null") as u32,
            status: integer(event, "status").map_or(Status::NONE, Status::from_code),
            outcome: Outcome::ALL[symbol(event, "outcome")],
            cold_start: *field(event, "cold_start") == Value::Boolean(true),
        })
        .collect()
}

pub(super) fn sample(sample: &Value) -> (ReplicaSample<'_>, Vec<GpuReading>) {
    let gpus = items(sample, "gpus")
        .map(|gpu| GpuReading {
            utilization: double(gpu, "utilization"),
            sm_activity: double(gpu, "sm_activity"),
            memory_used_bytes: count(gpu, "memory_used_bytes"),
            memory_total_bytes: count(gpu, "memory_total_bytes"),
        })
        .collect();
    let read = ReplicaSample {
        head: head(sample),
        sampled_at_us: integer(sample, "sampled_at").expect("not null"),
        interval_us: count(sample, "interval_us").expect("not null"),
        state: ReplicaState::ALL[symbol(sample, "state")],
        model_id: text(sample, "model_id"),
        model_name: text(sample, "model_name"),
        deployment_name: text(sample, "deployment_name"),
        environment: text(sample, "environment"),
        kind: Kind::ALL[symbol(sample, "kind")],
        instance_type: text(sample, "instance_type"),
        cpu_cores_used: double(sample, "cpu_cores_used"),
        cpu_cores_limit: double(sample, "cpu_cores_limit"),
        memory_bytes: count(sample, "memory_bytes"),
        memory_limit_bytes: count(sample, "memory_limit_bytes"),
        in_flight: count(sample, "in_flight").map(|count| count as u32),
        in_flight_mean: double(sample, "in_flight_mean"),
        oldest_in_flight_us: count(sample, "oldest_in_flight_us"),
        restarts: count(sample, "restarts").expect("not null"),
        load_us: count(sample, "load_us"),
        dropped: items(sample, "dropped")
            .map(|dropped| count(dropped, "count").expect("not null"))
            .sum(),
    };
    (read, gpus)
}
