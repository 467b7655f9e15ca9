//! The three steps of a worker, apart: decode, fold, encode. The same calls in the same order as in the processor's
//! intake, on messages that lie in memory, so that neither Kafka nor ClickHouse is in the numbers.
//!
//! Each step is one function with a name that a profiler finds: it is never inlined, and callgrind counts inside it alone.

use std::ops::Range;
use std::sync::Arc;

use modelmeter::bus::avro::{SchemaRegistry, decode_batch};
use modelmeter::core::delta::FlushKind;
use modelmeter::core::event::{BatchHead, RequestEvent};
use modelmeter::core::ids::{DEFAULT_MAX_DEPLOYMENTS, DEFAULT_MAX_REPLICAS, IdLimits};
use modelmeter::core::marks::{MAX_PRODUCERS, Marks};
use modelmeter::core::partition::Partition;
use modelmeter::core::recovery::{Recovery, TableStart};
use modelmeter::core::table::{Source, Stream};
use modelmeter::core::timeliness::Untimely;
use modelmeter::store::columns::columns;
use modelmeter::store::native::block;
use modelmeter::store::rows::{EncodedDelta, encode_delta};

use super::cpu;
use super::input::{Messages, Shape};

/// Events that are decoded before they are folded. The processor goes message by message; here the clock is read between
/// the steps, which at this size adds a third of a nanosecond an event, and the events stay in the core's own cache.
const GROUP_EVENTS: usize = 4_096;

/// The broker's append time of every message, ms since 1970: any time will do, so long as it is always the same.
const APPEND_MS: i64 = 1_750_000_000_000;

/// Where the inputs' events begin: well within what the time rule accepts.
const START_US: i64 = (APPEND_MS - 3_600_000) * 1_000;

/// Events of a round. Enough for several ranges to be closed by their limits, as in a processor that catches up.
const ROUND_EVENTS: [usize; 2] = [400_000, 2_000_000];

/// Events of a round under callgrind, which is some fifty times slower.
const COUNTED_EVENTS: [usize; 2] = [100_000, 400_000];

/// Rounds whose median is taken, after one that is not counted.
const ROUNDS: usize = 7;

/// A worker's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Decode,
    Fold,
    Encode,
}

impl Step {
    pub const ALL: [Self; 3] = [Self::Decode, Self::Fold, Self::Encode];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Fold => "fold",
            Self::Encode => "encode",
        }
    }

    /// The function that is this step and nothing else.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Decode => "modelmeter_bench_decode",
            Self::Fold => "modelmeter_bench_fold",
            Self::Encode => "modelmeter_bench_encode",
        }
    }
}

/// What one shape costs, by step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    pub shape: Shape,
    /// Of each round.
    pub n_events: usize,
    pub ns_per_event: [f64; 3],
    /// Of a round with as many events, rows that ClickHouse gets.
    pub n_rows: usize,
}

/// Takes the median of several rounds of each step.
pub fn measure(shape: Shape) -> Costs {
    let messages = Messages::new(shape, START_US, ROUND_EVENTS[shape as usize]);
    let mut worker = Worker::new();
    worker.round(&messages);
    let mut rounds: Vec<[u64; 3]> = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push(worker.round(&messages));
    }
    let ns_per_event = Step::ALL.map(|step| {
        let mut of_step: Vec<u64> = rounds.iter().map(|ns| ns[step as usize]).collect();
        of_step.sort_unstable();
        of_step[ROUNDS / 2] as f64 / messages.n_events as f64
    });
    Costs {
        shape,
        n_events: messages.n_events,
        ns_per_event,
        n_rows: worker.n_rows / (ROUNDS + 1),
    }
}

/// Runs rounds without a clock, for callgrind; gives the events of each.
pub fn run_counted(shape: Shape, n_rounds: usize) -> usize {
    let messages = Messages::new(shape, START_US, COUNTED_EVENTS[shape as usize]);
    let mut worker = Worker::new();
    for _ in 0..n_rounds {
        worker.round(&messages);
    }
    messages.n_events
}

/// One partition in a worker's hands.
struct Worker {
    registry: SchemaRegistry,
    partition: Partition,
    ledger: Arc<str>,
    next_offset: u64,
    /// What is added to every message's sequence in this round.
    first_sequence: i64,
    untimely: Untimely,
    n_rows: usize,
}

/// Messages that are decoded and not folded yet.
#[derive(Default)]
struct Decoded<'a> {
    heads: Vec<(BatchHead<'a>, Range<usize>)>,
    events: Vec<RequestEvent>,
}

impl Worker {
    fn new() -> Self {
        let source = Source {
            stream: Stream::Requests,
            partition: 0,
        };
        let tables = Stream::Requests.tables().iter().map(|&table| TableStart {
            table,
            from: 0,
            ingested: None,
            epoch: -1,
            needs_heartbeat: false,
        });
        let recovery = Recovery {
            start: 0,
            epoch: -1,
            tables: tables.collect(),
            n_started_late: 0,
        };
        let limits = IdLimits::new(DEFAULT_MAX_DEPLOYMENTS, DEFAULT_MAX_REPLICAS);
        Self {
            registry: SchemaRegistry::built_in(),
            partition: Partition::new(
                source,
                1,
                &recovery,
                Marks::new(Vec::new(), MAX_PRODUCERS),
                limits,
            ),
            ledger: "bench.requests/AAAAAAAAAAAAAAAAAAAAAA".into(),
            next_offset: 0,
            first_sequence: 0,
            untimely: Untimely::default(),
            n_rows: 0,
        }
    }

    /// All messages once, and a full flush at the end, so that the next round begins as this one did. Gives the
    /// CPU-nanoseconds of each step.
    fn round(&mut self, messages: &Messages) -> [u64; 3] {
        let mut spent = [0; 3];
        let before = self.partition.counts().events;
        let mut decoded = Decoded::default();
        let mut index = 0;
        while index < messages.len() {
            decoded.heads.clear();
            decoded.events.clear();
            let begun = cpu::own_ns();
            decode(&self.registry, messages, &mut index, &mut decoded);
            let is_decoded = cpu::own_ns();
            fold(self, &decoded);
            let is_folded = cpu::own_ns();
            spent[Step::Decode as usize] += is_decoded - begun;
            spent[Step::Fold as usize] += is_folded - is_decoded;
            if let Some(kind) = self.partition.wants_flush() {
                encode(self, kind);
                spent[Step::Encode as usize] += cpu::own_ns() - is_folded;
            }
        }
        let begun = cpu::own_ns();
        encode(self, FlushKind::Full);
        spent[Step::Encode as usize] += cpu::own_ns() - begun;
        self.first_sequence += messages.len() as i64;
        let n_folded = self.partition.counts().events - before;
        assert_eq!(
            n_folded, messages.n_events as u64,
            "every event is accepted"
        );
        spent
    }
}

#[inline(never)]
// SAFETY: no other function of the program has this name.
#[unsafe(export_name = "modelmeter_bench_decode")]
fn decode<'a>(
    registry: &SchemaRegistry,
    messages: &'a Messages,
    index: &mut usize,
    decoded: &mut Decoded<'a>,
) {
    while *index < messages.len() && decoded.events.len() < GROUP_EVENTS {
        let first = decoded.events.len();
        let head = registry
            .plan(messages.get(*index))
            .and_then(|(plan, body)| decode_batch(plan, body, &mut decoded.events))
            .expect("the input is what the product's encoder wrote");
        decoded.heads.push((head, first..decoded.events.len()));
        *index += 1;
    }
}

#[inline(never)]
// SAFETY: no other function of the program has this name.
#[unsafe(export_name = "modelmeter_bench_fold")]
fn fold(worker: &mut Worker, decoded: &Decoded<'_>) {
    for (head, range) in &decoded.heads {
        // in every round the producers go on
        let head = BatchHead {
            sequence: head.sequence + worker.first_sequence,
            ..*head
        };
        worker
            .partition
            .begin_message(worker.next_offset, APPEND_MS);
        worker.next_offset += 1;
        let events = &decoded.events[range.clone()];
        assert!(worker.partition.is_new(&head, APPEND_MS));
        worker
            .partition
            .fold_batch(&head, events, APPEND_MS, &mut worker.untimely);
    }
    worker.partition.apply();
}

#[inline(never)]
// SAFETY: no other function of the program has this name.
#[unsafe(export_name = "modelmeter_bench_encode")]
fn encode(worker: &mut Worker, kind: FlushKind) {
    let mut deltas: Vec<EncodedDelta> = Vec::new();
    let ledger = &worker.ledger;
    worker
        .partition
        .flush(kind, |delta| deltas.push(encode_delta(delta, 0, ledger)));
    for delta in &deltas {
        let frames = block(columns(delta.table), &[&delta.chunk]);
        std::hint::black_box(&frames);
        worker.n_rows += delta.chunk.n_rows();
    }
}
