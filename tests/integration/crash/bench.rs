//! Carries a round of faults out and holds the tables against the truth.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::report::{Outcome, Report};
use super::strike::Strike;
use crate::support::compare::{self, VIEWS};
use crate::support::dead_letters;
use crate::support::fault_proxy::FaultProxy;
use crate::support::generator::SECOND;
use crate::support::group;
use crate::support::message::Topic;
use crate::support::parts::Parts;
use crate::support::process::Role;
use crate::support::publish::Publisher;
use crate::support::random::Random;
use crate::support::recount::{Question, Truth};
use crate::support::space::{CATCH_UP, ROLLUPS, Space};
use crate::support::summaries;
use crate::support::tables;
use crate::support::wait_until;

/// An insert is due each second and table; a machine that is busy may take its time.
const NEXT_INSERT: Duration = Duration::from_secs(60);

/// The moment of a kill comes within so many further messages: about two flush intervals.
const WITHIN: i64 = 50;

/// How many messages a member stays before it leaves again: five seconds.
const STAY: i64 = 125;

/// The group waits for a killed member as long as its session; six seconds is the least that a broker takes. A long run
/// measures with the product's own.
const SHORT_SESSION: &[&str] = &["--workers", "1", "-X", "session.timeout.ms=6000"];
const OWN_SESSION: &[&str] = &["--workers", "1"];

/// What each processor is called in the group, where it has a name of its own.
const NAMES: [&str; 2] = ["rollup-0", "rollup-1"];

/// The number of the proxy of a third process.
const THIRD: usize = 2;

fn arguments(role: &[&'static str], which: usize, is_named: bool) -> Vec<&'static str> {
    let named = ["--instance-id", NAMES[which]];
    [role, if is_named { &named } else { &[] }].concat()
}

pub struct Bench<'a> {
    parts: &'a mut Parts,
    random: &'a mut Random,
    report: &'a mut Report,
    space: Space,
    /// Each processor's way to the engine, and a third one's.
    proxies: [FaultProxy; 3],
    processors: [Role; 2],
    role: &'static [&'static str],
    /// Whether the processors have names of their own in the group: then a killed one's next start waits for no session.
    is_named: bool,
    /// Longer stalls, more members that come and go, and the session that the product has.
    is_long: bool,
}

impl<'a> Bench<'a> {
    pub fn new(
        parts: &'a mut Parts,
        random: &'a mut Random,
        report: &'a mut Report,
        is_named: bool,
        is_long: bool,
    ) -> Self {
        let space = Space::on(&parts.addresses());
        let proxies = [(); 3].map(|()| FaultProxy::before(&parts.clickhouse));
        let role = if is_long { OWN_SESSION } else { SHORT_SESSION };
        let processors = [0, 1].map(|which: usize| {
            let arguments = arguments(role, which, is_named);
            space.processor_by(proxies[which].url(), &arguments)
        });
        Self {
            parts,
            random,
            report,
            space,
            proxies,
            processors,
            role,
            is_named,
            is_long,
        }
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.space.kafka, &self.space.topics)
    }

    /// Waits until both processors have had time to join and something is counted: a fault needs something to break.
    pub fn begin(&mut self, publisher: &Publisher) {
        self.pass(publisher, WITHIN, WITHIN + 1);
        self.wait_until_back(publisher, Instant::now());
    }

    /// Lets the faults strike, and waits until every table is right.
    pub fn round(&mut self, strikes: &[Strike], publisher: &Publisher) {
        let fenced_before = self.fenced();
        let first = self.random.between(0, 2) as usize;
        // what strikes by a proxy waits there while the others strike
        for (i, strike) in strikes.iter().enumerate() {
            if let Some(act) = strike.act() {
                self.proxies[(first + i) % 2].arm(act);
            }
        }
        let mut late = Vec::new();
        let mut struck = Instant::now();
        for (i, &strike) in strikes.iter().enumerate() {
            let which = (first + i) % 2;
            struck = self.strike(strike, which, publisher);
            if strike == Strike::LateInsert {
                late.push(which);
            }
        }
        let recovered = self.wait_until_back(publisher, struck);
        self.compare(strikes, publisher);
        for which in late {
            let answer = self.proxies[which].release();
            self.compare(strikes, publisher);
            assert!(
                answer.contains("fenced"),
                "the late insert was not refused: {answer}"
            );
        }
        let names = self.names_of(strikes);
        let outcome = Outcome {
            fenced: self.fenced() - fenced_before,
            recovered: Some(recovered),
            ..Outcome::default()
        };
        self.report.tell(&names, outcome);
    }

    fn fenced(&self) -> u64 {
        self.proxies.iter().map(FaultProxy::fenced).sum()
    }

    /// Carries one fault out; what was killed runs again. Gives the moment at which it struck.
    fn strike(&mut self, strike: Strike, which: usize, publisher: &Publisher) -> Instant {
        let proxy = self.proxies[which].clone();
        match strike {
            Strike::Wire(_) => {
                wait_until("the fault has struck", NEXT_INSERT, || proxy.has_struck());
                return Instant::now();
            }
            Strike::KillAt(_) => {
                wait_until("the request is there", NEXT_INSERT, || proxy.is_holding());
                self.replace_processor(which);
                let struck = Instant::now();
                proxy.drop_held();
                return struck;
            }
            Strike::LateInsert => {
                wait_until("an insert is on the wire", NEXT_INSERT, || {
                    proxy.is_holding()
                });
                self.replace_processor(which);
            }
            Strike::KillEngineAtInsert => {
                proxy.arm(super::strike::AT_INSERT);
                wait_until("an insert is sent", NEXT_INSERT, || proxy.is_holding());
                self.parts.engine.kill();
                proxy.drop_held();
                self.parts.restart_engine();
            }
            _ => {
                self.pass(publisher, 1, WITHIN);
                return self.strike_at_any_moment(strike, which, publisher);
            }
        }
        Instant::now()
    }

    fn strike_at_any_moment(
        &mut self,
        strike: Strike,
        which: usize,
        publisher: &Publisher,
    ) -> Instant {
        let mut struck = Instant::now();
        match strike {
            Strike::KillProcessor => self.replace_processor(which),
            Strike::KillEngine => {
                self.parts.engine.kill();
                self.parts.restart_engine();
            }
            Strike::KillBoth => {
                self.parts.engine.kill();
                self.processors[which].kill();
                self.parts.restart_engine();
                self.start_processor(which);
            }
            Strike::KillBroker => {
                self.parts.broker.kill();
                self.parts.restart_broker();
                struck = Instant::now();
            }
            Strike::EngineAway => {
                self.parts.engine.kill();
                // nothing moves meanwhile but the log
                self.pass(publisher, STAY, 2 * STAY + 1);
                self.parts.restart_engine();
                struck = Instant::now();
            }
            Strike::Freeze => {
                self.processors[which].freeze();
                self.wait_until_back(publisher, struck);
                self.compare(&[strike], publisher);
                self.processors[which].go_on();
            }
            Strike::KillInRebalance => {
                let mut third = self.third(&[]);
                self.pass(publisher, 1, WITHIN);
                struck = Instant::now();
                self.replace_processor(which);
                third.kill();
            }
            Strike::KillYoung => {
                self.replace_processor(which);
                self.pass(publisher, 1, STAY);
                struck = Instant::now();
                self.replace_processor(which);
            }
            Strike::Churn => {
                for n in 0..if self.is_long { 6 } else { 2 } {
                    let mut third = self.third(&[]);
                    self.pass(publisher, STAY, STAY + 1);
                    struck = Instant::now();
                    if n % 2 == 0 {
                        let status = third.stop();
                        assert!(status.success(), "{status}\n{}", third.tail());
                    } else {
                        third.kill();
                    }
                    self.pass(publisher, STAY, STAY + 1);
                }
            }
            Strike::TwoOwners => self.let_two_own(),
            Strike::CommitsDeleted | Strike::CommitsSetBack | Strike::CommitsSetAhead => {
                self.change_commits(strike);
                struck = Instant::now();
            }
            other => unreachable!("{other:?} strikes at a request"),
        }
        struck
    }

    /// A third process of another group, so that nobody takes a partition from anybody.
    fn let_two_own(&mut self) {
        let before = self.fenced();
        let mut third = self.third(&["--group", "believes"]);
        wait_until("both have written, and been refused", NEXT_INSERT, || {
            self.fenced() >= before + 4
        });
        assert!(third.is_running(), "{}", third.tail());
        third.kill();
    }

    /// Committed offsets are advisory, so whatever they say changes nothing.
    fn change_commits(&mut self, strike: Strike) {
        for processor in &mut self.processors {
            let status = processor.stop();
            assert!(status.success(), "{status}\n{}", processor.tail());
        }
        let (kafka, name) = (&self.space.kafka, &self.space.database);
        match strike {
            Strike::CommitsDeleted => group::delete(kafka, name),
            Strike::CommitsSetBack => group::commit(kafka, name, &self.space.topics, 0),
            _ => group::commit(kafka, name, &self.space.topics, 1_000_000_000),
        }
        self.start_processor(0);
        self.start_processor(1);
    }

    fn third(&self, more: &[&str]) -> Role {
        let arguments = [self.role, more].concat();
        self.space
            .processor_by(self.proxies[THIRD].url(), &arguments)
    }

    fn replace_processor(&mut self, which: usize) {
        self.processors[which].kill();
        self.start_processor(which);
    }

    fn start_processor(&mut self, which: usize) {
        let arguments = arguments(self.role, which, self.is_named);
        self.processors[which] = self
            .space
            .processor_by(self.proxies[which].url(), &arguments);
    }

    /// Lets a number of messages pass.
    fn pass(&mut self, publisher: &Publisher, least: i64, below: i64) {
        let until = publisher.count() as i64 + self.random.between(least, below);
        wait_until("the load goes on", NEXT_INSERT, || {
            publisher.count() as i64 >= until
        });
    }

    /// Waits until all that was logged at `struck`, or by now, is counted in the finest tables.
    fn wait_until_back(&mut self, publisher: &Publisher, struck: Instant) -> Duration {
        let ends = publisher.ends();
        wait_until("the finest tables have caught up", CATCH_UP, || {
            [
                ("requests_10s", Topic::Requests),
                ("replicas_10s", Topic::Replicas),
            ]
            .into_iter()
            .all(|(table, topic)| {
                let Ok(ledger) = self.space.ledger(table) else {
                    return false;
                };
                ends.iter().all(|((of, partition), end)| {
                    *of != topic || ledger.get(partition).copied().unwrap_or(0) >= *end
                })
            })
        });
        struck.elapsed()
    }

    /// Waits until all that was logged by now is counted; then every table must be right where it stands.
    fn compare(&mut self, strikes: &[Strike], publisher: &Publisher) {
        assert!(
            self.parts.broker.is_running(),
            "the broker ended:\n{}",
            self.parts.broker.tail()
        );
        let [first, second] = &mut self.processors;
        self.space
            .wait_until_counted(&publisher.ends(), &mut [first, second]);
        if let Err(differences) = tables::compare_all(&self.space, publisher) {
            let names = self.names_of(strikes);
            let outcome = self.lost_and_doubled(publisher);
            self.report.tell(&names, outcome);
            panic!("{strikes:?}: {differences}");
        }
        let (agrees, lines) = self.space.audit();
        assert!(agrees, "{strikes:?}: the audit disagrees:\n{lines}");
    }

    /// As the report has them: who dies with a name of its own is back sooner.
    fn names_of(&self, strikes: &[Strike]) -> Vec<String> {
        let name_of = |strike: &Strike| {
            let name = strike.name();
            if self.is_named && strike.is_of_a_member() {
                format!("{name}, named")
            } else {
                name
            }
        };
        strikes.iter().map(name_of).collect()
    }

    /// How many events and samples are missing from the tables, and how many are too many.
    fn lost_and_doubled(&self, publisher: &Publisher) -> Outcome {
        let mut outcome = Outcome::default();
        for (table, topic) in ROLLUPS {
            let counted = match topic {
                Topic::Requests => "requests",
                Topic::Replicas => "samples",
            };
            let query = format!(
                "SELECT kafka_partition AS p, max(ledger_to) AS to, sum({counted}) AS n FROM {table} GROUP BY p"
            );
            for row in self.space.sql.rows(&query) {
                let number = |name: &str| row[name].as_u64().expect("a number");
                let to = BTreeMap::from([(number("p") as i32, number("to"))]);
                let log = publisher.log_before(topic, &to);
                let truth = Truth::of(log.iter().map(AsRef::as_ref));
                let expected = truth.events.len().max(truth.samples.len()) as u64;
                outcome.lost += expected.saturating_sub(number("n"));
                outcome.doubled += number("n").saturating_sub(expected);
            }
        }
        outcome
    }

    /// Everything that the charts show, and the dead letters; then both processors end in order.
    pub fn compare_at_the_end(&mut self, publisher: &Publisher) {
        publisher.flush();
        self.compare(&[], publisher);
        let log = publisher.log();
        let truth = Truth::of(log.iter().map(AsRef::as_ref));
        assert!(
            truth.events.len() > 500 && truth.samples.len() > 50 && truth.dead_letters.len() > 20,
            "a load that proves something"
        );
        let now = modelmeter::clock::now_us() / SECOND;
        for deployment in truth.deployments() {
            let truth = truth.only(deployment);
            for step in [10, 60, 3600] {
                let question = Question {
                    deployment,
                    start: now - 4 * 3600,
                    stop: now + 600,
                    step,
                };
                for view in VIEWS {
                    compare::view(&self.space, &truth, view, &question)
                        .unwrap_or_else(|e| panic!("{e}"));
                }
            }
        }
        summaries::replica_percentiles(&self.space, &truth).unwrap_or_else(|e| panic!("{e}"));
        // Kills may double letters, but each refusal has its one and there is none without.
        dead_letters::compare(&self.space, &truth).unwrap_or_else(|e| panic!("{e}"));
        for processor in &mut self.processors {
            let status = processor.stop();
            assert!(
                status.success(),
                "the processor ended in order: {status}\n{}",
                processor.tail()
            );
        }
        self.report.say(format!(
            "{} messages, {} events, {} samples, {} refusals",
            log.len(),
            truth.events.len(),
            truth.samples.len(),
            truth.dead_letters.len()
        ));
    }
}
