//! The integration tests: one binary.
mod engine;
mod migrate;
mod replica_views;
mod tiers;
mod topics;
mod views;
