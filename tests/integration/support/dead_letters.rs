//! Reads the dead letters and holds them against what was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::message::Topic;
use super::recount::{DeadLetter, Truth};
use super::space::Space;

/// The topic is at its end already when it is read.
const READ: Duration = Duration::from_secs(30);

/// A letter as found: where it came from, why, which events, and the original.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Letter {
    at: (Topic, i32, i64),
    reason: String,
    events: String,
    payload: Vec<u8>,
}

/// Every refusal has its letter, at least once, and no letter is without a refusal.
///
/// # Errors
/// The first letter that is missing, wrong or too many.
pub fn compare(space: &Space, truth: &Truth<'_>) -> Result<(), String> {
    let mut found: BTreeMap<(Topic, i32, i64), BTreeSet<Letter>> = BTreeMap::new();
    for letter in read(space) {
        found.entry(letter.at).or_default().insert(letter);
    }
    for (at, expected) in &truth.dead_letters {
        let letters: Vec<_> = found.remove(at).unwrap_or_default().into_iter().collect();
        for letter in expected {
            let holds = |l: &&Letter| is_of(l, letter);
            let n = letters.iter().filter(holds).count();
            if n != 1 {
                let brief: Vec<_> = letters
                    .iter()
                    .map(|l| (&l.reason, &l.events, l.payload.len()))
                    .collect();
                return Err(format!(
                    "{at:?}: no letter for {:?} {:?} among {brief:?}",
                    letter.reasons, letter.events
                ));
            }
        }
        if letters.len() != expected.len() {
            return Err(format!(
                "{at:?}: {} letters, {} expected",
                letters.len(),
                expected.len()
            ));
        }
    }
    match found.first_key_value() {
        None => Ok(()),
        Some((at, letters)) => {
            let brief: Vec<_> = letters.iter().map(|l| (&l.reason, &l.events)).collect();
            Err(format!("{at:?}: letters that nobody expected: {brief:?}"))
        }
    }
}

fn is_of(letter: &Letter, expected: &DeadLetter) -> bool {
    let indexes = |events: &Vec<usize>| {
        events
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    expected.reasons.contains(&letter.reason.as_str())
        && expected
            .events
            .as_ref()
            .is_none_or(|events| letter.events == indexes(events))
        && letter.payload == expected.payload
}

fn read(space: &Space) -> Vec<Letter> {
    let topic = &space.topics.dead_letters;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.kafka)
        .set("group.id", format!("{topic}.reader"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let metadata = consumer
        .fetch_metadata(Some(topic), READ)
        .expect("metadata");
    let partitions: Vec<i32> = metadata.topics()[0]
        .partitions()
        .iter()
        .map(|p| p.id())
        .collect();
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in partitions {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, READ)
            .expect("watermarks");
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .expect("a partition");
        left += high - low;
    }
    consumer.assign(&assignment).expect("assigned");
    let deadline = Instant::now() + READ;
    let mut letters = Vec::new();
    while left > 0 {
        assert!(
            Instant::now() < deadline,
            "{left} dead letters were not read within {READ:?}"
        );
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            let message = message.expect("a letter");
            letters.push(letter(space, &message));
            left -= 1;
        }
    }
    letters
}

fn letter(space: &Space, message: &rdkafka::message::BorrowedMessage<'_>) -> Letter {
    let headers: BTreeMap<String, String> = message
        .headers()
        .expect("headers")
        .iter()
        .map(|h| {
            (
                h.key.to_owned(),
                String::from_utf8_lossy(h.value.unwrap_or_default()).into_owned(),
            )
        })
        .collect();
    let header = |name: &str| {
        headers
            .get(&format!("modelmeter-{name}"))
            .unwrap_or_else(|| panic!("no {name}: {headers:?}"))
    };
    let topic = match header("topic") {
        topic if *topic == space.topics.requests => Topic::Requests,
        topic if *topic == space.topics.replicas => Topic::Replicas,
        other => panic!("a letter from {other}"),
    };
    let number = |name: &str| header(name).parse::<i64>().expect("a number");
    Letter {
        at: (topic, number("partition") as i32, number("offset")),
        reason: header("reason").clone(),
        events: headers
            .get("modelmeter-events")
            .cloned()
            .unwrap_or_default(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}
