//! Any bytes as a message: framing, and a body of either of the built-in schemas. What is decoded is encoded again and
//! reads the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use modelmeter::bus::avro::{
    Message, SchemaRegistry, decode_batch, decode_sample, encode_batch, fingerprint, frame,
};

static REGISTRY: LazyLock<SchemaRegistry> = LazyLock::new(SchemaRegistry::built_in);
static FRAMES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [
        include_str!("../../../schemas/request_batch.avsc"),
        include_str!("../../../schemas/replica_sample.avsc"),
    ]
    .map(|schema| frame(fingerprint(schema).expect("built in")).to_vec())
});

fuzz_target!(|data: &[u8]| {
    read(data);
    for frame in &*FRAMES {
        read(&[frame, data].concat());
    }
});

fn read(framed: &[u8]) {
    let Ok((plan, body)) = REGISTRY.plan(framed) else {
        return;
    };
    match plan.message() {
        Message::RequestBatch => {
            let mut events = Vec::new();
            let Ok(head) = decode_batch(plan, body, &mut events) else {
                assert!(events.is_empty(), "a refused batch leaves nothing behind");
                return;
            };
            let mut again = Vec::new();
            encode_batch(&head, &events, &mut again);
            let (plan, body) = REGISTRY.plan(&again).expect("framed");
            let mut events_again = Vec::new();
            let head_again = decode_batch(plan, body, &mut events_again).expect("encoded");
            assert_eq!(head.deployment_id, head_again.deployment_id);
            assert_eq!(events, events_again);
        }
        Message::ReplicaSample => {
            let _ = decode_sample(plan, body, &mut Vec::new());
        }
    }
}
