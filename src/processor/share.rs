//! One partition's part in an insert: what it covers, and how the ledger judges it.

use crate::core::ledger::{Fate, Ledger, fate_of, fate_of_heartbeat};
use crate::core::partition::{MAX_RANGE_BYTES, MAX_RANGE_ROWS};
use crate::core::table::{Source, Table};
use crate::store::native::Chunk;
use crate::store::rows::EncodedDelta;

const MS_PER_DAY: i64 = 86_400_000;

/// One partition's share of an insert.
pub struct Share {
    pub source: Source,
    pub kind: ShareKind,
    /// Day of the broker's append time of the first message, since 1970.
    pub append_day: Option<i64>,
    pub chunk: Chunk,
}

#[derive(Debug, Clone, Copy)]
pub enum ShareKind {
    /// Covers `[from, to)`.
    Data { from: u64, to: u64 },
    /// Covers nothing, and says that the ledger stands here.
    Heartbeat { at: u64 },
}

impl Share {
    /// A delta of this partition, for its table.
    pub fn of_delta(source: Source, delta: EncodedDelta) -> (Table, Self) {
        let EncodedDelta {
            table,
            from,
            to,
            append_ms,
            chunk,
        } = delta;
        let share = Self {
            source,
            kind: ShareKind::Data { from, to },
            append_day: append_ms.map(|ms| ms.div_euclid(MS_PER_DAY)),
            chunk,
        };
        (table, share)
    }

    /// What became of it, by the ledger as it now is.
    pub fn fate(&self, ingested: i64, now: Option<Ledger>) -> Fate {
        match self.kind {
            ShareKind::Data { from, to } => fate_of(from, to, now.map(|ledger| ledger.to)),
            ShareKind::Heartbeat { at } => fate_of_heartbeat(at, ingested, now),
        }
    }
}

/// The share may join the group without passing a range's limits.
pub fn fits(group: &[Share], share: &Share) -> bool {
    let n_rows: usize = group.iter().map(|share| share.chunk.n_rows()).sum();
    let n_bytes: usize = group.iter().map(|share| share.chunk.n_bytes()).sum();
    group.is_empty()
        || n_rows + share.chunk.n_rows() <= MAX_RANGE_ROWS
            && n_bytes + share.chunk.n_bytes() <= MAX_RANGE_BYTES
}
