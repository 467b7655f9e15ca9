//! A worker's intake: messages in, windows out. Decodes, folds, and keeps what is refused for the dead letters.
//!
//! It never waits and never drops: where a limit or a cut wants a flush it says so, and the worker waits.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::memory;
use super::protocol::{Assignment, EncodedFlush, Report, WorkerFlush, WorkerSetup};
use super::status::Status;
use crate::bus::avro::{DecodeError, SchemaRegistry, decode_batch, decode_sample};
use crate::bus::dead_letters::DeadLetter;
use crate::bus::fetch::{FetchError, Message, Messages};
use crate::clock;
use crate::core::delta::{Flush, FlushKind};
use crate::core::event::{GpuReading, RequestEvent};
use crate::core::ids::IdLimits;
use crate::core::ledger::LedgerCounts;
use crate::core::marks::Marks;
use crate::core::partition::{Partition, Step};
use crate::core::table::{Source, Stream};
use crate::core::timeliness::{Timeliness, Untimely};
use crate::store::rows::encode_delta;

/// Messages between two looks at the process's memory of windows, within a fetch.
const MESSAGES_BETWEEN_CHECKS: usize = 64;

/// Dead letters wait for the next flush; at this many bytes one is asked for.
const MAX_DEAD_LETTER_BYTES: usize = 32 << 20;

/// The reasons of events refused for their time. `ledger_late` counts both.
const REASON_LATE: &str = "late";
const REASON_EARLY: &str = "early";

/// A partition that is ours.
pub struct Owned {
    pub partition: Partition,
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

/// Everything but the consumer, so that a batch can borrow that while messages are folded.
pub struct Intake {
    registry: Arc<SchemaRegistry>,
    status: Arc<Status>,
    reports: mpsc::Sender<Report>,
    owned: Vec<Owned>,
    /// Where the last message's partition stands in `owned`: messages come in runs of one partition.
    latest: usize,
    /// A partition failed: Kafka must be told that it is not read any more.
    has_lost_one: bool,
    request_limits: IdLimits,
    replica_limits: IdLimits,
    max_producers: usize,
    dead_letters_per_second: u32,
    window_memory: usize,
    events: Vec<RequestEvent>,
    gpus: Vec<GpuReading>,
    untimely: Untimely,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    /// Flushes obeyed so far: all, and the full ones.
    n_flushes: [u64; 2],
    letters_this_second: (i64, u32),
}

impl Intake {
    pub fn new(setup: &WorkerSetup) -> Self {
        Self {
            registry: setup.registry.clone(),
            status: setup.status.clone(),
            reports: setup.reports.clone(),
            owned: Vec::new(),
            latest: 0,
            has_lost_one: false,
            request_limits: setup.request_limits.clone(),
            replica_limits: setup.replica_limits.clone(),
            max_producers: setup.max_producers,
            dead_letters_per_second: setup.dead_letters_per_second,
            window_memory: setup.window_memory,
            events: Vec::new(),
            gpus: Vec::new(),
            untimely: Untimely::default(),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            n_flushes: [0; 2],
            letters_this_second: (0, 0),
        }
    }

    /// Folds messages from `index` on, until the batch ends or a flush is wanted.
    pub fn take_from(&mut self, batch: &impl Messages, index: &mut usize) -> Option<FlushKind> {
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
        self.untimely.clear();
        let outcome = match message.source.stream {
            Stream::Requests => fold_batch(
                &self.registry,
                partition,
                message,
                &mut self.events,
                &mut self.untimely,
            ),
            Stream::Replicas => fold_sample(
                &self.registry,
                partition,
                message,
                &mut self.gpus,
                &mut self.untimely,
            ),
        };
        let wanted = partition.wants_flush();
        match outcome {
            Ok(()) => {
                let Untimely { late, early } = std::mem::take(&mut self.untimely);
                for (reason, events) in [(REASON_LATE, late), (REASON_EARLY, early)] {
                    if !events.is_empty() {
                        self.bury(message, reason, events);
                    }
                }
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

    /// Takes a partition in, from where its tables stand.
    pub fn own(&mut self, assignment: Assignment) {
        let Assignment {
            source,
            generation,
            recovery,
            marks,
            ledger,
            log_end,
        } = assignment;
        self.disown(source);
        let limits = match source.stream {
            Stream::Requests => &self.request_limits,
            Stream::Replicas => &self.replica_limits,
        };
        let marks = Marks::new(marks, self.max_producers);
        let partition = Partition::new(source, generation, &recovery, marks, limits.clone());
        let behind_until = (recovery.start < log_end).then_some(log_end);
        self.owned.push(Owned {
            partition,
            ledger,
            told: (LedgerCounts::default(), 0),
            behind_until,
        });
    }

    /// Forgets a partition and its windows.
    pub fn disown(&mut self, source: Source) -> Option<Owned> {
        let index = self
            .owned
            .iter()
            .position(|owned| owned.partition.source() == source)?;
        self.status.forget(source);
        self.dead_letters.retain(|letter| letter.source != source);
        Some(self.owned.swap_remove(index))
    }

    /// Forgets every partition, and the dead letters that wait.
    pub fn disown_all(&mut self) {
        while let Some(owned) = self.owned.last() {
            self.disown(owned.partition.source());
        }
        self.dead_letter_bytes = 0;
    }

    fn memory_wants_flush(&self) -> Option<FlushKind> {
        let (mut bytes, mut fine_bytes) = (0, 0);
        for owned in &self.owned {
            bytes += owned.partition.flush_bytes();
            fine_bytes += owned.partition.fine_flush_bytes();
        }
        memory::wanted_flush(bytes, fine_bytes, self.window_memory)
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
        if *n > self.dead_letters_per_second {
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
                    self.has_lost_one = true;
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

    /// The partitions that are ours.
    pub fn owned(&self) -> &[Owned] {
        &self.owned
    }

    /// True once after a partition failed.
    pub fn take_has_lost_one(&mut self) -> bool {
        std::mem::take(&mut self.has_lost_one)
    }

    /// How many flushes of this kind were obeyed.
    pub const fn n_flushes(&self, kind: FlushKind) -> u64 {
        self.n_flushes[kind as usize]
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

    /// Takes the windows out of every partition, as rows ready to be sent.
    pub fn flush(&mut self, kind: FlushKind) -> WorkerFlush {
        self.n_flushes[FlushKind::Fine as usize] += 1;
        self.n_flushes[FlushKind::Full as usize] += u64::from(kind == FlushKind::Full);
        let mut flushes = Vec::with_capacity(self.owned.len());
        for owned in &mut self.owned {
            let mut deltas = Vec::new();
            // encoded here, so that the one writer has only to send
            let (number, ledger) = (owned.partition.source().partition, &owned.ledger);
            let flush = owned.partition.flush(kind, |delta| {
                deltas.push(encode_delta(delta, number, ledger))
            });
            let Flush {
                source,
                generation,
                position,
                deployments,
            } = flush;
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
    untimely: &mut Untimely,
) -> Result<(), DecodeError> {
    events.clear();
    let decoded = registry
        .plan(message.payload)
        .and_then(|(plan, body)| decode_batch(plan, body, events));
    match decoded {
        Ok(head) => {
            if partition.is_new(&head, message.append_ms) {
                partition.fold_batch(&head, events, message.append_ms, untimely);
            }
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
    untimely: &mut Untimely,
) -> Result<(), DecodeError> {
    gpus.clear();
    let decoded = registry
        .plan(message.payload)
        .and_then(|(plan, body)| decode_sample(plan, body, gpus));
    match decoded {
        Ok(sample) => {
            if !partition.is_new(&sample.head, message.append_ms) {
                return Ok(());
            }
            match partition.fold_sample(&sample, gpus, message.append_ms) {
                Timeliness::Accepted => {}
                Timeliness::Late => untimely.late.push(0),
                Timeliness::Early => untimely.early.push(0),
            }
            Ok(())
        }
        Err(error) => {
            partition.refuse();
            Err(error)
        }
    }
}
