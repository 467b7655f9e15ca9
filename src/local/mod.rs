//! The real parts on one machine, run by this program: the ClickHouse engine.
pub mod clickhouse;
