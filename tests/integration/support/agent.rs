//! The agent as a process of its own: its addresses, its metrics, its spool, and what of it stands in the requests topic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelmeter::agent::out::message::Name;
use modelmeter::bus::avro::{SchemaRegistry, decode_batch};
use modelmeter::core::event::RequestEvent;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::process::Role;
use super::space::{CATCH_UP, PARTITIONS, Space};
use super::{sql, wait_for};

/// One answer of the broker, on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);

/// A port where nothing listens: Kafka is away.
pub const NOWHERE: &str = "127.0.0.1:1";

/// The deployment of every agent here.
pub const DEPLOYMENT: &str = "d";

/// Flags that a test may give otherwise. The last of them is short because some tests end with Kafka away.
const DEFAULTS: [(&str, &str); 5] = [
    ("--events-listen", "127.0.0.1:0"),
    ("--admin-listen", "127.0.0.1:0"),
    ("--batch-interval", "100ms"),
    ("--sample-interval", "1s"),
    ("--shutdown-deadline", "1s"),
];

pub struct Agent {
    pub role: Role,
    admin: String,
    /// Where events are posted, as a URL.
    pub events: String,
    /// Where requests go through it; none without `--listen`.
    pub requests: Option<SocketAddr>,
}

impl Agent {
    /// Starts one with its spool in `dir`; flags in `more` win. It posts to a free port.
    pub fn start(space: &Space, kafka: &str, dir: &Path, more: &[&str]) -> Self {
        let spool = dir.join("spool").display().to_string();
        let mut arguments = vec!["agent", "--deployment-id", DEPLOYMENT, "--replica-id", "r"];
        arguments.extend(["--kafka", kafka, "--spool", &spool]);
        arguments.extend(["--requests-topic", &space.topics.requests]);
        arguments.extend(["--replicas-topic", &space.topics.replicas]);
        for (flag, value) in DEFAULTS {
            if !more.contains(&flag) {
                arguments.extend([flag, value]);
            }
        }
        arguments.extend(more);
        let mut role = Role::start("agent", &arguments, &dir.join("agent.log"));
        // in the order in which it says them
        let admin = role.announced("agent: admin on http://");
        let events = role.address();
        let requests = more.contains(&"--listen").then(|| {
            let url = role.announced("agent: requests on http://");
            url.parse().expect("an address")
        });
        Self {
            role,
            admin,
            events,
            requests,
        }
    }

    /// A number of /metrics.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let (_, text) = sql::get(&self.admin, "/metrics").ok()?;
        let prefix = format!("modelmeter_agent_{name} ");
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(&prefix))?
            .parse()
            .ok()
    }

    /// Events lost for a reason.
    pub fn lost(&self, reason: &str) -> Option<u64> {
        self.metric(&format!("events_lost_total{{reason=\"{reason}\"}}"))
    }
}

/// A batch's boot and sequence.
pub type Key = ([u8; 16], i64);

pub const fn key_of(name: &Name) -> Key {
    (name.boot_id, name.sequence)
}

/// Where an agent that is alone keeps its batches.
pub fn spool_of(dir: &Path) -> PathBuf {
    dir.join(format!("spool/deployment-{DEPLOYMENT}/0"))
}

/// What waits in it.
pub fn spooled(dir: &Path) -> Vec<Name> {
    // an agent listens before it has opened its spool
    let Ok(files) = std::fs::read_dir(spool_of(dir)) else {
        return Vec::new();
    };
    let mut names: Vec<_> = files
        .filter_map(|file| Name::parse(file.ok()?.file_name().to_str()?))
        .collect();
    names.sort_unstable();
    names
}

pub fn wait_spooled(dir: &Path, n_events: u32) {
    wait_for("the events are on the disk", CATCH_UP, || {
        let n: u32 = spooled(dir).iter().map(|name| name.n_events).sum();
        (n >= n_events).then_some(()).ok_or_else(|| n.to_string())
    });
}

/// What the requests topic holds: each batch by its boot and sequence, and how often it is there.
#[derive(Debug, Default)]
pub struct Logged {
    pub batches: BTreeMap<Key, Vec<RequestEvent>>,
    /// Those that are there more than once.
    pub repeated: BTreeSet<Key>,
    pub n_messages: usize,
}

impl Logged {
    pub fn read(space: &Space) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &space.kafka)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let topic = &space.topics.requests;
        let (mut logged, registry) = (Self::default(), SchemaRegistry::built_in());
        for partition in 0..PARTITIONS {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition, ANSWER)
                .expect("the topic's ends");
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .expect("an offset");
            consumer.assign(&list).expect("assigned");
            for _ in low..high {
                let message = consumer.poll(ANSWER).expect("a message").expect("no error");
                let payload = message.payload().expect("a value");
                let (plan, body) = registry.plan(payload).expect("a known schema");
                let mut events = Vec::new();
                let head = decode_batch(plan, body, &mut events).expect("valid");
                let key = (head.boot_id, head.sequence);
                if let Some(before) = logged.batches.insert(key, events) {
                    assert_eq!(before, logged.batches[&key], "one number, two batches");
                    logged.repeated.insert(key);
                }
                logged.n_messages += 1;
            }
        }
        logged
    }

    pub fn events(&self) -> impl Iterator<Item = &RequestEvent> {
        self.batches.values().flatten()
    }

    /// Events that were posted with a number for their duration.
    pub fn numbers(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.events().map(|event| event.end_to_end_us).collect();
        all.sort_unstable();
        all
    }

    /// Waits until this many different events are there.
    pub fn wait(space: &Space, n_events: usize) -> Self {
        wait_for("the events are in the log", CATCH_UP, || {
            let logged = Self::read(space);
            match logged.events().count() {
                n if n >= n_events => Ok(logged),
                n => Err(format!("{n} of {n_events}")),
            }
        })
    }

    /// Sequences that are missing between those of one boot.
    pub fn gaps(&self) -> Vec<Key> {
        let mut gaps = Vec::new();
        let mut expected: Option<Key> = None;
        for &(boot, sequence) in self.batches.keys() {
            let from = match expected {
                Some((same, next)) if same == boot => next,
                _ => 0,
            };
            gaps.extend((from..sequence).map(|missing| (boot, missing)));
            expected = Some((boot, sequence + 1));
        }
        gaps
    }
}
