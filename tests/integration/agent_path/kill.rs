//! The agent killed under load, again and again: what it had put away is delivered once by those that come after it, what
//! is lost is the end of each life, and what cannot be told from the topic is nothing.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::agent::{Agent, Logged, NOWHERE, key_of, spool_of, spooled};
use crate::support::random::{self, Random};
use crate::support::space::{CATCH_UP, Space};
use crate::support::wait_for;

use super::load::{CLIENTS, Load, number_of};
use super::model::Model;

/// Without `ROUNDS`: half of them with Kafka away.
const ROUNDS: usize = 6;

/// How the agent's log tells of a file that the kill tore.
const TORN: &str = "a spooled batch is lost";

fn flags(model: &Model) -> [String; 4] {
    let upstream = format!("http://{}", model.address);
    ["--listen", "127.0.0.1:0", "--upstream", &upstream].map(str::to_owned)
}

fn start(space: &Space, kafka: &str, dir: &Path, model: &Model) -> Agent {
    let flags = flags(model);
    Agent::start(space, kafka, dir, &flags.each_ref().map(String::as_str))
}

/// Events that a kill would not lose: at Kafka or in the spool. Twice alike, since the one is told before the other.
fn n_safe(agent: &Agent) -> Option<u64> {
    let look = || Some(agent.metric("events_delivered_total")? + agent.metric("spooled_events")?);
    let (first, second) = (look()?, look()?);
    Some(first.min(second))
}

/// Torn files that the agents have found so far.
fn n_torn(dir: &Path) -> usize {
    let log = std::fs::read_to_string(dir.join("agent.log"));
    log.map_or(0, |log| log.matches(TORN).count())
}

#[test]
fn killed_under_load_it_loses_no_more_than_was_not_put_away() {
    let mut random = Random::new(random::seed("agent kill"));
    let n_rounds = random::rounds(ROUNDS);
    let (space, model) = (Space::new(), Model::start());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start();
    // what must be in the topic, and what was in the spool when its agent was killed
    let (mut sure, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut kills = Vec::new();
    for round in 0..n_rounds {
        let kafka = if round % 2 == 0 {
            NOWHERE
        } else {
            &space.kafka
        };
        let found: u64 = spooled(dir.path())
            .iter()
            .map(|n| u64::from(n.n_events))
            .sum();
        let n_torn = n_torn(dir.path());
        let mut agent = start(&space, kafka, dir.path(), &model);
        let before = wait_for("it says what it found", CATCH_UP, || {
            let safe = n_safe(&agent).ok_or_else(String::new)?;
            let is_all = safe == found || self::n_torn(dir.path()) > n_torn;
            is_all
                .then_some(safe)
                .ok_or_else(|| format!("{safe} of {found}"))
        });
        let n_earlier = load.n_completed();
        load.aim(agent.requests);
        load.wait_for_more(100);
        let completed = load.known().completed;
        // those that were measured by now, and whose clients did not know yet, may stand before them
        let enough = (completed.len() - n_earlier + CLIENTS) as u64;
        wait_for("what was measured is put away", CATCH_UP, || {
            match n_safe(&agent) {
                // a torn file among those that were found goes with its events
                Some(safe) if safe >= before + enough => Ok(()),
                seen => Err(format!("{seen:?} of {enough}")),
            }
        });
        let of_this_life = completed[n_earlier..].iter();
        sure.extend(of_this_life.map(|&(number, _)| number));
        load.wait_for_more(random.between(1, 400) as usize);
        agent.role.kill();
        kills.push(std::time::Instant::now());
        load.aim(None);
        left.extend(spooled(dir.path()).iter().map(key_of));
    }
    let known = load.stop();
    let mut last = start(&space, &space.kafka, dir.path(), &model);
    wait_for("the spool is empty", CATCH_UP, || {
        let batches = spooled(dir.path())
            .iter()
            .filter(|n| n.n_events > 0)
            .count();
        (batches == 0)
            .then_some(())
            .ok_or_else(|| batches.to_string())
    });
    assert!(last.role.stop().success());

    let logged = Logged::read(&space);
    let there: Vec<u64> = logged.events().map(number_of).collect();
    let numbers: BTreeSet<u64> = there.iter().copied().collect();
    assert_eq!(there.len(), numbers.len(), "a request is in two batches");
    let missing: Vec<_> = sure.difference(&numbers).collect();
    assert_eq!(missing, [&0; 0], "put away, and not delivered");
    let uncertain: BTreeSet<u64> = known.uncertain.iter().copied().collect();
    let completed: BTreeSet<u64> = known.completed.iter().map(|&(number, _)| number).collect();
    let invented: Vec<_> = numbers
        .iter()
        .filter(|n| !completed.contains(n) && !uncertain.contains(n))
        .collect();
    assert_eq!(invented, [&0; 0], "nobody asked for it");
    // only what was in the spool at a kill can have been at Kafka too
    let strange: Vec<_> = logged.repeated.difference(&left).collect();
    assert!(strange.is_empty(), "twice in the topic: {strange:?}");
    let n_torn = n_torn(dir.path());
    assert!(logged.gaps().len() <= n_torn, "{:?}", logged.gaps());

    let lost: Vec<_> = known
        .completed
        .iter()
        .filter(|(number, _)| !numbers.contains(number))
        .collect();
    let of_kill = |at: &std::time::Instant| kills.iter().find(|kill| *kill >= at);
    let oldest = lost.iter().filter_map(|(_, at)| Some(*of_kill(at)? - *at));
    println!(
        "agent kill: {n_rounds} kills, {} requests completed, {} lost (the oldest {:?} before its kill), {} torn files, \
         {} gaps, {} batches twice of {}",
        completed.len(),
        lost.len(),
        oldest.max().unwrap_or_default(),
        n_torn,
        logged.gaps().len(),
        logged.repeated.len(),
        logged.batches.len(),
    );
}

#[test]
fn a_batch_that_the_disk_lost_is_a_gap_in_the_topic() {
    let (space, model) = (Space::new(), Model::start());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let load = Load::start();
    let mut agent = start(&space, NOWHERE, dir.path(), &model);
    load.aim(agent.requests);
    let of_requests = || {
        let all = spooled(dir.path());
        all.into_iter().filter(|name| name.n_events > 0)
    };
    wait_for("several batches wait", CATCH_UP, || {
        match of_requests().count() {
            n if n > 3 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    drop(load);
    agent.role.kill();
    let waiting: Vec<_> = of_requests().collect();
    let victim = waiting[1];
    std::fs::remove_file(spool_of(dir.path()).join(victim.to_string())).expect("it was there");
    let mut next = start(&space, &space.kafka, dir.path(), &model);
    let rest = waiting.iter().filter(|name| **name != victim);
    let n_rest: u32 = rest.map(|name| name.n_events).sum();
    let logged = Logged::wait(&space, n_rest as usize);
    assert_eq!(logged.gaps(), [key_of(&victim)]);
    assert!(next.role.stop().success());
}
