//! Ledgers and commits that are not what they were: a ledger that has aged out, and what somebody commits for the group.

use crate::support::group;
use crate::support::message::Topic;
use crate::support::probe::{metric_of, wait_for_alarm, wait_until_ready};
use crate::support::space::{CATCH_UP, LEDGER_TABLES, ROLLUPS, Space};
use crate::support::wait_for;

use super::load::Load;

/// What somebody does to the group, and its name.
type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// Beyond any log of these tests.
const FAR_AHEAD: i64 = 1_000_000_000;

#[test]
fn whatever_the_group_has_committed_each_message_counts_once() {
    let space = Space::new();
    let mut load = Load::new("commits", &space);
    let changes: [Change; 3] = [
        (
            "deleted",
            Box::new(|| group::delete(&space.kafka, &space.database)),
        ),
        ("set back", Box::new(|| commit(&space, 0))),
        ("set ahead", Box::new(|| commit(&space, FAR_AHEAD))),
    ];
    for (name, change) in changes {
        let mut processor = space.processor(&[]);
        load.publish(3);
        load.wait_until_right(&space, &mut [&mut processor]);
        assert!(processor.stop().success(), "{}", processor.tail());
        change();
        load.publish(3);
        let mut processor = space.processor(&[]);
        let address = processor.address();
        load.wait_until_right(&space, &mut [&mut processor]);
        wait_until_ready(&address);
        assert!(processor.stop().success(), "{name}: {}", processor.tail());
    }
}

fn commit(space: &Space, offset: i64) {
    group::commit(&space.kafka, &space.database, &space.topics, offset);
}

/// Some tables have lost all that they had, as if it had aged out: they begin where the others are, and that is counted.
#[test]
fn a_ledger_that_is_gone_in_some_tables_begins_at_the_others() {
    const GONE: [&str; 3] = ["requests_by_replica_1h", "requests_marks", "replicas_1m"];
    let space = Space::new();
    let mut load = Load::new("aged out in some", &space);
    let mut processor = space.processor(&[]);
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    assert!(processor.stop().success(), "{}", processor.tail());
    let n_partitions: usize = GONE
        .iter()
        .map(|table| space.ledger(table).expect("a ledger").len())
        .sum();
    let before = load.ends();
    for table in GONE {
        space.sql.execute(&format!("TRUNCATE TABLE {table}"));
    }
    load.publish(3);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    wait_for("every table is right", CATCH_UP, || {
        ROLLUPS.iter().try_for_each(|(table, topic)| {
            load.compare_table(&space, table, *topic, |_, logged| {
                let from = before
                    .get(&(*topic, logged.partition))
                    .copied()
                    .unwrap_or(0);
                !GONE.contains(table) || logged.offset.unsigned_abs() >= from
            })
        })
    });
    wait_until_ready(&address);
    let late = metric_of(
        &address,
        "modelmeter_processor_tables_started_late_total",
        &[],
    );
    assert_eq!(late, n_partitions as f64);
    let (agrees, lines) = space.audit();
    assert!(!agrees && lines.contains("begins at"), "{lines}");
}

/// One partition has no ledger in any table, though the group has committed: it stops, and begins anew at the operator's
/// word. The others and the other topic go on.
#[test]
fn a_ledger_that_is_gone_in_all_tables_stops_its_partition_alone() {
    const STRUCK: i32 = 0;
    let space = Space::new();
    let mut load = Load::new("aged out in all", &space);
    let mut processor = space.processor(&[]);
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    assert!(processor.stop().success(), "{}", processor.tail());
    for (table, _) in LEDGER_TABLES
        .iter()
        .filter(|(_, topic)| *topic == Topic::Requests)
    {
        space.sql.execute(&format!(
            "ALTER TABLE {table} DELETE WHERE kafka_partition = {STRUCK} SETTINGS mutations_sync = 2"
        ));
    }
    load.publish(3);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    let said = wait_for_alarm(&address, "no table has a ledger");
    assert_eq!(said.matches("has stopped").count(), 1, "{said}");
    load.wait_until_right_but(&space, &mut [&mut processor], |_, logged| {
        logged.message.topic != Topic::Requests || logged.partition != STRUCK
    });
    wait_for_alarm(&address, "no table has a ledger");
    assert!(processor.stop().success(), "{}", processor.tail());
    group::delete(&space.kafka, &space.database);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
}
