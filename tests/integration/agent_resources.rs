//! What the agent reads of a replica, and what it makes of its server: on real control groups and processes, and on a
//! stand-in for the GPUs' library with the real library's C interface.

mod containers;
mod endings;
mod gpus;
mod servers;
mod sql;
mod stand_in;
