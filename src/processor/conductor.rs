//! The one task that decides: answers the group, asks for flushes, hands them to the writer.
//!
//! Whatever it does can be interrupted by a revocation or a shutdown, and then has until a deadline to end well; what
//! has not ended by then is dropped, with all windows, and replayed by the next owner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ProcessorArgs;
use super::status::Status;
use super::worker::{Assignment, Command, Report, Worker, WorkerFlush, WorkerSetup, allowed_cores};
use super::writer::Writer;
use crate::bus::avro::SchemaRegistry;
use crate::bus::broker::Broker;
use crate::bus::dead_letters::{DeadLetter, DeadLetters};
use crate::bus::member::{Member, Membership, REVOKE_DEADLINE, topic_of};
use crate::config::StoreAddress;
use crate::core::ledger::Ledger;
use crate::core::partition::{FlushKind, Source};
use crate::core::recovery::{Recovery, recover};
use crate::core::table::{Stream, Table};

/// Decisions of the group that may wait: it sends one and waits for its answer.
const DECISION_QUEUE: usize = 4;

/// Reports of all workers that may wait. Each has at most one of each kind for a partition, and Kafka's largest groups
/// have some thousand partitions a process.
const REPORT_QUEUE: usize = 4096;

/// How long ledgers and logs are asked for after an assignment before the process ends and leaves it to another.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const RECOVERY_RETRY: Duration = Duration::from_millis(500);

/// How often a partition whose first ledger rows were fenced is tried anew: each time somebody else had just written.
const MAX_RECOVERIES: u32 = 5;

/// Between tries to send dead letters.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(1);

pub struct Conductor {
    engine: Engine,
    decisions: mpsc::Receiver<Membership>,
    reports: mpsc::Receiver<Report>,
    flush_interval: Duration,
    shutdown_deadline: Duration,
}

/// Something that takes time and can be interrupted.
enum Work {
    Assign(Vec<Source>),
    Flush(FlushKind),
}

/// What ends a wait.
enum Event {
    Shutdown,
    /// And when it came.
    Decision(Membership, Instant),
    Report(Report),
    Tick,
}

/// What came while work was under way.
enum Interruption {
    None,
    /// And when it came.
    Decision(Membership, Instant),
    Shutdown,
}

impl Conductor {
    /// Starts the workers and joins the group.
    ///
    /// # Errors
    /// When a client of Kafka or ClickHouse cannot be made.
    pub async fn start(
        args: ProcessorArgs,
        address: StoreAddress,
        registry: Arc<SchemaRegistry>,
        status: Arc<Status>,
    ) -> anyhow::Result<Self> {
        let (decide, decisions) = mpsc::channel(DECISION_QUEUE);
        let (report, reports) = mpsc::channel(REPORT_QUEUE);
        let writer = Writer::new(address, status.clone())
            .await
            .context("ClickHouse's settings cannot be read")?;
        let workers = start_workers(&args, &registry, &status, &report)?;
        let broker = Arc::new(Broker::new(&args.kafka, &args.group)?);
        let dead_letters = DeadLetters::new(&args.kafka)?;
        let member = Member::join(&args.kafka, &args.group, decide)?;
        let engine = Engine {
            coarse_flush_interval: args.coarse_flush_interval,
            topics: args.kafka.topics.clone(),
            workers,
            writer,
            broker,
            dead_letters,
            member,
            status,
            owned: BTreeMap::new(),
            generation: 0,
            n_flushes: [0; 2],
            last_full: Instant::now(),
            is_full_wanted: false,
        };
        Ok(Self {
            engine,
            decisions,
            reports,
            flush_interval: args.flush_interval,
            shutdown_deadline: args.shutdown_deadline,
        })
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// When a worker dies, on a defect, or when an assignment could not be looked up for a minute.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = interval(self.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = None;
        loop {
            let event = match pending.take() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Event::Shutdown,
                    Some(decision) = self.decisions.recv() => Event::Decision(decision, Instant::now()),
                    Some(report) = self.reports.recv() => Event::Report(report),
                    _ = ticks.tick() => Event::Tick,
                },
            };
            let work = match event {
                Event::Shutdown => {
                    let deadline = Instant::now() + self.shutdown_deadline;
                    return self.leave(deadline).await;
                }
                Event::Decision(Membership::Assigned(sources), _) => Some(Work::Assign(sources)),
                Event::Decision(Membership::Revoked(done), since) => {
                    self.give_up(since + REVOKE_DEADLINE, Some(done)).await?;
                    None
                }
                Event::Report(report) => self.engine.on_report(report)?,
                Event::Tick => Some(Work::Flush(self.engine.kind_of_tick())),
            };
            let Some(work) = work else { continue };
            match self.perform(work, &shutdown).await? {
                Interruption::None => {}
                // the work had one half of the time
                Interruption::Shutdown => {
                    let deadline = Instant::now() + self.shutdown_deadline / 2;
                    return self.leave(deadline).await;
                }
                Interruption::Decision(decision, since) => {
                    pending = Some(Event::Decision(decision, since))
                }
            }
        }
    }

    /// Performs work. When something comes up meanwhile, the work has half of that thing's time to end well.
    async fn perform(
        &mut self,
        work: Work,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Interruption> {
        let (interruption, ended) = {
            let work = self.engine.perform(work);
            tokio::pin!(work);
            let (interruption, patience) = tokio::select! {
                biased;
                result = &mut work => return result.map(|()| Interruption::None),
                () = shutdown.cancelled() => (Interruption::Shutdown, self.shutdown_deadline),
                Some(decision) = self.decisions.recv() => (Interruption::Decision(decision, Instant::now()), REVOKE_DEADLINE),
            };
            (interruption, timeout(patience / 2, work).await)
        };
        match ended {
            Ok(result) => result?,
            Err(_) => {
                tracing::warn!(
                    "a flush did not end in time; its windows are dropped and will be read again"
                );
                self.engine.drop_all()?;
            }
        }
        Ok(interruption)
    }

    /// One last flush, then everything is dropped.
    async fn give_up(
        &mut self,
        deadline: Instant,
        done: Option<SyncSender<()>>,
    ) -> anyhow::Result<()> {
        if self.engine.owned.is_empty() {
            tracing::debug!("nothing is owned, so nothing is flushed");
        } else if timeout_at(deadline, self.engine.flush(FlushKind::Full))
            .await
            .is_err()
        {
            tracing::warn!(
                "the last flush did not end in time; the next owner reads its messages again"
            );
        }
        self.engine.drop_all()?;
        if let Some(done) = done {
            let _ = done.send(());
        }
        Ok(())
    }

    async fn leave(mut self, deadline: Instant) -> anyhow::Result<()> {
        self.give_up(deadline, None).await?;
        let member = self.engine.member;
        // a broker that is gone must not hold the process
        let left = tokio::task::spawn_blocking(move || member.leave());
        if timeout_at(deadline, left).await.is_err() {
            tracing::warn!("the group could not be left in time; it will notice by itself");
        }
        tracing::info!("everything folded is stored; the group is left");
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
    let cores = allowed_cores();
    // begin where the scheduler has put us: two processes on one machine then hardly begin on the same core
    // SAFETY: the call takes nothing and returns a number.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    let first = cores.iter().position(|&core| core == here).unwrap_or(0);
    let setup = WorkerSetup {
        kafka: args.kafka.clone(),
        group: args.group.clone(),
        registry: registry.clone(),
        limits: args.id_limits(),
        status: status.clone(),
        reports: reports.clone(),
        window_memory: args.window_memory / n,
        core: None,
    };
    (0..n)
        .map(|number| {
            let core =
                (!args.no_pin && n <= cores.len()).then(|| cores[(first + number) % cores.len()]);
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

/// What the conductor works with.
struct Engine {
    coarse_flush_interval: Duration,
    topics: crate::config::TopicArgs,
    workers: Vec<Worker>,
    writer: Writer,
    broker: Arc<Broker>,
    dead_letters: DeadLetters,
    member: Member,
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
    async fn perform(&mut self, work: Work) -> anyhow::Result<()> {
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

    fn on_report(&mut self, report: Report) -> anyhow::Result<Option<Work>> {
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

    fn kind_of_tick(&self) -> FlushKind {
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
        self.member.commit(written.positions);
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

    async fn bury(&self, mut letters: Vec<DeadLetter>) {
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

    fn drop_all(&mut self) -> anyhow::Result<()> {
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
    ) -> anyhow::Result<(String, Vec<crate::core::recovery::Log>)> {
        let broker = self.broker.clone();
        let partitions = partitions.to_vec();
        let asked = tokio::task::spawn_blocking(move || {
            let topic_id = broker.topic_id(stream)?;
            let logs = partitions
                .into_iter()
                .map(|partition| broker.log(Source { stream, partition }))
                .collect::<Result<Vec<_>, _>>()?;
            Ok::<_, crate::bus::broker::BrokerError>((topic_id, logs))
        });
        Ok(asked.await??)
    }
}
