//! The real parts on one machine, run by this program: the broker, the engine, and `up`, which is all of it.
pub mod clickhouse;
pub mod kafka;
pub mod lock;
pub mod parts;
pub mod ports;
pub mod probe;
pub mod process;
pub mod up;
