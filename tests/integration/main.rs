//! The one integration binary: every test here runs against the real broker and the real engine.

mod support;

mod agent;
mod agent_clients;
mod agent_path;
mod agent_proxy;
mod agent_resources;
mod clickhouse_face;
mod crash;
mod dashboard;
mod engine;
mod evolution;
mod faults;
mod hand_counted;
mod ingest_days;
mod migrate;
mod processor;
mod producer;
mod producers;
mod queries;
mod replay;
mod replica_views;
mod sketches;
mod tiers;
mod topics;
mod truth;
mod up;
mod views;
mod wire_agreement;
