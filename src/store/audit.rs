//! Checks that every message was counted exactly once, from what the tables themselves say.
//!
//! Per partition of each table: the spans and gaps of the ledger rows add up to the offsets' distance, and the events
//! that the ledger accepted are those that the data rows count. Tiers are compared where their ledgers stand at the
//! same offset. With Kafka's address also the log's end is shown.

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::bus::broker::Broker;
use crate::config::{KafkaArgs, KafkaOption, StoreArgs, TopicArgs};
use crate::core::partition::Source;
use crate::core::table::{Stream, Table};
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

/// One partition in one table.
#[derive(Debug, Clone, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
struct Entry {
    partition: u32,
    /// `<topic>/<topic id>` of the ledger; more than one where the topic was created again.
    ledgers: Vec<String>,
    from: u64,
    to: u64,
    span: u64,
    gap: u64,
    distance: u64,
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
        if covered != self.distance {
            let what = if covered < self.distance {
                "lost"
            } else {
                "doubled"
            };
            faults.push(format!(
                "spans and gaps cover {covered} of {} messages: {what}",
                self.distance
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
            println!(
                "{}",
                line(*table, entry, ends.get(&source).copied(), &faults)
            );
            n_faults += faults.len();
        }
    }
    let n_lines: usize = audit.values().map(Vec::len).sum();
    if n_faults == 0 {
        println!("{n_lines} ledgers, nothing lost, nothing doubled");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{n_lines} ledgers, {n_faults} faults");
        Ok(ExitCode::FAILURE)
    }
}

/// One query a table: what the ledger says beside what the data rows count.
async fn read(
    client: &clickhouse::Client,
    table: Table,
) -> Result<Vec<Entry>, clickhouse::error::Error> {
    let (name, counted) = (table.name(), table.counted());
    let statement = format!(
        "SELECT kafka_partition AS partition, groupUniqArrayIf(l, l != '') AS ledgers, \
         minIf(f, l != '') AS from, maxIf(t, l != '') AS to, sum(s) AS span, sum(g) AS gap, \
         toUInt64(sumIf(t - f, l != '')) AS distance, sum(e) AS events, sum(x) AS erased, sum(a) AS late, sum(i) AS invalid, sum(c) AS counted \
         FROM (SELECT kafka_partition, toString(ledger) AS l, min(ledger_from) AS f, max(ledger_to) AS t, sum(ledger_span) AS s, \
         sum(ledger_gap) AS g, sum(ledger_events) AS e, sum(ledger_erased) AS x, sum(ledger_late) AS a, sum(ledger_invalid) AS i, \
         sum({counted}) AS c FROM {name} GROUP BY kafka_partition, ledger) \
         GROUP BY kafka_partition ORDER BY kafka_partition"
    );
    client.query(&statement).fetch_all().await
}

fn line(table: Table, entry: &Entry, log_end: Option<u64>, faults: &[String]) -> String {
    let Entry {
        partition,
        ledgers,
        from,
        to,
        events,
        late,
        invalid,
        ..
    } = entry;
    let behind = log_end.map_or(String::new(), |end| {
        format!(" behind {}", end.saturating_sub(*to))
    });
    let verdict = if faults.is_empty() {
        "ok".to_owned()
    } else {
        format!("WRONG: {}", faults.join("; "))
    };
    format!(
        "{:<22} {partition:>4} offsets {from}..{to} {} {events} late {late} invalid {invalid}{behind} {} {verdict}",
        table.name(),
        table.counted(),
        ledgers.join(",")
    )
}

/// A coarser table is held against the finer ones of its stream: equal offsets must have equal counts, and it may not
/// begin later.
fn faults_between_tiers(
    audit: &BTreeMap<Table, Vec<Entry>>,
    table: Table,
    entry: &Entry,
) -> Vec<String> {
    let mut faults = Vec::new();
    for &finer in table
        .stream()
        .tables()
        .iter()
        .filter(|finer| finer.tier() < table.tier())
    {
        let Some(other) = audit[&finer]
            .iter()
            .find(|other| other.partition == entry.partition)
        else {
            continue;
        };
        if entry.from > other.from {
            faults.push(format!(
                "begins at {}, above {} at {}",
                entry.from,
                finer.name(),
                other.from
            ));
        }
        if entry.to == other.to
            && entry.from == other.from
            && entry.counted + entry.erased != other.counted + other.erased
        {
            faults.push(format!(
                "counts {} where {} counts {}",
                entry.counted,
                finer.name(),
                other.counted
            ));
        }
    }
    faults
}

async fn log_ends(
    kafka: KafkaArgs,
    audit: &BTreeMap<Table, Vec<Entry>>,
) -> anyhow::Result<BTreeMap<Source, u64>> {
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
        let mut ends = BTreeMap::new();
        for source in sources {
            ends.insert(source, broker.log(source)?.end);
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
            ledgers: vec!["t/id".to_owned()],
            from: 5,
            to: 15,
            span: 10,
            gap: 0,
            distance: 10,
            events: 7,
            erased: 0,
            late: 1,
            invalid: 2,
            counted: 7,
        }
    }

    fn audit_of(pairs: &[(Table, Entry)]) -> BTreeMap<Table, Vec<Entry>> {
        let mut audit: BTreeMap<Table, Vec<Entry>> = Table::ALL
            .into_iter()
            .map(|table| (table, Vec::new()))
            .collect();
        for (table, entry) in pairs {
            audit.insert(*table, vec![entry.clone()]);
        }
        audit
    }

    #[test]
    fn what_is_lost_or_doubled_is_seen() {
        assert!(entry().faults().is_empty());
        assert!(
            Entry {
                gap: 3,
                span: 7,
                ..entry()
            }
            .faults()
            .is_empty()
        );
        assert!(
            Entry {
                erased: 2,
                counted: 5,
                ..entry()
            }
            .faults()
            .is_empty()
        );
        assert_eq!(
            Entry { span: 9, ..entry() }.faults(),
            ["spans and gaps cover 9 of 10 messages: lost"]
        );
        assert_eq!(
            Entry {
                span: 14,
                ..entry()
            }
            .faults(),
            ["spans and gaps cover 14 of 10 messages: doubled"]
        );
        assert_eq!(
            Entry {
                counted: 8,
                ..entry()
            }
            .faults(),
            ["the ledger accepted 7 and the rows count 8"]
        );
    }

    #[test]
    fn tiers_are_compared_at_equal_offsets() {
        let faults = |coarse: Entry| {
            faults_between_tiers(
                &audit_of(&[(Table::Replicas10s, entry())]),
                Table::Replicas1m,
                &coarse,
            )
        };
        assert!(faults(entry()).is_empty());
        assert!(
            faults(Entry {
                to: 10,
                counted: 3,
                ..entry()
            })
            .is_empty()
        );
        assert_eq!(
            faults(Entry {
                counted: 6,
                ..entry()
            }),
            ["counts 6 where replicas_10s counts 7"]
        );
        assert_eq!(
            faults(Entry { from: 6, ..entry() }),
            ["begins at 6, above replicas_10s at 5"]
        );
    }
}
