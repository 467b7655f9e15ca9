//! local
pub mod kafka;
pub mod lock;
pub mod parts;
pub mod ports;
pub mod probe;
pub mod process;
pub mod up;
