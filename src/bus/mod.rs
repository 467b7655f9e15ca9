//! bus
pub mod avro;
pub mod topics;
