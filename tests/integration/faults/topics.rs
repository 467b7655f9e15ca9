//! Topics that change under the processor: more partitions, and a topic that is deleted and made again under its name.

use crate::support::group;
use crate::support::probe::{metric_of, wait_for_alarm, wait_until_ready};
use crate::support::space::{PARTITIONS, Space};

use super::load::Load;

/// The member of the group asks for the topics this often, so that a test need not wait for librdkafka's five minutes.
const LOOKS_OFTEN: [&str; 2] = ["-X", "topic.metadata.refresh.interval.ms=1000"];

/// Longer than anything here takes, so that the group takes nothing away.
const LONG_SESSION: [&str; 2] = ["-X", "session.timeout.ms=45000"];

/// Flushes as an installation has them, as to their order: many fine ones between two full ones.
const FULL_FLUSHES_ARE_RARE: [&str; 2] = ["--coarse-flush-interval", "20s"];

fn make_anew(space: &Space, topic: &str) {
    group::delete_topic(&space.kafka, topic);
    space.migrate();
}

/// And messages in them, which lie there before the group knows of them.
fn add_partitions(space: &Space, load: &mut Load) {
    let more = PARTITIONS + 3;
    for topic in [&space.topics.requests, &space.topics.replicas] {
        group::add_partitions(&space.kafka, topic, more as usize);
    }
    // a producer of its own knows all partitions at once
    load.begin_anew(space);
    load.publish(5);
    let ends = load.ends();
    assert!(
        ends.keys().any(|(_, partition)| *partition >= PARTITIONS),
        "some of it is in a new partition: {ends:?}"
    );
}

#[test]
fn new_partitions_begin_at_their_start_and_nothing_stops() {
    let space = Space::new();
    let mut load = Load::new("partitions", &space);
    let mut processor = space.processor(&LOOKS_OFTEN);
    let address = processor.address();
    load.publish(5);
    load.wait_until_right(&space, &mut [&mut processor]);
    add_partitions(&space, &mut load);
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
    for name in [
        "modelmeter_processor_partitions_stopped",
        "modelmeter_processor_tables_started_late_total",
    ] {
        assert_eq!(metric_of(&address, name, &[]), 0.0, "{name}");
    }
    let ledgers = space.sql.rows(&format!(
        "SELECT max(ledger_from) AS n FROM requests_10s WHERE ledger != '' AND kafka_partition >= {PARTITIONS} AND ledger_span > 0"
    ));
    assert_eq!(ledgers[0]["n"].as_u64(), Some(0), "from the beginning");
}

/// A group gives a member that comes back under its name what it had before, and asks nobody what there is by now.
#[test]
fn partitions_that_came_while_a_named_processor_was_away_are_read() {
    let space = Space::new();
    let mut load = Load::new("partitions, named", &space);
    let flags = ["--instance-id", "rollup-0", "-X", "session.timeout.ms=6000"];
    let mut processor = space.processor(&flags);
    load.publish(5);
    load.wait_until_right(&space, &mut [&mut processor]);
    assert!(processor.stop().success());
    add_partitions(&space, &mut load);
    let mut processor = space.processor(&flags);
    load.wait_until_right(&space, &mut [&mut processor]);
}

#[test]
fn a_topic_made_anew_under_a_stopped_processor_begins_a_new_ledger() {
    let space = Space::new();
    let mut load = Load::new("anew, stopped", &space);
    let mut processor = space.processor(&[]);
    load.publish(5);
    load.wait_until_right(&space, &mut [&mut processor]);
    assert!(processor.stop().success(), "{}", processor.tail());
    make_anew(&space, &space.topics.replicas);
    load.begin_anew(&space);
    load.publish(3);
    let mut processor = space.processor(&[]);
    wait_until_ready(&processor.address());
    load.wait_until_right(&space, &mut [&mut processor]);
    assert_eq!(lives(&space, "replicas_10s"), 2);
    assert_eq!(lives(&space, "requests_10s"), 1);
}

#[test]
fn a_topic_that_was_away_for_a_while_begins_a_new_ledger() {
    let space = Space::new();
    let mut load = Load::new("anew, after an alarm", &space);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.publish(5);
    load.wait_until_right(&space, &mut [&mut processor]);
    group::delete_topic(&space.kafka, &space.topics.replicas);
    wait_for_alarm(&address, "replicas does not exist");
    space.migrate();
    load.begin_anew(&space);
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
    assert_eq!(lives(&space, "replicas_10s"), 2);
}

/// The processor stands still meanwhile, so that it learns of the new topic and its log in one moment: the offset at which
/// it would read on exists there too, and means another message.
#[test]
fn a_longer_topic_of_the_same_name_is_counted_from_its_start() {
    let space = Space::new();
    let mut load = Load::new("anew, at once", &space);
    let mut processor = space.processor(&[&FULL_FLUSHES_ARE_RARE[..], &LONG_SESSION].concat());
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    processor.freeze();
    make_anew(&space, &space.topics.requests);
    make_anew(&space, &space.topics.replicas);
    load.begin_anew(&space);
    load.publish(20);
    processor.go_on();
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
}

/// How many topics of this name the table has counted.
fn lives(space: &Space, table: &str) -> u64 {
    let rows = space.sql.rows(&format!(
        "SELECT uniqExact(ledger) AS n FROM {table} WHERE ledger != ''"
    ));
    rows[0]["n"].as_u64().expect("a number")
}
