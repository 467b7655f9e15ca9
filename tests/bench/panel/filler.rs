//! Writes one stream's history through the product's own fold, encoding and guarded insert, in ranges as a processor's.
//! The log is made up (one partition, offsets from 0, each message appended when its minute ends); nothing else is.
//!
//! Rows are dated (`ingested`) by the day of their append time, as they would have been: the 1 m tables then have a
//! partition a day, each of which a chart over days has to open. The 10 s tables and the marks get what they keep, two
//! days: older rows of theirs would be dropped behind the insert, and their ledger with them.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use modelmeter::config::StoreAddress;
use modelmeter::core::delta::FlushKind;
use modelmeter::core::ids::{DEFAULT_MAX_DEPLOYMENTS, DEFAULT_MAX_REPLICAS, IdLimits};
use modelmeter::core::marks::{MAX_PRODUCERS, Marks};
use modelmeter::core::partition::Partition;
use modelmeter::core::recovery::{Recovery, TableStart};
use modelmeter::core::table::{Source, Stream, Table};
use modelmeter::core::timeliness::Untimely;
use modelmeter::store::columns::columns;
use modelmeter::store::insert::{Expected, Insert, Pins, send};
use modelmeter::store::native::{Chunk, block};
use modelmeter::store::rows::{EncodedDelta, encode_delta, encode_heartbeat};
use modelmeter::store::{deployments, ledger};

use super::traffic::Traffic;

const PARTITION: i32 = 0;
const EPOCH: i32 = 0;
const SECONDS_PER_DAY: u32 = 86_400;

/// What the 10 s tables and the marks keep.
const FINE_S: u32 = 2 * SECONDS_PER_DAY;

/// The last hour is written minute by minute, as a processor flushes; before it, in ranges as long as the limits allow,
/// since by then merges would have joined the small ones.
const TAIL_S: u32 = 3600;

/// While nothing wants the 10 s rows they are merged into the 1 m windows this often, so that a range holds more of those.
const MERGE_EVERY_S: u32 = 300;

pub struct Filler {
    address: StoreAddress,
    client: clickhouse::Client,
    pins: Pins,
    ledger: Arc<str>,
    source: Source,
    partition: Partition,
    has_fine: bool,
    traffic: Traffic,
    offset: u64,
    /// The minute that comes next.
    at: u32,
}

impl Filler {
    pub async fn new(stream: Stream, address: &StoreAddress, start: u32) -> anyhow::Result<Self> {
        let client = address.client();
        let pins = Pins::load(&client).await?;
        let source = Source {
            stream,
            partition: PARTITION,
        };
        Ok(Self {
            address: address.clone(),
            client,
            pins,
            ledger: Arc::from(format!("panel-bench.{stream:?}/1")),
            source,
            partition: partition(source, 0, |table| !is_short(table)),
            has_fine: false,
            traffic: Traffic::new(),
            offset: 0,
            at: start,
        })
    }

    /// Folds and stores every whole minute before `now`.
    pub async fn fill_to(&mut self, now: u32) -> anyhow::Result<()> {
        while self.at + 60 <= now {
            if !self.has_fine && self.at + FINE_S >= now {
                self.begin_fine().await?;
            }
            self.fold_minute();
            self.at += 60;
            let is_tail = self.at + TAIL_S > now;
            if is_tail || self.at.is_multiple_of(SECONDS_PER_DAY) {
                self.flush(FlushKind::Full).await?;
            } else if let Some(kind) = self.partition.wants_flush() {
                self.flush(kind).await?;
            } else if !self.has_fine && self.at.is_multiple_of(MERGE_EVERY_S) {
                self.flush(FlushKind::Fine).await?;
            }
        }
        Ok(())
    }

    /// Whether the store has what was folded: every table's ledger is at the end.
    pub async fn check(&self) -> anyhow::Result<()> {
        for &table in self.source.stream.tables() {
            let ledgers = ledger::read(&self.client, table, &self.ledger, &[PARTITION]).await?;
            let to = ledgers.get(&PARTITION).map(|ledger| ledger.to);
            ensure!(
                to == Some(self.offset),
                "{} is at {to:?}, not at {}",
                table.name(),
                self.offset
            );
        }
        Ok(())
    }

    /// From here the 10 s table and the marks get their rows too: their ledgers begin at this offset.
    async fn begin_fine(&mut self) -> anyhow::Result<()> {
        self.flush(FlushKind::Full).await?;
        for &table in self.source.stream.tables() {
            if is_short(table) {
                let chunk = encode_heartbeat(table, PARTITION, &self.ledger, self.offset, EPOCH);
                self.insert(table, 0, &chunk).await?;
            }
        }
        self.partition = partition(self.source, self.offset, |_| true);
        self.has_fine = true;
        Ok(())
    }

    fn fold_minute(&mut self) {
        let (partition, offset) = (&mut self.partition, &mut self.offset);
        // late enough for a sample that ends in the next minute's first seconds, early enough for the day
        let append_ms = i64::from(self.at) * 1000 + 59_000;
        match self.source.stream {
            Stream::Requests => {
                let mut untimely = Untimely::default();
                self.traffic.requests(self.at, |head, events| {
                    partition.begin_message(*offset, append_ms);
                    partition.fold_batch(head, events, append_ms, &mut untimely);
                    *offset += 1;
                });
                partition.apply();
            }
            Stream::Replicas => self.traffic.samples(self.at, |sample, gpus| {
                partition.begin_message(*offset, append_ms);
                partition.fold_sample(sample, gpus, append_ms);
                *offset += 1;
            }),
        }
    }

    async fn flush(&mut self, kind: FlushKind) -> anyhow::Result<()> {
        let mut deltas: Vec<EncodedDelta> = Vec::new();
        let ledger = &self.ledger;
        let flush = self.partition.flush(kind, |delta| {
            deltas.push(encode_delta(delta, PARTITION, ledger));
        });
        deployments::insert(&self.client, &flush.deployments).await?;
        for delta in deltas {
            self.insert(delta.table, delta.from, &delta.chunk).await?;
        }
        Ok(())
    }

    /// `expected` is where the table's ledger stands: each range begins where the last has ended.
    async fn insert(&self, table: Table, expected: u64, chunk: &Chunk) -> anyhow::Result<()> {
        let expected = [Expected {
            partition: PARTITION,
            to: expected,
        }];
        // the last minute of a range, not the first of the next day
        let day = i64::from((self.at - 1) / SECONDS_PER_DAY);
        let insert = Insert {
            table,
            ledger: &self.ledger,
            expected: &expected,
            ingested: table.ingest_day(day),
            body: block(columns(table), &[chunk]),
        };
        send(&self.address, &self.pins, &insert)
            .await
            .with_context(|| format!("an insert into {}", table.name()))
    }
}

/// Whether it keeps no more than the last two days.
const fn is_short(table: Table) -> bool {
    table.is_fine() || table.holds_marks()
}

fn partition(source: Source, from: u64, has: impl Fn(Table) -> bool) -> Partition {
    let tables = source.stream.tables().iter().copied().filter(|&t| has(t));
    let recovery = Recovery {
        start: from,
        epoch: EPOCH,
        tables: tables
            .map(|table| TableStart {
                table,
                from,
                ingested: None,
                epoch: EPOCH,
                needs_heartbeat: false,
            })
            .collect(),
        n_started_late: 0,
    };
    let limits = IdLimits::new(DEFAULT_MAX_DEPLOYMENTS, DEFAULT_MAX_REPLICAS);
    let mut partition = Partition::new(
        source,
        0,
        &recovery,
        Marks::new(Vec::new(), MAX_PRODUCERS),
        limits,
    );
    partition.set_epoch(EPOCH);
    partition
}
