//! store
pub mod migrate;
