//! The one writer of a process: sends deltas behind their guards and believes the ledger alone.
//!
//! An insert is sent, then the ledger is read, whatever the answer was. A crash before the insert is stored loses
//! nothing: the next owner replays from the ledger. A crash after it doubles nothing: the ledger stands in the same
//! part. Nothing else in the process remembers what is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::backoff::Backoff;
use super::protocol::EncodedFlush;
use super::share::{Share, ShareKind, fits};
use super::status::{InsertResult, Status};
use crate::clock;
use crate::config::StoreAddress;
use crate::core::deployment::DeploymentRow;
use crate::core::ledger::{Fate, Ledger, ingest_day};
use crate::core::recovery::Recovery;
use crate::core::table::{Source, Stream, Table};
use crate::store::columns::columns;
use crate::store::deadline::StoreError;
use crate::store::insert::{Expected, Insert, InsertError, Pins, send};
use crate::store::native::{Chunk, block};
use crate::store::rows::{EncodedDelta, encode_heartbeat};
use crate::store::{deployments, ledger};

/// How often a table that is busy is tried at once: some seconds. Whoever holds it longer hangs, and that is said.
const MAX_BUSY: u32 = 200;

const US_PER_DAY: i64 = 86_400_000_000;

/// A defect of this program that no retry mends.
#[derive(Debug, thiserror::Error)]
#[error("an insert into {} was refused for what is a defect of this program", table.name())]
pub struct Defect {
    table: Table,
    #[source]
    source: InsertError,
}

/// What became of a flush.
#[derive(Debug, Default)]
pub struct Written {
    /// Somebody else has written these: their windows are worth nothing.
    pub fenced: Vec<Source>,
    /// The others are stored up to here.
    pub positions: Vec<(Source, u64)>,
}

/// Where a table's ledger is for one partition, as far as this process knows.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// `to` of the ledger; 0 without one.
    to: u64,
    ingested: Option<i64>,
    epoch: i32,
}

pub struct Writer {
    address: StoreAddress,
    client: clickhouse::Client,
    pins: Pins,
    status: Arc<Status>,
    /// `<topic>/<topic id>` of each stream, as of the latest assignment.
    ledgers: HashMap<Stream, Arc<str>>,
    heads: HashMap<(Source, Table), Head>,
    backoff: Backoff,
}

impl Writer {
    /// # Errors
    /// When ClickHouse does not say which settings it has.
    pub async fn new(
        address: StoreAddress,
        status: Arc<Status>,
    ) -> Result<Self, clickhouse::error::Error> {
        let client = address.client();
        let pins = Pins::load(&client).await?;
        if !pins.missing.is_empty() {
            tracing::info!(missing = ?pins.missing, "this server lacks some of the settings that inserts pin");
        }
        let backoff = Backoff::seeded();
        Ok(Self {
            address,
            client,
            pins,
            status,
            ledgers: HashMap::new(),
            heads: HashMap::new(),
            backoff,
        })
    }

    /// Names the ledgers that a stream's partitions are filed under from now on.
    pub fn set_ledger(&mut self, stream: Stream, ledger: Arc<str>) {
        self.ledgers.insert(stream, ledger);
    }

    /// Reads a stream's ledgers in all its tables, once.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn read_ledgers(
        &self,
        stream: Stream,
        partitions: &[i32],
    ) -> Result<Vec<(Table, HashMap<i32, Ledger>)>, StoreError> {
        let ledger = self.ledger(stream);
        let mut all = Vec::new();
        for &table in stream.tables() {
            all.push((
                table,
                ledger::read(&self.client, table, &ledger, partitions).await?,
            ));
        }
        Ok(all)
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
            self.heads.insert(
                (source, start.table),
                Head {
                    to,
                    ingested: start.ingested,
                    epoch: start.epoch,
                },
            );
        }
    }

    /// Writes the first ledger row `[from, from)` of every table that lacks one. Returns the partitions that somebody
    /// else has written meanwhile.
    ///
    /// # Errors
    /// On a defect.
    pub async fn begin_ledgers(
        &mut self,
        recoveries: &[(Source, Recovery)],
    ) -> Result<Vec<Source>, Defect> {
        let mut missing: Vec<(Table, Share)> = Vec::new();
        for (source, recovery) in recoveries {
            for start in recovery.tables.iter().filter(|start| start.needs_heartbeat) {
                missing.push((
                    start.table,
                    self.heartbeat(*source, start.table, start.from, start.epoch),
                ));
            }
        }
        self.insert_by_table(missing).await
    }

    /// Dates the ledgers of partitions that got no rows today, so that they never age out. Returns the fenced ones.
    ///
    /// # Errors
    /// On a defect.
    pub async fn keep_ledgers_young(&mut self) -> Result<Vec<Source>, Defect> {
        let today = clock::now_us() / US_PER_DAY;
        let old: Vec<(Source, Table, Head)> = self
            .heads
            .iter()
            .filter(|((_, table), head)| {
                head.ingested
                    .is_some_and(|day| day < table.ingest_day(today))
            })
            .map(|(&(source, table), &head)| (source, table, head))
            .collect();
        let shares = old
            .into_iter()
            .map(|(source, table, head)| {
                (table, self.heartbeat(source, table, head.to, head.epoch))
            })
            .collect();
        self.insert_by_table(shares).await
    }

    fn heartbeat(&self, source: Source, table: Table, at: u64, epoch: i32) -> Share {
        let chunk = encode_heartbeat(
            table,
            source.partition,
            &self.ledger(source.stream),
            at,
            epoch,
        );
        // dated by the clock, not by the log
        let append_day = Some(clock::now_us() / US_PER_DAY);
        Share {
            source,
            kind: ShareKind::Heartbeat { at },
            append_day,
            chunk,
        }
    }

    /// Stores what a flush took out of the workers. Comes back when the ledger says of every share what became of it:
    /// while ClickHouse is down it waits, and whoever cannot wait drops the call and all partitions with it.
    ///
    /// # Errors
    /// On a defect.
    pub async fn write(&mut self, flushes: Vec<EncodedFlush>) -> Result<Written, Defect> {
        let mut deployments = Vec::new();
        let mut shares = Vec::new();
        let mut positions = Vec::new();
        for flush in flushes {
            positions.push((flush.source, flush.position));
            deployments.extend(flush.deployments);
            for EncodedDelta {
                table,
                from,
                to,
                append_ms,
                chunk,
            } in flush.deltas
            {
                let append_day = append_ms.map(|ms| ms.div_euclid(US_PER_DAY / 1000));
                shares.push((
                    table,
                    Share {
                        source: flush.source,
                        kind: ShareKind::Data { from, to },
                        append_day,
                        chunk,
                    },
                ));
            }
        }
        // before the ledger moves: a deployment that is counted is in the dropdown
        self.tell_deployments(&deployments).await;
        let fenced = self.insert_by_table(shares).await?;
        positions.retain(|(source, _)| !fenced.contains(source));
        Ok(Written { fenced, positions })
    }

    /// Forgets a partition that is no longer ours.
    pub fn forget(&mut self, source: Source) {
        self.heads.retain(|(other, _), _| *other != source);
    }

    pub fn forget_all(&mut self) {
        self.heads.clear();
    }

    /// One insert a table, or a few where a block would pass a range's limits. A partition that is fenced in one table
    /// is left out of the others.
    async fn insert_by_table(
        &mut self,
        mut shares: Vec<(Table, Share)>,
    ) -> Result<Vec<Source>, Defect> {
        let mut fenced: Vec<Source> = Vec::new();
        for table in Table::ALL {
            let (ours, others): (Vec<_>, Vec<_>) =
                shares.into_iter().partition(|(other, _)| *other == table);
            shares = others;
            let mut group: Vec<Share> = Vec::new();
            for (_, share) in ours {
                if fenced.contains(&share.source) {
                    continue;
                }
                if !fits(&group, &share) {
                    fenced.extend(self.insert(table, std::mem::take(&mut group)).await?);
                }
                group.push(share);
            }
            if !group.is_empty() {
                fenced.extend(self.insert(table, group).await?);
            }
        }
        Ok(fenced)
    }

    /// Sends one insert until the ledger has an answer for each of its partitions. Returns the fenced ones.
    async fn insert(
        &mut self,
        table: Table,
        mut shares: Vec<Share>,
    ) -> Result<Vec<Source>, Defect> {
        let mut fenced = Vec::new();
        let mut n_busy = 0;
        let ingested = self.ingest_day(table, &shares);
        while !shares.is_empty() {
            let started = Instant::now();
            let answer = self.send(table, ingested, &shares).await;
            let took = started.elapsed();
            // ── from here a crash is harmless: what is stored has its ledger, what is not will be replayed ──
            let now = self
                .read_until_answered(table, shares[0].source.stream, &shares)
                .await;
            let before = shares.len();
            let mut n_fenced = 0;
            shares.retain(|share| match share.fate(ingested, now.get(&share.source.partition).copied()) {
                Fate::Missing => true,
                Fate::Stored => {
                    self.heads.insert((share.source, table), head_after(share, ingested, &now));
                    false
                }
                Fate::Fenced => {
                    tracing::warn!(table = table.name(), source = ?share.source, "another process has written this partition");
                    fenced.push(share.source);
                    n_fenced += 1;
                    false
                }
            });
            let result = match (n_fenced, shares.is_empty()) {
                (0, true) => InsertResult::Stored,
                (0, false) => InsertResult::Retried,
                _ => InsertResult::Fenced,
            };
            self.status.tell_insert(table, result, took);
            self.status.tell_fenced(table, n_fenced);
            if shares.is_empty() || shares.len() < before {
                self.recovered();
                continue;
            }
            match answer {
                Err(error) if error.is_defect() => {
                    return Err(Defect {
                        table,
                        source: error,
                    });
                }
                Err(error) if error.is_busy() && n_busy < MAX_BUSY => {
                    n_busy += 1;
                    self.backoff.wait_for_busy().await;
                }
                Err(error) => self.blocked(format!("{}: {error}", table.name())).await,
                Ok(()) => {
                    self.blocked(format!(
                        "{}: ClickHouse said ok, and the rows are not there",
                        table.name()
                    ))
                    .await
                }
            }
        }
        Ok(fenced)
    }

    async fn send(&self, table: Table, ingested: i64, shares: &[Share]) -> Result<(), InsertError> {
        let expected: Vec<Expected> = shares
            .iter()
            .map(|share| Expected {
                partition: share.source.partition,
                to: self
                    .heads
                    .get(&(share.source, table))
                    .map_or(0, |head| head.to),
            })
            .collect();
        let chunks: Vec<&Chunk> = shares.iter().map(|share| &share.chunk).collect();
        let body = block(columns(table), &chunks);
        let ledger = self.ledger(shares[0].source.stream);
        send(
            &self.address,
            &self.pins,
            &Insert {
                table,
                ledger: &ledger,
                expected: &expected,
                ingested,
                body,
            },
        )
        .await
    }

    fn ingest_day(&self, table: Table, shares: &[Share]) -> i64 {
        let today = clock::now_us() / US_PER_DAY;
        let day_of = |share: &Share| {
            let ledger = self
                .heads
                .get(&(share.source, table))
                .and_then(|head| head.ingested);
            ingest_day(table, ledger, share.append_day, today)
        };
        shares.iter().map(day_of).max().unwrap_or(today)
    }

    async fn read_until_answered(
        &mut self,
        table: Table,
        stream: Stream,
        shares: &[Share],
    ) -> HashMap<i32, Ledger> {
        let partitions: Vec<i32> = shares.iter().map(|share| share.source.partition).collect();
        let ledger = self.ledger(stream);
        loop {
            match ledger::read(&self.client, table, &ledger, &partitions).await {
                Ok(now) => return now,
                Err(error) => {
                    self.blocked(format!(
                        "{}: the ledger cannot be read: {error}",
                        table.name()
                    ))
                    .await
                }
            }
        }
    }

    /// Idempotent, so that it needs no ledger.
    async fn tell_deployments(&mut self, rows: &[DeploymentRow]) {
        while let Err(error) = deployments::insert(&self.client, rows).await {
            self.blocked(format!("deployments: {error}")).await;
        }
    }

    async fn blocked(&mut self, why: String) {
        tracing::warn!(why, "cannot write; trying again");
        self.status.tell_blocked(Some(why));
        self.backoff.wait().await;
    }

    fn recovered(&mut self) {
        if self.backoff.reset() {
            tracing::info!("writing again");
        }
        self.status.tell_blocked(None);
    }
}

fn head_after(share: &Share, ingested: i64, now: &HashMap<i32, Ledger>) -> Head {
    let to = match share.kind {
        ShareKind::Data { to, .. } => to,
        ShareKind::Heartbeat { at } => at,
    };
    Head {
        to,
        ingested: Some(ingested),
        epoch: now
            .get(&share.source.partition)
            .map_or(-1, |ledger| ledger.epoch),
    }
}
