//! The wire: Avro in single-object framing, from bytes to typed values and back.
//!
//! [`SchemaRegistry`] finds the [`Plan`] for a framed message; [`decode_batch`] and
//! [`decode_sample`] run it. Values come out checked, or the message is refused with a
//! [`DecodeError`] that has a reason for the counters. [`encode_batch`] and [`encode_sample`]
//! write the current schemas.
//!
//! Never here: a panic on any bytes, memory past the named limits, a time rule (which times are
//! accepted depends on the broker's clock, and is the processor's).

mod base;
mod canonical;
mod compile;
mod cursor;
mod encode;
mod error;
pub mod limits;
mod plan;
mod registry;
mod replica_sample;
mod request_batch;
mod skip;
mod straight;
#[cfg(test)]
mod tests;

pub use canonical::fingerprint;
pub use error::{DecodeError, SchemaError};
pub use plan::{Message, Plan};
pub use registry::{SchemaRegistry, frame};
pub use replica_sample::{DroppedEvents, NamedGpu, decode_sample, encode_sample};
pub use request_batch::{decode_batch, encode_batch};
