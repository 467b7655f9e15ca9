//! What a flush hands out: for each table the rows of a range of messages, and what the dropdowns are told.

use super::deployment::DeploymentRow;
use super::ids::Ids;
use super::ledger::LedgerCounts;
use super::level::Open;
use super::marks::Changes;
use super::replica_window::ReplicaWindow;
use super::request_window::{ReplicaRequestWindow, RequestWindow};
use super::table::{Source, Table};

/// How much of the open windows a flush takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushKind {
    /// The 10 s table.
    Fine,
    /// Every table.
    Full,
}

/// Rows of one table, still where they were folded: what is borrowed here is cleared behind the flush.
pub enum Rows<'a> {
    Requests(Windows<'a, RequestWindow>),
    ReplicaRequests(Windows<'a, ReplicaRequestWindow>),
    Replicas(Windows<'a, ReplicaWindow>),
    Marks(Changes<'a>),
}

/// Windows with data, and the ids that their owners' numbers stand for.
pub struct Windows<'a, W> {
    pub open: &'a mut [Open<W>],
    pub ids: &'a Ids,
}

/// What one table lacks: the rows of the messages `[from, to)` of one partition.
pub struct Delta<'a> {
    pub table: Table,
    pub from: u64,
    pub to: u64,
    /// Leader epoch at `to`; −1 where unknown.
    pub epoch: i32,
    /// The broker's append time of the first message of the range, in ms; none where it has no message.
    pub append_ms: Option<i64>,
    pub counts: LedgerCounts,
    pub rows: Rows<'a>,
}

/// What a flush takes out of a partition beside its deltas.
pub struct Flush {
    pub source: Source,
    pub generation: u64,
    /// The next offset to be folded: what may be committed once everything is stored.
    pub position: u64,
    pub deployments: Vec<DeploymentRow>,
}
