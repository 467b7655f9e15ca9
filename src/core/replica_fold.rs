//! Folds one partition's replica samples into windows, and hands out the windows that a flush covers.
//!
//! A sample speaks for the interval that it covers, `[sampled_at − interval, sampled_at)`, split at window edges; it is
//! counted once, in the window of the last instant that it covers.

use std::collections::HashMap;
use std::sync::Arc;

use super::delta::{FlushKind, Rows, Windows};
use super::deployment::{Facts, Seen};
use super::event::{GpuReading, ReplicaSample};
use super::ids::{IdLimits, Ids};
use super::level::Level;
use super::replica_window::{ReplicaWindow, SampleValues};
use super::request_fold::second_of;
use super::table::{Table, TableSet, Tier};

/// Different facts of one deployment that are kept between two flushes. A promotion is two; more is a producer that
/// makes them up, whose further ones are left out of `deployments` (its samples count all the same).
pub const MAX_FACTS_PER_DEPLOYMENT: usize = 8;

struct Known {
    facts: Facts,
    seen: Seen,
    is_told: bool,
}

/// The open windows of one partition of the replicas topic.
pub struct ReplicaFold {
    ids: Ids,
    ten_seconds: Level<ReplicaWindow>,
    minutes: Level<ReplicaWindow>,
    hours: Level<ReplicaWindow>,
    /// By deployment's number: what it said of itself since the last full flush.
    facts: HashMap<u32, Vec<Known>>,
    /// Bytes of `facts`, about.
    facts_bytes: usize,
    /// Some of `facts` are new to the `deployments` table.
    has_new_facts: bool,
}

impl ReplicaFold {
    pub fn new(limits: IdLimits) -> Self {
        Self {
            ids: Ids::new(limits),
            ten_seconds: Level::new(Tier::TenSeconds),
            minutes: Level::new(Tier::Minute),
            hours: Level::new(Tier::Hour),
            facts: HashMap::new(),
            facts_bytes: 0,
            has_new_facts: false,
        }
    }

    /// Records one sample whose time has passed the time rule. Returns how many readings were left out because a limit
    /// put the replica under `__other__`.
    pub fn record(&mut self, sample: &ReplicaSample<'_>, gpus: &[GpuReading]) -> u64 {
        let place = self
            .ids
            .place(sample.head.deployment_id, sample.head.replica_id);
        let values = SampleValues::new(sample, gpus, place.is_own);
        let end = sample.sampled_at_us;
        let start = end - i64::try_from(sample.interval_us).unwrap_or(0);
        let last = second_of(end - 1);
        // an interval of nothing is still counted, where its last instant would have been
        let mut at = start.min(end - 1);
        while at < end {
            let second = second_of(at);
            let window_end =
                i64::from(Tier::TenSeconds.floor(second) + Tier::TenSeconds.seconds()) * 1_000_000;
            let covered = window_end.min(end) - at.max(start);
            let is_end = Tier::TenSeconds.floor(second) == Tier::TenSeconds.floor(last);
            let index = self.ten_seconds.index_of(place.replica, second);
            values.record(
                self.ten_seconds.window(index),
                u64::try_from(covered).unwrap_or(0),
                is_end,
            );
            at = window_end;
        }
        if place.is_own {
            self.note_facts(place.deployment, sample, last);
        }
        if place.is_own { 0 } else { values.n_readings() }
    }

    fn note_facts(&mut self, deployment: u32, sample: &ReplicaSample<'_>, second: u32) {
        let known = self.facts.entry(deployment).or_default();
        if let Some(Known { seen, .. }) = known.iter_mut().find(|known| known.facts.is_of(sample)) {
            seen.first = seen.first.min(second);
            seen.last = seen.last.max(second);
        } else if known.len() < MAX_FACTS_PER_DEPLOYMENT {
            let facts = Facts::of(sample);
            self.facts_bytes += facts.bytes();
            known.push(Known {
                facts,
                seen: Seen {
                    first: second,
                    last: second,
                },
                is_told: false,
            });
            self.has_new_facts = true;
        }
    }

    /// Bytes held by open windows, about.
    pub fn state_bytes(&self) -> usize {
        self.ids.state_bytes()
            + self.facts_bytes
            + self.ten_seconds.state_bytes()
            + self.minutes.state_bytes()
            + self.hours.state_bytes()
    }

    /// Bytes held by the open windows of the 10 s table, about.
    pub fn fine_state_bytes(&self) -> usize {
        self.ten_seconds.state_bytes()
    }

    /// Rows that a full flush would have, at most: what is fine becomes a row in every tier.
    pub fn n_rows_of_full_flush(&self) -> usize {
        Tier::N * self.ten_seconds.len() + 2 * self.minutes.len()
    }

    /// Open windows, of all tiers.
    pub fn n_windows(&self) -> usize {
        self.ten_seconds.len() + self.minutes.len() + self.hours.len()
    }

    /// Rows that a flush of the 10 s table would have.
    pub fn n_fine_rows(&self) -> usize {
        self.ten_seconds.len()
    }

    /// Rows of the largest coarse table.
    pub fn n_coarse_rows(&self) -> usize {
        self.minutes.len().max(self.hours.len())
    }

    /// Facts first seen since the last call: the dropdown must not wait for a full flush.
    pub fn take_new_facts(&mut self) -> Vec<(Arc<str>, Facts, Seen)> {
        if !std::mem::take(&mut self.has_new_facts) {
            return Vec::new();
        }
        let mut rows = Vec::new();
        for (&deployment, known) in &mut self.facts {
            for known in known.iter_mut().filter(|known| !known.is_told) {
                known.is_told = true;
                rows.push((
                    self.ids.deployment_id(deployment).clone(),
                    known.facts.clone(),
                    known.seen,
                ));
            }
        }
        rows
    }

    /// All facts seen since the last full flush.
    pub fn take_all_facts(&mut self) -> Vec<(Arc<str>, Facts, Seen)> {
        self.has_new_facts = false;
        self.facts_bytes = 0;
        let facts = std::mem::take(&mut self.facts);
        facts
            .into_iter()
            .flat_map(|(deployment, known)| {
                let id = self.ids.deployment_id(deployment);
                known
                    .into_iter()
                    .map(move |known| (id.clone(), known.facts, known.seen))
            })
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
        // the hour is merged from the minutes where there are any, else from here
        if active.contains(Table::Replicas1m) {
            self.minutes.merge_up(self.ten_seconds.windows(), merge);
        } else if active.contains(Table::Replicas1h) {
            self.hours.merge_up(self.ten_seconds.windows(), merge);
        }
        let ids = &self.ids;
        let mut emit_level = |table, level: &mut Level<ReplicaWindow>| {
            if active.contains(table) {
                let open = level.windows_mut();
                emit(table, Rows::Replicas(Windows { open, ids }));
            }
        };
        emit_level(Table::Replicas10s, &mut self.ten_seconds);
        self.ten_seconds.clear();
        if kind == FlushKind::Fine {
            return;
        }
        if active.contains(Table::Replicas1h) {
            self.hours.merge_up(self.minutes.windows(), merge);
        }
        emit_level(Table::Replicas1m, &mut self.minutes);
        emit_level(Table::Replicas1h, &mut self.hours);
        self.minutes.clear();
        self.hours.release();
    }

    /// Forgets ids once no window names one; call after [`Self::take_all_facts`].
    pub fn forget_ids_if_empty(&mut self) {
        if self.n_windows() == 0 {
            self.ids.clear();
            self.ten_seconds.forget_owners();
            self.minutes.forget_owners();
        }
    }
}

/// A replica's window has no heap, so it never grows.
fn merge(into: &mut ReplicaWindow, other: &ReplicaWindow) -> usize {
    into.merge(other);
    0
}
