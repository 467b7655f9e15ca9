//! What the conductor and the workers say to one another.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::status::Status;
use crate::bus::avro::SchemaRegistry;
use crate::bus::dead_letters::DeadLetter;
use crate::config::KafkaArgs;
use crate::core::delta::FlushKind;
use crate::core::deployment::DeploymentRow;
use crate::core::ids::IdLimits;
use crate::core::marks::Mark;
use crate::core::recovery::Recovery;
use crate::core::table::Source;
use crate::store::rows::EncodedDelta;

/// What a worker is made with.
#[derive(Clone)]
pub struct WorkerSetup {
    pub kafka: KafkaArgs,
    pub group: String,
    pub registry: Arc<SchemaRegistry>,
    pub request_limits: IdLimits,
    pub replica_limits: IdLimits,
    /// Producer starts that a partition remembers. Every process must have the same, so that it is no flag.
    pub max_producers: usize,
    /// This worker's share of the process's dead letters a second.
    pub dead_letters_per_second: u32,
    pub status: Arc<Status>,
    pub reports: mpsc::Sender<Report>,
    /// This worker's share of the process's memory of windows, in bytes.
    pub window_memory: usize,
    /// This worker's share of what librdkafka may fetch ahead, in KiB.
    pub fetch_ahead_kib: usize,
    /// The core to run on, with librdkafka's threads.
    pub core: Option<usize>,
}

/// A partition to be read from now on.
pub struct Assignment {
    pub source: Source,
    pub generation: u64,
    pub recovery: Recovery,
    /// What had come of the producers below the recovery's start.
    pub marks: Vec<Mark>,
    /// `<topic>/<topic id>`: what the partition's ledger rows are filed under.
    pub ledger: Arc<str>,
    /// The log's end at the assignment: what is before it is catching up.
    pub log_end: u64,
}

/// What the conductor wants.
pub enum Command {
    Assign(Vec<Assignment>),
    /// Forget these partitions and their windows.
    Drop(Vec<Source>),
    DropAll,
    Flush(FlushKind, oneshot::Sender<WorkerFlush>),
}

/// What a worker took out for a flush.
pub struct WorkerFlush {
    pub flushes: Vec<EncodedFlush>,
    pub dead_letters: Vec<DeadLetter>,
}

/// What a flush took out of one partition, ready to be sent.
pub struct EncodedFlush {
    pub source: Source,
    pub generation: u64,
    /// The next offset to be folded.
    pub position: u64,
    pub deltas: Vec<EncodedDelta>,
    pub deployments: Vec<DeploymentRow>,
}

/// What a worker tells the conductor unasked.
pub enum Report {
    /// The worker waits until its windows are taken. `seen` flushes of this kind it had obeyed before.
    FlushWanted { kind: FlushKind, seen: u64 },
    /// A partition that was behind has reached what was the log's end: its coarse tables should not lag a minute more.
    CaughtUp,
    /// Kafka does not give this partition's messages any more.
    Failed {
        source: Source,
        generation: u64,
        reason: String,
    },
    /// The worker's thread has ended.
    Ended(String),
}
