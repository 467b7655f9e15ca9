//! The processor as an operator meets it: what it says of itself, how it stops, how members share, what its limits do.

use modelmeter::core::table::Table;
use modelmeter::store::columns::columns;

use crate::support::generator::{Replica, SECOND, Schemas, event};
use crate::support::group;
use crate::support::message::{Facts, Topic};
use crate::support::probe::{get, metric, wait_until_ready};
use crate::support::process::Role;
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::space::{CATCH_UP, LEDGER_TABLES, ROLLUPS, Space};
use crate::support::{wait_for, wait_until};

/// Longer than any test waits.
const LONG_SESSION: [&str; 2] = ["-X", "session.timeout.ms=240000"];

/// Requests of each message that `publish` sends.
const EVENTS: i64 = 20;

/// Sends `n` batches for each deployment and replica. Returns how many requests that were.
fn publish(
    publisher: &Publisher,
    random: &mut Random,
    deployments: &[&str],
    replicas: &[&str],
    n: i64,
) -> u64 {
    let schemas = Schemas::built_in();
    let now = modelmeter::clock::now_us();
    let facts = Facts {
        deployment_name: String::new(),
        model_id: String::new(),
        model_name: String::new(),
        environment: String::new(),
        kind: "production",
        instance_type: String::new(),
    };
    let mut n_requests = 0;
    for deployment in deployments {
        for replica in replicas {
            let mut replica = Replica::new(random, deployment, replica, &facts);
            for batch in 0..n {
                let events = (0..EVENTS)
                    .map(|i| event(random, now - (batch * EVENTS + i) % 600 * SECOND))
                    .collect();
                publisher.send(schemas.batch(replica.batch(events)));
                n_requests += EVENTS.unsigned_abs();
            }
        }
    }
    publisher.flush();
    n_requests
}

fn total(space: &Space, table: &str) -> u64 {
    let column = if table.starts_with("requests") {
        "requests"
    } else {
        "samples"
    };
    let rows = space
        .sql
        .rows(&format!("SELECT sum({column}) AS n FROM {table}"));
    rows[0]["n"].as_u64().expect("a number")
}

fn assert_counted(space: &Space, n_requests: u64) {
    for (table, _) in ROLLUPS
        .iter()
        .filter(|(table, _)| table.starts_with("requests"))
    {
        assert_eq!(total(space, table), n_requests, "{table}");
    }
    let (is_right, lines) = space.audit();
    assert!(is_right, "{lines}");
}

#[test]
fn a_block_has_the_columns_of_its_table() {
    let space = Space::new();
    for table in Table::ALL {
        let query = format!(
            "SELECT name, type FROM system.columns WHERE database = '{}' AND table = '{}' AND name != 'ingested' ORDER BY position",
            space.database,
            table.name()
        );
        let rows = space.sql.rows(&query);
        let of_table: Vec<(String, String)> = rows
            .iter()
            .map(|row| {
                let text = |name: &str| row[name].as_str().expect("text").to_owned();
                (text("name"), plain(&text("type")))
            })
            .collect();
        let of_block: Vec<(String, String)> = columns(table)
            .iter()
            .map(|column| (column.name.clone(), column.type_name.to_owned()))
            .collect();
        assert_eq!(of_table, of_block, "{}", table.name());
    }
}

/// The type that a value of a column has on the wire.
fn plain(type_name: &str) -> String {
    if let Some(inner) = type_name
        .strip_prefix("LowCardinality(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return inner.to_owned();
    }
    match type_name.strip_prefix("SimpleAggregateFunction(") {
        Some(rest) => {
            rest.split_once(", ")
                .expect("function and type")
                .1
                .trim_end_matches(')')
                .to_owned()
                + if rest.contains("Map(") { ")" } else { "" }
        }
        None => type_name.to_owned(),
    }
}

#[test]
fn it_says_what_it_did_and_a_stop_stores_what_is_folded() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    // the last of a flag wins over the harness's: nothing is stored before the stop
    let mut processor =
        space.processor(&["--flush-interval", "1h", "--coarse-flush-interval", "1h"]);
    let address = processor.address();
    assert_eq!(get(&address, "/livez").map(|(status, _)| status), Some(200));
    assert_eq!(
        get(&address, "/nothing").map(|(status, _)| status),
        Some(404)
    );
    wait_until_ready(&address);
    let mut random = Random::new(random::seed("processor"));
    let n_requests = publish(&publisher, &mut random, &["a", "b"], &["1"], 10);
    let end: u64 = publisher.ends().values().sum();
    wait_for("everything is folded", CATCH_UP, || {
        let (_, text) = get(&address, "/metrics").ok_or("no metrics")?;
        let windows = metric(&text, "modelmeter_processor_open_windows{", &[]);
        let behind = metric(&text, "modelmeter_processor_lag_messages", &[]);
        let seen = text.matches("modelmeter_processor_lag_messages{").count();
        if windows > 0.0 && behind == 0.0 && seen > 0 && end > 0 {
            Ok(())
        } else {
            Err(text)
        }
    });
    assert_eq!(total(&space, "requests_10s"), 0, "stored before its time");
    assert!(processor.stop().success(), "{}", processor.tail());
    assert_counted(&space, n_requests);
}

#[test]
fn metrics_add_up() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    let mut random = Random::new(random::seed("metrics"));
    let n_requests = publish(&publisher, &mut random, &["a", "b", "c"], &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    wait_for("the counters have what the tables have", CATCH_UP, || {
        let (_, text) = get(&address, "/metrics").ok_or("no metrics")?;
        let accepted = metric(&text, "modelmeter_processor_events_total", &["accepted"]);
        let stored = metric(
            &text,
            "modelmeter_processor_inserts_total",
            &["requests_10s", "stored"],
        );
        let fenced = metric(&text, "modelmeter_processor_fenced_writes_total", &[]);
        if accepted == n_requests as f64 && stored > 0.0 && fenced == 0.0 {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn members_come_and_go_and_nothing_is_lost() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("members"));
    let deployments = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut n_requests = 0;
    let mut members: Vec<Role> = Vec::new();
    // one member, two, three, then the oldest leaves each time: five rebalances under load
    for round in 0..5 {
        let mut member = space.processor(&["--workers", "2"]);
        let address = member.address();
        members.push(member);
        n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 10);
        wait_until_ready(&address);
        n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 10);
        if round >= 2 {
            let mut oldest = members.remove(0);
            assert!(oldest.stop().success(), "{}", oldest.tail());
        }
    }
    let mut running: Vec<&mut Role> = members.iter_mut().collect();
    space.wait_until_counted(&publisher.ends(), &mut running);
    assert_counted(&space, n_requests);
}

/// With a session that outlasts the test, nobody gets a dead member's partitions but its next start.
#[test]
fn a_killed_instance_has_its_partitions_at_its_next_start() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("instances"));
    let deployments = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let named = |name| space.processor(&[&["--instance-id", name], &LONG_SESSION[..]].concat());
    let (mut killed, mut other) = (named("rollup-0"), named("rollup-1"));
    for processor in [&mut killed, &mut other] {
        wait_until_ready(&processor.address());
    }
    let mut n_requests = 0;
    for _ in 0..2 {
        n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 5);
        killed.kill();
        killed = named("rollup-0");
        n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 5);
        space.wait_until_counted(&publisher.ends(), &mut [&mut killed, &mut other]);
    }
    assert_counted(&space, n_requests);
}

/// Its session ends while it stands still, its partitions go to the other, and it joins anew under its name.
#[test]
fn an_instance_that_stood_still_goes_on() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("still instances"));
    let deployments = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let short_session = ["-X", "session.timeout.ms=6000"];
    let named = |name| space.processor(&[&["--instance-id", name], &short_session[..]].concat());
    let (mut still, mut other) = (named("rollup-0"), named("rollup-1"));
    for processor in [&mut still, &mut other] {
        wait_until_ready(&processor.address());
    }
    let mut n_requests = publish(&publisher, &mut random, &deployments, &["1", "2"], 5);
    still.freeze();
    n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut other]);
    n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 5);
    still.go_on();
    // messages come while it finds out, so that it has something to commit
    for _ in 0..8 {
        n_requests += publish(&publisher, &mut random, &deployments, &["1", "2"], 1);
        space.wait_until_counted(&publisher.ends(), &mut [&mut still, &mut other]);
    }
    for processor in [&mut still, &mut other] {
        let status = processor.stop();
        assert!(status.success(), "{status}\n{}", processor.tail());
    }
    assert_counted(&space, n_requests);
}

#[test]
fn the_first_of_two_with_one_name_ends_and_says_why() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("namesakes"));
    let deployments = ["a", "b", "c", "d"];
    let named = || space.processor(&[&["--instance-id", "rollup-0"], &LONG_SESSION[..]].concat());
    let mut first = named();
    wait_until_ready(&first.address());
    let mut n_requests = publish(&publisher, &mut random, &deployments, &["1"], 5);
    let mut second = named();
    wait_until("the first has ended", CATCH_UP, || !first.is_running());
    let told = first.tail();
    assert!(told.contains("out of its group"), "{told}");
    assert!(told.contains("fenced"), "{told}");
    n_requests += publish(&publisher, &mut random, &deployments, &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut second]);
    assert_counted(&space, n_requests);
}

#[test]
fn past_the_limits_totals_stay_exact() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("limits"));
    let deployments = ["a", "b", "c", "d", "e", "f"];
    // published before, so that all of it is met between two full flushes
    let n_requests = publish(
        &publisher,
        &mut random,
        &deployments,
        &["1", "2", "3", "4"],
        10,
    );
    let mut processor = space.processor(&["--max-deployments", "2", "--max-replicas", "2"]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    assert_counted(&space, n_requests);
    let other = "SELECT sumIf(requests, deployment_id = '__other__') AS deployments, \
         sumIf(requests, deployment_id != '__other__' AND replica_id = '__other__') AS replicas FROM requests_by_replica_1m";
    let rows = space.sql.rows(other);
    for column in ["deployments", "replicas"] {
        assert!(
            rows[0][column].as_u64() > Some(0),
            "nothing went to __other__: {rows:?}"
        );
    }
}

#[test]
fn little_memory_flushes_early_and_drops_nothing() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("memory"));
    let never = ["--flush-interval", "1h", "--coarse-flush-interval", "1h"];
    let mut processor = space.processor(&[&never[..], &["--window-memory", "50000"]].concat());
    let n_requests = publish(&publisher, &mut random, &["a", "b"], &["1", "2"], 40);
    wait_for("memory alone forces a flush", CATCH_UP, || {
        match total(&space, "requests_10s") {
            0 => Err("nothing is stored".to_owned()),
            _ => Ok(()),
        }
    });
    assert!(processor.stop().success(), "{}", processor.tail());
    let mut successor = space.processor(&[]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut successor]);
    assert_counted(&space, n_requests);
}

#[test]
fn a_lost_ledger_stops_its_partitions_and_says_so() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("lost ledger"));
    let mut processor = space.processor(&[]);
    publish(&publisher, &mut random, &["a", "b", "c"], &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    assert!(processor.stop().success(), "{}", processor.tail());
    for (table, _) in LEDGER_TABLES {
        space
            .sql
            .try_rows(&format!("TRUNCATE TABLE {table}"))
            .expect("the table is emptied");
    }
    let mut successor = space.processor(&[]);
    let address = successor.address();
    wait_for("the alarm is told", CATCH_UP, || {
        match get(&address, "/readyz") {
            Some((503, text)) if text.contains("no table has a ledger") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        total(&space, "requests_10s"),
        0,
        "a stopped partition writes nothing"
    );
    assert!(successor.is_running());
}

#[test]
fn a_deleted_topic_does_not_stop_the_other() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("deleted topic"));
    let mut processor = space.processor(&[]);
    let n_requests = publish(&publisher, &mut random, &["a", "b", "c", "d"], &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    let address = processor.address();
    group::delete_topic(&space.kafka, &space.topics.replicas);
    wait_for("the alarm is told", CATCH_UP, || {
        match get(&address, "/readyz") {
            Some((503, text)) if text.contains("replicas does not exist") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let more = publish(&publisher, &mut random, &["a", "b", "c", "d"], &["1"], 5);
    let requests = publisher.ends();
    let requests = requests
        .into_iter()
        .filter(|((topic, _), _)| *topic == Topic::Requests);
    space.wait_until_counted(&requests.collect(), &mut [&mut processor]);
    assert_eq!(total(&space, "requests_10s"), n_requests + more);
}

/// Retention overtakes a stopped processor: that partition alone stops, and an operator's word lets it go on.
#[test]
fn a_gap_lets_a_partition_go_on_whose_messages_are_gone() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("gap"));
    let deployments = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut processor = space.processor(&[]);
    let counted = publish(&publisher, &mut random, &deployments, &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    assert!(processor.stop().success(), "{}", processor.tail());
    let before = publisher.ends();
    let while_away = publish(&publisher, &mut random, &deployments, &["1"], 5);
    let ends = publisher.ends();
    let (&(_, partition), &end) = ends.iter().next().expect("a partition with messages");
    let from = before[&(Topic::Requests, partition)];
    assert!(from < end, "the partition has messages that will be lost");
    group::delete_records(&space.kafka, &space.topics.requests, partition, end as i64);

    let mut processor = space.processor(&[]);
    let address = processor.address();
    wait_for("the alarm is told", CATCH_UP, || {
        match get(&address, "/readyz") {
            Some((503, text)) if text.contains("left the log before they were counted") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let others = ends.iter().map(|(key, end)| (*key, *end));
    let others = others.filter(|((_, of), _)| *of != partition).collect();
    space.wait_until_counted(&others, &mut [&mut processor]);

    let to = end.to_string();
    let (status, text) = space.gap(partition, &to, &[]);
    assert!(
        status.success() && text.contains("nothing is written"),
        "{text}"
    );
    let (status, text) = space.gap(partition, &(end + 1).to_string(), &["--write"]);
    assert!(
        !status.success() && text.contains("above the log's start"),
        "{text}"
    );
    assert_eq!(
        space.ledger("requests_10s").expect("a ledger")[&partition],
        from
    );
    let (status, text) = space.gap(partition, &to, &["--write"]);
    assert!(status.success(), "{text}");
    wait_until_ready(&address);
    let after = publish(&publisher, &mut random, &deployments, &["1"], 5);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    let lost = (end - from) * EVENTS.unsigned_abs();
    assert_counted(&space, counted + while_away + after - lost);
    let rows = space
        .sql
        .rows("SELECT sum(ledger_gap) AS n FROM requests_1h");
    assert_eq!(rows[0]["n"].as_u64(), Some(end - from));
    let (agrees, lines) = space.audit();
    assert!(agrees, "{lines}");
}
