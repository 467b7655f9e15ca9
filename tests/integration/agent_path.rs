//! The agent in the path of requests, as a process, with the real broker and engine behind it: what its clients saw is
//! what the views say, however Kafka, the disk, the model server or the agent itself fails meanwhile.
//!
//! `ROUNDS` of the environment makes the kill test longer (`make agent-kill-test`).

mod full_disk;
mod kill;
mod load;
mod model;
mod outage;
mod views;
