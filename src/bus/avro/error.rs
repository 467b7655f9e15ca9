//! Why a message is refused, and why a schema is.

use std::path::PathBuf;

use super::plan::Message;

/// A message that cannot be read. It concerns this message alone: the caller counts it by
/// [`reason`](Self::reason), sends it to the dead letters and goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("does not begin as Avro's single-object encoding: C3 01 and a fingerprint")]
    BadFraming,
    #[error("written with a schema that is not known here, fingerprint {fingerprint:016x}")]
    UnknownSchema { fingerprint: u64 },
    #[error("is a {found}, where a {expected} belongs")]
    WrongMessage { expected: Message, found: Message },
    #[error("has {bytes} bytes, more than a message may")]
    TooLarge { bytes: usize },
    #[error("ends within {field}")]
    Truncated { field: &'static str },
    #[error("{field} is not what its schema says")]
    Malformed { field: &'static str },
    #[error("{bytes} bytes follow the record")]
    TrailingBytes { bytes: usize },
    #[error("a field that only the writer knows is nested too deep")]
    TooDeep,
    #[error("more events than a batch may hold")]
    TooManyEvents,
    #[error("no event")]
    NoEvents,
    #[error("more GPUs than a sample may hold")]
    TooManyGpus,
    #[error("more reasons than a sample's dropped may hold")]
    TooManyReasons,
    #[error("{field} is not an id of 1 to 128 bytes of [A-Za-z0-9._:-]")]
    BadId { field: &'static str },
    #[error("{field} is no UTF-8 or longer than a text may be")]
    BadText { field: &'static str },
    #[error("{field} is out of its range")]
    BadValue { field: &'static str },
}

impl DecodeError {
    /// One word for counters and dead-letter headers. These words are an interface: dashboards
    /// and alerts are written against them.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadFraming => "bad_framing",
            Self::UnknownSchema { .. } => "unknown_schema",
            Self::WrongMessage { .. } => "wrong_message",
            Self::TooLarge { .. } => "too_large",
            Self::Truncated { .. } => "truncated",
            Self::Malformed { .. } => "malformed",
            Self::TooDeep => "too_deep",
            Self::TooManyEvents => "too_many_events",
            Self::NoEvents => "no_events",
            Self::TooManyGpus => "too_many_gpus",
            Self::TooManyReasons => "too_many_reasons",
            Self::BadId { .. } => "bad_id",
            Self::BadText { .. } => "bad_text",
            Self::BadValue { .. } | Self::TrailingBytes { .. } => "bad_value",
        }
    }

    /// Every word that [`reason`](Self::reason) can give, for a counter's fixed set of labels.
    pub const REASONS: [&'static str; 14] = [
        "bad_framing",
        "unknown_schema",
        "wrong_message",
        "too_large",
        "truncated",
        "malformed",
        "too_deep",
        "too_many_events",
        "no_events",
        "too_many_gpus",
        "too_many_reasons",
        "bad_id",
        "bad_text",
        "bad_value",
    ];
}

/// What went wrong at one value, before it is known which field that was: a byte, so that the
/// hot loop's results stay in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Truncated,
    Malformed,
    Value,
    Text,
    Depth,
}

impl Fault {
    #[cold]
    pub(super) fn at(self, field: &'static str) -> DecodeError {
        match self {
            Self::Truncated => DecodeError::Truncated { field },
            Self::Malformed => DecodeError::Malformed { field },
            Self::Value => DecodeError::BadValue { field },
            Self::Text => DecodeError::BadText { field },
            Self::Depth => DecodeError::TooDeep,
        }
    }
}

/// A schema that this program cannot read with. Fatal at start: an operator put it there.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: larger than a schema file may be", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: not an Avro schema: {problem}", path.display())]
    NotAvro { path: PathBuf, problem: String },
    #[error("{}: {found} is neither modelmeter.RequestBatch nor modelmeter.ReplicaSample", path.display())]
    NoSuchMessage { path: PathBuf, found: String },
    #[error("{}: cannot be read as {message}: {problem}", path.display())]
    NotResolvable {
        path: PathBuf,
        message: Message,
        problem: String,
    },
    #[error("{}: another schema has the same fingerprint {fingerprint:016x}", path.display())]
    Duplicate { path: PathBuf, fingerprint: u64 },
}
