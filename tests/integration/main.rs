//! The integration tests: one binary.
mod engine;
mod migrate;
mod tiers;
mod topics;
mod views;
