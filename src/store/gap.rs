//! An operator's word that messages are gone: a ledger row in every table of a partition that counts them as lost.
//!
//! A partition whose log was truncated stops, since going on would lose messages without saying so; this says so. The row
//! stands behind the same guard as any insert: a table that moved meanwhile is refused, and so never counted twice. It
//! refuses to skip messages that the log still has, and to put a ledger behind the log's end.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};

use super::columns::columns;
use super::insert::{Expected, Insert, Pins, send};
use super::native::block;
use super::rows::encode_gap;
use super::{ledger, migrate};
use crate::bus::broker::Broker;
use crate::bus::member::topic_of;
use crate::clock;
use crate::config::{KafkaArgs, StoreArgs};
use crate::core::ledger::{Fate, Ledger, fate_of, ingest_day};
use crate::core::recovery::Log;
use crate::core::table::{Source, Stream, Table};

/// How often an insert is sent before the operator is told to try again: a busy table frees itself in milliseconds.
const TRIES: u32 = 20;
const RETRY: Duration = Duration::from_millis(200);

const US_PER_DAY: i64 = 86_400_000_000;

#[derive(Debug, Clone, clap::Args)]
pub struct GapArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The topic whose messages are gone: that of the requests or that of the replicas.
    #[arg(long)]
    pub topic: String,
    #[arg(long)]
    pub partition: i32,
    /// Where the partition goes on: no table counts what lies before it. At most the log's start.
    #[arg(long, value_name = "OFFSET")]
    pub to: u64,
    /// Write the rows, and not only show them.
    #[arg(long)]
    pub write: bool,
}

/// What one table's ledger lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    table: Table,
    from: u64,
    /// The ledger as it is; none where the table has none.
    now: Option<Ledger>,
}

/// Shows the gaps, and with `--write` stores them. Exits 0 when every table goes on at `--to` or behind it.
///
/// # Errors
/// When Kafka or ClickHouse do not answer, or the offset is refused.
pub async fn run(args: GapArgs) -> anyhow::Result<ExitCode> {
    let topics = &args.kafka.topics;
    let Some(stream) = Stream::ALL
        .into_iter()
        .find(|&stream| topic_of(topics, stream) == args.topic)
    else {
        bail!(
            "topic {} has no ledger: it is neither {} nor {}",
            args.topic,
            topics.requests,
            topics.replicas
        );
    };
    let source = Source {
        stream,
        partition: args.partition,
    };
    let address = args.store.address()?;
    let client = address.client();
    migrate::apply::check(&client).await?;
    let (name, log) = ask_broker(args.kafka.clone(), source).await?;
    let mut ledgers = Vec::new();
    for &table in stream.tables() {
        let mut by_partition = ledger::read(&client, table, &name, &[args.partition]).await?;
        ledgers.push((table, by_partition.remove(&args.partition)));
    }
    let gaps = gaps(&ledgers, log, args.to)?;
    for gap in &gaps {
        println!(
            "{:<22} {:>4} {name} offsets {}..{} are counted as lost",
            gap.table.name(),
            args.partition,
            gap.from,
            args.to
        );
    }
    if !args.write {
        println!("{} tables; nothing is written without --write", gaps.len());
        return Ok(ExitCode::SUCCESS);
    }
    let pins = Pins::load(&client).await?;
    for gap in &gaps {
        write(&args, &pins, &name, gap).await?;
    }
    println!(
        "{} tables; the processor goes on at its next coarse flush",
        gaps.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// What each table lacks below `to`.
fn gaps(ledgers: &[(Table, Option<Ledger>)], log: Log, to: u64) -> anyhow::Result<Vec<Gap>> {
    ensure!(
        to <= log.start,
        "--to {to} lies above the log's start {}: the messages between are there, and the processor counts them",
        log.start
    );
    let lowest = ledgers
        .iter()
        .filter_map(|(_, ledger)| ledger.map(|ledger| ledger.to))
        .min();
    let Some(lowest) = lowest else {
        bail!(
            "no table has a ledger of this partition: restore the tables, or delete the group's offsets to count the log from its start"
        );
    };
    let gap = |&(table, now): &(Table, Option<Ledger>)| {
        // a table without a ledger would begin at the lowest other one
        let from = now.map_or(lowest, |ledger| ledger.to);
        (from < to).then_some(Gap { table, from, now })
    };
    Ok(ledgers.iter().filter_map(gap).collect())
}

async fn write(args: &GapArgs, pins: &Pins, name: &str, gap: &Gap) -> anyhow::Result<()> {
    let address = args.store.address()?;
    let client = address.client();
    let today = clock::now_us() / US_PER_DAY;
    let epoch = gap.now.map_or(-1, |ledger| ledger.epoch);
    let chunk = encode_gap(gap.table, args.partition, name, (gap.from, args.to), epoch);
    let before = gap.now.map_or(0, |ledger| ledger.to);
    let mut said = String::new();
    for _ in 0..TRIES {
        let answer = send(
            &address,
            pins,
            &Insert {
                table: gap.table,
                ledger: name,
                expected: &[Expected {
                    partition: args.partition,
                    to: before,
                }],
                ingested: ingest_day(
                    gap.table,
                    gap.now.map(|ledger| ledger.ingested),
                    Some(today),
                    today,
                ),
                body: block(columns(gap.table), &[&chunk]),
            },
        )
        .await;
        // no answer is believed: the ledger tells
        let now = ledger::read(&client, gap.table, name, &[args.partition]).await?;
        match fate_of(
            before,
            args.to,
            now.get(&args.partition).map(|ledger| ledger.to),
        ) {
            Fate::Stored => return Ok(()),
            Fate::Fenced => bail!(
                "{}: a processor has written this partition meanwhile, so that nothing was; look again",
                gap.table.name()
            ),
            Fate::Missing => {
                said = answer.err().map_or_else(
                    || "ClickHouse said ok, and the row is not there".to_owned(),
                    |error| error.to_string(),
                );
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("{}: the row could not be written: {said}", gap.table.name())
}

async fn ask_broker(kafka: KafkaArgs, source: Source) -> anyhow::Result<(String, Log)> {
    let asked = tokio::task::spawn_blocking(move || {
        // a group of its own: it only looks
        let broker = Broker::new(&kafka, "modelmeter-gap")?;
        let ledger = broker.ledger(source.stream)?;
        let log = broker.log(source, &ledger)?;
        anyhow::Ok((ledger, log))
    });
    asked.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log {
        start: 50,
        end: 100,
        committed: None,
    };

    fn ledger(to: u64) -> Option<Ledger> {
        Some(Ledger {
            from: 0,
            to,
            epoch: 0,
            ingested: 20_000,
        })
    }

    #[test]
    fn each_table_has_its_own_gap() {
        let ledgers = [
            (Table::Replicas10s, ledger(60)),
            (Table::Replicas1m, ledger(40)),
            (Table::Replicas1h, None),
        ];
        let gaps = gaps(&ledgers, LOG, 50).expect("it may be said");
        let froms: Vec<_> = gaps.iter().map(|gap| (gap.table, gap.from)).collect();
        assert_eq!(froms, [(Table::Replicas1m, 40), (Table::Replicas1h, 40)]);
    }

    #[test]
    fn what_the_log_has_is_not_skipped() {
        let ledgers = [(Table::Replicas10s, ledger(40))];
        assert!(gaps(&ledgers, LOG, 51).is_err());
        assert!(gaps(&[(Table::Replicas10s, None)], LOG, 50).is_err());
        assert_eq!(gaps(&ledgers, LOG, 40).expect("nothing to do"), []);
    }
}
