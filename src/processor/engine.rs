//! What the conductor's decisions come to: flushes collected and stored, and, in [`assignment`], partitions looked up and
//! handed out.

mod assignment;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::protocol::{Command, EncodedFlush, Report, WorkerFlush, WorkerSetup};
use super::status::Status;
use super::worker::Worker;
use super::writer::Writer;
use super::{ProcessorArgs, cores};
use crate::bus::avro::SchemaRegistry;
use crate::bus::broker::Broker;
use crate::bus::dead_letters::{DeadLetter, DeadLetters};
use crate::bus::member::{Commit, Member, MemberIdentity, Membership, topic_of};
use crate::config::{StoreAddress, TopicArgs};
use crate::core::delta::FlushKind;
use crate::core::marks::MAX_PRODUCERS;
use crate::core::table::Source;

/// What librdkafka may fetch ahead, all workers together, in KiB. More only ages in memory: with 256 MiB an event took a
/// fifth more CPU. A worker's least holds two of the largest messages.
const FETCH_AHEAD_KIB: usize = 16 * 1024;
const LEAST_FETCH_AHEAD_KIB: usize = 8 * 1024;

/// Dead letters of a process a second; past it they are counted only, so that a broken producer does not double the load
/// on Kafka.
const MAX_DEAD_LETTERS_PER_SECOND: u32 = 1_000;

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
    /// Stopped, and why: tried again with every full flush, since Kafka may answer again and an operator may mend a ledger.
    stopped: BTreeMap<Source, String>,
    /// Kafka had refused to give these and is asked again; until it gives something their alarm stands.
    on_trial: BTreeMap<Source, Trial>,
}

/// What a partition that Kafka had refused was asked for: its next message, and the log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trial {
    start: u64,
    log_end: u64,
}

impl Trial {
    /// A message has come, or a full flush found that there is none to come.
    const fn is_passed(self, position: u64, kind: FlushKind) -> bool {
        position > self.start || self.start >= self.log_end && matches!(kind, FlushKind::Full)
    }
}

impl Engine {
    /// Starts the workers and joins the group; what the group decides and the workers report arrives on the channels.
    ///
    /// # Errors
    /// When a client of Kafka or ClickHouse cannot be made.
    pub async fn start(
        args: &ProcessorArgs,
        identity: &MemberIdentity,
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
            dead_letters: DeadLetters::new(&args.kafka)?,
            member: Some(Member::join(&args.kafka, identity, decide)?),
            status,
            owned: BTreeMap::new(),
            generation: 0,
            n_flushes: [0; 2],
            last_full: Instant::now(),
            is_full_wanted: false,
            stopped: BTreeMap::new(),
            on_trial: BTreeMap::new(),
        })
    }

    /// Ends the membership. Nothing may be written any more.
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
                self.stopped.clear();
                // what Kafka refused may be refused again: a rebalance proves nothing
                self.on_trial.retain(|source, _| sources.contains(source));
                let on_trial = &self.on_trial;
                self.status
                    .tell_going_on_if(|source| !on_trial.contains_key(source));
                self.assign(sources).await?;
                self.look_for_topics().await;
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
                    let (start, log_end) = (u64::MAX, u64::MAX);
                    self.on_trial.insert(source, Trial { start, log_end });
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

    fn number_of_worker(&self, source: Source) -> usize {
        // both topics' partitions of one number hold the same deployments, and meet in one worker
        usize::try_from(source.partition).unwrap_or(0) % self.workers.len()
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
        self.end_trials(kind, &flushes);
        // a dead letter is acknowledged before the insert that covers it: at least once
        self.bury(dead_letters).await;
        let has_rows = flushes.iter().any(|flush| !flush.deltas.is_empty());
        // asked after the messages were read, so that an id that is still the old one vouches for them
        let mut to_begin_again = if has_rows || kind == FlushKind::Full {
            self.of_topics_made_anew().await
        } else {
            Vec::new()
        };
        let flushes = flushes
            .into_iter()
            .filter(|flush| self.owned.get(&flush.source) == Some(&flush.generation))
            .filter(|flush| !to_begin_again.contains(&flush.source))
            .collect();
        let written = self.writer.write(flushes).await?;
        // ── stored: a crash before the commit below leaves a commit that is behind, which nobody reads from ──
        self.commit(&written.positions);
        to_begin_again.extend(written.fenced);
        if kind == FlushKind::Full {
            to_begin_again.extend(self.writer.keep_ledgers_young().await?);
            to_begin_again.extend(self.answering().await);
            self.look_for_topics().await;
        }
        self.begin_again(to_begin_again).await
    }

    fn end_trials(&mut self, kind: FlushKind, flushes: &[EncodedFlush]) {
        for flush in flushes {
            let is_ours = self.owned.get(&flush.source) == Some(&flush.generation);
            let trial = self.on_trial.get(&flush.source);
            if is_ours && trial.is_some_and(|trial| trial.is_passed(flush.position, kind)) {
                self.on_trial.remove(&flush.source);
                self.go_on(flush.source);
            }
        }
    }

    fn go_on(&self, source: Source) {
        tracing::info!(?source, "this partition goes on again");
        self.status.tell_going_on(source);
    }

    fn commit(&self, positions: &[(Source, u64)]) {
        let Some(member) = &self.member else { return };
        let of = |&(source, offset): &(Source, u64)| Commit {
            source,
            offset,
            ledger: self.writer.ledger(source.stream),
        };
        member.commit(positions.iter().map(of).collect());
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

    /// Partitions whose windows are worth nothing: what the ledgers say now is where they go on.
    async fn begin_again(&mut self, mut sources: Vec<Source>) -> anyhow::Result<()> {
        sources.sort_unstable();
        sources.dedup();
        if sources.is_empty() {
            return Ok(());
        }
        for &source in &sources {
            self.owned.remove(&source);
            self.writer.forget(source);
        }
        for (number, worker) in self.workers.iter().enumerate() {
            let ours = sources
                .iter()
                .filter(|source| self.number_of_worker(**source) == number);
            let ours: Vec<Source> = ours.copied().collect();
            if !ours.is_empty() && !worker.send(Command::Drop(ours)) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
        }
        self.assign(sources).await
    }

    fn stop(&mut self, source: Source, reason: String) {
        // tried again and again: said once
        if self.stopped.get(&source) != Some(&reason) {
            tracing::error!(
                topic = topic_of(&self.topics, source.stream),
                partition = source.partition,
                reason,
                "this partition has stopped; the others go on"
            );
        }
        self.stopped.insert(source, reason.clone());
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
        self.stopped.clear();
        self.writer.forget_all();
        self.status.tell_blocked(None);
        for worker in &self.workers {
            if !worker.send(Command::DropAll) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
        }
        Ok(())
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
        request_limits: args.id_limits(),
        replica_limits: args.id_limits(),
        max_producers: MAX_PRODUCERS,
        dead_letters_per_second: (MAX_DEAD_LETTERS_PER_SECOND / u32::try_from(n).unwrap_or(1))
            .max(1),
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
