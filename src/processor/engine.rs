//! What the conductor's decisions come to: assignments looked up and handed out, flushes collected and stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::status::Status;
use super::worker::{Assignment, Command, Report, Worker, WorkerFlush, WorkerSetup};
use super::writer::Writer;
use super::{ProcessorArgs, cores};
use crate::bus::avro::SchemaRegistry;
use crate::bus::broker::{Broker, BrokerError};
use crate::bus::dead_letters::{DeadLetter, DeadLetters};
use crate::bus::member::{Member, Membership, topic_of};
use crate::config::{StoreAddress, TopicArgs};
use crate::core::ledger::Ledger;
use crate::core::partition::{FlushKind, Source};
use crate::core::recovery::{Log, Recovery, recover};
use crate::core::table::{Stream, Table};

/// How long ledgers and logs are asked for after an assignment before the process ends and leaves it to another.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const RECOVERY_RETRY: Duration = Duration::from_millis(500);

/// How often a partition whose first ledger rows were fenced is tried anew: each time somebody else had just written.
const MAX_RECOVERIES: u32 = 5;

/// What librdkafka may fetch ahead, all workers together, in KiB; with fewer, the batch call runs dry between fetches.
/// A worker's least holds a few of the largest messages.
const FETCH_AHEAD_KIB: usize = 256 * 1024;
const LEAST_FETCH_AHEAD_KIB: usize = 32 * 1024;

/// Between tries to send dead letters.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(1);

/// Something that takes time and can be interrupted.
pub enum Work {
    Assign(Vec<Source>),
    Flush(FlushKind),
}

/// What the conductor works with.
pub struct Engine {
    coarse_flush_interval: Duration,
    topics: TopicArgs,
    workers: Vec<Worker>,
    writer: Writer,
    broker: Arc<Broker>,
    dead_letters: DeadLetters,
    /// `None` once the group is left.
    member: Option<Member>,
    status: Arc<Status>,
    /// The generation of every partition that is ours.
    owned: BTreeMap<Source, u64>,
    generation: u64,
    /// Flushes asked of the workers so far: all, and the full ones. A worker's wish that is older is stale.
    n_flushes: [u64; 2],
    last_full: Instant,
    is_full_wanted: bool,
}

impl Engine {
    /// Starts the workers and joins the group; what the group decides and the workers report arrives on the channels.
    ///
    /// # Errors
    /// When a client of Kafka or ClickHouse cannot be made.
    pub async fn start(
        args: &ProcessorArgs,
        address: StoreAddress,
        registry: Arc<SchemaRegistry>,
        status: Arc<Status>,
        decide: mpsc::Sender<Membership>,
        report: mpsc::Sender<Report>,
    ) -> anyhow::Result<Self> {
        let writer = Writer::new(address, status.clone())
            .await
            .context("ClickHouse's settings cannot be read")?;
        Ok(Self {
            coarse_flush_interval: args.coarse_flush_interval,
            topics: args.kafka.topics.clone(),
            workers: start_workers(args, &registry, &status, &report)?,
            writer,
            broker: Arc::new(Broker::new(&args.kafka, &args.group)?),
            dead_letters: DeadLetters::new(&args.kafka),
            member: Some(Member::join(&args.kafka, &args.group, decide)?),
            status,
            owned: BTreeMap::new(),
            generation: 0,
            n_flushes: [0; 2],
            last_full: Instant::now(),
            is_full_wanted: false,
        })
    }

    /// Leaves the group. Nothing may be written any more.
    pub async fn leave(&mut self) {
        if let Some(member) = self.member.take() {
            // a panic in there would be librdkafka's; the process ends anyway
            let _ = tokio::task::spawn_blocking(move || member.leave()).await;
        }
    }

    /// Carries one piece of work out.
    ///
    /// # Errors
    /// When a worker has died, on a defect, or when an assignment could not be looked up for a minute.
    pub async fn perform(&mut self, work: Work) -> anyhow::Result<()> {
        match work {
            Work::Assign(sources) => {
                self.status.tell_none_stopped();
                self.assign(sources).await?;
                self.status.tell_joined();
                Ok(())
            }
            Work::Flush(kind) => self.flush(kind).await,
        }
    }

    /// What a report asks for.
    ///
    /// # Errors
    /// When a worker has ended.
    pub fn on_report(&mut self, report: Report) -> anyhow::Result<Option<Work>> {
        match report {
            Report::FlushWanted { kind, seen } if self.n_flushes[kind as usize] > seen => Ok(None),
            Report::FlushWanted { kind, .. } => Ok(Some(Work::Flush(kind))),
            Report::CaughtUp => {
                self.is_full_wanted = true;
                Ok(None)
            }
            Report::Failed {
                source,
                generation,
                reason,
            } => {
                if self.owned.get(&source) == Some(&generation) {
                    self.stop(source, reason);
                }
                Ok(None)
            }
            Report::Ended(why) => Err(anyhow!(why)),
        }
    }

    /// How much the flush of this tick takes.
    pub fn kind_of_tick(&self) -> FlushKind {
        if self.is_full_wanted || self.last_full.elapsed() >= self.coarse_flush_interval {
            FlushKind::Full
        } else {
            FlushKind::Fine
        }
    }

    fn worker_of(&self, source: Source) -> &Worker {
        // both topics' partitions of one number hold the same deployments, and meet in one worker
        let number = usize::try_from(source.partition).unwrap_or(0) % self.workers.len();
        &self.workers[number]
    }

    /// Stores everything that is folded, before partitions are given up.
    ///
    /// # Errors
    /// When a worker has died, or on a defect.
    pub async fn flush_last(&mut self) -> anyhow::Result<()> {
        if self.owned.is_empty() {
            return Ok(());
        }
        self.flush(FlushKind::Full).await
    }

    /// Takes the windows out of the workers and stores them.
    async fn flush(&mut self, kind: FlushKind) -> anyhow::Result<()> {
        let WorkerFlush {
            flushes,
            dead_letters,
        } = self.collect(kind).await?;
        // a dead letter is acknowledged before the insert that covers it: at least once
        self.bury(dead_letters).await;
        let flushes = flushes
            .into_iter()
            .filter(|flush| self.owned.get(&flush.source) == Some(&flush.generation))
            .collect();
        let written = self.writer.write(flushes).await?;
        // ── stored: a crash before the commit below leaves a commit that is behind, which nobody reads from ──
        if let Some(member) = &self.member {
            member.commit(written.positions);
        }
        let mut fenced = written.fenced;
        if kind == FlushKind::Full {
            fenced.extend(self.writer.keep_ledgers_young().await?);
        }
        self.begin_again(fenced).await
    }

    async fn collect(&mut self, kind: FlushKind) -> anyhow::Result<WorkerFlush> {
        self.n_flushes[FlushKind::Fine as usize] += 1;
        if kind == FlushKind::Full {
            self.n_flushes[FlushKind::Full as usize] += 1;
            self.last_full = Instant::now();
            self.is_full_wanted = false;
        }
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            if !worker.send(Command::Flush(kind, reply)) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
            answers.push(answer);
        }
        let mut all = WorkerFlush {
            flushes: Vec::new(),
            dead_letters: Vec::new(),
        };
        for answer in answers {
            let mut part = answer.await.map_err(|_| anyhow!("a worker has died"))?;
            all.flushes.append(&mut part.flushes);
            all.dead_letters.append(&mut part.dead_letters);
        }
        Ok(all)
    }

    async fn bury(&mut self, mut letters: Vec<DeadLetter>) {
        let n = letters.len();
        while !letters.is_empty() {
            let Err((failed, error)) = self.dead_letters.send(letters).await else {
                break;
            };
            tracing::warn!(error = %error, n = failed.len(), "dead letters were not acknowledged; trying again");
            self.status
                .tell_blocked(Some(format!("dead letters are not acknowledged: {error}")));
            letters = failed;
            tokio::time::sleep(DEAD_LETTER_RETRY).await;
        }
        if n > 0 {
            self.status.tell_blocked(None);
            self.status.tell_dead_letters_sent(n);
        }
    }

    /// Fenced partitions: their windows are worth nothing. What the ledgers say now is where they go on.
    async fn begin_again(&mut self, mut fenced: Vec<Source>) -> anyhow::Result<()> {
        fenced.sort_unstable();
        fenced.dedup();
        for &source in &fenced {
            self.disown(source)?;
        }
        if fenced.is_empty() {
            Ok(())
        } else {
            self.assign(fenced).await
        }
    }

    fn disown(&mut self, source: Source) -> anyhow::Result<()> {
        self.owned.remove(&source);
        self.writer.forget(source);
        if self.worker_of(source).send(Command::Drop(source)) {
            Ok(())
        } else {
            Err(anyhow!("a worker takes no commands any more"))
        }
    }

    fn stop(&mut self, source: Source, reason: String) {
        tracing::error!(
            topic = topic_of(&self.topics, source.stream),
            partition = source.partition,
            reason,
            "this partition has stopped; the others go on"
        );
        self.owned.remove(&source);
        self.writer.forget(source);
        self.status.tell_stopped(source, reason);
    }

    /// Forgets every partition and all windows.
    ///
    /// # Errors
    /// When a worker has died.
    pub fn drop_all(&mut self) -> anyhow::Result<()> {
        self.owned.clear();
        self.writer.forget_all();
        for worker in &self.workers {
            if !worker.send(Command::DropAll) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
        }
        Ok(())
    }

    /// Looks up where each partition begins, begins the ledgers that are missing, and hands them to the workers.
    async fn assign(&mut self, sources: Vec<Source>) -> anyhow::Result<()> {
        let mut to_recover = sources;
        for _ in 0..MAX_RECOVERIES {
            let recovered = self.recover(&to_recover).await?;
            let recoveries: Vec<(Source, Recovery)> = recovered
                .iter()
                .map(|(source, recovery, _)| (*source, recovery.clone()))
                .collect();
            let fenced = self.writer.begin_ledgers(&recoveries).await?;
            self.hand_out(
                recovered
                    .into_iter()
                    .filter(|(source, ..)| !fenced.contains(source))
                    .collect(),
            )?;
            if fenced.is_empty() {
                return Ok(());
            }
            to_recover = fenced;
        }
        for source in to_recover {
            self.stop(
                source,
                "another process keeps writing this partition".to_owned(),
            );
        }
        Ok(())
    }

    fn hand_out(&mut self, recovered: Vec<(Source, Recovery, u64)>) -> anyhow::Result<()> {
        let mut by_worker: BTreeMap<usize, Vec<Assignment>> = BTreeMap::new();
        for (source, recovery, log_end) in recovered {
            self.generation += 1;
            self.owned.insert(source, self.generation);
            let number = usize::try_from(source.partition).unwrap_or(0) % self.workers.len();
            let ledger = self.writer.ledger(source.stream);
            by_worker.entry(number).or_default().push(Assignment {
                source,
                generation: self.generation,
                recovery,
                ledger,
                log_end,
            });
        }
        for (number, assignments) in by_worker {
            if !self.workers[number].send(Command::Assign(assignments)) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
        }
        Ok(())
    }

    /// Asks Kafka and ClickHouse, until both have answered or patience ends. Partitions that cannot go on are stopped.
    async fn recover(
        &mut self,
        sources: &[Source],
    ) -> anyhow::Result<Vec<(Source, Recovery, u64)>> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        loop {
            let error = match self.try_recover(sources).await {
                Ok(recovered) => return Ok(recovered),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error.context(format!(
                    "the ledgers could not be read for {} s",
                    RECOVERY_PATIENCE.as_secs()
                )));
            }
            tracing::warn!(
                error = format!("{error:#}"),
                "an assignment cannot be looked up yet; trying again"
            );
            tokio::time::sleep(RECOVERY_RETRY).await;
        }
    }

    async fn try_recover(
        &mut self,
        sources: &[Source],
    ) -> anyhow::Result<Vec<(Source, Recovery, u64)>> {
        let mut recovered = Vec::with_capacity(sources.len());
        for stream in Stream::ALL {
            let partitions: Vec<i32> = sources
                .iter()
                .filter(|source| source.stream == stream)
                .map(|source| source.partition)
                .collect();
            if partitions.is_empty() {
                continue;
            }
            let (topic_id, logs) = self.ask_broker(stream, &partitions).await?;
            let ledger = format!("{}/{topic_id}", topic_of(&self.topics, stream));
            self.writer.set_ledger(stream, Arc::from(ledger));
            let ledgers = self.writer.read_ledgers(stream, &partitions).await?;
            for (partition, log) in partitions.into_iter().zip(logs) {
                let source = Source { stream, partition };
                let of_partition: Vec<(Table, Option<Ledger>)> = ledgers
                    .iter()
                    .map(|(table, by_partition)| (*table, by_partition.get(&partition).copied()))
                    .collect();
                match recover(&of_partition, log) {
                    Ok(recovery) => {
                        if recovery.n_started_late > 0 {
                            tracing::warn!(
                                ?source,
                                tables = recovery.n_started_late,
                                at = recovery.start,
                                "tables without a ledger begin at another's"
                            );
                            self.status.tell_started_late(recovery.n_started_late);
                        }
                        self.writer.adopt(source, &recovery);
                        recovered.push((source, recovery, log.end));
                    }
                    Err(stopped) => self.stop(source, stopped.to_string()),
                }
            }
        }
        Ok(recovered)
    }

    async fn ask_broker(
        &self,
        stream: Stream,
        partitions: &[i32],
    ) -> anyhow::Result<(String, Vec<Log>)> {
        let broker = self.broker.clone();
        let partitions = partitions.to_vec();
        let asked = tokio::task::spawn_blocking(move || {
            let topic_id = broker.topic_id(stream)?;
            let logs = partitions
                .into_iter()
                .map(|partition| broker.log(Source { stream, partition }))
                .collect::<Result<Vec<_>, _>>()?;
            Ok::<_, BrokerError>((topic_id, logs))
        });
        Ok(asked.await??)
    }
}

fn start_workers(
    args: &ProcessorArgs,
    registry: &Arc<SchemaRegistry>,
    status: &Arc<Status>,
    reports: &mpsc::Sender<Report>,
) -> anyhow::Result<Vec<Worker>> {
    let n = args.n_workers();
    let cores = if args.no_pin {
        vec![None; n]
    } else {
        cores::choose(n)
    };
    let setup = WorkerSetup {
        kafka: args.kafka.clone(),
        group: args.group.clone(),
        registry: registry.clone(),
        limits: args.id_limits(),
        status: status.clone(),
        reports: reports.clone(),
        window_memory: args.window_memory / n,
        fetch_ahead_kib: (FETCH_AHEAD_KIB / n).max(LEAST_FETCH_AHEAD_KIB),
        core: None,
    };
    (0..)
        .zip(cores)
        .map(|(number, core)| {
            Ok(Worker::start(
                number,
                WorkerSetup {
                    core,
                    ..setup.clone()
                },
            )?)
        })
        .collect()
}
