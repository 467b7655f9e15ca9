//! The three topics: created where they are missing, checked where they exist. Refuses a topic whose
//! timestamps are the producers' or that is compacted, since lateness and replay rest on both; never
//! alters a topic that somebody made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaArgs;

/// Partitions of a topic that is created without a wish: enough for a process a core on a large
/// machine, and more can only be had by draining into a new topic.
pub const DEFAULT_PARTITIONS: i32 = 12;

/// More replicas than this add traffic, not safety; fewer brokers give fewer.
const MOST_REPLICAS_BY_DEFAULT: usize = 3;

/// How long a broker that is starting may take to answer, and a new topic to get its leaders.
const BROKER_DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at the metadata of a topic that was just created.
const METADATA_INTERVAL: Duration = Duration::from_millis(100);

/// Replays begin at the ledger, which a stopped processor leaves behind by a weekend, not by more.
const RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// A batch of 10,000 events is some 250 KiB; 4 MiB leaves room for long ids and many GPUs.
const MAX_MESSAGE_BYTES: i64 = 4 * 1024 * 1024;

/// Settings that exactness needs: (key, value). An existing topic with another value is refused.
const REQUIRED: [(&str, &str); 2] = [
    ("message.timestamp.type", "LogAppendTime"),
    ("cleanup.policy", "delete"),
];

/// How topics are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicPlan {
    pub partitions: i32,
    /// Without it one replica on one broker, else as many as there are brokers, at most three.
    pub replication_factor: Option<i32>,
}

impl Default for TopicPlan {
    fn default() -> Self {
        Self {
            partitions: DEFAULT_PARTITIONS,
            replication_factor: None,
        }
    }
}

/// A topic that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    pub topic: String,
    pub partitions: usize,
    /// Made just now, not found.
    pub created: bool,
    /// What differs from a topic that would be created, without being wrong.
    pub remarks: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// An option that librdkafka does not take.
    #[error("Kafka client options are not accepted")]
    Options(#[source] KafkaError),
    /// Worth another try once the broker is there.
    #[error("Kafka at {bootstrap} does not answer within {} s", BROKER_DEADLINE.as_secs())]
    Unreachable {
        bootstrap: String,
        #[source]
        source: KafkaError,
    },
    #[error(
        "topic {topic} does not exist: run `modelmeter migrate up --kafka {bootstrap} --clickhouse URL`"
    )]
    Missing { topic: String, bootstrap: String },
    #[error("topic {topic} cannot be created: {code}")]
    Create {
        topic: String,
        code: RDKafkaErrorCode,
    },
    #[error("topic {topic} was created but has no leaders after {} s", BROKER_DEADLINE.as_secs())]
    NotReady { topic: String },
    #[error("the configuration of topic {topic} cannot be read: {reason}")]
    Describe { topic: String, reason: String },
    /// Somebody must act: a topic with data in it is not altered behind their back.
    #[error(
        "topic {topic} has {key}={found}, but must have {wanted}: name another topic, or, while it is still empty, \
         set it (kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {key}={wanted})"
    )]
    Unfit {
        topic: String,
        key: &'static str,
        found: String,
        wanted: &'static str,
    },
}

/// Creates whichever of the three topics are missing and checks those that exist.
///
/// # Errors
/// At the first topic that cannot be created, read, or used as it is. Running it again is harmless.
pub async fn ensure(kafka: &KafkaArgs, plan: TopicPlan) -> Result<Vec<TopicReport>, TopicError> {
    let admin = connect(kafka)?;
    let cluster = look(&admin, kafka).await?;
    let mut reports = Vec::new();
    for topic in [
        &kafka.topics.requests,
        &kafka.topics.replicas,
        &kafka.topics.dead_letters,
    ] {
        let (created, partitions) = match cluster.partitions_of(topic) {
            Some(partitions) => (false, partitions),
            None => (
                create(&admin, topic, plan, cluster.brokers).await?,
                wait_for_leaders(&admin, kafka, topic).await?,
            ),
        };
        let mut report = describe(&admin, topic, partitions).await?;
        report.created = created;
        if usize::try_from(plan.partitions) != Ok(partitions) {
            report
                .remarks
                .push(format!("{partitions} partitions, not {}", plan.partitions));
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Checks one topic that must exist.
///
/// # Errors
/// [`TopicError::Missing`], [`TopicError::Unfit`], or Kafka's own.
pub async fn check(kafka: &KafkaArgs, topic: &str) -> Result<TopicReport, TopicError> {
    let admin = connect(kafka)?;
    let cluster = look(&admin, kafka).await?;
    match cluster.partitions_of(topic) {
        Some(partitions) => describe(&admin, topic, partitions).await,
        None => Err(TopicError::Missing {
            topic: topic.to_owned(),
            bootstrap: kafka.bootstrap.clone(),
        }),
    }
}

/// Shared with the thread that waits for metadata.
type Admin = Arc<AdminClient<DefaultClientContext>>;

/// What the metadata says: how many brokers, and each topic with its partitions and whether all of
/// them have a leader.
struct Cluster {
    brokers: usize,
    topics: Vec<TopicLayout>,
}

struct TopicLayout {
    name: String,
    partitions: usize,
    led: bool,
}

impl Cluster {
    fn partitions_of(&self, topic: &str) -> Option<usize> {
        self.topics
            .iter()
            .find(|t| t.name == topic)
            .map(|t| t.partitions)
    }
}

fn connect(kafka: &KafkaArgs) -> Result<Admin, TopicError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.bootstrap);
    for option in &kafka.options {
        config.set(&option.key, &option.value);
    }
    config.create().map(Arc::new).map_err(TopicError::Options)
}

/// Reads the metadata of all topics: asking for one by name would create it on brokers that allow that.
async fn look(admin: &Admin, kafka: &KafkaArgs) -> Result<Cluster, TopicError> {
    let asked = Arc::clone(admin);
    // librdkafka's call blocks, so it gets a thread that may.
    let metadata =
        tokio::task::spawn_blocking(move || asked.inner().fetch_metadata(None, BROKER_DEADLINE))
            .await
            .unwrap_or(Err(KafkaError::Canceled))
            .map_err(|source| TopicError::Unreachable {
                bootstrap: kafka.bootstrap.clone(),
                source,
            })?;
    let layout = |t: &rdkafka::metadata::MetadataTopic| TopicLayout {
        name: t.name().to_owned(),
        partitions: t.partitions().len(),
        led: t.error().is_none() && t.partitions().iter().all(|p| p.leader() >= 0),
    };
    Ok(Cluster {
        brokers: metadata.brokers().len(),
        topics: metadata
            .topics()
            .iter()
            .filter(|t| !t.partitions().is_empty())
            .map(layout)
            .collect(),
    })
}

/// False when another process was faster.
async fn create(
    admin: &Admin,
    topic: &str,
    plan: TopicPlan,
    brokers: usize,
) -> Result<bool, TopicError> {
    let by_brokers = i32::try_from(brokers.clamp(1, MOST_REPLICAS_BY_DEFAULT)).unwrap_or(1);
    let replicas = plan.replication_factor.unwrap_or(by_brokers);
    let (retention, max_message) = (RETENTION_MS.to_string(), MAX_MESSAGE_BYTES.to_string());
    let mut new = NewTopic::new(topic, plan.partitions, TopicReplication::Fixed(replicas))
        .set("retention.ms", &retention)
        .set("max.message.bytes", &max_message);
    for (key, value) in REQUIRED {
        new = new.set(key, value);
    }
    let failed = |code| TopicError::Create {
        topic: topic.to_owned(),
        code,
    };
    let results = admin
        .create_topics([&new], &options())
        .await
        .map_err(|e| failed(e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)))?;
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(failed(code)),
        _ => Ok(true),
    }
}

/// A created topic is in the metadata a moment before its partitions have leaders; until then
/// neither producing nor reading its offsets works.
async fn wait_for_leaders(
    admin: &Admin,
    kafka: &KafkaArgs,
    topic: &str,
) -> Result<usize, TopicError> {
    let deadline = Instant::now() + BROKER_DEADLINE;
    while Instant::now() < deadline {
        let cluster = look(admin, kafka).await?;
        if let Some(ready) = cluster.topics.iter().find(|t| t.name == topic && t.led) {
            return Ok(ready.partitions);
        }
        tokio::time::sleep(METADATA_INTERVAL).await;
    }
    Err(TopicError::NotReady {
        topic: topic.to_owned(),
    })
}

/// Reads the topic's configuration and holds it against what is needed.
async fn describe(
    admin: &Admin,
    topic: &str,
    partitions: usize,
) -> Result<TopicReport, TopicError> {
    let unreadable = |reason: String| TopicError::Describe {
        topic: topic.to_owned(),
        reason,
    };
    let results = admin
        .describe_configs([&ResourceSpecifier::Topic(topic)], &options())
        .await
        .map_err(|e| unreadable(e.to_string()))?;
    let config = match results.into_iter().next() {
        Some(Ok(config)) => config,
        Some(Err(code)) => return Err(unreadable(code.to_string())),
        None => return Err(unreadable("the broker gave no answer for it".to_owned())),
    };
    let value = |key: &str| config.get(key).and_then(|e| e.value.as_deref());
    for (key, wanted) in REQUIRED {
        let found = value(key).unwrap_or("(nothing)");
        if found != wanted {
            return Err(TopicError::Unfit {
                topic: topic.to_owned(),
                key,
                found: found.to_owned(),
                wanted,
            });
        }
    }
    Ok(TopicReport {
        topic: topic.to_owned(),
        partitions,
        created: false,
        remarks: remarks(value),
    })
}

/// Values below those that would be chosen; -1 is Kafka's word for no limit.
fn remarks<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let below = |key: &str, wanted: i64| {
        let found: i64 = value(key)?.parse().ok()?;
        (found >= 0 && found < wanted).then(|| format!("{key}={found}, less than {wanted}"))
    };
    [
        below("retention.ms", RETENTION_MS),
        below("max.message.bytes", MAX_MESSAGE_BYTES),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(BROKER_DEADLINE))
        .operation_timeout(Some(BROKER_DEADLINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_limits_are_remarked_and_unlimited_is_not() {
        let config = |key: &str| match key {
            "retention.ms" => Some("-1"),
            "max.message.bytes" => Some("1048588"),
            _ => None,
        };
        assert_eq!(
            remarks(config),
            ["max.message.bytes=1048588, less than 4194304"]
        );
    }
}
