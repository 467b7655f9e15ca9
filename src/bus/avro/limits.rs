//! The bounds of what a message may hold. Each is refused with a reason of its own when passed;
//! nothing is cut short silently.

/// A framed message. The broker's `max.message.bytes` is the same, so that a larger one is never
/// stored; a topic with another limit is caught here. Places in a payload also fit in 32 bits.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Requests in a batch: with 72 bytes an event, 720 KB are the most that one message can make a
/// worker hold.
pub const MAX_EVENTS_PER_BATCH: usize = 10_000;

/// GPUs in a sample. The largest machines have 16, each cut into at most 7 slices.
pub const MAX_GPUS: usize = 256;

/// Reasons in a sample's `dropped`.
pub const MAX_DROPPED_REASONS: usize = 64;

/// Bytes of a deployment's or replica's id: Kubernetes names have at most 253 but those of pods
/// are cut to 63, and an id is a key of every row.
pub const MAX_ID_BYTES: usize = 128;

/// Bytes of the producer's name and of each fact: they become dropdown entries, not documents.
pub const MAX_TEXT_BYTES: usize = 256;

/// Microseconds that one sample may speak for: a longer silence is a gap, not a sample.
pub const MAX_INTERVAL_US: u64 = 300_000_000;

/// A reading in cores, requests or a ratio. Far past any machine, and small enough that years of
/// its integral stay finite: one infinite row would poison every sum it is merged into.
pub const MAX_READING: f64 = 1e15;

/// How far a ratio may pass 1 by rounding; it is then taken as 1.
pub const RATIO_ROUNDING: f64 = 1e-9;

/// Nesting in a field that only the writer knows. Schemas nest as deep as their JSON does;
/// only a recursive type goes deeper, by what the payload says, and the skipper's stack must not.
pub const MAX_SKIP_DEPTH: u32 = 64;

/// A schema file: ours have 5 KB.
pub const MAX_SCHEMA_BYTES: u64 = 1 << 20;
