//! One valid message of each kind, and what becomes of a changed one.

use crate::bus::avro::limits::{MAX_EVENTS_PER_BATCH, MAX_GPUS};
use crate::bus::avro::plan::Plan;
use crate::bus::avro::{
    DecodeError, Message, NamedGpu, SchemaRegistry, decode_batch, decode_sample, encode_batch,
};
use crate::core::event::{
    BatchHead, GpuReading, Kind, OptionalMicros, Outcome, ReplicaSample, ReplicaState,
    RequestEvent, Status,
};

pub(super) const HEAD: BatchHead<'static> = BatchHead {
    deployment_id: "d",
    replica_id: "r",
    boot_id: [7; 16],
    sequence: 1,
    producer: "p",
};

pub(super) const EVENT: RequestEvent = RequestEvent {
    finished_at_us: 1_767_225_600_000_000,
    end_to_end_us: 1_000,
    inference_us: OptionalMicros::some(900),
    first_byte_us: OptionalMicros::NONE,
    queue_us: OptionalMicros::NONE,
    cold_start_us: OptionalMicros::NONE,
    request_bytes: 1,
    response_bytes: 2,
    in_flight: 3,
    status: Status::from_code(200),
    outcome: Outcome::Completed,
    cold_start: false,
};

pub(super) const GPU: NamedGpu<'static> = NamedGpu {
    uuid: "u",
    name: "n",
    reading: GpuReading {
        utilization: Some(0.5),
        sm_activity: None,
        memory_used_bytes: Some(1),
        memory_total_bytes: Some(2),
    },
};

pub(super) fn sample() -> ReplicaSample<'static> {
    ReplicaSample {
        head: HEAD,
        sampled_at_us: 1_767_225_600_000_000,
        interval_us: 5_000_000,
        state: ReplicaState::Active,
        model_id: "",
        model_name: "",
        deployment_name: "",
        environment: "",
        kind: Kind::Production,
        instance_type: "",
        cpu_cores_used: Some(1.0),
        cpu_cores_limit: None,
        memory_bytes: None,
        memory_limit_bytes: None,
        in_flight: Some(1),
        in_flight_mean: Some(1.0),
        oldest_in_flight_us: None,
        restarts: 0,
        load_us: None,
        dropped: 0,
    }
}

pub(super) fn batch_error(head: &BatchHead<'_>, events: &[RequestEvent]) -> Option<DecodeError> {
    let mut framed = Vec::new();
    encode_batch(head, events, &mut framed);
    framed_error(&framed)
}

/// The error of a framed message of either kind, and that nothing of it is left behind.
pub(super) fn framed_error(framed: &[u8]) -> Option<DecodeError> {
    let registry = SchemaRegistry::built_in();
    let (plan, body) = registry.plan(framed).expect("a frame");
    error(plan, body)
}

pub(super) fn error(plan: &Plan, body: &[u8]) -> Option<DecodeError> {
    let mut events = vec![EVENT];
    let mut gpus = Vec::new();
    let error = match plan.message() {
        Message::RequestBatch => decode_batch(plan, body, &mut events).err(),
        Message::ReplicaSample => decode_sample(plan, body, &mut gpus).err(),
    };
    if error.is_some() {
        assert_eq!((events.len(), gpus.len()), (1, 0));
    }
    // A vector doubles, so twice the limit is the most that it can hold.
    assert!(events.capacity() <= 2 * (MAX_EVENTS_PER_BATCH + 1));
    assert!(gpus.capacity() <= 2 * MAX_GPUS);
    if let Some(error) = &error {
        assert!(DecodeError::REASONS.contains(&error.reason()));
    }
    error
}
