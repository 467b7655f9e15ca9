//! The load of these tests, and the truth of it: how many events and samples each table must hold of each deployment and
//! partition. What became of a topic meanwhile is the caller's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::generator::{Replica, SECOND, Schemas, event};
use crate::support::message::{Body, Facts, Logged, Topic};
use crate::support::process::Role;
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::space::{CATCH_UP, ROLLUPS, Space};
use crate::support::wait_for;

/// Requests of each batch.
const EVENTS: i64 = 20;

/// Enough deployments that every partition has some.
pub const DEPLOYMENTS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// What [`Load::publish`] sends for each time that it is told.
pub const EVENTS_OF_A_ROUND: usize = DEPLOYMENTS.len() * EVENTS as usize;

/// Events or samples by partition and deployment.
type Counts = BTreeMap<(i32, String), u64>;

pub struct Load {
    random: Random,
    schemas: Schemas,
    /// One for each life of the topics: a producer that outlives its topic is no subject here.
    publishers: Vec<Publisher>,
}

impl Load {
    pub fn new(test: &str, space: &Space) -> Self {
        Self {
            random: Random::new(random::seed(test)),
            schemas: Schemas::built_in(),
            publishers: vec![Publisher::new(&space.kafka, &space.topics)],
        }
    }

    /// Goes on with a producer that knows of nothing before.
    pub fn begin_anew(&mut self, space: &Space) {
        self.publishers
            .push(Publisher::new(&space.kafka, &space.topics));
    }

    /// Sends so many batches and samples for each deployment, and waits until the broker has them.
    pub fn publish(&mut self, n: i64) {
        let publisher = self.publishers.last().expect("there is one");
        let now = modelmeter::clock::now_us();
        for deployment in DEPLOYMENTS {
            let facts = Facts {
                deployment_name: deployment.to_owned(),
                model_id: "m".to_owned(),
                model_name: "model".to_owned(),
                environment: "test".to_owned(),
                kind: "production",
                instance_type: "cpu".to_owned(),
            };
            let mut replica = Replica::new(&mut self.random, deployment, "r", &facts);
            for batch in 0..n {
                let age = |i| (batch * EVENTS + i) % 600 * SECOND;
                let events = (0..EVENTS).map(|i| event(&mut self.random, now - age(i)));
                let events = events.collect();
                publisher.send(self.schemas.batch(replica.batch(events)));
                let at = now - age(0);
                let sample = replica.sample(&mut self.random, at, 5 * SECOND, "active");
                publisher.send(self.schemas.sample(sample));
            }
        }
        publisher.flush();
    }

    /// One past the last offset of each partition in the topics' present life.
    pub fn ends(&self) -> BTreeMap<(Topic, i32), u64> {
        self.publishers.last().expect("there is one").ends()
    }

    /// What a table of this topic must hold.
    fn truth(&self, topic: Topic, is_counted: &impl Fn(usize, &Logged) -> bool) -> Counts {
        let mut counts = Counts::new();
        for (life, publisher) in self.publishers.iter().enumerate() {
            for logged in publisher.log() {
                if logged.message.topic != topic || !is_counted(life, &logged) {
                    continue;
                }
                let n = match &logged.message.body {
                    Body::Batch(batch) => batch.events.len() as u64,
                    Body::Sample(_) => 1,
                    Body::Garbage(_) => continue,
                };
                *counts
                    .entry((logged.partition, logged.message.key.clone()))
                    .or_default() += n;
            }
        }
        counts
    }

    /// Whether every table holds what was sent, but for what the caller says is not to be counted in any.
    ///
    /// # Errors
    /// The first table that differs, and how.
    pub fn compare(
        &self,
        space: &Space,
        is_counted: impl Fn(usize, &Logged) -> bool,
    ) -> Result<(), String> {
        ROLLUPS
            .iter()
            .try_for_each(|(table, topic)| self.compare_table(space, table, *topic, &is_counted))
    }

    /// The same of one table.
    ///
    /// # Errors
    /// How it differs.
    pub fn compare_table(
        &self,
        space: &Space,
        table: &str,
        topic: Topic,
        is_counted: impl Fn(usize, &Logged) -> bool,
    ) -> Result<(), String> {
        let truth = self.truth(topic, &is_counted);
        compare(table, &truth, &counted(space, table, topic)?)
    }

    /// Waits until every table is right, and then the audit must agree. What is doubled never becomes right.
    pub fn wait_until_right(&self, space: &Space, processors: &mut [&mut Role]) {
        self.wait_until_right_but(space, processors, |_, _| true);
    }

    /// The same, but for messages that are not to be counted: told by the topic's life and the message.
    pub fn wait_until_right_but(
        &self,
        space: &Space,
        processors: &mut [&mut Role],
        is_counted: impl Fn(usize, &Logged) -> bool,
    ) {
        self.wait_until_tables_are_right(space, CATCH_UP, processors, is_counted);
        let (agrees, lines) = space.audit();
        assert!(agrees, "{lines}");
    }

    /// The same, whatever the audit says.
    pub fn wait_until_tables_are_right(
        &self,
        space: &Space,
        deadline: Duration,
        processors: &mut [&mut Role],
        is_counted: impl Fn(usize, &Logged) -> bool,
    ) {
        wait_for("every table is right", deadline, || {
            for processor in processors.iter_mut() {
                assert!(processor.is_running(), "it ended:\n{}", processor.tail());
            }
            self.compare(space, &is_counted).map_err(|difference| {
                let logs: Vec<_> = processors.iter().map(|p| p.tail()).collect();
                format!("{difference}\n{}", logs.join("\n--\n"))
            })
        });
    }
}

fn counted(space: &Space, table: &str, topic: Topic) -> Result<Counts, String> {
    let column = match topic {
        Topic::Requests => "requests",
        Topic::Replicas => "samples",
    };
    let rows = space.sql.try_rows(&format!(
        "SELECT kafka_partition AS p, deployment_id AS d, sum({column}) AS n FROM {table} \
         WHERE deployment_id != '' GROUP BY p, d HAVING n > 0"
    ))?;
    let of = |row: &crate::support::sql::Record| {
        let partition = row["p"].as_u64().expect("a partition") as i32;
        let deployment = row["d"].as_str().expect("an id").to_owned();
        ((partition, deployment), row["n"].as_u64().expect("a count"))
    };
    Ok(rows.iter().map(of).collect())
}

fn compare(table: &str, truth: &Counts, found: &Counts) -> Result<(), String> {
    let keys = truth.keys().chain(found.keys());
    let of = |counts: &Counts, key| counts.get(key).copied().unwrap_or(0);
    let wrong: Vec<String> = keys
        .filter(|key| of(truth, key) != of(found, key))
        .map(|key| format!("{key:?} {} of {}", of(found, key), of(truth, key)))
        .collect();
    match wrong.len() {
        0 => Ok(()),
        _ => Err(format!("{table}: {}", wrong.join(", "))),
    }
}
