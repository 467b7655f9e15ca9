//! The fingerprints, pinned: a producer in another language computes the same ones or is not read.

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

use crate::bus::avro::canonical::{Form, canonical_form, crc64};
use crate::bus::avro::{fingerprint, replica_sample, request_batch};

#[test]
fn the_built_in_schemas_have_the_fingerprints_that_others_compute() {
    // As fastavro's schema.fingerprint(to_parsing_canonical_form(…), "CRC-64-AVRO") gives them.
    assert_eq!(
        fingerprint(request_batch::SCHEMA),
        Ok(0xcc77_4610_24e7_d6a5)
    );
    assert_eq!(
        fingerprint(replica_sample::SCHEMA),
        Ok(0xa7d7_ee01_e821_2392)
    );
}

#[test]
fn the_canonical_form_follows_the_specification() {
    let schema = r#"{
        "doc": "x", "name": "R", "namespace": "a.b", "type": "record", "aliases": ["Q"], "fields": [
            {"type": {"type": "long", "logicalType": "timestamp-micros"}, "name": "t", "default": 0},
            {"name": "e", "type": {"symbols": ["X", "Y"], "type": "enum", "name": "E", "default": "X"}},
            {"name": "f", "type": {"size": "16", "type": "fixed", "name": "c.F"}},
            {"name": "n", "type": ["null", {"type": "string"}, "R"], "order": "ignore"},
            {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "c.F"}}},
            {"name": "r", "type": {"type": "record", "name": "S", "namespace": "", "fields": []}}
        ]}"#;
    let json = serde_json::from_str(schema).expect("JSON");
    assert_eq!(
        canonical_form(&json, Form::Specification).as_deref(),
        Ok(concat!(
            r#"{"name":"a.b.R","type":"record","fields":[{"name":"t","type":"long"},"#,
            r#"{"name":"e","type":{"name":"a.b.E","type":"enum","symbols":["X","Y"]}},"#,
            r#"{"name":"f","type":{"name":"c.F","type":"fixed","size":16}},"#,
            r#"{"name":"n","type":["null","string","a.b.R"]},"#,
            r#"{"name":"m","type":{"type":"map","values":{"type":"array","items":"c.F"}}},"#,
            r#"{"name":"r","type":{"name":"S","type":"record","fields":[]}}]}"#,
        ))
    );
}

#[test]
fn apache_avros_own_form_is_computed_as_apache_avro_does() {
    let decimal = r#"{"type": "record", "name": "D", "fields": [
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "x", "type": {"type": "long", "logicalType": "none-such"}}
    ]}"#;
    for text in [request_batch::SCHEMA, replica_sample::SCHEMA, decimal] {
        let schema = Schema::parse_str(text).expect("a schema");
        let serialised = serde_json::to_value(&schema).expect("a schema is JSON");
        let ours = canonical_form(&serialised, Form::ApacheAvro022).expect("a schema");
        assert_eq!(ours, schema.canonical_form());
        assert_eq!(
            crc64(&ours).to_le_bytes()[..],
            schema.fingerprint::<Rabin>().bytes[..]
        );
        assert_ne!(
            fingerprint(text),
            Ok(crc64(&ours)),
            "the trap that both are kept for"
        );
    }
}
