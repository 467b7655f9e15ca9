//! The truth test: a generated load through the real broker, and every table and view held against the
//! naive recount of the log, while events still arrive and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::support::compare::{self, VIEWS};
use crate::support::dead_letters;
use crate::support::generator::{self, HOUR, MINUTE, SECOND, Schemas};
use crate::support::message::{Logged, Message, Topic};
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::recount::{Question, Truth};
use crate::support::space::{CATCH_UP, ROLLUPS, Space};
use crate::support::summaries;
use crate::support::tables;
use crate::support::wait_until;

/// Every tier, multiples of it, and steps that no coarser tier divides.
const STEPS: [i64; 9] = [10, 30, 60, 90, 120, 600, 3600, 5400, 7200];

/// The load arrives in so many portions, each compared a few flushes long.
const N_PORTIONS: usize = 10;

#[test]
fn every_view_at_every_tier_equals_the_recount() {
    let mut random = Random::new(random::seed("truth"));
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let now = modelmeter::clock::now_us();
    let mut messages = generator::load(&mut random, &Schemas::built_in(), now);
    generator::mix(&mut random, &mut messages);
    // A third waits in the log before the processor starts; the rest arrives while it counts.
    let rest = messages.split_off(messages.len() / 3);
    messages
        .into_iter()
        .for_each(|message| publisher.send(message));
    let mut processor = space.processor(&[]);
    wait_until("the processor has begun to count", CATCH_UP, || {
        space
            .ledger("requests_10s")
            .is_ok_and(|ledger| ledger.values().any(|to| *to > 0))
    });
    compare_while_arriving(&space, &publisher, rest);

    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    let log = publisher.log();
    let truth = Truth::of(log.iter().map(AsRef::as_ref));
    assert_load_is_worth_it(&truth);
    assert!(truth.n_repeated > 10, "{} came twice", truth.n_repeated);
    tables::compare_all(&space, &publisher).unwrap_or_else(|e| panic!("{e}"));
    summaries::replica_maxima(&space, &truth).unwrap_or_else(|e| panic!("{e}"));
    summaries::replica_percentiles(&space, &truth).unwrap_or_else(|e| panic!("{e}"));
    summaries::status_codes(&space, &truth).unwrap_or_else(|e| panic!("{e}"));
    summaries::deployments(&space, &truth).unwrap_or_else(|e| panic!("{e}"));
    let compared = compare_views(&space, &truth, &mut random, now / SECOND);
    println!("truth: {compared} rows of views compared");
    dead_letters::compare(&space, &truth).unwrap_or_else(|e| panic!("{e}"));
    let (agrees, lines) = space.audit();
    assert!(agrees, "the audit disagrees:\n{lines}");
    let status = processor.stop();
    assert!(
        status.success(),
        "the processor ended in order: {status}\n{}",
        processor.tail()
    );
}

/// Publishes portion by portion, and while each arrives holds every table against the truth at its own ledger.
fn compare_while_arriving(space: &Space, publisher: &Publisher, rest: Vec<Message>) {
    let mut stands = BTreeSet::new();
    let mut rest = rest.into_iter();
    let size = rest.len().div_ceil(N_PORTIONS);
    for _ in 0..N_PORTIONS {
        let portion: Vec<_> = rest.by_ref().take(size).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                portion
                    .into_iter()
                    .for_each(|message| publisher.send(message));
                publisher.flush();
            });
            for (table, topic) in ROLLUPS {
                let to = tables::compare(space, table, topic, publisher);
                let to = to.unwrap_or_else(|e| panic!("while arriving: {e}"));
                stands.insert(to.values().sum::<u64>());
            }
            view_lies_between_ledgers(space, publisher, "chat", 10);
            view_lies_between_ledgers(space, publisher, "chat", 3600);
        });
    }
    println!(
        "truth: compared while arriving at {} stands of the ledgers",
        stands.len()
    );
    assert!(stands.len() > 2, "the ledgers stay at {stands:?}");
}

/// A view shows at least what was counted before it was asked, and at most what was counted after.
fn view_lies_between_ledgers(space: &Space, publisher: &Publisher, deployment: &str, step: i64) {
    let counted = |pick: fn(u64, u64) -> u64| {
        let (fine, coarse) = (space.ledger("requests_10s"), space.ledger("requests_1h"));
        let (fine, coarse) = (
            fine.expect("the engine answers"),
            coarse.expect("the engine answers"),
        );
        let partitions: BTreeSet<_> = fine.keys().chain(coarse.keys()).copied().collect();
        let of = |ledger: &BTreeMap<i32, u64>, p| ledger.get(&p).copied().unwrap_or(0);
        let to = partitions
            .into_iter()
            .map(|p| (p, pick(of(&fine, p), of(&coarse, p))))
            .collect();
        let log = publisher.log_before(Topic::Requests, &to);
        let truth = Truth::of(log.iter().map(AsRef::as_ref));
        truth
            .events
            .iter()
            .filter(|e| e.head.deployment_id == deployment)
            .count() as u64
    };
    let least = counted(u64::min);
    let now = modelmeter::clock::now_us() / SECOND;
    let (start, stop) = (now - 50 * 3600, now + 600);
    let query = format!(
        "SELECT sum(requests) AS n FROM inference_volume(deployment = '{deployment}', start = {start}, stop = {stop}, step = {step})"
    );
    let shown = space.sql.rows(&query)[0]["n"].as_u64().expect("a count");
    let most = counted(u64::max);
    assert!(
        (least..=most).contains(&shown),
        "step {step}: {shown} shown, {least} to {most} counted"
    );
}

/// A generator that lost a kind of load would make every comparison below an empty one.
fn assert_load_is_worth_it(truth: &Truth<'_>) {
    assert!(truth.deployments().len() == 7, "{:?}", truth.deployments());
    assert!(truth.events.len() > 5_000 && truth.samples.len() > 1_500);
    let late: u64 = truth.ledgers.values().map(|l| l.late).sum();
    let invalid: u64 = truth.ledgers.values().map(|l| l.invalid).sum();
    assert!(late > 50 && invalid > 100, "{late} late, {invalid} invalid");
    for state in ["waiting", "loading", "active", "stopping"] {
        assert!(
            truth.samples.iter().any(|s| s.item.state == state),
            "no {state} sample"
        );
    }
}

fn compare_views(space: &Space, truth: &Truth<'_>, random: &mut Random, now: i64) -> usize {
    let mut compared = 0;
    for deployment in truth.deployments().into_iter().chain(["nobody"]) {
        let truth = truth.only(deployment);
        for step in STEPS {
            let odd = now - 5 * 3600 - random.between(0, 900);
            let some = [
                (odd, odd + random.between(1, 3600)),
                (now - 301, now - 7),
                (odd, odd),
            ];
            for (start, stop) in [(now - 50 * 3600, now + 600), *random.pick(&some)] {
                let question = Question {
                    deployment,
                    start,
                    stop,
                    step,
                };
                for view in VIEWS {
                    compared += compare::view(space, &truth, view, &question)
                        .unwrap_or_else(|e| panic!("{e}"));
                }
            }
        }
    }
    compared
}

#[test]
fn a_wrong_step_is_an_error_even_without_rows() {
    let space = Space::new();
    for view in VIEWS {
        for step in ["0", "5", "11", "3601"] {
            let query = format!(
                "SELECT * FROM {view}(deployment = 'nobody', start = 0, stop = 100, step = {step})"
            );
            let answer = space.sql.try_rows(&query);
            assert!(answer.is_err(), "{query} gave {answer:?}");
        }
    }
}

/// The log's clock decides, so the harness must be right about it.
#[test]
fn the_broker_stamps_messages_when_it_takes_them() {
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("stamps"));
    let before = modelmeter::clock::now_us();
    let messages = generator::load(&mut random, &Schemas::built_in(), before - 3 * HOUR);
    messages
        .into_iter()
        .take(10)
        .for_each(|message| publisher.send(message));
    publisher.flush();
    let log: Vec<Arc<Logged>> = publisher.log();
    let after = modelmeter::clock::now_us() + MINUTE;
    assert_eq!(log.len(), 10);
    assert!(
        log.iter()
            .all(|l| (before - SECOND..after).contains(&l.appended_at_us))
    );
}
