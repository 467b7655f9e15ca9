//! The one writer of a process: sends deltas behind their guards and believes the ledger alone.
//!
//! An insert is sent, then the ledger is read, whatever the answer was. A crash before the insert is stored loses
//! nothing: the next owner replays from the ledger. A crash after it doubles nothing: the ledger stands in the same
//! part. Nothing else in the process remembers what is stored.
//!
//! What to send and what the ledger means is decided in [`super::delivery`] and [`super::heads`], which do no I/O and are
//! simulated; here is the I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::delivery::{Defect, Delivery, Insertion, Judged, Wait};
use super::heads::Heads;
use super::protocol::EncodedFlush;
use super::share::Share;
use super::status::{InsertResult, Status};
use crate::clock;
use crate::config::StoreAddress;
use crate::core::deployment::DeploymentRow;
use crate::core::ledger::Ledger;
use crate::core::recovery::Recovery;
use crate::core::table::{Source, Stream, Table};
use crate::store::columns::columns;
use crate::store::deadline::StoreError;
use crate::store::insert::{Insert, InsertError, Pins, send};
use crate::store::marks::Marked;
use crate::store::native::{Chunk, block};
use crate::store::{deployments, ledger, marks};

const US_PER_DAY: i64 = 86_400_000_000;

/// What became of a flush.
#[derive(Debug, Default)]
pub struct Written {
    /// Somebody else has written these: their windows are worth nothing.
    pub fenced: Vec<Source>,
    /// The others are stored up to here.
    pub positions: Vec<(Source, u64)>,
}

pub struct Writer {
    address: StoreAddress,
    client: clickhouse::Client,
    pins: Pins,
    status: Arc<Status>,
    heads: Heads,
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
            heads: Heads::default(),
            backoff,
        })
    }

    /// Names the ledgers that a stream's partitions are filed under from now on.
    pub fn set_ledger(&mut self, stream: Stream, ledger: Arc<str>) {
        self.heads.set_ledger(stream, ledger);
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

    /// Reads the marks of producers as they were at or below each of these offsets, once.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn read_marks(
        &self,
        stream: Stream,
        starts: &[(i32, u64)],
    ) -> Result<HashMap<i32, Marked>, StoreError> {
        marks::read(&self.client, stream, &self.ledger(stream), starts).await
    }

    /// `<topic>/<topic id>`; empty before the first assignment.
    pub fn ledger(&self, stream: Stream) -> Arc<str> {
        self.heads.ledger(stream)
    }

    /// Takes a partition's recovery as where its tables stand.
    pub fn adopt(&mut self, source: Source, recovery: &Recovery) {
        self.heads.adopt(source, recovery);
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
        self.deliver(self.heads.first_rows(recoveries, today()))
            .await
    }

    /// Dates the ledgers of partitions that got no rows today, so that they never age out. Returns the fenced ones.
    ///
    /// # Errors
    /// On a defect.
    pub async fn keep_ledgers_young(&mut self) -> Result<Vec<Source>, Defect> {
        self.deliver(self.heads.rows_of_today(today())).await
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
            let of_partition = flush.deltas.into_iter();
            shares.extend(of_partition.map(|delta| Share::of_delta(flush.source, delta)));
        }
        // before the ledger moves: a deployment that is counted is in the dropdown
        self.tell_deployments(&deployments).await;
        let fenced = self.deliver(shares).await?;
        positions.retain(|(source, _)| !fenced.contains(source));
        Ok(Written { fenced, positions })
    }

    /// Forgets a partition that is no longer ours.
    pub fn forget(&mut self, source: Source) {
        self.heads.forget(source);
    }

    pub fn forget_all(&mut self) {
        self.heads.forget_all();
    }

    /// Sends each insert until the ledger has an answer for each of its partitions. Returns the fenced ones.
    async fn deliver(&mut self, shares: Vec<(Table, Share)>) -> Result<Vec<Source>, Defect> {
        let mut delivery = Delivery::new(shares);
        while let Some(insertion) = delivery.next(&self.heads, today()) {
            let table = insertion.table;
            let started = Instant::now();
            let answer = self.send(insertion).await;
            let took = started.elapsed();
            // ── from here a crash is harmless: what is stored has its ledger, what is not will be replayed ──
            let now = self
                .read_until_answered(table, &insertion.partitions())
                .await;
            let judged = delivery.judge(&mut self.heads, answer, &now)?;
            self.tell(table, &judged, took);
            match judged.wait {
                Wait::No => self.recovered(),
                Wait::Busy => self.backoff.wait_for_busy().await,
                Wait::Blocked(why) => self.blocked(why).await,
            }
        }
        Ok(delivery.into_fenced())
    }

    fn tell(&self, table: Table, judged: &Judged, took: Duration) {
        for source in &judged.fenced {
            tracing::warn!(
                table = table.name(),
                ?source,
                "another process has written this partition"
            );
        }
        let result = match (judged.fenced.is_empty(), judged.n_missing) {
            (true, 0) => InsertResult::Stored,
            (true, _) => InsertResult::Retried,
            (false, _) => InsertResult::Fenced,
        };
        self.status.tell_insert(table, result, took);
        self.status.tell_fenced(table, judged.fenced.len());
    }

    async fn send(&self, insertion: &Insertion) -> Result<(), InsertError> {
        let table = insertion.table;
        let chunks: Vec<&Chunk> = insertion.shares.iter().map(|share| &share.chunk).collect();
        let insert = Insert {
            table,
            ledger: &self.ledger(insertion.stream()),
            expected: &insertion.expected(&self.heads),
            ingested: insertion.ingested,
            body: block(columns(table), &chunks),
        };
        send(&self.address, &self.pins, &insert).await
    }

    async fn read_until_answered(
        &mut self,
        table: Table,
        partitions: &[i32],
    ) -> HashMap<i32, Ledger> {
        let ledger = self.ledger(table.stream());
        loop {
            match ledger::read(&self.client, table, &ledger, partitions).await {
                Ok(now) => return now,
                Err(error) => {
                    let why = format!("{}: the ledger cannot be read: {error}", table.name());
                    self.blocked(why).await;
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

/// The UTC day, since 1970.
fn today() -> i64 {
    clock::now_us() / US_PER_DAY
}
