//! The crash test: SIGKILLs of processors and of ClickHouse under load, each at a seeded moment, and processors that
//! stand still and go on, on a broker and an engine of its own. After each, every table is right and the audit agrees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::compare::{self, VIEWS};
use crate::support::dead_letters;
use crate::support::generator::{self, HOUR, Replica, SECOND, Schemas};
use crate::support::message::{Facts, Message, Topic};
use crate::support::parts::Parts;
use crate::support::process::Role;
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::recount::{Question, Truth};
use crate::support::rubbish;
use crate::support::space::Space;
use crate::support::summaries;
use crate::support::tables;
use crate::support::tap::Tap;
use crate::support::wait_until;

/// A message each: enough to have some in every flush, few enough for the recount after every kill.
const PACE: Duration = Duration::from_millis(30);

/// The kill comes within so many further messages: about two flush intervals.
const KILL_WITHIN: i64 = 70;

/// The group waits for a killed member as long as its session; six seconds is the least that a broker takes.
const ROLE: &[&str] = &["--workers", "1", "-X", "session.timeout.ms=6000"];

/// An insert is due each second and table; a machine that is busy may take its time.
const NEXT_INSERT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// One of the two processors, at any moment.
    Processor,
    /// The engine, at any moment.
    Engine,
    /// A processor whose insert is still on the wire; it arrives when its successor has gone on.
    ProcessorWithInsertUnderWay,
    /// The engine as soon as it was sent an insert.
    EngineDuringInsert,
    /// Both at once.
    Both,
    /// No kill: a processor stands still until the other has its partitions, and then goes on as if nothing
    /// had been. What it still holds must be refused, and it must live on.
    Freeze,
}

/// Twenty kills, and freezes between them, in an order that the seed decides.
fn kills(random: &mut Random) -> Vec<Kill> {
    let mut kills = Vec::new();
    let counts = [
        (Kill::Processor, 5),
        (Kill::Engine, 5),
        (Kill::ProcessorWithInsertUnderWay, 4),
        (Kill::EngineDuringInsert, 4),
        (Kill::Both, 2),
        (Kill::Freeze, 4),
    ];
    for (kill, n) in counts {
        kills.extend(std::iter::repeat_n(kill, n));
    }
    random.shuffle(&mut kills);
    kills
}

/// Everything that a round of the test touches.
struct Field {
    parts: Parts,
    space: Space,
    tap: Tap,
    /// The first reaches the engine by the tap.
    processors: [Role; 2],
    random: Random,
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() {
    let mut random = Random::new(random::seed("crash"));
    let parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let tap = Tap::before(&parts.clickhouse);
    let processors = [space.processor_by(tap.url(), ROLE), space.processor(ROLE)];
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let kills = kills(&mut random);
    let load_random = Random::new(random.next());
    let mut field = Field {
        parts,
        space,
        tap,
        processors,
        random,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_loading(&publisher, load_random, &stop));
        // However the rounds end, the load must, or the scope would wait for it for ever.
        let _stop = StopOnDrop(&stop);
        for (round, kill) in kills.into_iter().enumerate() {
            let started = Instant::now();
            field.round(kill, &publisher);
            println!(
                "crash: {:2} {kill:?}: right after {:.1} s",
                round + 1,
                started.elapsed().as_secs_f64()
            );
        }
    });
    field.compare_at_the_end(&publisher);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Field {
    fn round(&mut self, kill: Kill, publisher: &Publisher) {
        let moment = publisher.count() as i64 + self.random.between(1, KILL_WITHIN);
        let moment_comes = || {
            wait_until("the load goes on", NEXT_INSERT, || {
                publisher.count() as i64 >= moment
            })
        };
        match kill {
            Kill::Processor => {
                moment_comes();
                let which = self.random.between(0, 2) as usize;
                self.replace_processor(which);
            }
            Kill::Engine => {
                moment_comes();
                self.parts.engine.kill();
                self.parts.restart_engine();
            }
            Kill::ProcessorWithInsertUnderWay => {
                self.tap.hold_next_insert();
                wait_until("an insert is on the wire", NEXT_INSERT, || {
                    self.tap.is_holding()
                });
                self.replace_processor(0);
            }
            Kill::EngineDuringInsert => {
                self.tap.watch_for_insert();
                wait_until("an insert is sent", NEXT_INSERT, || self.tap.has_seen());
                self.parts.engine.kill();
                self.parts.restart_engine();
            }
            Kill::Both => {
                moment_comes();
                self.parts.engine.kill();
                self.processors[1].kill();
                self.parts.restart_engine();
                self.processors[1] = self.space.processor(ROLE);
            }
            Kill::Freeze => {
                moment_comes();
                let which = self.random.between(0, 2) as usize;
                self.processors[which].freeze();
                self.compare(publisher);
                self.processors[which].go_on();
            }
        }
        self.compare(publisher);
        if kill == Kill::ProcessorWithInsertUnderWay {
            let answer = self.tap.release();
            self.compare(publisher);
            assert!(
                answer.contains("fenced"),
                "the late insert was not refused: {answer}"
            );
        }
    }

    fn replace_processor(&mut self, which: usize) {
        self.processors[which].kill();
        let url = if which == 0 {
            self.tap.url()
        } else {
            &self.space.clickhouse
        };
        self.processors[which] = self.space.processor_by(url, ROLE);
    }

    /// Waits until all that was logged by now is counted; then every table must be right where it stands.
    fn compare(&mut self, publisher: &Publisher) {
        assert!(
            self.parts.broker.is_running(),
            "the broker ended:\n{}",
            self.parts.broker.tail()
        );
        let [first, second] = &mut self.processors;
        self.space
            .wait_until_counted(&publisher.ends(), &mut [first, second]);
        tables::compare_all(&self.space, publisher).unwrap_or_else(|e| panic!("{e}"));
        let (agrees, lines) = self.space.audit();
        assert!(agrees, "the audit disagrees:\n{lines}");
    }

    fn compare_at_the_end(&mut self, publisher: &Publisher) {
        publisher.flush();
        self.compare(publisher);
        let log = publisher.log();
        let truth = Truth::of(log.iter().map(AsRef::as_ref));
        assert!(
            truth.events.len() > 1_000 && truth.samples.len() > 100,
            "a load that proves something"
        );
        let now = modelmeter::clock::now_us() / SECOND;
        for deployment in truth.deployments() {
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
        assert!(
            truth.dead_letters.len() > 50,
            "{} refusals",
            truth.dead_letters.len()
        );
        dead_letters::compare(&self.space, &truth).unwrap_or_else(|e| panic!("{e}"));
        for processor in &mut self.processors {
            let status = processor.stop();
            assert!(
                status.success(),
                "the processor ended in order: {status}\n{}",
                processor.tail()
            );
        }
        println!(
            "crash: {} messages, {} events, {} samples",
            log.len(),
            truth.events.len(),
            truth.samples.len()
        );
    }
}

/// Publishes at a steady pace until told to stop: batches and samples of a few deployments, some late, and a little rubbish.
fn keep_loading(publisher: &Publisher, mut random: Random, stop: &AtomicBool) {
    let schemas = Schemas::built_in();
    let mut replicas: Vec<_> = (0..8)
        .flat_map(|d| (0..2).map(move |r| (format!("d-{d}"), format!("r-{r}"))))
        .map(|(deployment, replica)| {
            let facts = Facts {
                deployment_name: deployment.clone(),
                model_id: "m".to_owned(),
                model_name: "model".to_owned(),
                environment: "test".to_owned(),
                kind: "production",
                instance_type: "cpu".to_owned(),
            };
            Replica::new(&mut random, &deployment, &replica, &facts)
        })
        .collect();
    let started = Instant::now();
    for n in 0.. {
        let due = started + PACE * n;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            // The pace of the load, not a wait for something to have happened.
            std::thread::park_timeout(left);
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        let which = random.between(0, replicas.len() as i64) as usize;
        publisher.send(message(&mut random, &schemas, &mut replicas[which]));
    }
}

fn message(random: &mut Random, schemas: &Schemas, replica: &mut Replica) -> Message {
    let now = modelmeter::clock::now_us();
    if random.chance(0.03) {
        return rubbish::no_avro(*random.pick(&[Topic::Requests, Topic::Replicas]));
    }
    if random.chance(0.25) {
        let state = *random.pick(&["waiting", "loading", "active", "stopping"]);
        return schemas.sample(replica.sample(random, now, 5 * SECOND, state));
    }
    let n = random.between(1, 8);
    let events = (0..n).map(|_| {
        let age = if random.chance(0.1) {
            random.between(0, 60 * HOUR)
        } else {
            random.between(0, 2 * SECOND)
        };
        generator::event(random, now - age)
    });
    let events = events.collect();
    schemas.batch(replica.batch(events))
}
