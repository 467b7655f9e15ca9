//! A worker: one thread with its own consumer and its own windows, sharing nothing.
//!
//! It reads, decodes and folds until somebody wants a flush. Where a limit or a cut asks for one, it asks the conductor
//! and stops reading until the flush has taken its windows: it never drops, it waits.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;

use super::cores;
use super::intake::Intake;
use super::protocol::{Command, Report, WorkerSetup};
use crate::bus::fetch::{Batch, Fetcher, Messages, Start};
use crate::clock;
use crate::core::delta::FlushKind;
use crate::core::table::Source;

/// Commands that may wait for a worker: the conductor sends one and waits for its answer, and a few assignments.
const COMMAND_QUEUE: usize = 64;

/// What one fetch waits for more messages: it bounds how long a command waits, and idles at 20 calls a second.
const FETCH_TIMEOUT_MS: i32 = 50;

/// How often a worker tells its gauges.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A handle on a worker's thread. The thread ends when the handle is dropped.
pub struct Worker {
    commands: SyncSender<Command>,
    _thread: JoinHandle<()>,
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
                    cores::pin(core);
                }
                let reports = setup.reports.clone();
                match Fetcher::new(&setup.kafka, &setup.group, setup.fetch_ahead_kib) {
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
    /// What is owned has changed since Kafka was told; commands come in bursts, and one word to Kafka does for all.
    is_assignment_due: bool,
    is_over: bool,
}

impl Loop {
    fn new(setup: WorkerSetup, fetcher: Fetcher, inbox: Receiver<Command>) -> Self {
        let intake = Intake::new(&setup);
        Self {
            setup,
            fetcher: Some(fetcher),
            inbox,
            intake,
            is_assignment_due: false,
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
            if std::mem::take(&mut self.is_assignment_due) {
                self.assign();
            }
            if self.intake.owned().is_empty() {
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
                let fetcher = self.fetcher.as_ref();
                self.report(|source| fetcher.and_then(|fetcher| fetcher.log_end(source)));
            }
        }
    }

    fn obey(&mut self, command: Command) -> Batched {
        match command {
            Command::Assign(assignments) => {
                for assignment in assignments {
                    self.intake.own(assignment);
                }
                self.is_assignment_due = true;
                Batched::Outdated
            }
            Command::Drop(sources) => {
                for source in sources {
                    self.intake.disown(source);
                }
                self.is_assignment_due = true;
                Batched::Outdated
            }
            Command::DropAll => {
                self.intake.disown_all();
                self.is_assignment_due = true;
                Batched::Outdated
            }
            Command::Flush(kind, reply) => {
                // the conductor may have given up on the answer; then the partitions are dropped anyway
                let _ = reply.send(self.intake.flush(kind));
                Batched::Valid
            }
        }
    }

    /// Takes a new consumer for every partition and where it goes on. What was fetched before is dropped and comes again.
    ///
    /// A consumer is assigned once: librdkafka up to 2.15 aborts the process when an assignment is replaced before the
    /// fetchers of the one before have stopped (its issue 5573), and it does not tell when they have.
    fn assign(&mut self) {
        let starts: Vec<Start> = self
            .intake
            .owned()
            .iter()
            .map(|owned| Start {
                source: owned.partition.source(),
                offset: owned.partition.position(),
                epoch: owned.partition.epoch(),
            })
            .collect();
        self.fetcher = None;
        if starts.is_empty() {
            return;
        }
        let setup = &self.setup;
        let made = Fetcher::assigned(&setup.kafka, &setup.group, setup.fetch_ahead_kib, &starts);
        match made {
            Ok(fetcher) => self.fetcher = Some(fetcher),
            Err(error) => {
                tracing::error!(error = %error, "librdkafka refused an assignment");
                self.is_over = true;
            }
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
                let wanted = self.intake.take_from(&batch, &mut index);
                is_outdated = self.intake.take_has_lost_one();
                if let Some(kind) = wanted {
                    is_outdated |= self.wait_for_flush(kind, &batch) == Batched::Outdated;
                }
            }
        }
        self.fetcher = Some(fetcher);
        self.is_assignment_due |= is_outdated;
    }

    /// Asks for a flush and obeys commands until it has taken the windows, or the assignment has changed.
    fn wait_for_flush(&mut self, kind: FlushKind, batch: &Batch<'_>) -> Batched {
        let seen = self.intake.n_flushes(kind);
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
            match self.inbox.recv_timeout(REPORT_INTERVAL) {
                Err(RecvTimeoutError::Timeout) => self.report(|source| batch.log_end(source)),
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
                Err(RecvTimeoutError::Disconnected) => {
                    self.is_over = true;
                    return Batched::Outdated;
                }
            }
        }
    }

    /// Tells the gauges how far each partition is behind, by what the last fetch said of the log's end.
    fn report(&self, log_end: impl Fn(Source) -> Option<u64>) {
        let now_ms = clock::now_us() / 1000;
        for owned in self.intake.owned() {
            let source = owned.partition.source();
            if let Some(end) = log_end(source) {
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
