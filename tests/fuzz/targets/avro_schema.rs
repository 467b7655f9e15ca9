//! A writer's schema and a message written with it, a zero byte between: the schema is refused or compiled, and then any
//! body is refused or decoded, within the limits.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use modelmeter::bus::avro::{SchemaRegistry, decode_batch, decode_sample, fingerprint, frame};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (schema, body) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let Ok(schema) = std::str::from_utf8(schema) else {
        return;
    };
    let _ = fingerprint(schema);
    let mut registry = SchemaRegistry::built_in();
    if registry.add(Path::new("fuzzed"), schema).is_err() {
        return;
    }
    let fingerprint = fingerprint(schema).expect("a schema that was taken has a fingerprint");
    let framed = [&frame(fingerprint)[..], body].concat();
    let Ok((plan, body)) = registry.plan(&framed) else {
        return;
    };
    let (mut events, mut gpus) = (Vec::new(), Vec::new());
    let _ = decode_batch(plan, body, &mut events);
    let _ = decode_sample(plan, body, &mut gpus);
});
