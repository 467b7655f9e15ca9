//! The examples that the documentation shows are read as they stand.

use apache_avro::types::Value;
use serde_json::Value as Json;

use super::oracle::write;
use crate::bus::avro::registry::built_in;
use crate::bus::avro::{
    DroppedEvents, Message, NamedGpu, SchemaRegistry, decode_batch, decode_sample, encode_batch,
    encode_sample,
};
use crate::core::event::{Kind, Outcome, ReplicaState};

const FULL_BATCH: &str = include_str!("../../../../schemas/examples/request_batch.full.json");
const MINIMAL_BATCH: &str = include_str!("../../../../schemas/examples/request_batch.minimal.json");
const FULL_SAMPLE: &str = include_str!("../../../../schemas/examples/replica_sample.full.json");
const MINIMAL_SAMPLE: &str =
    include_str!("../../../../schemas/examples/replica_sample.minimal.json");

/// The body that `apache-avro` writes for an example, its defaults filled in.
fn body(message: Message, example: &str) -> Vec<u8> {
    let json: Json = serde_json::from_str(example).expect("an example is JSON");
    let schema = &built_in(message).schema;
    let value = Value::try_from(json).expect("JSON is a value");
    write(
        schema,
        value.resolve(schema).expect("an example fits its schema"),
    )
}

fn framed(message: Message, body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    built_in(message).put_frame(&mut framed);
    framed.extend_from_slice(body);
    framed
}

#[test]
fn the_examples_of_a_batch_read_right_and_are_written_alike() {
    let registry = SchemaRegistry::built_in();
    for (example, n_events) in [(FULL_BATCH, 2), (MINIMAL_BATCH, 1)] {
        let bytes = framed(Message::RequestBatch, &body(Message::RequestBatch, example));
        let (plan, body) = registry.plan(&bytes).expect("our own frame");
        let mut events = Vec::new();
        let head = decode_batch(plan, body, &mut events).expect("an example is valid");
        assert_eq!(head.deployment_id, "llama-3-8b:production");
        assert_eq!(&head.boot_id, b"k3v9x0q2m7p5z1w8");
        assert_eq!(events.len(), n_events);
        assert_eq!(events[0].end_to_end_us, 182_400);
        if n_events == 2 {
            assert_eq!(head.sequence, 41);
            assert_eq!(events[0].first_byte_us(), Some(39_000));
            assert_eq!(events[0].status(), Some(200));
            assert_eq!(events[0].in_flight, 7);
            assert_eq!(events[1].first_byte_us(), None);
            assert_eq!(events[1].queue_us(), Some(0));
            assert_eq!(events[1].cold_start_us(), Some(29_990_000));
            assert_eq!(events[1].outcome, Outcome::ClientGone);
            assert!(events[1].cold_start && events[1].is_client_gone());
        } else {
            assert_eq!(events[0].status(), None);
            assert_eq!(events[0].outcome, Outcome::Completed);
        }
        let mut again = Vec::new();
        encode_batch(&head, &events, &mut again);
        assert_eq!(again, bytes);
    }
}

#[test]
fn the_examples_of_a_sample_read_right() {
    let registry = SchemaRegistry::built_in();
    let mut gpus = Vec::new();

    let bytes = framed(
        Message::ReplicaSample,
        &body(Message::ReplicaSample, FULL_SAMPLE),
    );
    let (plan, body_of_full) = registry.plan(&bytes).expect("our own frame");
    let sample = decode_sample(plan, body_of_full, &mut gpus).expect("an example is valid");
    assert_eq!(sample.state, ReplicaState::Active);
    assert_eq!(sample.deployment_name, "chat");
    assert_eq!(sample.cpu_cores_used, Some(1.75));
    assert_eq!(sample.in_flight_mean, Some(5.25));
    assert_eq!((sample.restarts, sample.dropped), (1, 3));
    assert_eq!(gpus[0].utilization, Some(0.83));
    assert_eq!(gpus[1].utilization, None);
    let named: Vec<_> = [
        ("GPU-5a1e9c3e-0f0c-4d63-9a57-0b1c2d3e4f50", "NVIDIA A10G"),
        (
            "MIG-7d2f8b11-33aa-5c0e-8a55-1f2e3d4c5b6a",
            "NVIDIA A100 MIG 1g.10gb",
        ),
    ]
    .into_iter()
    .zip(&gpus)
    .map(|((uuid, name), &reading)| NamedGpu {
        uuid,
        name,
        reading,
    })
    .collect();
    let dropped = [DroppedEvents {
        reason: "queue_full",
        count: 3,
    }];
    let mut again = Vec::new();
    encode_sample(&sample, &named, &dropped, &mut again);
    assert_eq!(again, bytes);

    let bytes = framed(
        Message::ReplicaSample,
        &body(Message::ReplicaSample, MINIMAL_SAMPLE),
    );
    let (plan, body) = registry.plan(&bytes).expect("our own frame");
    let sample = decode_sample(plan, body, &mut gpus).expect("an example is valid");
    assert_eq!(
        (sample.state, sample.kind),
        (ReplicaState::Loading, Kind::Production)
    );
    assert_eq!(
        (sample.model_id, sample.cpu_cores_used, sample.load_us),
        ("", None, None)
    );
    assert!(gpus.is_empty());
}
