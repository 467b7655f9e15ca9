//! Writes messages with `apache-avro` under any writer schema, and computes the fingerprint from the
//! Avro specification by itself. Nothing of the product's encoder or canonical form is used here.

use std::path::Path;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value as Json;

use super::message::{Batch, Event, Gpu, Head, Sample};

/// Avro single-object framing: the marker before the fingerprint.
pub const MARKER: [u8; 2] = [0xC3, 0x01];

/// CRC-64-AVRO of the empty string, which is also its polynomial.
const EMPTY: u64 = 0xC15D_213A_A4D7_A795;

/// A value not yet fitted to a schema's exact types.
#[derive(Debug, Clone)]
pub enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Raw>),
    Record(Vec<(&'static str, Raw)>),
}

impl<T: Into<Raw>> From<Option<T>> for Raw {
    fn from(value: Option<T>) -> Self {
        value.map_or(Raw::Null, Into::into)
    }
}
impl From<i64> for Raw {
    fn from(value: i64) -> Self {
        Raw::Int(value)
    }
}
impl From<i32> for Raw {
    fn from(value: i32) -> Self {
        Raw::Int(value.into())
    }
}
impl From<f64> for Raw {
    fn from(value: f64) -> Self {
        Raw::Real(value)
    }
}
impl From<bool> for Raw {
    fn from(value: bool) -> Self {
        Raw::Bool(value)
    }
}
impl From<&str> for Raw {
    fn from(value: &str) -> Self {
        Raw::Text(value.to_owned())
    }
}

/// One writer schema, ready to write.
pub struct Writer {
    schema: Schema,
    fingerprint: u64,
}

impl Writer {
    pub fn new(text: &str) -> Self {
        let json: Json = serde_json::from_str(text).expect("a schema is JSON");
        Self {
            schema: Schema::parse_str(text).expect("a schema parses"),
            fingerprint: fingerprint(&canonical_form(&json, "")),
        }
    }

    pub fn read(file: &Path) -> Self {
        Self::new(&read_schema(file))
    }

    /// The framed message. Fields of the schema that `record` lacks are written as their default.
    pub fn write(&self, record: &Raw) -> Vec<u8> {
        let mut framed = Vec::from(MARKER);
        framed.extend(self.fingerprint.to_le_bytes());
        // Validation would look the same names up again for every event; a wrong fit panics anyway.
        let writer = GenericDatumWriter::builder(&self.schema)
            .validate(false)
            .build()
            .expect("a writer");
        writer
            .write_value(&mut framed, fit(record, &self.schema))
            .expect("a fitted value is written");
        framed
    }
}

pub fn read_schema(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn fit(raw: &Raw, schema: &Schema) -> Value {
    match (raw, schema) {
        (raw, Schema::Union(union)) => {
            let is_null = matches!(raw, Raw::Null);
            let branch = union
                .variants()
                .iter()
                .position(|v| matches!(v, Schema::Null) == is_null);
            let branch = branch.unwrap_or_else(|| panic!("no branch for {raw:?}"));
            Value::Union(branch as u32, Box::new(fit(raw, &union.variants()[branch])))
        }
        (Raw::Null, Schema::Null) => Value::Null,
        (Raw::Bool(v), Schema::Boolean) => Value::Boolean(*v),
        (Raw::Int(v), Schema::Int) => Value::Int(i32::try_from(*v).expect("an int")),
        (Raw::Int(v), Schema::Long) => Value::Long(*v),
        (Raw::Int(v), Schema::TimestampMicros) => Value::TimestampMicros(*v),
        (Raw::Int(v), Schema::Double) => Value::Double(*v as f64),
        (Raw::Real(v), Schema::Double) => Value::Double(*v),
        (Raw::Text(v), Schema::String) => Value::String(v.clone()),
        (Raw::Text(v), Schema::Enum(of)) => {
            let index = of.symbols.iter().position(|s| s == v);
            Value::Enum(
                index.unwrap_or_else(|| panic!("no symbol {v}")) as u32,
                v.clone(),
            )
        }
        (Raw::Bytes(v), Schema::Fixed(of)) => Value::Fixed(of.size, v.clone()),
        (Raw::List(items), Schema::Array(of)) => {
            Value::Array(items.iter().map(|i| fit(i, &of.items)).collect())
        }
        (Raw::Record(given), Schema::Record(of)) => Value::Record(
            of.fields
                .iter()
                .map(|field| {
                    let raw = given
                        .iter()
                        .find(|(name, _)| *name == field.name)
                        .map(|(_, raw)| raw);
                    let value = match (raw, &field.default) {
                        (Some(raw), _) => fit(raw, &field.schema),
                        (None, Some(default)) => fit(&plain(default), &field.schema),
                        (None, None) => panic!("no value for {}", field.name),
                    };
                    (field.name.clone(), value)
                })
                .collect(),
        ),
        (raw, schema) => panic!("{raw:?} does not fit {schema:?}"),
    }
}

/// A default of a schema as a value; only the kinds that the schemas use.
fn plain(default: &Json) -> Raw {
    match default {
        Json::Null => Raw::Null,
        Json::Bool(v) => Raw::Bool(*v),
        Json::Number(v) => v
            .as_i64()
            .map_or_else(|| Raw::Real(v.as_f64().expect("a number")), Raw::Int),
        Json::String(v) => Raw::Text(v.clone()),
        Json::Array(v) if v.is_empty() => Raw::List(Vec::new()),
        other => panic!("no such default expected: {other}"),
    }
}

/// The specification's parsing canonical form: fullnames, no attributes but the seven that matter
/// (a logical type is none of them), in their order, without white space.
pub fn canonical_form(schema: &Json, namespace: &str) -> String {
    match schema {
        Json::String(name) => quoted(&full_name(name, namespace)),
        Json::Array(branches) => {
            let branches: Vec<_> = branches
                .iter()
                .map(|b| canonical_form(b, namespace))
                .collect();
            format!("[{}]", branches.join(","))
        }
        Json::Object(object) => {
            let of = object["type"].as_str();
            match of {
                Some("array") => format!(
                    r#"{{"type":"array","items":{}}}"#,
                    canonical_form(&object["items"], namespace)
                ),
                Some("map") => format!(
                    r#"{{"type":"map","values":{}}}"#,
                    canonical_form(&object["values"], namespace)
                ),
                Some(of @ ("record" | "enum" | "fixed")) => named_form(of, object, namespace),
                // A primitive written as an object, say for a logical type, is its simple form.
                _ => canonical_form(&object["type"], namespace),
            }
        }
        other => panic!("no schema: {other}"),
    }
}

fn named_form(of: &str, object: &serde_json::Map<String, Json>, namespace: &str) -> String {
    let namespace = object
        .get("namespace")
        .and_then(Json::as_str)
        .unwrap_or(namespace);
    let name = full_name(object["name"].as_str().expect("a name"), namespace);
    let inner = name
        .rsplit_once('.')
        .map_or("", |(space, _)| space)
        .to_owned();
    let head = format!(r#"{{"name":{},"type":"{of}""#, quoted(&name));
    match of {
        "record" => {
            let fields = object["fields"].as_array().expect("fields");
            let fields: Vec<_> = fields
                .iter()
                .map(|field| {
                    let name = quoted(field["name"].as_str().expect("a name"));
                    format!(
                        r#"{{"name":{name},"type":{}}}"#,
                        canonical_form(&field["type"], &inner)
                    )
                })
                .collect();
            format!(r#"{head},"fields":[{}]}}"#, fields.join(","))
        }
        "enum" => format!(r#"{head},"symbols":{}}}"#, object["symbols"]),
        _ => format!(r#"{head},"size":{}}}"#, object["size"]),
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    const PRIMITIVES: [&str; 8] = [
        "null", "boolean", "int", "long", "float", "double", "bytes", "string",
    ];
    if PRIMITIVES.contains(&name) || name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

/// CRC-64-AVRO, bit by bit as the specification writes its table.
pub fn fingerprint(canonical: &str) -> u64 {
    canonical.bytes().fold(EMPTY, |crc, byte| {
        let mut entry = (crc ^ u64::from(byte)) & 0xFF;
        for _ in 0..8 {
            entry = (entry >> 1) ^ (EMPTY & (entry & 1).wrapping_neg());
        }
        (crc >> 8) ^ entry
    })
}

fn head(head: &Head) -> Vec<(&'static str, Raw)> {
    vec![
        ("deployment_id", head.deployment_id.as_str().into()),
        ("replica_id", head.replica_id.as_str().into()),
        ("boot_id", Raw::Bytes(head.boot_id.to_vec())),
        ("sequence", head.sequence.into()),
        ("producer", head.producer.as_str().into()),
    ]
}

pub fn batch(batch: &Batch) -> Raw {
    let mut fields = head(&batch.head);
    fields.push((
        "events",
        Raw::List(batch.events.iter().map(event).collect()),
    ));
    Raw::Record(fields)
}

fn event(event: &Event) -> Raw {
    Raw::Record(vec![
        ("finished_at", event.finished_at_us.into()),
        ("end_to_end_us", event.end_to_end_us.into()),
        ("inference_us", event.inference_us.into()),
        ("first_byte_us", event.first_byte_us.into()),
        ("queue_us", event.queue_us.into()),
        ("status", event.status.into()),
        ("outcome", event.outcome.into()),
        ("cold_start", event.cold_start.into()),
        ("cold_start_us", event.cold_start_us.into()),
        ("request_bytes", event.request_bytes.into()),
        ("response_bytes", event.response_bytes.into()),
        ("in_flight", event.in_flight.into()),
    ])
}

pub fn sample(sample: &Sample) -> Raw {
    let facts = &sample.facts;
    let mut fields = head(&sample.head);
    let dropped = |(reason, count): &(String, i64)| {
        Raw::Record(vec![
            ("reason", reason.as_str().into()),
            ("count", (*count).into()),
        ])
    };
    fields.extend([
        ("sampled_at", sample.sampled_at_us.into()),
        ("interval_us", sample.interval_us.into()),
        ("state", sample.state.into()),
        ("deployment_name", facts.deployment_name.as_str().into()),
        ("model_id", facts.model_id.as_str().into()),
        ("model_name", facts.model_name.as_str().into()),
        ("environment", facts.environment.as_str().into()),
        ("kind", facts.kind.into()),
        ("instance_type", facts.instance_type.as_str().into()),
        ("cpu_cores_used", sample.cpu_cores_used.into()),
        ("cpu_cores_limit", sample.cpu_cores_limit.into()),
        ("memory_bytes", sample.memory_bytes.into()),
        ("memory_limit_bytes", sample.memory_limit_bytes.into()),
        ("gpus", Raw::List(sample.gpus.iter().map(gpu).collect())),
        ("in_flight", sample.in_flight.into()),
        ("in_flight_mean", sample.in_flight_mean.into()),
        ("oldest_in_flight_us", sample.oldest_in_flight_us.into()),
        ("restarts", sample.restarts.into()),
        ("load_us", sample.load_us.into()),
        (
            "dropped",
            Raw::List(sample.dropped.iter().map(dropped).collect()),
        ),
    ]);
    Raw::Record(fields)
}

fn gpu(gpu: &Gpu) -> Raw {
    Raw::Record(vec![
        ("uuid", gpu.uuid.as_str().into()),
        ("name", gpu.name.as_str().into()),
        ("utilization", gpu.utilization.into()),
        ("sm_activity", gpu.sm_activity.into()),
        ("memory_used_bytes", gpu.memory_used_bytes.into()),
        ("memory_total_bytes", gpu.memory_total_bytes.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Java's and fastavro's implementations give.
    #[test]
    fn fingerprints_are_the_specifications() {
        assert_eq!(fingerprint("\"null\""), 0x63DD_24E7_CC25_8F8A);
        assert_eq!(fingerprint("\"int\""), 0x7275_D51A_3F39_5C8F);
    }

    #[test]
    fn a_logical_type_is_no_part_of_the_canonical_form() {
        let schema = serde_json::json!({"type": "record", "name": "R", "namespace": "n", "doc": "d", "fields": [
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0},
            {"name": "e", "type": ["null", {"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}]}]});
        assert_eq!(
            canonical_form(&schema, ""),
            concat!(
                r#"{"name":"n.R","type":"record","fields":[{"name":"at","type":"long"},"#,
                r#"{"name":"e","type":["null",{"name":"n.E","type":"enum","symbols":["A"]}]}]}"#
            )
        );
    }
}
