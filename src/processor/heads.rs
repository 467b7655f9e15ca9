//! Where each table's ledger is for the partitions that are ours, as far as this process knows: what the guards expect.
//!
//! It asks nobody: recoveries and what a ledger said come in, and so does the day.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::share::{Share, ShareKind};
use crate::core::ledger::{Ledger, ingest_day};
use crate::core::recovery::Recovery;
use crate::core::table::{Source, Stream, Table};
use crate::store::rows::encode_heartbeat;

/// Where a table's ledger is for one partition.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// `to` of the ledger; 0 without one.
    to: u64,
    ingested: Option<i64>,
    epoch: i32,
}

#[derive(Default)]
pub struct Heads {
    /// `<topic>/<topic id>` of each stream, as of the latest assignment.
    ledgers: HashMap<Stream, Arc<str>>,
    /// In order, so that the same history makes the same inserts.
    heads: BTreeMap<(Source, Table), Head>,
}

impl Heads {
    /// Names the ledgers that a stream's partitions are filed under from now on.
    pub fn set_ledger(&mut self, stream: Stream, ledger: Arc<str>) {
        self.ledgers.insert(stream, ledger);
    }

    /// `<topic>/<topic id>`; empty before the first assignment.
    pub fn ledger(&self, stream: Stream) -> Arc<str> {
        self.ledgers
            .get(&stream)
            .cloned()
            .unwrap_or_else(|| Arc::from(""))
    }

    /// Takes a partition's recovery as where its tables stand.
    pub fn adopt(&mut self, source: Source, recovery: &Recovery) {
        for start in &recovery.tables {
            let to = if start.needs_heartbeat { 0 } else { start.from };
            let head = Head {
                to,
                ingested: start.ingested,
                epoch: start.epoch,
            };
            self.heads.insert((source, start.table), head);
        }
    }

    /// Forgets a partition that is no longer ours.
    pub fn forget(&mut self, source: Source) {
        self.heads.retain(|(other, _), _| *other != source);
    }

    pub fn forget_all(&mut self) {
        self.heads.clear();
    }

    /// What the guard of an insert expects of this partition's ledger; 0 where there is none.
    pub fn expected(&self, source: Source, table: Table) -> u64 {
        self.heads.get(&(source, table)).map_or(0, |head| head.to)
    }

    /// `ingested` of an insert of these shares: one constant, the latest that any of them asks for.
    pub fn ingest_day(&self, table: Table, shares: &[Share], today: i64) -> i64 {
        let day_of = |share: &Share| {
            let head = self.heads.get(&(share.source, table));
            let ledger = head.and_then(|head| head.ingested);
            ingest_day(table, ledger, share.append_day, today)
        };
        shares.iter().map(day_of).max().unwrap_or(today)
    }

    /// The ledger said that the share is in: the next insert goes on behind it.
    pub fn stored(&mut self, table: Table, share: &Share, ingested: i64, now: Option<Ledger>) {
        let to = match share.kind {
            ShareKind::Data { to, .. } => to,
            ShareKind::Heartbeat { at } => at,
        };
        let head = Head {
            to,
            // another's row may be younger: what the ledger says, not only what we sent
            ingested: now.map(|ledger| ledger.ingested).max(Some(ingested)),
            epoch: now.map_or(-1, |ledger| ledger.epoch),
        };
        self.heads.insert((share.source, table), head);
    }

    /// The first ledger row `[from, from)` of every table that lacks one.
    pub fn first_rows(&self, recoveries: &[(Source, Recovery)], today: i64) -> Vec<(Table, Share)> {
        let mut missing = Vec::new();
        for (source, recovery) in recoveries {
            for start in recovery.tables.iter().filter(|start| start.needs_heartbeat) {
                let row = self.heartbeat(*source, start.table, start.from, start.epoch, today);
                missing.push((start.table, row));
            }
        }
        missing
    }

    /// A ledger row of today for partitions that got none: so they never age out.
    pub fn rows_of_today(&self, today: i64) -> Vec<(Table, Share)> {
        let is_old = |table: Table, head: &Head| {
            head.ingested
                .is_some_and(|day| day < table.ingest_day(today))
        };
        self.heads
            .iter()
            .filter(|((_, table), head)| is_old(*table, head))
            .map(|(&(source, table), head)| {
                let row = self.heartbeat(source, table, head.to, head.epoch, today);
                (table, row)
            })
            .collect()
    }

    /// Dated by the clock, not by the log.
    fn heartbeat(&self, source: Source, table: Table, at: u64, epoch: i32, today: i64) -> Share {
        let ledger = self.ledger(source.stream);
        Share {
            source,
            kind: ShareKind::Heartbeat { at },
            append_day: Some(today),
            chunk: encode_heartbeat(table, source.partition, &ledger, at, epoch),
        }
    }
}
