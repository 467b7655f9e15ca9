//! What a producer says, as typed values: one answered request, one sample of a replica.
//!
//! Owns the meaning of a message once it is off the wire. Refuses any knowledge of Avro, Kafka,
//! a clock or a table: `bus::avro` makes these values and has checked them (no negative
//! duration, no non-finite number), so nothing behind this file checks them again.

/// A whole number of microseconds or none, in eight bytes, so that an event stays small and
/// `Copy`. `u64::MAX` stands for none: no duration on the wire, an Avro long, can reach it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OptionalMicros(u64);

impl OptionalMicros {
    pub const NONE: Self = Self(u64::MAX);

    pub const fn some(micros: u64) -> Self {
        Self(micros)
    }

    pub const fn get(self) -> Option<u64> {
        if self.0 == u64::MAX {
            None
        } else {
            Some(self.0)
        }
    }

    /// The stored word, `u64::MAX` for none: for the fold, which compares once instead of
    /// unwrapping five options an event.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl From<Option<u64>> for OptionalMicros {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::NONE, Self::some)
    }
}

impl std::fmt::Debug for OptionalMicros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// An HTTP status, or none from a producer that cannot tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    pub const NONE: Self = Self(u16::MAX);

    /// Any number is a status. One that sixteen bits cannot hold becomes 0: it counts as
    /// `other` like every code outside 100–599, and which nonsense it was is of no use.
    pub const fn from_code(code: i64) -> Self {
        if code >= 0 && code < u16::MAX as i64 {
            Self(code as u16)
        } else {
            Self(0)
        }
    }

    pub const fn code(self) -> Option<u16> {
        if self.0 == u16::MAX {
            None
        } else {
            Some(self.0)
        }
    }

    /// The stored word back.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The stored word, `u16::MAX` for none.
    pub const fn raw(self) -> u16 {
        self.0
    }

    pub const fn class(self) -> StatusClass {
        match self.0 {
            200..=299 => StatusClass::Success,
            400..=499 => StatusClass::ClientError,
            500..=599 => StatusClass::ServerError,
            u16::MAX => StatusClass::Unclassified,
            _ => StatusClass::Other,
        }
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.code().fmt(f)
    }
}

/// The five classes that inference volume is counted in; they add up to all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StatusClass {
    /// 2xx
    Success,
    /// 4xx, 499 among them
    ClientError,
    /// 5xx
    ServerError,
    /// 1xx, 3xx, and anything outside 100–599
    Other,
    /// The producer did not say.
    Unclassified,
}

/// How a request ended, whatever its status line had said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    Completed,
    ClientGone,
    TimedOut,
    Aborted,
    Refused,
}

impl Outcome {
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::ClientGone,
        Self::TimedOut,
        Self::Aborted,
        Self::Refused,
    ];

    /// The symbol on the wire.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::TimedOut => "timed_out",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
        }
    }
}

/// One answered request. Durations are in microseconds, sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestEvent {
    /// Completion, microseconds since 1970 UTC. Any value: which times are accepted is the
    /// processor's rule.
    pub finished_at_us: i64,
    /// From arrival at the front door to the last byte sent.
    pub end_to_end_us: u64,
    pub inference_us: OptionalMicros,
    pub first_byte_us: OptionalMicros,
    pub queue_us: OptionalMicros,
    /// How long it waited for a replica to load; not part of `queue_us`.
    pub cold_start_us: OptionalMicros,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Requests in this replica when this one arrived, itself included; 0 when not told.
    pub in_flight: u32,
    pub status: Status,
    pub outcome: Outcome,
    /// Met a replica that was still loading.
    pub cold_start: bool,
}

impl RequestEvent {
    pub fn inference_us(&self) -> Option<u64> {
        self.inference_us.get()
    }

    pub fn first_byte_us(&self) -> Option<u64> {
        self.first_byte_us.get()
    }

    pub fn queue_us(&self) -> Option<u64> {
        self.queue_us.get()
    }

    pub fn cold_start_us(&self) -> Option<u64> {
        self.cold_start_us.get()
    }

    pub fn status(&self) -> Option<u16> {
        self.status.code()
    }

    /// The client went away: it says so, or its status is nginx's 499.
    pub fn is_client_gone(&self) -> bool {
        self.status.raw() == 499 || self.outcome == Outcome::ClientGone
    }
}

/// What is constant for the producer of a message, and the message's place in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead<'a> {
    pub deployment_id: &'a str,
    pub replica_id: &'a str,
    /// Random per producer start.
    pub boot_id: [u8; 16],
    /// From 0 without gaps within (topic, deployment, replica, boot); never negative.
    pub sequence: i64,
    /// Name and version of the producer; empty when not told.
    pub producer: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReplicaState {
    Waiting = 0,
    Loading = 1,
    Active = 2,
    Stopping = 3,
}

impl ReplicaState {
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Loading, Self::Active, Self::Stopping];

    /// The symbol on the wire.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Loading => "loading",
            Self::Active => "active",
            Self::Stopping => "stopping",
        }
    }
}

/// The kind of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Production,
    Development,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Production, Self::Development];

    /// The symbol on the wire, and the text in the `deployments` table.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }
}

/// One GPU in a sample. A reading that could not be taken is none, never 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuReading {
    /// Fraction of time in which a kernel occupied the GPU, 0 to 1.
    pub utilization: Option<f64>,
    /// Fraction of time in which the multiprocessors had work, 0 to 1.
    pub sm_activity: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
}

/// What a replica was and used during `[sampled_at − interval, sampled_at)`. Its GPUs stand in
/// the buffer that the decoder was given, so that a sample costs no allocation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaSample<'a> {
    pub head: BatchHead<'a>,
    /// End of the interval, microseconds since 1970 UTC.
    pub sampled_at_us: i64,
    /// Length of the interval, at most five minutes.
    pub interval_us: u64,
    pub state: ReplicaState,
    pub model_id: &'a str,
    pub model_name: &'a str,
    pub deployment_name: &'a str,
    pub environment: &'a str,
    pub kind: Kind,
    pub instance_type: &'a str,
    pub cpu_cores_used: Option<f64>,
    pub cpu_cores_limit: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// Requests in this replica now.
    pub in_flight: Option<u32>,
    /// Time-weighted mean over the interval.
    pub in_flight_mean: Option<f64>,
    pub oldest_in_flight_us: Option<u64>,
    pub restarts: u64,
    /// How long the model took to load; none until it has.
    pub load_us: Option<u64>,
    /// Events lost so far in this boot, summed over the reasons.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_within_72_bytes() {
        // Ten thousand of them are decoded before they are folded: they must fit in the L2 cache.
        assert!(size_of::<RequestEvent>() <= 72);
    }

    #[test]
    fn statuses_fall_into_their_classes() {
        for (code, class) in [
            (100, StatusClass::Other),
            (200, StatusClass::Success),
            (299, StatusClass::Success),
            (302, StatusClass::Other),
            (404, StatusClass::ClientError),
            (499, StatusClass::ClientError),
            (599, StatusClass::ServerError),
            (600, StatusClass::Other),
            (-1, StatusClass::Other),
            (65_535, StatusClass::Other),
            (65_736, StatusClass::Other),
        ] {
            assert_eq!(Status::from_code(code).class(), class, "{code}");
        }
        assert_eq!(Status::NONE.class(), StatusClass::Unclassified);
    }
}
