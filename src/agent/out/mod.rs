//! From the meter to Kafka: what was recorded becomes batches, each on the disk before it is sent.
//!
//! ```text
//!  meter ──► batcher ──batch──►┐          ┌── spool: a file a message
//!            sampler ─sample──►┴─ outbox ─┤
//!                                         └──► kafka ──delivered──► the file is removed
//! ```
//!
//! One thread, the [`publisher`], does all of this. [`message`] is what a file's name and bytes are.

pub mod batcher;
#[cfg(test)]
mod fixtures;
pub mod kafka;
pub mod message;
pub mod outbox;
pub mod publisher;
pub mod sampler;
mod sequence;
pub mod spool;
