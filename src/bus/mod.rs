//! bus
pub mod topics;
