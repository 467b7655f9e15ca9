//! What an operator's directory of schemas may hold, and how a message finds its own.

use std::fs;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

use crate::bus::avro::{
    DecodeError, Message, SchemaError, SchemaRegistry, fingerprint, frame, request_batch,
};

fn with_file(name: &str, text: &str) -> Result<SchemaRegistry, SchemaError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join(name), text).expect("a file");
    SchemaRegistry::with_directory(directory.path())
}

#[test]
fn a_schema_of_the_directory_is_found_by_both_of_its_fingerprints() {
    let later = request_batch::SCHEMA.replace(
        r#"{"name": "sequence""#,
        r#"{"name": "region", "type": "string", "default": ""}, {"name": "sequence""#,
    );
    let registry = with_file("later.avsc", &later).expect("a later schema");
    let by_specification = fingerprint(&later).expect("a schema");
    let schema = Schema::parse_str(&later).expect("a schema");
    let by_apache = schema.fingerprint::<Rabin>().bytes;
    let by_apache = u64::from_le_bytes(by_apache.try_into().expect("eight bytes"));
    assert_ne!(by_specification, by_apache);
    for fingerprint in [by_specification, by_apache] {
        let framed = frame(fingerprint);
        let (plan, body) = registry.plan(&framed).expect("known");
        assert_eq!((plan.message(), body.len()), (Message::RequestBatch, 0));
        let nowhere = SchemaRegistry::built_in();
        assert_eq!(
            nowhere.plan(&framed).err(),
            Some(DecodeError::UnknownSchema { fingerprint })
        );
    }
}

#[test]
fn a_copy_of_a_built_in_schema_is_no_error_and_other_files_are_left_alone() {
    assert!(with_file("copy.avsc", request_batch::SCHEMA).is_ok());
    assert!(with_file("notes.txt", "not a schema").is_ok());
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_what_is_wrong() {
    let without_time = request_batch::SCHEMA.replace("finished_at", "done_at");
    let in_millis = request_batch::SCHEMA.replace("timestamp-micros", "timestamp-millis");
    let as_text = request_batch::SCHEMA.replace(
        r#"{"name": "end_to_end_us", "type": "long""#,
        r#"{"name": "end_to_end_us", "type": "string""#,
    );
    let cases = [
        ("{", "not an Avro schema"),
        (
            r#"{"type": "record", "name": "modelmeter.RequestBatch"}"#,
            "not an Avro schema",
        ),
        (
            r#"{"type": "record", "name": "other.Batch", "fields": []}"#,
            "other.Batch is neither",
        ),
        (r#""long""#, "a schema that is no record is neither"),
        (without_time.as_str(), "lacks finished_at"),
        (
            in_millis.as_str(),
            "finished_at: a time that is not in microseconds",
        ),
        (as_text.as_str(), "end_to_end_us: a type that does not fit"),
    ];
    for (text, expected) in cases {
        let error = with_file("bad.avsc", text).expect_err(expected).to_string();
        assert!(
            error.contains("bad.avsc") && error.contains(expected),
            "{error}"
        );
    }
    let too_large = format!("\"{}\"", " ".repeat(1 << 20));
    assert!(matches!(
        with_file("bad.avsc", &too_large),
        Err(SchemaError::TooLarge { .. })
    ));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = directory.path().join("missing");
    assert!(matches!(
        SchemaRegistry::with_directory(&missing),
        Err(SchemaError::Unreadable { path, .. }) if path == missing
    ));
}

#[test]
fn what_is_not_framed_is_refused() {
    let registry = SchemaRegistry::built_in();
    for bytes in [
        &b""[..],
        b"\xc3\x01",
        b"\0\0\0\0\x07confluent",
        b"{\"json\": true}",
    ] {
        assert_eq!(registry.plan(bytes).err(), Some(DecodeError::BadFraming));
    }
    let too_large = vec![0; (4 << 20) + 1];
    assert_eq!(
        registry.plan(&too_large).err(),
        Some(DecodeError::TooLarge {
            bytes: too_large.len()
        })
    );
}
