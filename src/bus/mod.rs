//! bus
pub mod avro;
