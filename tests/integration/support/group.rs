//! What an operator does to a consumer group and to topics behind the processors' back.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::space::{CATCH_UP, PARTITIONS, Topics};
use super::{wait_for, wait_until};

/// A broker that is up answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

type Admin = AdminClient<DefaultClientContext>;

fn admin(kafka: &str) -> Admin {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .create()
        .expect("an admin client")
}

fn block_on<T>(doing: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(doing)
}

/// Deletes the group with all that it committed, as soon as nobody is in it.
pub fn delete(kafka: &str, name: &str) {
    let admin = admin(kafka);
    wait_for("the group is deleted", CATCH_UP, || {
        match block_on(admin.delete_groups(&[name], &AdminOptions::new())).as_deref() {
            // an answer that was lost may have deleted it
            Ok([Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))]) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Commits this offset for every partition, as soon as nobody is in the group.
pub fn commit(kafka: &str, name: &str, topics: &Topics, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", name)
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for topic in [&topics.requests, &topics.replicas] {
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))
                .expect("an offset");
        }
    }
    wait_for("the group's offsets are changed", CATCH_UP, || {
        consumer
            .commit(&list, CommitMode::Sync)
            .map_err(|e| e.to_string())
    });
}

/// Deletes a topic, and waits until the broker has forgotten it.
pub fn delete_topic(kafka: &str, topic: &str) {
    let admin = admin(kafka);
    let deleted = block_on(admin.delete_topics(&[topic], &AdminOptions::new()));
    assert!(matches!(deleted.as_deref(), Ok([Ok(_)])), "{deleted:?}");
    wait_until("the topic is gone", CATCH_UP, || {
        let all = admin.inner().fetch_metadata(None, ANSWER);
        all.is_ok_and(|all| all.topics().iter().all(|t| t.name() != topic))
    });
}

/// Gives a topic more partitions.
pub fn add_partitions(kafka: &str, topic: &str, up_to: usize) {
    let partitions = NewPartitions::new(topic, up_to);
    let added = block_on(admin(kafka).create_partitions([&partitions], &AdminOptions::new()));
    assert!(matches!(added.as_deref(), Ok([Ok(_)])), "{added:?}");
}

/// Deletes the messages before this offset, as retention would.
pub fn delete_records(kafka: &str, topic: &str, partition: i32, before: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(before))
        .expect("an offset");
    let deleted = block_on(admin(kafka).delete_records(&list, &AdminOptions::new()));
    let deleted = deleted.expect("records can be deleted");
    assert!(
        deleted.elements().iter().all(|e| e.error().is_ok()),
        "{deleted:?}"
    );
}
