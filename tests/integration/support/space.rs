//! A test's own topics and database on parts that it shares with others, and the roles run on them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::message::Topic;
use super::parts::{self, Addresses};
use super::process::{self, Role};
use super::sql::Sql;

/// Few enough to be read in a failure, enough that a worker has several.
pub const PARTITIONS: i32 = 4;

/// From the last message to the last ledger: a group forms, reads, flushes; the machine may be busy.
pub const CATCH_UP: Duration = Duration::from_secs(90);

/// The tables that keep a ledger, with the topic that it counts.
pub const LEDGER_TABLES: [(&str, Topic); 10] = [
    ("requests_10s", Topic::Requests),
    ("requests_1m", Topic::Requests),
    ("requests_1h", Topic::Requests),
    ("requests_by_replica_1m", Topic::Requests),
    ("requests_by_replica_1h", Topic::Requests),
    ("requests_marks", Topic::Requests),
    ("replicas_10s", Topic::Replicas),
    ("replicas_1m", Topic::Replicas),
    ("replicas_1h", Topic::Replicas),
    ("replicas_marks", Topic::Replicas),
];

/// Those of them that hold windows.
pub const ROLLUPS: [(&str, Topic); 8] = [
    ("requests_10s", Topic::Requests),
    ("requests_1m", Topic::Requests),
    ("requests_1h", Topic::Requests),
    ("requests_by_replica_1m", Topic::Requests),
    ("requests_by_replica_1h", Topic::Requests),
    ("replicas_10s", Topic::Replicas),
    ("replicas_1m", Topic::Replicas),
    ("replicas_1h", Topic::Replicas),
];

#[derive(Debug, Clone)]
pub struct Topics {
    pub requests: String,
    pub replicas: String,
    pub dead_letters: String,
}

pub struct Space {
    pub kafka: String,
    pub clickhouse: String,
    pub database: String,
    pub topics: Topics,
    pub sql: Sql,
    logs: PathBuf,
    n_roles: AtomicU32,
}

impl Space {
    /// A migrated database and three empty topics on the shared parts.
    pub fn new() -> Self {
        Self::on(parts::shared())
    }

    pub fn on(parts: &Addresses) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let space = Self {
            kafka: parts.kafka.clone(),
            clickhouse: parts.clickhouse.clone(),
            topics: Topics {
                requests: format!("{name}.requests"),
                replicas: format!("{name}.replicas"),
                dead_letters: format!("{name}.dead-letters"),
            },
            sql: Sql::new(&parts.clickhouse, &name),
            database: name,
            logs: parts.logs.clone(),
            n_roles: AtomicU32::new(0),
        };
        space.migrate();
        space
    }

    /// What an operator does first: the tables, and the topics that are missing.
    pub fn migrate(&self) {
        let mut arguments = vec!["migrate".to_owned(), "up".to_owned()];
        arguments.extend(self.kafka_arguments());
        arguments.extend(self.store_arguments(&self.clickhouse));
        arguments.extend(["--partitions".to_owned(), PARTITIONS.to_string()]);
        let (status, text) = process::run(&arguments);
        assert!(status.success(), "migrate up: {status}\n{text}");
    }

    fn kafka_arguments(&self) -> Vec<String> {
        let topics = &self.topics;
        let flags = [
            ("--kafka", &self.kafka),
            ("--requests-topic", &topics.requests),
            ("--replicas-topic", &topics.replicas),
            ("--dead-letters-topic", &topics.dead_letters),
        ];
        flags
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).clone()])
            .collect()
    }

    fn store_arguments(&self, clickhouse: &str) -> Vec<String> {
        let flags = [("--clickhouse", clickhouse), ("--database", &self.database)];
        flags
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
            .collect()
    }

    /// A processor on this space, flushing each second.
    pub fn processor(&self, more: &[&str]) -> Role {
        self.processor_by(&self.clickhouse, more)
    }

    /// A processor that reaches the engine by another address, say a proxy's.
    pub fn processor_by(&self, clickhouse: &str, more: &[&str]) -> Role {
        let mut arguments = vec!["processor".to_owned()];
        arguments.extend(self.kafka_arguments());
        arguments.extend(self.store_arguments(clickhouse));
        let fixed = "--flush-interval 1s --coarse-flush-interval 1s --listen 127.0.0.1:0";
        arguments.extend(["--group".to_owned(), self.database.clone()]);
        arguments.extend(
            fixed
                .split(' ')
                .chain(more.iter().copied())
                .map(str::to_owned),
        );
        let n = self.n_roles.fetch_add(1, Ordering::Relaxed);
        let log = self
            .logs
            .join(format!("{}-processor-{n}.log", self.database));
        Role::start("processor", &arguments, &log)
    }

    /// Runs the audit; its exit and its lines.
    pub fn audit(&self) -> (bool, String) {
        let mut arguments = vec!["audit".to_owned()];
        arguments.extend(self.kafka_arguments());
        arguments.extend(self.store_arguments(&self.clickhouse));
        let (status, text) = process::run(&arguments);
        (status.success(), text)
    }

    /// Tells that the requests before an offset are gone; the exit and what was printed.
    pub fn gap(&self, partition: i32, to: &str, more: &[&str]) -> (ExitStatus, String) {
        self.gap_of(&self.topics.requests, partition, to, more)
    }

    /// The same of any topic.
    pub fn gap_of(
        &self,
        topic: &str,
        partition: i32,
        to: &str,
        more: &[&str],
    ) -> (ExitStatus, String) {
        let mut arguments = vec!["gap".to_owned()];
        arguments.extend(self.kafka_arguments());
        arguments.extend(self.store_arguments(&self.clickhouse));
        let partition = partition.to_string();
        let own = ["--topic", topic, "--partition", &partition, "--to", to];
        arguments.extend(own.iter().chain(more).map(|text| (*text).to_owned()));
        process::run(&arguments)
    }

    /// How far a table has come, by partition.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn ledger(&self, table: &str) -> Result<BTreeMap<i32, u64>, String> {
        let query = format!(
            "SELECT kafka_partition AS p, max(ledger_to) AS to FROM {table} WHERE deployment_id = '' GROUP BY p"
        );
        let number = |row: &super::sql::Record, name: &str| row[name].as_u64().expect("a number");
        let rows = self.sql.try_rows(&query)?;
        Ok(rows
            .iter()
            .map(|row| (number(row, "p") as i32, number(row, "to")))
            .collect())
    }

    /// Waits until every table has come to the end of what was logged.
    pub fn wait_until_counted(
        &self,
        ends: &BTreeMap<(Topic, i32), u64>,
        processors: &mut [&mut Role],
    ) {
        self.wait_until_counted_within(CATCH_UP, ends, processors);
    }

    /// The same, for a log that takes longer.
    pub fn wait_until_counted_within(
        &self,
        deadline: Duration,
        ends: &BTreeMap<(Topic, i32), u64>,
        processors: &mut [&mut Role],
    ) {
        super::wait_for("every table has counted the whole log", deadline, || {
            for processor in processors.iter_mut() {
                assert!(
                    processor.is_running(),
                    "the processor ended:\n{}",
                    processor.tail()
                );
            }
            for (table, topic) in LEDGER_TABLES {
                let ledger = self.ledger(table)?;
                for ((of, partition), end) in ends {
                    let to = ledger.get(partition).copied().unwrap_or(0);
                    if of == &topic && to < *end {
                        let logs: Vec<_> = processors.iter().map(|p| p.tail()).collect();
                        return Err(format!(
                            "{table}, partition {partition}: {to} of {end}\n{}",
                            logs.join("\n--\n")
                        ));
                    }
                }
            }
            Ok(())
        });
    }
}
