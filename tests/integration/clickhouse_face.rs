//! `modelmeter clickhouse` against the real engine: its clients, its promises to writers, and what it refuses.
//! Each test has a process and a directory of its own, ended by the pid it started.

mod clients;
mod guarded;
mod process;
mod refused;
mod support;
mod wire;
