//! The topics on a real broker: made once as exactness needs them, refused where they are not so,
//! never altered.

use std::time::Duration;

use modelmeter::bus::topics::{self, DEFAULT_PARTITIONS, TopicError, TopicPlan};
use modelmeter::config::KafkaArgs;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::engine::new_topics;

fn admin(kafka: &KafkaArgs) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap)
        .create()
        .expect("a client")
}

async fn create(kafka: &KafkaArgs, topic: &str, config: &[(&str, &str)]) {
    let topic = NewTopic::new(topic, 3, TopicReplication::Fixed(1));
    let topic = config
        .iter()
        .fold(topic, |topic, (key, value)| topic.set(key, value));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let results = admin(kafka)
        .create_topics([&topic], &options)
        .await
        .expect("an answer");
    results[0].as_ref().expect("created");
}

async fn config(kafka: &KafkaArgs, topic: &str, key: &str) -> String {
    let wanted = [ResourceSpecifier::Topic(topic)];
    let results = admin(kafka)
        .describe_configs(&wanted, &AdminOptions::new())
        .await
        .expect("an answer");
    let entry = results[0]
        .as_ref()
        .expect("a topic")
        .get(key)
        .expect(key)
        .value
        .clone();
    entry.expect("a value")
}

#[tokio::test]
async fn missing_topics_are_made_as_exactness_needs_them() {
    let kafka = new_topics();
    let error = topics::check(&kafka, &kafka.topics.requests)
        .await
        .expect_err("is missing");
    assert!(matches!(error, TopicError::Missing { .. }), "{error}");
    let made = topics::ensure(&kafka, TopicPlan::default())
        .await
        .expect("made");
    assert_eq!(made.len(), 3);
    for report in made {
        assert!(report.created && report.remarks.is_empty(), "{report:?}");
        assert_eq!(report.partitions, DEFAULT_PARTITIONS as usize);
        for (key, value) in [
            ("message.timestamp.type", "LogAppendTime"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("max.message.bytes", "4194304"),
        ] {
            assert_eq!(
                config(&kafka, &report.topic, key).await,
                value,
                "{} {key}",
                report.topic
            );
        }
    }
    for report in topics::ensure(&kafka, TopicPlan::default())
        .await
        .expect("checked")
    {
        assert!(!report.created && report.remarks.is_empty(), "{report:?}");
    }
    let report = topics::check(&kafka, &kafka.topics.replicas)
        .await
        .expect("fits");
    assert_eq!((report.partitions, report.created), (12, false));
}

#[tokio::test]
async fn an_existing_topic_is_kept_as_it_is() {
    let kafka = new_topics();
    let topic = &kafka.topics.requests;
    create(
        &kafka,
        topic,
        &[
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.ms", "3600000"),
        ],
    )
    .await;
    let plan = TopicPlan {
        partitions: 5,
        ..TopicPlan::default()
    };
    let reports = topics::ensure(&kafka, plan).await.expect("fits");
    assert!(!reports[0].created && reports[1].created);
    assert_eq!(
        reports.iter().map(|r| r.partitions).collect::<Vec<_>>(),
        [3, 5, 5]
    );
    let remarks = reports[0].remarks.join("; ");
    for remark in [
        "retention.ms=3600000",
        "max.message.bytes=1048588",
        "3 partitions, not 5",
    ] {
        assert!(remarks.contains(remark), "{remarks}");
    }
    assert_eq!(config(&kafka, topic, "retention.ms").await, "3600000");
}

#[tokio::test]
async fn a_topic_that_cannot_be_exact_is_refused_and_not_altered() {
    for (key, value) in [
        ("message.timestamp.type", "CreateTime"),
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
    ] {
        let kafka = new_topics();
        let topic = &kafka.topics.replicas;
        let fitting = ("message.timestamp.type", "LogAppendTime");
        create(&kafka, topic, &[fitting, (key, value)]).await;
        let refusals = [
            topics::ensure(&kafka, TopicPlan::default())
                .await
                .map(|_| ()),
            topics::check(&kafka, topic).await.map(|_| ()),
        ];
        for refusal in refusals {
            let error = refusal.expect_err("is refused");
            assert!(
                matches!(&error, TopicError::Unfit { key: k, found, .. } if *k == key && found == value),
                "{error}"
            );
            assert!(
                error.to_string().contains("kafka-configs --alter"),
                "{error}"
            );
        }
        assert_eq!(config(&kafka, topic, key).await, value);
    }
}

#[tokio::test]
async fn two_at_once_both_find_their_topics() {
    let kafka = new_topics();
    let (one, other) = tokio::join!(
        topics::ensure(&kafka, TopicPlan::default()),
        topics::ensure(&kafka, TopicPlan::default())
    );
    let (one, other) = (one.expect("made"), other.expect("made"));
    for (a, b) in one.iter().zip(&other) {
        assert!(a.created != b.created, "{a:?} {b:?}");
        assert_eq!((a.partitions, b.partitions), (12, 12));
    }
}
