//! Logs that lose their past: retention that overtakes a processor, and a disk that comes back older than it was. That
//! partition alone stops, and says so; what an operator tells as lost is counted as lost.

use crate::support::group;
use crate::support::message::Topic;
use crate::support::parts::{Parts, replace_dir};
use crate::support::probe::{get, wait_for_alarm, wait_until_ready};
use crate::support::process::Role;
use crate::support::space::{CATCH_UP, Space};
use crate::support::wait_for;

use super::load::Load;

const REQUESTS: &str = "requests_10s";
/// The partition that loses something.
const STRUCK: i32 = 0;

/// Loads through which an alarm must stand; each of them takes a full flush or more.
const ROUNDS: usize = 3;

/// Longer than anything here takes, so that the group takes nothing away from a process that stands still.
const LONG_SESSION: [&str; 2] = ["-X", "session.timeout.ms=45000"];

#[test]
fn retention_overtakes_a_processor_that_stands_still() {
    let space = Space::new();
    let mut load = Load::new("overtaken", &space);
    let mut processor = space.processor(&LONG_SESSION);
    let address = processor.address();
    load.publish(5);
    load.wait_until_right(&space, &mut [&mut processor]);
    let from = load.ends()[&(Topic::Replicas, STRUCK)];
    processor.freeze();
    load.publish(5);
    let end = load.ends()[&(Topic::Replicas, STRUCK)];
    assert!(from < end, "the partition has messages that will be lost");
    let topic = &space.topics.replicas;
    group::delete_records(&space.kafka, topic, STRUCK, end as i64);
    processor.go_on();
    wait_for_alarm(&address, "left the log before they were counted");
    let (status, text) = space.gap_of(topic, STRUCK, &end.to_string(), &["--write"]);
    assert!(status.success(), "{text}");
    wait_until_ready(&address);
    load.publish(5);
    load.wait_until_right_but(&space, &mut [&mut processor], |_, logged| {
        let is_struck = logged.message.topic == Topic::Replicas && logged.partition == STRUCK;
        !is_struck || !(from..end).contains(&logged.offset.unsigned_abs())
    });
    for table in ["replicas_10s", "replicas_1m", "replicas_1h"] {
        let query = format!("SELECT sum(ledger_gap) AS n FROM {table}");
        let rows = space.sql.rows(&query);
        assert_eq!(rows[0]["n"].as_u64(), Some(end - from), "{table}");
    }
}

/// The log of one partition as it was some time ago, as a restored disk has it; then other messages come to stand where
/// counted ones stood. Only the leader's epoch tells them apart.
#[test]
fn a_log_that_was_cut_and_has_grown_again_is_not_read_on() {
    let mut parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("cut", &space);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    let (log, copy) = (
        parts.log_dir(&space.topics.requests, STRUCK),
        parts.copy_dir("older-log"),
    );
    parts.broker.kill();
    replace_dir(&log, &copy);
    parts.restart_broker();
    load.begin_anew(&space);
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    let counted = space.ledger(REQUESTS).expect("a ledger")[&STRUCK];

    parts.broker.kill();
    replace_dir(&copy, &log);
    parts.restart_broker();
    load.begin_anew(&space);
    load.publish(20);
    assert!(
        load.ends()[&(Topic::Requests, STRUCK)] > counted,
        "the log is longer than it was"
    );
    let alarm = format!("{}/{STRUCK} has stopped", space.topics.requests);
    wait_for_alarm(&address, &alarm);
    others_go_on(&mut load, &space, &mut processor, &address, &alarm);
    assert!(processor.stop().success(), "{}", processor.tail());

    let mut processor = space.processor(&[]);
    let address = processor.address();
    wait_for_alarm(&address, &alarm);
    others_go_on(&mut load, &space, &mut processor, &address, &alarm);
    let now = space.ledger(REQUESTS).expect("a ledger")[&STRUCK];
    assert_eq!(now, counted, "its ledger does not move");
}

/// Loads and waits until all but the struck partition is right. Each full flush meanwhile looks at that one anew, and its
/// alarm must not come and go.
fn others_go_on(load: &mut Load, space: &Space, processor: &mut Role, address: &str, alarm: &str) {
    for _ in 0..ROUNDS {
        load.publish(1);
        wait_for("the others are right", CATCH_UP, || {
            match get(address, "/readyz") {
                Some((503, text)) if text.contains(alarm) => {}
                other => panic!("the alarm has gone: {other:?}\n{}", processor.tail()),
            }
            load.compare(space, |life, logged| {
                let of = (logged.message.topic, logged.partition);
                life < 2 || of != (Topic::Requests, STRUCK)
            })
        });
    }
    let (agrees, lines) = space.audit();
    assert!(agrees, "{lines}");
}
