//! The agent: sits in the path of a model server's requests, measures each, and publishes what it saw.
//!
//! The path: [`meter`] is where a finished request is left without waiting; [`loss`] counts what had to go. What the
//! replica is and uses stands beside it: [`condition`] and [`readings`].
//!
//! It never delays, changes or fails a request because of a metric: nothing that a request meets waits for a disk, for
//! Kafka or for a lock that such a wait could hold.

pub mod condition;
pub mod identity;
pub mod loss;
pub mod meter;
pub mod out;
pub mod readings;
pub mod status;
