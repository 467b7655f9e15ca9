//! Holds the tables against what the replay says that it has produced, number by number, for every deployment and every table.
//! What was there before the replay is taken off, so that a folder may be used again.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

use super::counted;
use crate::config::{StoreAddressError, StoreArgs};
use crate::core::table::{Stream, Table, Tier};
use crate::replay::summary::{Produced, Summary};

/// Between two looks at the ledgers, eight small queries.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

const DAY_US: i64 = 86_400_000_000;

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("ClickHouse's address is none")]
    Address(#[from] StoreAddressError),
    #[error("the ends of Kafka's logs cannot be read")]
    LogEnds(#[from] KafkaError),
    #[error("the ends of Kafka's logs were not read to the end")]
    Abandoned(#[from] JoinError),
    #[error("ClickHouse does not answer")]
    Read(#[from] clickhouse::error::Error),
    #[error("not counted within {} s: {behind}", patience.as_secs())]
    Behind { patience: Duration, behind: String },
}

type Numbers = BTreeMap<(Table, String), Vec<u64>>;

pub struct Check {
    kafka: String,
    client: clickhouse::Client,
    /// The day before the demo began: what it inserts is not older, and what is drops out of the tables as time goes on.
    since_day: i64,
    before: Numbers,
}

#[derive(Debug, clickhouse::Row, serde::Deserialize)]
struct Found {
    deployment_id: String,
    numbers: Vec<u64>,
}

impl Check {
    /// # Errors
    /// When the address is none.
    pub fn new(kafka: &str, clickhouse: &str, began_us: i64) -> Result<Self, CheckError> {
        let store = StoreArgs {
            url: clickhouse.to_owned(),
            database: None,
            user: "default".to_owned(),
            password: String::new(),
        };
        Ok(Self {
            kafka: kafka.to_owned(),
            client: store.address()?.client(),
            since_day: began_us.div_euclid(DAY_US) - 1,
            before: Numbers::new(),
        })
    }

    /// Notes what is in the tables now.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn with_baseline(mut self) -> Result<Self, CheckError> {
        self.before = self.read().await?;
        Ok(self)
    }

    /// Waits until every table has counted all that is in Kafka at the time of the call.
    ///
    /// # Errors
    /// When that takes longer than the patience, or something does not answer.
    pub async fn wait_until_counted(&self, patience: Duration) -> Result<(), CheckError> {
        let deadline = Instant::now() + patience;
        let kafka = self.kafka.clone();
        let ends = tokio::task::spawn_blocking(move || counted::log_ends(&kafka)).await??;
        while let Some(behind) = counted::behind(&self.client, &ends).await? {
            if Instant::now() > deadline {
                return Err(CheckError::Behind { patience, behind });
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Every number that is not what was produced, in words. Deployments that had other producers are `others`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn differences(
        &self,
        summary: &Summary,
        others: &[&str],
    ) -> Result<Vec<String>, CheckError> {
        let mut now = self.read().await?;
        now.retain(|(_, deployment), _| !others.contains(&deployment.as_str()));
        Ok(compare(&self.before, &now, summary))
    }

    /// For questions of another kind.
    pub fn client(&self) -> &clickhouse::Client {
        &self.client
    }

    async fn read(&self) -> Result<Numbers, CheckError> {
        let mut numbers = Numbers::new();
        for table in Table::ROLLUPS {
            let sums: Vec<String> = columns(table)
                .iter()
                .map(|column| format!("sum({column})"))
                .collect();
            // the hourly tables are cut by months, and keep them for years
            let ingested = match table.tier() {
                Some(Tier::Hour) => String::new(),
                _ => format!(" AND ingested >= toDate({})", self.since_day),
            };
            let query = format!(
                "SELECT deployment_id, [{}] AS numbers FROM {} WHERE deployment_id != ''{ingested} GROUP BY deployment_id",
                sums.join(", "),
                table.name()
            );
            let found: Vec<Found> = self.client.query(&query).fetch_all().await?;
            numbers.extend(
                found
                    .into_iter()
                    .map(|found| ((table, found.deployment_id), found.numbers)),
            );
        }
        Ok(numbers)
    }
}

fn compare(before: &Numbers, after: &Numbers, summary: &Summary) -> Vec<String> {
    let mut differences = Vec::new();
    for table in Table::ROLLUPS {
        let deployments: std::collections::BTreeSet<&String> = after
            .keys()
            .filter(|(of, _)| *of == table)
            .map(|(_, deployment)| deployment)
            .chain(summary.deployments.keys())
            .collect();
        for deployment in deployments {
            let key = (table, deployment.clone());
            let nothing = Produced::default();
            let produced = summary.deployments.get(deployment).unwrap_or(&nothing);
            for (index, (column, expected)) in columns(table)
                .iter()
                .zip(expected(table, produced))
                .enumerate()
            {
                let of = |numbers: &Numbers| numbers.get(&key).map_or(0, |n| n[index]);
                let found = of(after).wrapping_sub(of(before));
                if found != expected {
                    differences.push(format!(
                        "{}, {deployment}: {column} is {found}, produced were {expected}",
                        table.name()
                    ));
                }
            }
        }
    }
    differences
}

/// What is compared in a table, in the order of [`expected`].
fn columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Requests10s | Table::Requests1m | Table::Requests1h => &[
            "requests",
            "status_2xx",
            "status_4xx",
            "status_5xx",
            "status_other",
            "unclassified",
            "client_gone",
            "cold_starts",
            "completed",
            "timed_out",
            "aborted",
            "refused",
            "request_bytes",
            "response_bytes",
        ],
        Table::RequestsByReplica1m | Table::RequestsByReplica1h => &[
            "requests",
            "status_2xx",
            "status_4xx",
            "status_5xx",
            "status_other",
            "unclassified",
            "client_gone",
            "cold_starts",
        ],
        Table::Replicas10s | Table::Replicas1m | Table::Replicas1h => &[
            "samples",
            "waiting_us",
            "loading_us",
            "active_us",
            "stopping_us",
        ],
        // no producer of the demo sends twice, which the audit tells
        Table::RequestsMarks | Table::ReplicasMarks => &[],
    }
}

fn expected(table: Table, produced: &Produced) -> Vec<u64> {
    if table.stream() == Stream::Replicas {
        // a replica under development is active while it loads
        let (loading, active) = if produced.is_development {
            (0, produced.active_us + produced.loading_us)
        } else {
            (produced.loading_us, produced.active_us)
        };
        return vec![
            produced.samples,
            produced.waiting_us,
            loading,
            active,
            produced.stopping_us,
        ];
    }
    let mut numbers = vec![
        produced.requests,
        produced.status_2xx,
        produced.status_4xx,
        produced.status_5xx,
        produced.status_other,
        produced.unclassified,
        produced.client_gone,
        produced.cold_starts,
        produced.completed,
        produced.timed_out,
        produced.aborted,
        produced.refused,
        produced.request_bytes,
        produced.response_bytes,
    ];
    numbers.truncate(columns(table).len());
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut summary = Summary::default();
        let produced = summary.of("d");
        produced.requests = 3;
        produced.status_2xx = 3;
        produced.completed = 3;
        produced.samples = 2;
        produced.loading_us = 4;
        produced.active_us = 6;
        summary
    }

    fn tables(summary: &Summary, more: u64) -> Numbers {
        let produced = &summary.deployments["d"];
        Table::ROLLUPS
            .into_iter()
            .map(|table| {
                let numbers = expected(table, produced).iter().map(|n| n + more).collect();
                ((table, "d".to_owned()), numbers)
            })
            .collect()
    }

    #[test]
    fn what_was_there_before_is_taken_off() {
        let summary = summary();
        let nothing = Numbers::new();
        assert_eq!(
            compare(&nothing, &tables(&summary, 0), &summary),
            Vec::<String>::new()
        );
        let mut before = tables(&summary, 0);
        before.values_mut().flatten().for_each(|n| *n = 5);
        assert_eq!(
            compare(&before, &tables(&summary, 5), &summary),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_number_that_differs_is_told() {
        let summary = summary();
        let mut after = tables(&summary, 0);
        after
            .get_mut(&(Table::Requests1m, "d".to_owned()))
            .expect("it is there")[1] = 2;
        after.insert((Table::Replicas1h, "ghost".to_owned()), vec![1, 0, 0, 0, 0]);
        assert_eq!(
            compare(&Numbers::new(), &after, &summary),
            [
                "requests_1m, d: status_2xx is 2, produced were 3",
                "replicas_1h, ghost: samples is 1, produced were 0"
            ]
        );
        assert!(!compare(&Numbers::new(), &Numbers::new(), &summary).is_empty());
    }

    #[test]
    fn a_loading_replica_under_development_is_active() {
        let mut produced = summary().deployments["d"].clone();
        assert_eq!(expected(Table::Replicas1m, &produced), [2, 0, 4, 6, 0]);
        produced.is_development = true;
        assert_eq!(expected(Table::Replicas1m, &produced), [2, 0, 0, 10, 0]);
    }
}
