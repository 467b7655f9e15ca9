//! One partition of one topic under one assignment: what was folded, and which table has covered which offsets.
//!
//! Owns the cuts of a replay and the making of deltas. It never reads a clock: the broker's append time comes with each
//! message.
//!
//! A replay starts at the lowest of the tables' ledgers. It is cut at every table's ledger by a full flush, so that no
//! range straddles the offset from which a table takes rows.

use std::sync::Arc;

use super::delta::{Delta, Flush, FlushKind, Rows};
use super::deployment::{DeploymentRow, Facts, Seen};
use super::event::{BatchHead, GpuReading, ReplicaSample, RequestEvent};
use super::ids::IdLimits;
use super::ledger::LedgerCounts;
use super::marks::Marks;
use super::recovery::Recovery;
use super::replica_fold::ReplicaFold;
use super::request_fold::{RequestFold, second_of};
use super::table::{Source, Stream, Table, TableSet, Tier};
use super::timeliness::{Timeliness, Untimely, judge};

/// A range is closed once a table has this many rows: one insert is one part, and stays one block.
pub const MAX_RANGE_ROWS: usize = 20_000;

/// A range is closed once its windows hold this many bytes.
pub const MAX_RANGE_BYTES: usize = 64 << 20;

/// What a row takes between its windows' being handed out and its being stored, with the coarser window that it is merged
/// from, about. An id of 100 bytes and five sketches of one value each make 1,000.
const ROW_BYTES: usize = 1_000;

/// Events that wait to be recorded; enough for their cache misses to overlap, few enough to stay in the cache.
const MAX_PENDING_EVENTS: usize = 2048;

/// What to do before a message is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Fold,
    /// Every table has it already.
    Skip,
    /// A table's ledger lies here: flush in full first.
    CutFirst,
}

enum Fold {
    Requests(Box<RequestFold>),
    Replicas(Box<ReplicaFold>),
}

struct Progress {
    table: Table,
    /// The first offset that the table lacks.
    from: u64,
    /// What had been counted when `from` was reached.
    base: LedgerCounts,
    append_ms: Option<i64>,
}

/// The windows of one partition, and how far each table is.
pub struct Partition {
    source: Source,
    generation: u64,
    next: u64,
    epoch: i32,
    last_append_ms: Option<i64>,
    tables: Vec<Progress>,
    /// Some table has no append time for its range yet.
    wants_append_time: bool,
    /// The next offset above `next` at which a table begins; `u64::MAX` without one.
    next_cut: u64,
    counts: LedgerCounts,
    n_readings_left_out: u64,
    marks: Marks,
    fold: Fold,
}

impl Partition {
    /// `marks` are those of all messages below the recovery's start.
    pub fn new(
        source: Source,
        generation: u64,
        recovery: &Recovery,
        marks: Marks,
        limits: IdLimits,
    ) -> Self {
        let fold = match source.stream {
            Stream::Requests => Fold::Requests(Box::new(RequestFold::new(limits))),
            Stream::Replicas => Fold::Replicas(Box::new(ReplicaFold::new(limits))),
        };
        let tables = recovery
            .tables
            .iter()
            .map(|start| Progress {
                table: start.table,
                from: start.from,
                base: LedgerCounts::default(),
                append_ms: None,
            })
            .collect();
        let mut partition = Self {
            source,
            generation,
            next: recovery.start,
            epoch: recovery.epoch,
            last_append_ms: None,
            tables,
            wants_append_time: true,
            next_cut: u64::MAX,
            counts: LedgerCounts::default(),
            n_readings_left_out: 0,
            marks,
            fold,
        };
        partition.find_next_cut();
        partition
    }

    pub const fn source(&self) -> Source {
        self.source
    }

    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The next offset to be folded.
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// Counted since the assignment.
    pub const fn counts(&self) -> LedgerCounts {
        self.counts
    }

    /// Readings left out since the assignment, because a limit put their replica under `__other__`.
    pub const fn n_readings_left_out(&self) -> u64 {
        self.n_readings_left_out
    }

    /// What must happen before the message at `offset` is folded.
    #[inline]
    pub const fn step(&self, offset: u64) -> Step {
        if offset < self.next {
            Step::Skip
        } else if offset >= self.next_cut {
            Step::CutFirst
        } else {
            Step::Fold
        }
    }

    /// Moves up to the cut that [`Step::CutFirst`] spoke of; a full flush must follow.
    pub fn advance_to_cut(&mut self) {
        if self.next_cut != u64::MAX {
            self.next = self.next_cut;
        }
    }

    /// Accounts for the message at `offset`, whatever becomes of it. [`Self::refuse`] follows, or [`Self::is_new`] and,
    /// where it is, one of the `fold_…` functions.
    #[inline]
    pub fn begin_message(&mut self, offset: u64, append_ms: i64) {
        self.next = offset + 1;
        self.last_append_ms = Some(append_ms);
        if self.wants_append_time {
            self.wants_append_time = false;
            for progress in &mut self.tables {
                progress.append_ms.get_or_insert(append_ms);
            }
        }
    }

    /// False where the message that was begun had come before: its producer sent it twice, and nothing of it is counted.
    #[inline]
    pub fn is_new(&mut self, head: &BatchHead<'_>, append_ms: i64) -> bool {
        let is_new = self.marks.note(head, self.next - 1, append_ms);
        self.counts.messages += 1;
        self.counts.repeated += u64::from(!is_new);
        is_new
    }

    /// Leader epoch of the last message; −1 where unknown.
    pub const fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The broker's append time of the last message, ms since 1970; none before the first.
    pub const fn last_append_ms(&self) -> Option<i64> {
        self.last_append_ms
    }

    /// Notes the leader epoch of the last message of a fetch.
    pub const fn set_epoch(&mut self, epoch: i32) {
        self.epoch = epoch;
    }

    /// Takes the events of one message whose time is right, and appends the indexes of the others to
    /// `untimely`.
    /// They are in the windows after [`Self::apply`].
    pub fn fold_batch(
        &mut self,
        head: &BatchHead<'_>,
        events: &[RequestEvent],
        append_ms: i64,
        untimely: &mut Untimely,
    ) {
        let Fold::Requests(fold) = &mut self.fold else {
            unreachable!("a batch is folded by a partition of requests");
        };
        let mut place = None;
        let append_us = append_ms.saturating_mul(1000);
        let mut n_accepted = 0;
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for (index, event) in (0_u32..).zip(events) {
            match judge(append_us, event.finished_at_us) {
                Timeliness::Accepted => {
                    // an id of which nothing is accepted takes no place
                    let place = *place
                        .get_or_insert_with(|| fold.place(head.deployment_id, head.replica_id));
                    fold.push(place, event);
                    n_accepted += 1;
                    first = first.min(event.finished_at_us);
                    last = last.max(event.finished_at_us);
                }
                Timeliness::Late => untimely.late.push(index),
                Timeliness::Early => untimely.early.push(index),
            }
        }
        if let Some(place) = place {
            fold.note_seen(place, second_of(first));
            fold.note_seen(place, second_of(last));
        }
        self.counts.events += n_accepted;
        self.counts.late += events.len() as u64 - n_accepted;
        if fold.n_pending() >= MAX_PENDING_EVENTS {
            fold.apply();
        }
    }

    /// Records the events of all batches since the last call.
    pub fn apply(&mut self) {
        if let Fold::Requests(fold) = &mut self.fold {
            fold.apply();
        }
    }

    /// Records one sample, if its time is accepted.
    pub fn fold_sample(
        &mut self,
        sample: &ReplicaSample<'_>,
        gpus: &[GpuReading],
        append_ms: i64,
    ) -> Timeliness {
        let Fold::Replicas(fold) = &mut self.fold else {
            unreachable!("a sample is folded by a partition of replicas");
        };
        let timeliness = judge(append_ms.saturating_mul(1000), sample.sampled_at_us);
        if timeliness == Timeliness::Accepted {
            self.n_readings_left_out += fold.record(sample, gpus);
            self.counts.events += 1;
        } else {
            self.counts.late += 1;
        }
        timeliness
    }

    /// Counts a message that was refused whole.
    pub const fn refuse(&mut self) {
        self.counts.invalid += 1;
    }

    /// Bytes held by open windows, about.
    pub fn state_bytes(&self) -> usize {
        match &self.fold {
            Fold::Requests(fold) => fold.state_bytes(),
            Fold::Replicas(fold) => fold.state_bytes(),
        }
    }

    /// Bytes held by open windows and by what a full flush makes of them, about. Windows of a request each are smaller than
    /// their rows.
    pub fn flush_bytes(&self) -> usize {
        let n_rows = match &self.fold {
            Fold::Requests(fold) => fold.n_rows_of_full_flush(),
            Fold::Replicas(fold) => fold.n_rows_of_full_flush(),
        };
        self.state_bytes() + n_rows * ROW_BYTES
    }

    /// What of [`Self::flush_bytes`] the finest tier is. A fine flush gives most of it back where several of its windows
    /// share a minute; where none do it gives back a row of each, and its windows go on as those of a minute.
    pub fn fine_flush_bytes(&self) -> usize {
        let (n_windows, state_bytes) = match &self.fold {
            Fold::Requests(fold) => (fold.n_fine_rows(), fold.fine_state_bytes()),
            Fold::Replicas(fold) => (fold.n_fine_rows(), fold.fine_state_bytes()),
        };
        state_bytes + n_windows * Tier::N * ROW_BYTES
    }

    /// Open windows, of all tiers.
    pub fn n_windows(&self) -> usize {
        match &self.fold {
            Fold::Requests(fold) => fold.n_windows(),
            Fold::Replicas(fold) => fold.n_windows(),
        }
    }

    /// The flush that a limit on a range asks for.
    pub fn wants_flush(&self) -> Option<FlushKind> {
        let (fine, coarse) = match &self.fold {
            Fold::Requests(fold) => (fold.n_fine_rows(), fold.n_coarse_rows()),
            Fold::Replicas(fold) => (fold.n_fine_rows(), fold.n_coarse_rows()),
        };
        // the open fine windows may each become a coarse one
        if coarse + fine >= MAX_RANGE_ROWS && coarse > 0 || self.state_bytes() >= MAX_RANGE_BYTES {
            Some(FlushKind::Full)
        } else if fine >= MAX_RANGE_ROWS {
            Some(FlushKind::Fine)
        } else {
            None
        }
    }

    /// Hands out what each table lacks, and clears it. What was handed out is stored or the partition is dropped.
    /// A fine flush that meets a cut is a full one: the range of the table that begins here must not reach back.
    pub fn flush(&mut self, kind: FlushKind, mut emit: impl FnMut(Delta<'_>)) -> Flush {
        let kind = if self.next == self.next_cut {
            FlushKind::Full
        } else {
            kind
        };
        let (to, epoch, counts, tables) = (self.next, self.epoch, self.counts, &self.tables);
        let lacking = tables.iter().filter(|progress| progress.from < to);
        let active: TableSet = lacking.map(|progress| progress.table).collect();
        let mut emit_rows = |table, rows: Rows<'_>| {
            if let Some(progress) = tables.iter().find(|progress| progress.table == table) {
                emit(Delta {
                    table,
                    from: progress.from,
                    to,
                    epoch,
                    append_ms: progress.append_ms,
                    counts: counts.since(progress.base),
                    rows,
                });
            }
        };
        match &mut self.fold {
            Fold::Requests(fold) => fold.flush(kind, active, &mut emit_rows),
            Fold::Replicas(fold) => fold.flush(kind, active, &mut emit_rows),
        }
        if kind == FlushKind::Full {
            let table = self.source.stream.marks();
            if active.contains(table) {
                emit_rows(table, Rows::Marks(self.marks.changes()));
            }
            self.marks.clear_changes();
        }
        let deployments = self.take_deployments(kind);
        for progress in &mut self.tables {
            let is_covered = kind == FlushKind::Full || progress.table.is_fine();
            if is_covered && progress.from <= self.next {
                progress.from = self.next;
                progress.base = self.counts;
                progress.append_ms = None;
            }
        }
        self.wants_append_time = true;
        self.find_next_cut();
        Flush {
            source: self.source,
            generation: self.generation,
            position: self.next,
            deployments,
        }
    }

    fn take_deployments(&mut self, kind: FlushKind) -> Vec<DeploymentRow> {
        match (&mut self.fold, kind) {
            (Fold::Requests(fold), FlushKind::Fine) => unnamed(fold.take_new_seen()),
            (Fold::Replicas(fold), FlushKind::Fine) => named(fold.take_new_facts()),
            (Fold::Requests(fold), FlushKind::Full) => {
                let rows = unnamed(fold.take_all_seen());
                fold.forget_ids_if_empty();
                rows
            }
            (Fold::Replicas(fold), FlushKind::Full) => {
                let rows = named(fold.take_all_facts());
                fold.forget_ids_if_empty();
                rows
            }
        }
    }

    fn find_next_cut(&mut self) {
        self.next_cut = self
            .tables
            .iter()
            .map(|progress| progress.from)
            .filter(|&from| from > self.next)
            .min()
            .unwrap_or(u64::MAX);
    }
}

fn unnamed(seen: Vec<(Arc<str>, Seen)>) -> Vec<DeploymentRow> {
    seen.into_iter()
        .map(|(id, seen)| DeploymentRow {
            id,
            facts: Facts::default(),
            seen,
        })
        .collect()
}

fn named(facts: Vec<(Arc<str>, Facts, Seen)>) -> Vec<DeploymentRow> {
    facts
        .into_iter()
        .map(|(id, facts, seen)| DeploymentRow { id, facts, seen })
        .collect()
}

#[cfg(test)]
mod tests;
