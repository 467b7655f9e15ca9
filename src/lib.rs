//! modelmeter.
pub mod bus;
pub mod clock;
pub mod config;
pub mod core;
pub mod local;
pub mod processor;
pub mod store;
pub mod telemetry;
