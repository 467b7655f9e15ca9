//! An identity and events for this folder's unit tests.

use crate::agent::identity::Identity;
use crate::core::event::{Kind, OptionalMicros, Outcome, RequestEvent, Status};

pub fn identity() -> Identity {
    Identity {
        deployment_id: "d".to_owned(),
        replica_id: "r".to_owned(),
        boot_id: [7; 16],
        model_id: String::new(),
        model_name: String::new(),
        deployment_name: String::new(),
        environment: String::new(),
        kind: Kind::Production,
        instance_type: String::new(),
    }
}

/// An event that its duration tells from others.
pub fn event(n: u64) -> RequestEvent {
    RequestEvent {
        finished_at_us: 1,
        end_to_end_us: n,
        inference_us: OptionalMicros::NONE,
        first_byte_us: OptionalMicros::NONE,
        queue_us: OptionalMicros::NONE,
        cold_start_us: OptionalMicros::NONE,
        request_bytes: 0,
        response_bytes: 0,
        in_flight: 1,
        status: Status::from_code(200),
        outcome: Outcome::Completed,
        cold_start: false,
    }
}
