//! A worker: one thread with its own consumer and its own windows, sharing nothing.
//!
//! It reads, decodes and folds until somebody wants a flush. Where a limit or a cut asks for one, it asks the conductor
//! and stops reading until the flush has taken its windows: it never drops, it waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tokio::sync::{mpsc, oneshot};

use super::status::Status;
use crate::bus::avro::{DecodeError, SchemaRegistry, decode_batch, decode_sample};
use crate::bus::dead_letters::DeadLetter;
use crate::bus::fetch::{Batch, FetchError, Fetcher, Message, Start};
use crate::clock;
use crate::config::KafkaArgs;
use crate::core::event::{GpuReading, RequestEvent};
use crate::core::ids::IdLimits;
use crate::core::ledger::LedgerCounts;
use crate::core::partition::{DeploymentRow, Flush, FlushKind, Partition, Source, Step};
use crate::core::recovery::Recovery;
use crate::core::table::Stream;
use crate::store::rows::{EncodedDelta, encode_delta};

/// Commands that may wait for a worker: the conductor sends one and waits for its answer, and a few assignments.
const COMMAND_QUEUE: usize = 64;

/// What one fetch waits for more messages: it bounds how long a command waits, and idles at 20 calls a second.
const FETCH_TIMEOUT_MS: i32 = 50;

/// How often a worker tells its gauges.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Messages between two looks at the process's memory of windows, within a fetch.
const MESSAGES_BETWEEN_CHECKS: usize = 64;

/// Dead letters of a worker a second; past it they are counted only, so that a broken producer does not double the
/// load on Kafka. The design's figure for a process.
const MAX_DEAD_LETTERS_PER_SECOND: u32 = 1_000;

/// Dead letters wait for the next flush; at this many bytes one is asked for.
const MAX_DEAD_LETTER_BYTES: usize = 32 << 20;

/// A partition to be read from now on.
pub struct Assignment {
    pub source: Source,
    pub generation: u64,
    pub recovery: Recovery,
    /// `<topic>/<topic id>`: what the partition's ledger rows are filed under.
    pub ledger: Arc<str>,
    /// The log's end at the assignment: what is before it is catching up.
    pub log_end: u64,
}

/// What the conductor wants.
pub enum Command {
    Assign(Vec<Assignment>),
    /// Forget this partition and its windows.
    Drop(Source),
    DropAll,
    Flush(FlushKind, oneshot::Sender<WorkerFlush>),
}

/// What a worker took out for a flush.
pub struct WorkerFlush {
    pub flushes: Vec<EncodedFlush>,
    pub dead_letters: Vec<DeadLetter>,
}

/// What a flush took out of one partition, ready to be sent.
pub struct EncodedFlush {
    pub source: Source,
    pub generation: u64,
    /// The next offset to be folded.
    pub position: u64,
    pub deltas: Vec<EncodedDelta>,
    pub deployments: Vec<DeploymentRow>,
}

/// What a worker tells the conductor unasked.
pub enum Report {
    /// The worker waits until its windows are taken. `seen` flushes of this kind it had obeyed before.
    FlushWanted { kind: FlushKind, seen: u64 },
    /// A partition that was behind has reached what was the log's end: its coarse tables should not lag a minute more.
    CaughtUp,
    /// Kafka does not give this partition's messages any more.
    Failed {
        source: Source,
        generation: u64,
        reason: String,
    },
    /// The worker's thread has ended.
    Ended(String),
}

/// A handle on a worker's thread. The thread ends when the handle is dropped.
pub struct Worker {
    commands: SyncSender<Command>,
    _thread: JoinHandle<()>,
}

/// What a worker is made with.
#[derive(Clone)]
pub struct WorkerSetup {
    pub kafka: KafkaArgs,
    pub group: String,
    pub registry: Arc<SchemaRegistry>,
    pub limits: IdLimits,
    pub status: Arc<Status>,
    pub reports: mpsc::Sender<Report>,
    /// This worker's share of the process's memory of windows.
    pub window_memory: usize,
    /// The core to run on, with librdkafka's threads.
    pub core: Option<usize>,
}

impl Worker {
    /// Starts the thread; its consumer is made on it, so that librdkafka's threads are pinned with it.
    ///
    /// # Errors
    /// When the thread or its consumer cannot be made.
    pub fn start(number: usize, setup: WorkerSetup) -> Result<Self, KafkaError> {
        let (commands, inbox) = sync_channel(COMMAND_QUEUE);
        let (made, is_made) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                if let Some(core) = setup.core {
                    pin(core);
                }
                let reports = setup.reports.clone();
                match Fetcher::new(&setup.kafka, &setup.group) {
                    Ok(fetcher) => {
                        let _ = made.send(Ok(()));
                        Loop::new(setup, fetcher, inbox).run();
                    }
                    Err(error) => {
                        let _ = made.send(Err(error));
                    }
                }
                let _ = reports.try_send(Report::Ended(format!("worker {number} has ended")));
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        is_made.recv().unwrap_or_else(|_| {
            Err(KafkaError::ClientCreation(
                "the worker died at its start".to_owned(),
            ))
        })?;
        Ok(Self {
            commands,
            _thread: thread,
        })
    }

    /// Hands a command over. False when the worker has died or does not take any more.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

/// Binds the calling thread to one core.
fn pin(core: usize) {
    // SAFETY: the set is a plain value made here, and the call only reads it.
    let error = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if error != 0 {
        tracing::warn!(
            core,
            "the worker could not be pinned; it runs where the scheduler puts it"
        );
    }
}

/// The cores that this process may use.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: the set is a plain value that the call fills.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE.cast_unsigned() as usize)
            .filter(|&core| libc::CPU_ISSET(core, &set))
            .collect()
    }
}

struct Owned {
    partition: Partition,
    ledger: Arc<str>,
    /// What the counters were told of it.
    told: (LedgerCounts, u64),
    /// What is before this offset was there at the assignment; `None` once it was reached.
    behind_until: Option<u64>,
}

/// What became of a message.
enum Taken {
    Whole,
    /// It is folded, and a limit is reached.
    Flush(FlushKind),
    /// It is not folded: a table's ledger lies before it.
    CutFirst,
}

/// Whether the messages of the present fetch still belong to the present assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batched {
    Valid,
    Outdated,
}

struct Loop {
    setup: WorkerSetup,
    fetcher: Option<Fetcher>,
    inbox: Receiver<Command>,
    intake: Intake,
    is_over: bool,
}

/// Everything but the consumer, so that a batch can borrow that while messages are folded.
struct Intake {
    registry: Arc<SchemaRegistry>,
    status: Arc<Status>,
    reports: mpsc::Sender<Report>,
    owned: Vec<Owned>,
    /// Where the last message's partition stands in `owned`: messages come in runs of one partition.
    latest: usize,
    limits: IdLimits,
    window_memory: usize,
    events: Vec<RequestEvent>,
    gpus: Vec<GpuReading>,
    refused: Vec<u32>,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    /// Flushes obeyed so far: all, and the full ones.
    n_flushes: [u64; 2],
    letters_this_second: (i64, u32),
}

impl Loop {
    fn new(setup: WorkerSetup, fetcher: Fetcher, inbox: Receiver<Command>) -> Self {
        let intake = Intake {
            registry: setup.registry.clone(),
            status: setup.status.clone(),
            reports: setup.reports.clone(),
            owned: Vec::new(),
            latest: 0,
            limits: setup.limits.clone(),
            window_memory: setup.window_memory,
            events: Vec::new(),
            gpus: Vec::new(),
            refused: Vec::new(),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            n_flushes: [0; 2],
            letters_this_second: (0, 0),
        };
        Self {
            setup,
            fetcher: Some(fetcher),
            inbox,
            intake,
            is_over: false,
        }
    }

    fn run(mut self) {
        let mut next_report = Instant::now();
        while !self.is_over {
            match self.inbox.try_recv() {
                Ok(command) => {
                    self.obey(command);
                    continue;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            if self.intake.owned.is_empty() {
                // nothing to read: wait for a command without spinning
                match self.inbox.recv_timeout(REPORT_INTERVAL) {
                    Ok(command) => {
                        self.obey(command);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                self.read();
            }
            if Instant::now() >= next_report {
                next_report = Instant::now() + REPORT_INTERVAL;
                self.report();
            }
        }
    }

    fn obey(&mut self, command: Command) -> Batched {
        match command {
            Command::Assign(assignments) => {
                for assignment in assignments {
                    self.intake.own(assignment);
                }
                self.assign();
                Batched::Outdated
            }
            Command::Drop(source) => {
                self.intake.disown(source);
                self.assign();
                Batched::Outdated
            }
            Command::DropAll => {
                self.intake.disown_all();
                self.assign();
                Batched::Outdated
            }
            Command::Flush(kind, reply) => {
                // the conductor may have given up on the answer; then the partitions are dropped anyway
                let _ = reply.send(self.intake.flush(kind));
                Batched::Valid
            }
        }
    }

    /// Tells Kafka every partition and where it goes on. What was fetched before is dropped and comes again.
    fn assign(&mut self) {
        let starts: Vec<Start> = self
            .intake
            .owned
            .iter()
            .map(|owned| Start {
                source: owned.partition.source(),
                offset: owned.partition.position(),
                epoch: owned.partition.epoch(),
            })
            .collect();
        if let Some(fetcher) = &mut self.fetcher
            && let Err(error) = fetcher.assign(&starts)
        {
            tracing::error!(error = %error, "librdkafka refused an assignment");
            self.is_over = true;
        }
    }

    fn read(&mut self) {
        // the consumer is taken out for the time of the batch, which borrows it while commands are obeyed
        let Some(mut fetcher) = self.fetcher.take() else {
            return;
        };
        let mut is_outdated = false;
        {
            let batch = fetcher.fetch(FETCH_TIMEOUT_MS);
            let mut index = 0;
            while index < batch.len() && !is_outdated {
                match self.intake.take_from(&batch, &mut index) {
                    None => {}
                    Some(kind) => is_outdated = self.wait_for_flush(kind) == Batched::Outdated,
                }
            }
        }
        self.fetcher = Some(fetcher);
        if is_outdated {
            self.assign();
        }
    }

    /// Asks for a flush and obeys commands until it has taken the windows, or the assignment has changed.
    fn wait_for_flush(&mut self, kind: FlushKind) -> Batched {
        let seen = self.intake.n_flushes[kind as usize];
        if self
            .setup
            .reports
            .blocking_send(Report::FlushWanted { kind, seen })
            .is_err()
        {
            self.is_over = true;
            return Batched::Outdated;
        }
        loop {
            match self.inbox.recv() {
                Ok(Command::Flush(taken, reply)) => {
                    let _ = reply.send(self.intake.flush(taken));
                    if taken >= kind {
                        return Batched::Valid;
                    }
                }
                Ok(command) => {
                    if self.obey(command) == Batched::Outdated {
                        return Batched::Outdated;
                    }
                }
                Err(_) => {
                    self.is_over = true;
                    return Batched::Outdated;
                }
            }
        }
    }

    fn report(&self) {
        let now_ms = clock::now_us() / 1000;
        for owned in &self.intake.owned {
            let source = owned.partition.source();
            if let Some(end) = self
                .fetcher
                .as_ref()
                .and_then(|fetcher| fetcher.log_end(source))
            {
                self.setup.status.tell_lag(
                    source,
                    owned.partition.position(),
                    end,
                    owned.partition.last_append_ms(),
                    now_ms,
                );
            }
            self.setup.status.tell_windows(
                source,
                owned.partition.n_windows(),
                owned.partition.state_bytes(),
            );
        }
    }
}

impl Intake {
    /// Folds messages from `index` on, until the batch ends or a flush is wanted.
    fn take_from(&mut self, batch: &Batch<'_>, index: &mut usize) -> Option<FlushKind> {
        let mut wanted = None;
        while *index < batch.len() {
            match batch.get(*index) {
                Some(Ok(message)) => match self.take(&message) {
                    Taken::Flush(kind) => wanted = Some(kind),
                    Taken::Whole => {}
                    // the message itself comes after the flush
                    Taken::CutFirst => return Some(FlushKind::Full),
                },
                Some(Err(error)) => self.fail(error),
                None => {}
            }
            *index += 1;
            if (*index).is_multiple_of(MESSAGES_BETWEEN_CHECKS) && wanted.is_none() {
                wanted = self.memory_wants_flush();
            }
            if wanted.is_some() {
                break;
            }
        }
        for owned in &mut self.owned {
            owned.partition.apply();
        }
        self.tell_caught_up();
        wanted.or_else(|| self.memory_wants_flush())
    }

    /// Folds one message of a partition that is ours.
    fn take(&mut self, message: &Message<'_>) -> Taken {
        let Some(index) = self.index_of(message.source) else {
            return Taken::Whole;
        };
        let partition = &mut self.owned[index].partition;
        match partition.step(message.offset) {
            Step::Fold => {}
            Step::Skip => return Taken::Whole,
            Step::CutFirst => {
                partition.advance_to_cut();
                return Taken::CutFirst;
            }
        }
        partition.begin_message(message.offset, message.append_ms);
        partition.set_epoch(message.leader_epoch());
        self.refused.clear();
        let outcome = match message.source.stream {
            Stream::Requests => fold_batch(
                &self.registry,
                partition,
                message,
                &mut self.events,
                &mut self.refused,
            ),
            Stream::Replicas => fold_sample(
                &self.registry,
                partition,
                message,
                &mut self.gpus,
                &mut self.refused,
            ),
        };
        let wanted = partition.wants_flush();
        match outcome {
            Ok(()) if self.refused.is_empty() => {}
            Ok(()) => {
                let events = std::mem::take(&mut self.refused);
                self.bury(message, "time_out_of_range", events);
            }
            Err(error) => {
                tracing::debug!(error = %error, source = ?message.source, offset = message.offset, "a message was refused");
                self.bury(message, error.reason(), Vec::new());
            }
        }
        match wanted {
            Some(kind) => Taken::Flush(kind),
            None if self.dead_letter_bytes >= MAX_DEAD_LETTER_BYTES => {
                Taken::Flush(FlushKind::Fine)
            }
            None => Taken::Whole,
        }
    }

    #[inline]
    fn index_of(&mut self, source: Source) -> Option<usize> {
        if self
            .owned
            .get(self.latest)
            .is_none_or(|owned| owned.partition.source() != source)
        {
            self.latest = self
                .owned
                .iter()
                .position(|owned| owned.partition.source() == source)?;
        }
        Some(self.latest)
    }

    fn own(&mut self, assignment: Assignment) {
        let Assignment {
            source,
            generation,
            recovery,
            ledger,
            log_end,
        } = assignment;
        self.disown(source);
        let partition = Partition::new(source, generation, &recovery, self.limits.clone());
        let behind_until = (recovery.start < log_end).then_some(log_end);
        self.owned.push(Owned {
            partition,
            ledger,
            told: (LedgerCounts::default(), 0),
            behind_until,
        });
    }

    fn disown(&mut self, source: Source) -> Option<Owned> {
        let index = self
            .owned
            .iter()
            .position(|owned| owned.partition.source() == source)?;
        self.status.forget(source);
        self.dead_letters.retain(|letter| letter.source != source);
        Some(self.owned.swap_remove(index))
    }

    fn disown_all(&mut self) {
        while let Some(owned) = self.owned.last() {
            self.disown(owned.partition.source());
        }
        self.dead_letter_bytes = 0;
    }

    fn memory_wants_flush(&self) -> Option<FlushKind> {
        let bytes: usize = self
            .owned
            .iter()
            .map(|owned| owned.partition.state_bytes())
            .sum();
        (bytes >= self.window_memory).then_some(FlushKind::Full)
    }

    /// Keeps a refused message for the dead letters, or only counts it when there are too many.
    fn bury(&mut self, message: &Message<'_>, reason: &'static str, events: Vec<u32>) {
        self.status
            .tell_refused(message.source.stream, reason, events.len());
        let second = clock::now_us() / 1_000_000;
        let (this_second, n) = &mut self.letters_this_second;
        if *this_second != second {
            (*this_second, *n) = (second, 0);
        }
        *n += 1;
        if *n > MAX_DEAD_LETTERS_PER_SECOND {
            self.status.tell_dead_letters_left_out(1);
            return;
        }
        self.dead_letter_bytes += message.payload.len();
        let payload = message.payload.to_vec();
        self.dead_letters.push(DeadLetter {
            source: message.source,
            offset: message.offset,
            reason,
            events,
            payload,
        });
    }

    fn fail(&mut self, error: FetchError) {
        match error {
            FetchError::Transient(text) => tracing::warn!(error = text, "kafka"),
            FetchError::Partition { source, text } => {
                if let Some(owned) = self.disown(source) {
                    let report = Report::Failed {
                        source,
                        generation: owned.partition.generation(),
                        reason: text,
                    };
                    // the conductor is gone only when the process ends
                    let _ = self.reports.blocking_send(report);
                }
            }
        }
    }

    fn tell_caught_up(&mut self) {
        for owned in &mut self.owned {
            if owned
                .behind_until
                .is_some_and(|end| owned.partition.position() >= end)
            {
                owned.behind_until = None;
                // a full queue means that flushes are on their way anyway
                let _ = self.reports.try_send(Report::CaughtUp);
            }
        }
    }

    fn flush(&mut self, kind: FlushKind) -> WorkerFlush {
        self.n_flushes[FlushKind::Fine as usize] += 1;
        self.n_flushes[FlushKind::Full as usize] += u64::from(kind == FlushKind::Full);
        let mut flushes = Vec::with_capacity(self.owned.len());
        for owned in &mut self.owned {
            let Flush {
                source,
                generation,
                position,
                deltas,
                deployments,
            } = owned.partition.flush(kind);
            // encoded here, so that the one writer has only to send
            let deltas = deltas
                .into_iter()
                .map(|delta| encode_delta(delta, source.partition, &owned.ledger))
                .collect();
            flushes.push(EncodedFlush {
                source,
                generation,
                position,
                deltas,
                deployments,
            });
            let counted = (
                owned.partition.counts(),
                owned.partition.n_readings_left_out(),
            );
            self.status.tell_folded(
                source.stream,
                counted.0.since(owned.told.0),
                counted.1 - owned.told.1,
            );
            owned.told = counted;
        }
        self.dead_letter_bytes = 0;
        WorkerFlush {
            flushes,
            dead_letters: std::mem::take(&mut self.dead_letters),
        }
    }
}

fn fold_batch(
    registry: &SchemaRegistry,
    partition: &mut Partition,
    message: &Message<'_>,
    events: &mut Vec<RequestEvent>,
    refused: &mut Vec<u32>,
) -> Result<(), DecodeError> {
    events.clear();
    let decoded = registry
        .plan(message.payload)
        .and_then(|(plan, body)| decode_batch(plan, body, events));
    match decoded {
        Ok(head) => {
            partition.fold_batch(&head, events, message.append_ms, refused);
            Ok(())
        }
        Err(error) => {
            partition.refuse();
            Err(error)
        }
    }
}

fn fold_sample(
    registry: &SchemaRegistry,
    partition: &mut Partition,
    message: &Message<'_>,
    gpus: &mut Vec<GpuReading>,
    refused: &mut Vec<u32>,
) -> Result<(), DecodeError> {
    gpus.clear();
    let decoded = registry
        .plan(message.payload)
        .and_then(|(plan, body)| decode_sample(plan, body, gpus));
    match decoded {
        Ok(sample) => {
            if !partition.fold_sample(&sample, gpus, message.append_ms) {
                refused.push(0);
            }
            Ok(())
        }
        Err(error) => {
            partition.refuse();
            Err(error)
        }
    }
}
