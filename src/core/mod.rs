//! core
pub mod event;
