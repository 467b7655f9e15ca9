//! Checks that every message was counted exactly once, from what the tables themselves say.
//!
//! Per partition of each table: the spans and gaps of the ledger rows add up to the offsets' distance, and the events
//! that the ledger accepted are those that the data rows count. Tiers are compared where their ledgers stand at the
//! same offset. With Kafka's address also the log's end is shown.

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::bus::broker::Broker;
use crate::config::{KafkaArgs, KafkaOption, StoreArgs, TopicArgs};
use crate::core::table::{Source, Stream, Table};
use crate::store::migrate;

#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Bootstrap servers; with them the audit also says how far each table is behind the log's end.
    #[arg(long = "kafka", env = "MODELMETER_KAFKA", value_name = "HOST:PORT")]
    pub bootstrap: Option<String>,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// A librdkafka option, passed through; may be given more than once.
    #[arg(short = 'X', long = "kafka-option", value_name = "KEY=VALUE")]
    pub options: Vec<KafkaOption>,
}

/// Producers that are named, the worst first; the view `producers` has all.
const MAX_PRODUCERS_TOLD: usize = 20;

/// One partition in one table.
#[derive(Debug, Clone, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
struct Entry {
    partition: u32,
    /// (`<topic>/<topic id>`, from, to); more than one where the topic was created again.
    ledgers: Vec<(String, u64, u64)>,
    span: u64,
    gap: u64,
    events: u64,
    erased: u64,
    late: u64,
    invalid: u64,
    counted: u64,
}

impl Entry {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let covered = self.span + self.gap;
        let distance: u64 = self.ledgers.iter().map(|(_, from, to)| to - from).sum();
        if covered != distance {
            let what = if covered < distance {
                "lost"
            } else {
                "doubled"
            };
            faults.push(format!(
                "spans and gaps cover {covered} of {distance} messages: {what}"
            ));
        }
        if self.events != self.counted + self.erased {
            faults.push(format!(
                "the ledger accepted {} and the rows count {}",
                self.events,
                self.counted + self.erased
            ));
        }
        faults
    }

    /// What a finer table of the same partition says against this one: equal offsets must have equal counts, and a
    /// coarser table may not begin later.
    fn faults_beside(&self, finer: Table, other: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        for (ledger, from, _) in &self.ledgers {
            let theirs = other.ledgers.iter().find(|(name, ..)| name == ledger);
            if let Some((_, other_from, _)) = theirs
                && from > other_from
            {
                faults.push(format!(
                    "begins at {from}, above {} at {other_from}",
                    finer.name()
                ));
            }
        }
        let (ours, theirs) = (self.counted + self.erased, other.counted + other.erased);
        if self.ledgers == other.ledgers && ours != theirs {
            faults.push(format!(
                "counts {ours} where {} counts {theirs}",
                finer.name()
            ));
        }
        faults
    }
}

/// Where a partition's log ends, and of which topic id it is.
struct LogEnd {
    ledger: String,
    end: u64,
}

/// Runs the audit, prints a line a table and partition, and exits 0 when nothing is wrong, else 1.
///
/// # Errors
/// When ClickHouse or Kafka do not answer.
pub async fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    let client = args.store.address()?.client();
    migrate::apply::check(&client).await?;
    let mut audit = BTreeMap::new();
    for table in Table::ALL {
        audit.insert(table, read(&client, table).await?);
    }
    let ends = match args.bootstrap {
        Some(bootstrap) => {
            log_ends(
                KafkaArgs {
                    bootstrap,
                    topics: args.topics,
                    options: args.options,
                },
                &audit,
            )
            .await?
        }
        None => BTreeMap::new(),
    };
    let mut n_faults = 0;
    for (table, entries) in &audit {
        for entry in entries {
            let mut faults = entry.faults();
            faults.extend(faults_between_tiers(&audit, *table, entry));
            let source = Source {
                stream: table.stream(),
                partition: entry.partition.cast_signed(),
            };
            println!("{}", line(*table, entry, ends.get(&source), &faults));
            n_faults += faults.len();
        }
    }
    tell_producers(&client).await?;
    let n_lines: usize = audit.values().map(Vec::len).sum();
    if n_faults == 0 {
        println!("{n_lines} ledgers, nothing lost, nothing doubled");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{n_lines} ledgers, {n_faults} faults");
        Ok(ExitCode::FAILURE)
    }
}

/// A producer that sent twice, or of whose sequence something never came.
#[derive(Debug, clickhouse::Row, serde::Deserialize)]
struct Producer {
    topic: String,
    deployment_id: String,
    replica_id: String,
    boot_id: String,
    repeated: u64,
    missing: i64,
}

/// What was lost or sent twice before Kafka had it: no fault of the tables, which count what came once.
async fn tell_producers(client: &clickhouse::Client) -> Result<(), clickhouse::error::Error> {
    let query = format!(
        "SELECT topic, deployment_id, replica_id, boot_id, repeated, missing FROM producers \
         WHERE repeated > 0 OR missing != 0 ORDER BY missing DESC, repeated DESC LIMIT {MAX_PRODUCERS_TOLD}"
    );
    let told: Vec<Producer> = client.query(&query).fetch_all().await?;
    for producer in &told {
        println!(
            "producer {}/{} start {} in {}: {} messages never came, {} came again",
            producer.deployment_id,
            producer.replica_id,
            producer.boot_id,
            producer.topic,
            producer.missing,
            producer.repeated
        );
    }
    let (n, repeated, missing) = client
        .query("SELECT count(), sum(repeated), sum(missing) FROM producers")
        .fetch_one::<(u64, u64, i64)>()
        .await?;
    println!("{n} starts of producers: {missing} messages never came, {repeated} came again");
    Ok(())
}

/// One query a table: what the ledger says beside what the data rows count.
async fn read(
    client: &clickhouse::Client,
    table: Table,
) -> Result<Vec<Entry>, clickhouse::error::Error> {
    let (name, counted) = (table.name(), table.counted());
    let statement = format!(
        "SELECT kafka_partition AS partition, arraySort(groupArrayIf((l, f, t), l != '')) AS ledgers, \
         sum(s) AS span, sum(g) AS gap, sum(e) AS events, sum(x) AS erased, sum(a) AS late, sum(i) AS invalid, sum(c) AS counted \
         FROM (SELECT kafka_partition, toString(ledger) AS l, min(ledger_from) AS f, max(ledger_to) AS t, sum(ledger_span) AS s, \
         sum(ledger_gap) AS g, sum(ledger_events) AS e, sum(ledger_erased) AS x, sum(ledger_late) AS a, sum(ledger_invalid) AS i, \
         sum({counted}) AS c FROM {name} GROUP BY kafka_partition, ledger) \
         GROUP BY kafka_partition ORDER BY kafka_partition"
    );
    client.query(&statement).fetch_all().await
}

fn line(table: Table, entry: &Entry, log_end: Option<&LogEnd>, faults: &[String]) -> String {
    let covered: Vec<String> = entry
        .ledgers
        .iter()
        .map(|(ledger, from, to)| format!("{ledger} offsets {from}..{to}"))
        .collect();
    let behind = log_end.map_or(String::new(), |LogEnd { ledger, end }| {
        let to = entry.ledgers.iter().find(|(name, ..)| name == ledger);
        format!(
            " behind {}",
            end.saturating_sub(to.map_or(0, |(.., to)| *to))
        )
    });
    let verdict = if faults.is_empty() {
        "ok".to_owned()
    } else {
        format!("WRONG: {}", faults.join("; "))
    };
    format!(
        "{:<22} {:>4} {} {} {} late {} invalid {}{behind} {verdict}",
        table.name(),
        entry.partition,
        covered.join(", "),
        table.counted(),
        entry.events,
        entry.late,
        entry.invalid,
    )
}

fn faults_between_tiers(
    audit: &BTreeMap<Table, Vec<Entry>>,
    table: Table,
    entry: &Entry,
) -> Vec<String> {
    let finer = table
        .stream()
        .tables()
        .iter()
        .filter(|finer| finer.tier().is_some() && finer.tier() < table.tier());
    finer
        .filter_map(|&finer| {
            let other = audit[&finer]
                .iter()
                .find(|other| other.partition == entry.partition)?;
            Some(entry.faults_beside(finer, other))
        })
        .flatten()
        .collect()
}

async fn log_ends(
    kafka: KafkaArgs,
    audit: &BTreeMap<Table, Vec<Entry>>,
) -> anyhow::Result<BTreeMap<Source, LogEnd>> {
    let mut sources: Vec<Source> = Vec::new();
    for stream in Stream::ALL {
        for table in stream.tables() {
            sources.extend(audit[table].iter().map(|entry| Source {
                stream,
                partition: entry.partition.cast_signed(),
            }));
        }
    }
    sources.sort_unstable();
    sources.dedup();
    let ends = tokio::task::spawn_blocking(move || {
        // a group of its own: the audit only looks
        let broker = Broker::new(&kafka, "modelmeter-audit")?;
        let mut ledgers = BTreeMap::new();
        for stream in Stream::ALL {
            ledgers.insert(stream, broker.ledger(stream)?);
        }
        let mut ends = BTreeMap::new();
        for source in sources {
            let ledger = ledgers[&source.stream].clone();
            let end = broker.log(source, &ledger)?.end;
            ends.insert(source, LogEnd { ledger, end });
        }
        anyhow::Ok(ends)
    });
    ends.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            partition: 1,
            ledgers: vec![("t/id".to_owned(), 5, 15)],
            span: 10,
            gap: 0,
            events: 7,
            erased: 0,
            late: 1,
            invalid: 2,
            counted: 7,
        }
    }

    fn at(from: u64, to: u64) -> Vec<(String, u64, u64)> {
        vec![("t/id".to_owned(), from, to)]
    }

    #[test]
    fn what_is_lost_or_doubled_is_seen() {
        assert!(entry().faults().is_empty());
        let fine = Entry {
            gap: 3,
            span: 7,
            ..entry()
        };
        assert!(fine.faults().is_empty());
        let fine = Entry {
            erased: 2,
            counted: 5,
            ..entry()
        };
        assert!(fine.faults().is_empty());
        for (span, what) in [(9, "lost"), (14, "doubled")] {
            let faults = Entry { span, ..entry() }.faults();
            assert_eq!(
                faults,
                [format!(
                    "spans and gaps cover {span} of 10 messages: {what}"
                )]
            );
        }
        let faults = Entry {
            counted: 8,
            ..entry()
        }
        .faults();
        assert_eq!(faults, ["the ledger accepted 7 and the rows count 8"]);
    }

    #[test]
    fn tiers_are_compared_at_equal_offsets() {
        let faults = |coarse: Entry| coarse.faults_beside(Table::Replicas10s, &entry());
        assert!(faults(entry()).is_empty());
        assert!(
            faults(Entry {
                ledgers: at(5, 10),
                counted: 3,
                ..entry()
            })
            .is_empty()
        );
        let wrong = faults(Entry {
            counted: 6,
            ..entry()
        });
        assert_eq!(wrong, ["counts 6 where replicas_10s counts 7"]);
        let wrong = faults(Entry {
            ledgers: at(6, 15),
            ..entry()
        });
        assert_eq!(wrong, ["begins at 6, above replicas_10s at 5"]);
    }

    #[test]
    fn a_topic_made_anew_is_judged_by_each_of_its_lives() {
        let both = |to| vec![("t/new".to_owned(), 0, to), ("t/old".to_owned(), 0, 1_000)];
        let fine = Entry {
            ledgers: both(50),
            span: 1_050,
            counted: 7,
            ..entry()
        };
        let coarse = Entry {
            ledgers: both(20),
            span: 1_020,
            counted: 4,
            events: 4,
            ..entry()
        };
        assert!(fine.faults().is_empty() && coarse.faults().is_empty());
        assert!(coarse.faults_beside(Table::Replicas10s, &fine).is_empty());
    }
}
