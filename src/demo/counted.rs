//! Whether everything that is in Kafka has been counted: the ends of the topics' logs beside the ledgers of all tables.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use crate::core::table::{Stream, Table};

/// How long the broker may take to answer one question.
const ANSWER: Duration = Duration::from_secs(10);

/// The topics of a local installation, which the demo never renames.
fn topic(stream: Stream) -> &'static str {
    match stream {
        Stream::Requests => "modelmeter.requests",
        Stream::Replicas => "modelmeter.replicas",
    }
}

/// The end of each partition's log that holds anything. It blocks.
///
/// # Errors
/// When Kafka does not answer.
pub fn log_ends(bootstrap: &str) -> Result<BTreeMap<(Stream, u32), u64>, KafkaError> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let mut ends = BTreeMap::new();
    for stream in Stream::ALL {
        let metadata = client.fetch_metadata(Some(topic(stream)), ANSWER)?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        for partition in partitions {
            let (_, end) = client.fetch_watermarks(topic(stream), partition.id(), ANSWER)?;
            if end > 0 {
                ends.insert((stream, partition.id().unsigned_abs()), end.unsigned_abs());
            }
        }
    }
    Ok(ends)
}

#[derive(Debug, clickhouse::Row, serde::Deserialize)]
struct Ledger {
    partition: u32,
    to: u64,
}

/// The first table that has not come to these ends, in words; none when all have.
///
/// # Errors
/// When ClickHouse does not answer.
pub async fn behind(
    client: &clickhouse::Client,
    ends: &BTreeMap<(Stream, u32), u64>,
) -> Result<Option<String>, clickhouse::error::Error> {
    for table in Table::ALL {
        let query = format!(
            "SELECT kafka_partition AS partition, max(ledger_to) AS to FROM {} WHERE deployment_id = '' GROUP BY partition",
            table.name()
        );
        let ledgers: Vec<Ledger> = client.query(&query).fetch_all().await?;
        let reached: BTreeMap<u32, u64> = ledgers
            .into_iter()
            .map(|ledger| (ledger.partition, ledger.to))
            .collect();
        for (&(stream, partition), &end) in ends {
            let to = reached.get(&partition).copied().unwrap_or(0);
            if stream == table.stream() && to < end {
                let name = table.name();
                return Ok(Some(format!(
                    "{name}, partition {partition}: {to} of {end}"
                )));
            }
        }
    }
    Ok(None)
}
