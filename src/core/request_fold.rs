//! Folds one partition's requests into windows, and hands out the windows that a flush covers.
//!
//! Events meet the 10 s windows of their deployment and the 1 m windows of their replica. The coarser tiers are merged
//! from the finer ones by a flush, so that an event is recorded twice and not five times.

use std::sync::Arc;

use super::delta::{FlushKind, Rows, Windows};
use super::deployment::Seen;
use super::event::RequestEvent;
use super::ids::{IdLimits, Ids, Place};
use super::level::Level;
use super::request_window::{CommonKeys, ReplicaRequestWindow, RequestWindow};
use super::sketch::{KeyTable, key_table};
use super::table::{Table, TableSet, Tier};

/// How far ahead of the fold a window is loaded: the time of about eight events hides one miss.
const PREFETCH_AHEAD: usize = 8;

/// When each deployment was seen since the last full flush, and which of that the `deployments` table was not told.
#[derive(Default)]
struct SeenDeployments {
    /// By deployment's number.
    seen: Vec<Option<Seen>>,
    new: Vec<u32>,
}

impl SeenDeployments {
    #[inline]
    fn note(&mut self, deployment: u32, second: u32) {
        if let Some(Some(seen)) = self.seen.get_mut(deployment as usize) {
            seen.first = seen.first.min(second);
            seen.last = seen.last.max(second);
        } else {
            let n = self.seen.len().max(deployment as usize + 1);
            self.seen.resize(n, None);
            self.seen[deployment as usize] = Some(Seen {
                first: second,
                last: second,
            });
            self.new.push(deployment);
        }
    }

    fn take_new(&mut self) -> Vec<(u32, Seen)> {
        let new = std::mem::take(&mut self.new);
        new.into_iter()
            .filter_map(|number| Some((number, self.seen[number as usize]?)))
            .collect()
    }

    fn take_all(&mut self) -> Vec<(u32, Seen)> {
        self.new.clear();
        let all = std::mem::take(&mut self.seen);
        (0..)
            .zip(all)
            .filter_map(|(number, seen)| Some((number, seen?)))
            .collect()
    }
}

/// The open windows of one partition of the requests topic.
pub struct RequestFold {
    ids: Ids,
    keys: &'static KeyTable,
    ten_seconds: Level<RequestWindow>,
    minutes: Level<RequestWindow>,
    hours: Level<RequestWindow>,
    replica_minutes: Level<ReplicaRequestWindow>,
    replica_hours: Level<ReplicaRequestWindow>,
    seen: SeenDeployments,
    /// Where each accepted event of the pending messages goes; see [`Self::apply`].
    pending: Vec<Pending>,
}

struct Pending {
    event: RequestEvent,
    window: u32,
    replica_window: u32,
}

impl RequestFold {
    pub fn new(limits: IdLimits) -> Self {
        Self {
            ids: Ids::new(limits),
            keys: key_table(),
            ten_seconds: Level::new(Tier::TenSeconds),
            minutes: Level::new(Tier::Minute),
            hours: Level::new(Tier::Hour),
            replica_minutes: Level::new(Tier::Minute),
            replica_hours: Level::new(Tier::Hour),
            seen: SeenDeployments::default(),
            pending: Vec::new(),
        }
    }

    /// The numbers of a message's deployment and replica.
    #[inline]
    pub fn place(&mut self, deployment_id: &str, replica_id: &str) -> Place {
        self.ids.place(deployment_id, replica_id)
    }

    /// Takes one event: its windows are looked up now and recorded into by [`Self::apply`], so that the cache misses of
    /// many events overlap. `finished_at_us` must have passed the time rule.
    #[inline]
    pub fn push(&mut self, place: Place, event: &RequestEvent) {
        let second = second_of(event.finished_at_us);
        let window = self.ten_seconds.index_of(place.deployment, second);
        let replica_window = self.replica_minutes.index_of(place.replica, second);
        self.pending.push(Pending {
            event: *event,
            window,
            replica_window,
        });
    }

    /// Notes when a deployment was seen, by the first and last event of a message.
    #[inline]
    pub fn note_seen(&mut self, place: Place, second: u32) {
        self.seen.note(place.deployment, second);
    }

    /// Events that were pushed and not yet recorded.
    pub fn n_pending(&self) -> usize {
        self.pending.len()
    }

    /// Records every event that was pushed.
    pub fn apply(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for (i, item) in pending.iter().enumerate() {
            if let Some(next) = pending.get(i + PREFETCH_AHEAD) {
                self.ten_seconds.prefetch(next.window);
                self.replica_minutes.prefetch(next.replica_window);
            }
            let common = CommonKeys::of(&item.event, self.keys);
            let window = self.ten_seconds.window(item.window);
            let grown = window.record(&item.event, common, self.keys);
            self.ten_seconds.grow(grown);
            let window = self.replica_minutes.window(item.replica_window);
            let grown = window.record(&item.event, common);
            self.replica_minutes.grow(grown);
        }
        self.pending = pending;
        self.pending.clear();
    }

    /// Bytes held by open windows, about.
    pub fn state_bytes(&self) -> usize {
        self.ids.state_bytes()
            + self.ten_seconds.state_bytes()
            + self.minutes.state_bytes()
            + self.hours.state_bytes()
            + self.replica_minutes.state_bytes()
            + self.replica_hours.state_bytes()
    }

    /// Bytes held by the open windows of the 10 s table, about.
    pub fn fine_state_bytes(&self) -> usize {
        self.ten_seconds.state_bytes()
    }

    /// Rows that a full flush would have, at most: what is fine becomes a row in every tier.
    pub fn n_rows_of_full_flush(&self) -> usize {
        let by_deployment = Tier::N * self.ten_seconds.len() + 2 * self.minutes.len();
        by_deployment + 2 * self.replica_minutes.len()
    }

    /// Open windows, of all tiers.
    pub fn n_windows(&self) -> usize {
        self.ten_seconds.len()
            + self.minutes.len()
            + self.hours.len()
            + self.replica_minutes.len()
            + self.replica_hours.len()
    }

    /// Rows that a flush of the 10 s table would have.
    pub fn n_fine_rows(&self) -> usize {
        self.ten_seconds.len()
    }

    /// Rows of the largest coarse table.
    pub fn n_coarse_rows(&self) -> usize {
        self.minutes
            .len()
            .max(self.replica_minutes.len())
            .max(self.hours.len())
            .max(self.replica_hours.len())
    }

    /// Deployments first seen since the last call: the dropdown must not wait for a full flush.
    pub fn take_new_seen(&mut self) -> Vec<(Arc<str>, Seen)> {
        let new = self.seen.take_new();
        self.named(new)
    }

    /// Every deployment seen since the last full flush.
    pub fn take_all_seen(&mut self) -> Vec<(Arc<str>, Seen)> {
        let all = self.seen.take_all();
        self.named(all)
    }

    fn named(&self, seen: Vec<(u32, Seen)>) -> Vec<(Arc<str>, Seen)> {
        seen.into_iter()
            .map(|(deployment, seen)| (self.ids.deployment_id(deployment).clone(), seen))
            .collect()
    }

    /// Hands out the rows of each active table, coarser tiers merged from the finer, and clears what was handed out.
    /// A fine flush is of the 10 s table alone.
    pub fn flush(
        &mut self,
        kind: FlushKind,
        active: TableSet,
        emit: &mut dyn FnMut(Table, Rows<'_>),
    ) {
        self.apply();
        // the hour is merged from the minutes where there are any, else from here
        if active.contains(Table::Requests1m) {
            self.minutes
                .merge_up(self.ten_seconds.windows(), RequestWindow::merge);
        } else if active.contains(Table::Requests1h) {
            self.hours
                .merge_up(self.ten_seconds.windows(), RequestWindow::merge);
        }
        self.emit(Table::Requests10s, active, emit);
        self.ten_seconds.clear();
        if kind == FlushKind::Full {
            self.flush_coarse(active, emit);
        }
    }

    fn flush_coarse(&mut self, active: TableSet, emit: &mut dyn FnMut(Table, Rows<'_>)) {
        if active.contains(Table::Requests1h) {
            self.hours
                .merge_up(self.minutes.windows(), RequestWindow::merge);
        }
        if active.contains(Table::RequestsByReplica1h) {
            self.replica_hours
                .merge_up(self.replica_minutes.windows(), ReplicaRequestWindow::merge);
        }
        for table in [
            Table::Requests1m,
            Table::Requests1h,
            Table::RequestsByReplica1m,
            Table::RequestsByReplica1h,
        ] {
            self.emit(table, active, emit);
        }
        self.minutes.clear();
        self.replica_minutes.clear();
        self.hours.release();
        self.replica_hours.release();
    }

    fn emit(&mut self, table: Table, active: TableSet, emit: &mut dyn FnMut(Table, Rows<'_>)) {
        if !active.contains(table) {
            return;
        }
        let ids = &self.ids;
        let mut by_deployment = |level: &mut Level<RequestWindow>| {
            let open = level.windows_mut();
            emit(table, Rows::Requests(Windows { open, ids }));
        };
        match table {
            Table::Requests10s => by_deployment(&mut self.ten_seconds),
            Table::Requests1m => by_deployment(&mut self.minutes),
            Table::Requests1h => by_deployment(&mut self.hours),
            Table::RequestsByReplica1m => {
                let open = self.replica_minutes.windows_mut();
                emit(table, Rows::ReplicaRequests(Windows { open, ids }));
            }
            _ => {
                let open = self.replica_hours.windows_mut();
                emit(table, Rows::ReplicaRequests(Windows { open, ids }));
            }
        }
    }

    /// Forgets ids once no window names one; call after [`Self::take_all_seen`].
    pub fn forget_ids_if_empty(&mut self) {
        if self.n_windows() == 0 {
            self.ids.clear();
            self.ten_seconds.forget_owners();
            self.minutes.forget_owners();
            self.replica_minutes.forget_owners();
        }
    }
}

/// The second that a time lies in. The time rule keeps times far inside a `u32`.
pub fn second_of(us: i64) -> u32 {
    u32::try_from(us.div_euclid(1_000_000)).unwrap_or(0)
}
