//! Development root of the engine's tests.
mod clickhouse_face;
