//! The processor beside the batch call, on the same topics in the same run: a real broker and a real engine in a directory
//! of their own, topics that are filled here, and each of the two alone on one core.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use modelmeter::clock;
use modelmeter::config::StoreArgs;
use modelmeter::core::table::Stream;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::cpu::{self, Cores};
use super::input::{Shape, Source};
use super::part::{self, Part};
use super::report::{AIM_NS_PER_EVENT, AIM_SHARE_OF_CALL, EndToEnd, Report};

/// By shape: enough that a process's start is a few hundredths of it.
const EVENTS: [usize; 2] = [2_000_000, 10_000_000];

/// A partition is a deployment's home; more than one, so that a fetch changes between them.
const PARTITIONS: &str = "16";

/// The two take turns this often, and the medians stand in the report.
const ROUNDS: usize = 3;

/// The broker takes the messages of a topic within seconds.
const FILL: Duration = Duration::from_secs(180);

/// From the processor's start to its last ledger: it joins a group, reads, and flushes.
const CATCH_UP: Duration = Duration::from_secs(180);

/// Between two looks at the ledgers, which cost the processor nothing.
const POLL: Duration = Duration::from_millis(50);

/// How long before now the first event lies: the events span eleven minutes, and none may be in the future.
const START_BEFORE_US: i64 = 3_600_000_000;

/// No replica speaks, but the processor wants the topic to be there.
const REPLICAS_TOPIC: &str = "bench.replicas";
const DEAD_LETTERS_TOPIC: &str = "bench.dead-letters";

/// # Errors
/// When a part does not start, or an event is lost.
pub fn measure(report: &mut Report) -> anyhow::Result<()> {
    let stage = Stage::open()?;
    for shape in Shape::ALL {
        stage.migrate(shape, &database(shape, 0))?;
        let filled = fill(shape, &stage.kafka)?;
        let [mut calls, mut processors, mut engines, mut walls] = [const { Vec::new() }; 4];
        for round in 0..ROUNDS {
            calls.push(stage.call(&filled)?);
            let spent = stage.process(&filled, &database(shape, round))?;
            processors.push(spent.processor_ns);
            engines.push(spent.engine_ns);
            walls.push(spent.wall_ns);
        }
        let per_event = |ns: Vec<u64>| median(ns) as f64 / filled.n_events as f64;
        let (call, processor) = (per_event(calls), per_event(processors));
        report.add_end_to_end(EndToEnd {
            input: shape.name(),
            messages: filled.n_messages,
            events: filled.n_events,
            rounds: ROUNDS,
            call_ns_per_event: call,
            processor_ns_per_event: processor,
            share_of_call: call / processor,
            engine_ns_per_event: per_event(engines),
            wall_ns_per_event: per_event(walls),
            aim_share_of_call: AIM_SHARE_OF_CALL,
            aim_ns_per_event: AIM_NS_PER_EVENT,
        });
    }
    Ok(())
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn topic(shape: Shape) -> String {
    format!("bench.{}", shape.name())
}

fn database(shape: Shape, round: usize) -> String {
    format!("bench_{}_{round}", shape.name())
}

/// What one round took from when the processor listens until every table's ledger is at the topic's end.
struct Spent {
    processor_ns: u64,
    /// The engine's CPU meanwhile: inserts, and the merges that began by then.
    engine_ns: u64,
    wall_ns: u64,
}

/// What a topic holds.
struct Filled {
    shape: Shape,
    n_messages: u64,
    n_events: u64,
}

fn fill(shape: Shape, kafka: &str) -> anyhow::Result<Filled> {
    let topic = topic(shape);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "500000")
        .create()
        .context("the producer cannot be made")?;
    let deadline = Instant::now() + FILL;
    let mut source = Source::new(shape, clock::now_us() - START_BEFORE_US);
    let (mut payload, mut n_messages, mut n_sent) = (Vec::new(), 0, 0);
    while n_sent < EVENTS[shape as usize] {
        payload.clear();
        let (key, n) = source.next(EVENTS[shape as usize] - n_sent, &mut payload);
        let mut record = BaseRecord::to(&topic).key(key).payload(&payload);
        while let Err((error, back)) = producer.send(record) {
            if !matches!(
                error,
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)
            ) {
                return Err(error).context("a message cannot be sent");
            }
            ensure!(Instant::now() < deadline, "the broker takes no messages");
            producer.poll(POLL);
            record = back;
        }
        n_sent += n;
        n_messages += 1;
    }
    producer
        .flush(deadline.saturating_duration_since(Instant::now()))
        .context("the broker did not take all messages")?;
    Ok(Filled {
        shape,
        n_messages,
        n_events: n_sent as u64,
    })
}

/// A broker and an engine, and what is needed to measure beside them.
struct Stage {
    cores: Cores,
    kafka: String,
    clickhouse: String,
    runtime: tokio::runtime::Runtime,
    _broker: Part,
    engine: Part,
    /// Last, so that it goes after those who write into it.
    dir: tempfile::TempDir,
}

impl Stage {
    fn open() -> anyhow::Result<Self> {
        let cores = Cores::split()?;
        let dir = tempfile::Builder::new()
            .prefix("modelmeter-bench-")
            .tempdir()?;
        let path = |name: &str| -> anyhow::Result<String> {
            let path: PathBuf = dir.path().join(name);
            Ok(path.to_str().context("a plain path")?.to_owned())
        };
        let start = |name: &'static str, folder: &str| {
            let arguments = [name, "--dir", folder, "--port", "0"];
            Part::start(name, &arguments, &cores.others, dir.path())
        };
        let broker = start("kafka", &path("kafka")?)?;
        let engine = start("clickhouse", &path("clickhouse")?)?;
        Ok(Self {
            kafka: broker.address()?,
            clickhouse: engine.address()?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            _broker: broker,
            engine,
            cores,
            dir,
        })
    }

    fn flags<'a>(&'a self, requests: &'a str, database: &'a str) -> [&'a str; 12] {
        [
            "--kafka",
            &self.kafka,
            "--clickhouse",
            &self.clickhouse,
            "--database",
            database,
            "--requests-topic",
            requests,
            "--replicas-topic",
            REPLICAS_TOPIC,
            "--dead-letters-topic",
            DEAD_LETTERS_TOPIC,
        ]
    }

    fn migrate(&self, shape: Shape, database: &str) -> anyhow::Result<()> {
        let requests = topic(shape);
        let mut arguments = vec!["migrate", "up", "--partitions", PARTITIONS];
        arguments.extend(self.flags(&requests, database));
        part::run(&arguments, &self.cores.others)
    }

    /// CPU-nanoseconds of the batch call over the whole topic.
    fn call(&self, filled: &Filled) -> anyhow::Result<u64> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["call", &self.kafka, &topic(filled.shape)]);
        cpu::confine(&mut command, &self.cores.measured);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let numbers = said.trim().split_once(' ').with_context(|| {
            format!(
                "the batch call: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        ensure!(
            numbers.0.parse() == Ok(filled.n_messages),
            "the topic holds {} messages, and {} were sent",
            numbers.0,
            filled.n_messages
        );
        Ok(numbers.1.parse()?)
    }

    fn process(&self, filled: &Filled, database: &str) -> anyhow::Result<Spent> {
        self.migrate(filled.shape, database)?;
        let requests = topic(filled.shape);
        let mut arguments = vec!["processor", "--workers", "1", "--listen", "127.0.0.1:0"];
        // a group of its own for each round, so that none is moved by the one before
        arguments.extend(["--group", database]);
        arguments.extend(self.flags(&requests, database));
        let dir: &Path = self.dir.path();
        let processor = Part::start("processor", &arguments, &self.cores.measured, dir)?;
        processor.address()?;
        let (begun, engine_begun) = (processor.cpu_ns()?, self.engine.cpu_ns()?);
        let begun_at = Instant::now();
        let deadline = begun_at + CATCH_UP;
        while self.ask(database, &lowest_ledger())? < filled.n_messages {
            if Instant::now() >= deadline {
                bail!("the processor did not catch up:\n{}", processor.tail());
            }
            sleep(POLL);
        }
        let spent = Spent {
            processor_ns: processor.cpu_ns()? - begun,
            engine_ns: self.engine.cpu_ns()? - engine_begun,
            wall_ns: u64::try_from(begun_at.elapsed().as_nanos()).context("a round of years")?,
        };
        drop(processor);
        let counted = self.ask(database, "SELECT toUInt64(sum(requests)) FROM requests_10s")?;
        ensure!(
            counted == filled.n_events,
            "{counted} of {} events were counted",
            filled.n_events
        );
        Ok(spent)
    }

    fn ask(&self, database: &str, query: &str) -> anyhow::Result<u64> {
        let store = StoreArgs {
            url: self.clickhouse.clone(),
            database: Some(database.to_owned()),
            user: "default".to_owned(),
            password: String::new(),
        };
        let client = store.address()?.client();
        let number = self
            .runtime
            .block_on(client.query(query).fetch_one::<u64>());
        number.with_context(|| query.to_owned())
    }
}

/// How many messages the table covers that covers the fewest.
fn lowest_ledger() -> String {
    let of_each: Vec<String> = Stream::Requests
        .tables()
        .iter()
        .map(|table| {
            format!(
                "SELECT sum(ends) AS covered FROM (SELECT max(s.ledger_to) AS ends FROM {} AS s \
                 WHERE s.deployment_id = '' GROUP BY s.kafka_partition)",
                table.name()
            )
        })
        .collect();
    format!(
        "SELECT toUInt64(min(covered)) FROM ({})",
        of_each.join(" UNION ALL ")
    )
}
