//! The simulated broker's side: logs that grow, what is in them, and what each table must hold in the end.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::bus::avro::{encode_batch, encode_sample};
use crate::core::event::{
    BatchHead, Kind, OptionalMicros, Outcome, ReplicaSample, ReplicaState, RequestEvent, Status,
};
use crate::core::ledger::LedgerCounts;
use crate::core::recovery::Log as LogEnds;
use crate::core::table::{Stream, Table};
use crate::processor::simulation::process::MAX_PRODUCERS;
use crate::replay::model::random::Random;
use crate::store::columns::is_by_replica;

/// The first message's append time: 2027-01-15, 08:00 UTC.
const FIRST_APPEND_S: i64 = 1_800_000_000;

/// Messages of a partition in one history: enough for some flushes of each kind and a replay that cuts.
const MAX_ENTRIES: usize = 30;

/// Events of a batch.
const MAX_EVENTS: usize = 4;

/// The time rule, told a second time: 48 h back, five minutes ahead.
const ACCEPTED_AGES_S: std::ops::RangeInclusive<i64> = -299..=172_800;

/// One message.
pub struct Entry {
    pub offset: u64,
    pub append_ms: i64,
    pub payload: Vec<u8>,
    /// None: it cannot be read.
    sent: Option<Sent>,
}

#[derive(Clone)]
struct Sent {
    producer: Producer,
    sequence: i64,
    /// When its events ended, since 1970.
    times_s: Vec<i64>,
}

/// One start of one replica's producer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Producer {
    deployment: String,
    replica: String,
    boot: u8,
}

/// One partition's log.
pub struct Log {
    start: u64,
    entries: Vec<Rc<Entry>>,
    n_appended: usize,
    pub committed: Option<u64>,
}

/// What a table holds of one partition, or must hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counted {
    pub from: u64,
    pub to: u64,
    pub span: u64,
    pub counts: LedgerCounts,
    /// By deployment, replica (empty where the table has none) and start of the window.
    pub windows: BTreeMap<(String, String, u32), u64>,
}

impl Log {
    /// A log of chance; of none of its messages has anybody heard yet.
    pub fn new(stream: Stream, random: &mut Random) -> Self {
        let start = if random.is_hit(0.5) { 0 } else { 1000 };
        let mut offset = start;
        let mut append_s = FIRST_APPEND_S + (random.unit() * 80_000.0) as i64;
        let mut entries = Vec::new();
        let mut producers = Producers::default();
        for _ in 0..1 + random.index(MAX_ENTRIES) {
            // a transaction's marker takes an offset and is no message
            offset += u64::from(random.is_hit(0.1)) * (1 + random.index(3) as u64);
            append_s += if random.is_hit(0.05) {
                random.index(90_000) as i64
            } else {
                random.index(20) as i64
            };
            entries.push(Rc::new(producers.entry(stream, offset, append_s, random)));
            offset += 1;
        }
        Self {
            start,
            entries,
            n_appended: 0,
            committed: None,
        }
    }

    pub fn append(&mut self, n: usize) {
        self.n_appended = (self.n_appended + n).min(self.entries.len());
    }

    pub fn append_all(&mut self) {
        self.n_appended = self.entries.len();
    }

    pub fn ends(&self) -> LogEnds {
        LogEnds {
            start: self.start,
            end: self.end(),
            committed: self.committed,
        }
    }

    fn end(&self) -> u64 {
        self.appended()
            .last()
            .map_or(self.start, |entry| entry.offset + 1)
    }

    fn appended(&self) -> &[Rc<Entry>] {
        &self.entries[..self.n_appended]
    }

    /// The messages at and behind an offset, `most` of them.
    pub fn read(&self, from: u64, most: usize) -> impl Iterator<Item = &Rc<Entry>> {
        self.appended()
            .iter()
            .filter(move |entry| entry.offset >= from)
            .take(most)
    }

    /// The append day of the last message, since 1970.
    pub fn day(&self) -> i64 {
        self.appended()
            .last()
            .map_or(0, |entry| entry.append_ms / 86_400_000)
    }

    /// What `table` must hold of the whole log, counted one by one.
    pub fn truth(&self, table: Table) -> Counted {
        let end = self.end();
        let mut truth = Counted {
            from: self.start,
            to: end,
            span: end - self.start,
            ..Counted::default()
        };
        let mut came = Remembered::default();
        for entry in self.appended() {
            let Some(sent) = &entry.sent else {
                truth.counts.invalid += 1;
                continue;
            };
            let is_new = came.is_new(sent, entry.append_ms);
            let Some(tier) = table.tier() else {
                truth.counts.events += 1;
                *truth.windows.entry(<_>::default()).or_default() += 1;
                continue;
            };
            if !is_new {
                continue;
            }
            for &time in &sent.times_s {
                if !ACCEPTED_AGES_S.contains(&(entry.append_ms / 1000 - time)) {
                    truth.counts.late += 1;
                    continue;
                }
                truth.counts.events += 1;
                let second = u32::try_from(time).expect("after 1970");
                let replica = if is_by_replica(table) {
                    sent.producer.replica.clone()
                } else {
                    String::new()
                };
                let place = (
                    sent.producer.deployment.clone(),
                    replica,
                    tier.floor(second),
                );
                *truth.windows.entry(place).or_default() += 1;
            }
        }
        truth
    }
}

/// The rule of what comes twice, told a second time.
#[derive(Default)]
struct Remembered(Vec<(Producer, Vec<i64>, i64)>);

impl Remembered {
    fn is_new(&mut self, sent: &Sent, append_ms: i64) -> bool {
        let found = self
            .0
            .iter()
            .position(|(other, ..)| *other == sent.producer);
        let known = found.map(|index| self.0.remove(index));
        let mut sequences = match known {
            Some((_, sequences, last_ms)) if append_ms - last_ms <= 48 * 3_600_000 => sequences,
            _ => Vec::new(),
        };
        let highest = sequences.iter().max().copied().unwrap_or(0);
        let is_new = !sequences.contains(&sent.sequence) && sent.sequence > highest - 64;
        sequences.push(sent.sequence);
        self.0.push((sent.producer.clone(), sequences, append_ms));
        if self.0.len() > MAX_PRODUCERS {
            self.0.remove(0);
        }
        is_new
    }
}

/// Who sends, how far each is, and what was sent before and may be sent again.
#[derive(Default)]
struct Producers {
    next: BTreeMap<Producer, i64>,
    sent: Vec<(Sent, Vec<u8>)>,
}

impl Producers {
    fn entry(&mut self, stream: Stream, offset: u64, append_s: i64, random: &mut Random) -> Entry {
        let append_ms = append_s * 1000;
        if random.is_hit(0.08) {
            let payload = vec![0; random.index(20)];
            return Entry {
                offset,
                append_ms,
                payload,
                sent: None,
            };
        }
        if !self.sent.is_empty() && random.is_hit(0.25) {
            let (sent, payload) = self.sent[random.index(self.sent.len())].clone();
            return Entry {
                offset,
                append_ms,
                payload,
                sent: Some(sent),
            };
        }
        let n = match stream {
            Stream::Requests => 1 + random.index(MAX_EVENTS),
            Stream::Replicas => 1,
        };
        let producer = Producer {
            deployment: format!("d{}", random.index(3)),
            replica: format!("r{}", random.index(2)),
            boot: u8::from(random.is_hit(0.3)),
        };
        let next = self.next.entry(producer.clone()).or_default();
        // some are lost on the way
        *next += i64::from(random.is_hit(0.1)) * (1 + random.index(80) as i64);
        let sent = Sent {
            producer,
            sequence: *next,
            times_s: (0..n).map(|_| append_s - age(random)).collect(),
        };
        *next += 1;
        let payload = encode(stream, &sent);
        self.sent.push((sent.clone(), payload.clone()));
        Entry {
            offset,
            append_ms,
            payload,
            sent: Some(sent),
        }
    }
}

/// Most are of this minute, some are late, some at the edges of what is accepted or beyond.
fn age(random: &mut Random) -> i64 {
    let (low, high) = match random.index(10) {
        0..6 => (0, 180),
        6..8 => (0, 90_000),
        8 => (172_700, 172_900),
        _ => (-400, 0),
    };
    low + random.index((high - low) as usize) as i64
}

fn encode(stream: Stream, sent: &Sent) -> Vec<u8> {
    let head = BatchHead {
        deployment_id: &sent.producer.deployment,
        replica_id: &sent.producer.replica,
        boot_id: [sent.producer.boot; 16],
        sequence: sent.sequence,
        producer: "",
    };
    // whole seconds and a half: no rounding decides where an event belongs
    let time_us = |time_s: i64| time_s * 1_000_000 + 500_000;
    let mut payload = Vec::new();
    match stream {
        Stream::Requests => {
            let events: Vec<RequestEvent> = sent
                .times_s
                .iter()
                .map(|&time| event(time_us(time)))
                .collect();
            encode_batch(&head, &events, &mut payload);
        }
        Stream::Replicas => {
            let sample = sample(head, time_us(sent.times_s[0]));
            encode_sample(&sample, &[], &[], &mut payload);
        }
    }
    payload
}

fn event(finished_at_us: i64) -> RequestEvent {
    RequestEvent {
        finished_at_us,
        end_to_end_us: 1_000,
        inference_us: OptionalMicros::some(900),
        first_byte_us: OptionalMicros::NONE,
        queue_us: OptionalMicros::NONE,
        cold_start_us: OptionalMicros::NONE,
        request_bytes: 1,
        response_bytes: 1,
        in_flight: 1,
        status: Status::from_code(200),
        outcome: Outcome::Completed,
        cold_start: false,
    }
}

fn sample(head: BatchHead<'_>, sampled_at_us: i64) -> ReplicaSample<'_> {
    ReplicaSample {
        head,
        sampled_at_us,
        interval_us: 5_000_000,
        state: ReplicaState::Active,
        model_id: "",
        model_name: "",
        deployment_name: "",
        environment: "",
        kind: Kind::Production,
        instance_type: "",
        cpu_cores_used: Some(1.0),
        cpu_cores_limit: None,
        memory_bytes: None,
        memory_limit_bytes: None,
        in_flight: Some(1),
        in_flight_mean: None,
        oldest_in_flight_us: None,
        restarts: 0,
        load_us: None,
        dropped: 0,
    }
}
