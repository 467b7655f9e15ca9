//! The naive recount: every event and every sample is kept, and each answer is counted anew from all of
//! them, straight from the definitions. Slow and plain on purpose; it shares no code with the product.
//!
//! Decided where the definitions leave room: a sample counts in the window of the last microsecond that
//! it covers; an interval of 0 covers nothing and only counts; a limit or total of 0 gives no ratio.

use std::collections::{BTreeMap, BTreeSet};

use super::expect::{Expect, Row, Rows};
use super::generator::{HOUR, MINUTE, SECOND};
use super::message::{Body, Event, Head, Logged, Sample, Topic};

/// How far an event may lie behind and ahead of the broker's append time.
const LATEST: i64 = 48 * HOUR;
const EARLIEST: i64 = 5 * MINUTE;

/// Something accepted, and the partition that it came by.
pub struct Seen<'a, T> {
    pub partition: i32,
    pub head: &'a Head,
    pub item: &'a T,
}

impl<T> Clone for Seen<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Seen<'_, T> {}

/// What a partition's ledger must say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ledger {
    pub to: u64,
    pub events: u64,
    pub late: u64,
    pub invalid: u64,
}

/// What must lie in the dead letters, once or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub reasons: Vec<&'static str>,
    /// Indexes of the refused events of a batch that was otherwise taken.
    pub events: Option<Vec<usize>>,
    pub payload: Vec<u8>,
}

/// All that a set of logged messages means.
#[derive(Default)]
pub struct Truth<'a> {
    pub events: Vec<Seen<'a, Event>>,
    pub samples: Vec<Seen<'a, Sample>>,
    pub ledgers: BTreeMap<(Topic, i32), Ledger>,
    pub dead_letters: BTreeMap<(Topic, i32, i64), Vec<DeadLetter>>,
    /// Messages that came again, of which nothing is counted.
    pub n_repeated: usize,
    came: BTreeSet<(Topic, &'a str, &'a str, [u8; 16], i64)>,
}

impl<'a> Truth<'a> {
    pub fn of(log: impl IntoIterator<Item = &'a Logged>) -> Self {
        let mut truth = Self::default();
        for logged in log {
            truth.take(logged);
        }
        truth
    }

    fn take(&mut self, logged: &'a Logged) {
        let partition = logged.partition;
        let topic = logged.message.topic;
        let ledger = self.ledgers.entry((topic, partition)).or_default();
        ledger.to = ledger.to.max(logged.offset.unsigned_abs() + 1);
        if let Some(head) = logged.message.body.head() {
            let (deployment, replica) = (head.deployment_id.as_str(), head.replica_id.as_str());
            let message = (topic, deployment, replica, head.boot_id, head.sequence);
            if !self.came.insert(message) {
                self.n_repeated += 1;
                return;
            }
        }
        let verdict = |at: i64| {
            let ahead = i128::from(at) - i128::from(logged.appended_at_us);
            match ahead {
                _ if ahead < -i128::from(LATEST) => Some("late"),
                _ if ahead > i128::from(EARLIEST) => Some("early"),
                _ => None,
            }
        };
        let mut refused: Vec<DeadLetter> = Vec::new();
        let mut refuse = |reason: &'static str, events: Option<Vec<usize>>| {
            let payload = logged.message.payload.clone();
            refused.push(DeadLetter {
                reasons: vec![reason],
                events,
                payload,
            });
        };
        match &logged.message.body {
            Body::Garbage(reasons) => {
                ledger.invalid += 1;
                refuse("", None);
                refused[0].reasons = reasons.to_vec();
            }
            Body::Batch(batch) => {
                for reason in ["late", "early"] {
                    let of = |(_, event): &(usize, &Event)| {
                        verdict(event.finished_at_us) == Some(reason)
                    };
                    let indexes: Vec<_> = batch
                        .events
                        .iter()
                        .enumerate()
                        .filter(of)
                        .map(|(i, _)| i)
                        .collect();
                    if !indexes.is_empty() {
                        ledger.late += indexes.len() as u64;
                        refuse(reason, Some(indexes));
                    }
                }
                let accepted = batch
                    .events
                    .iter()
                    .filter(|e| verdict(e.finished_at_us).is_none());
                let before = self.events.len();
                self.events.extend(accepted.map(|item| Seen {
                    partition,
                    head: &batch.head,
                    item,
                }));
                ledger.events += (self.events.len() - before) as u64;
            }
            Body::Sample(sample) => match verdict(sample.sampled_at_us) {
                Some(reason) => {
                    ledger.late += 1;
                    refuse(reason, None);
                }
                None => {
                    ledger.events += 1;
                    self.samples.push(Seen {
                        partition,
                        head: &sample.head,
                        item: sample,
                    });
                }
            },
        }
        if !refused.is_empty() {
            self.dead_letters
                .insert((topic, partition, logged.offset), refused);
        }
    }

    /// What concerns one deployment, so that many questions about it need not pass over all the others.
    pub fn only(&self, deployment: &str) -> Self {
        let is_its = |head: &Head| head.deployment_id == deployment;
        Self {
            events: self
                .events
                .iter()
                .filter(|e| is_its(e.head))
                .copied()
                .collect(),
            samples: self
                .samples
                .iter()
                .filter(|s| is_its(s.head))
                .copied()
                .collect(),
            ..Self::default()
        }
    }

    pub fn deployments(&self) -> BTreeSet<&'a str> {
        let events = self.events.iter().map(|e| e.head.deployment_id.as_str());
        events
            .chain(self.samples.iter().map(|s| s.head.deployment_id.as_str()))
            .collect()
    }
}

/// The order statistics between which a quantile of these values lies.
pub fn percentile(values: &mut [i64], quantile: f64) -> Expect {
    if values.is_empty() {
        return Expect::Null;
    }
    values.sort_unstable();
    let rank = quantile * (values.len() - 1) as f64;
    let at = |rank: f64| values[rank as usize].max(1) as f64;
    Expect::Percentile {
        low: at(rank.floor()),
        high: at(rank.ceil()),
    }
}

/// The five classes that add up to all requests.
pub fn class(status: Option<i32>) -> &'static str {
    match status {
        None => "unclassified",
        Some(200..=299) => "status_2xx",
        Some(400..=499) => "status_4xx",
        Some(500..=599) => "status_5xx",
        Some(_) => "status_other",
    }
}

fn is_client_gone(event: &Event) -> bool {
    event.status == Some(499) || event.outcome == "client_gone"
}

type ReadEvent = fn(&Event) -> Option<i64>;
pub const TIMES: [(&str, ReadEvent); 5] = [
    ("end_to_end", |e| Some(e.end_to_end_us)),
    ("inference", |e| e.inference_us),
    ("first_byte", |e| e.first_byte_us),
    ("queue", |e| e.queue_us),
    ("cold_start", |e| e.cold_start_us),
];

pub const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// The counts of some events that tables and views share.
pub fn counts(events: &[&Event]) -> Row {
    let number =
        |of: &dyn Fn(&Event) -> bool| Expect::Count(events.iter().filter(|e| of(e)).count() as u64);
    let classes = [
        "status_2xx",
        "status_4xx",
        "status_5xx",
        "status_other",
        "unclassified",
    ];
    let mut row: Row = classes
        .map(|c| (c.to_owned(), number(&|e| class(e.status) == c)))
        .into();
    row.insert("requests".to_owned(), number(&|_| true));
    row.insert("client_gone".to_owned(), number(&is_client_gone));
    row.insert("cold_starts".to_owned(), number(&|e| e.cold_start));
    row
}

/// Percentiles of some events, under `{time}_{pNN}`.
pub fn percentiles(events: &[&Event], times: &[(&str, ReadEvent)]) -> Row {
    let mut row = Row::new();
    for (name, read) in times {
        let mut values: Vec<_> = events.iter().filter_map(|e| read(e)).collect();
        for (label, quantile) in QUANTILES {
            row.insert(format!("{name}_{label}"), percentile(&mut values, quantile));
        }
    }
    row
}

/// What a view is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub deployment: &'a str,
    pub start: i64,
    pub stop: i64,
    pub step: i64,
}

impl Question<'_> {
    /// The steps that the range is aligned outward to, seconds since 1970.
    fn covers(&self, t: i64) -> bool {
        let end = (self.stop + self.step - 1).div_euclid(self.step) * self.step;
        self.start.div_euclid(self.step) * self.step <= t && t < end
    }
}

impl Truth<'_> {
    fn events_by_step(&self, question: &Question<'_>) -> BTreeMap<i64, Vec<&Event>> {
        let mut steps: BTreeMap<i64, Vec<&Event>> = BTreeMap::new();
        for event in self
            .events
            .iter()
            .filter(|e| e.head.deployment_id == question.deployment)
        {
            let t = event.item.finished_at_us.div_euclid(question.step * SECOND) * question.step;
            if question.covers(t) {
                steps.entry(t).or_default().push(event.item);
            }
        }
        steps
    }

    pub fn inference_volume(&self, question: &Question<'_>) -> Rows {
        let rates = [
            ("status_2xx", "rps_2xx"),
            ("status_4xx", "rps_4xx"),
            ("status_5xx", "rps_5xx"),
            ("status_other", "rps_other"),
            ("unclassified", "rps_unclassified"),
        ];
        let row = |events: Vec<&Event>| {
            let mut row = counts(&events);
            for (count, rate) in rates {
                if let Some(Expect::Count(n)) = row.remove(count) {
                    row.insert(rate.to_owned(), Expect::PerSecond(n as f64));
                }
            }
            let n_gone = events.iter().filter(|e| is_client_gone(e)).count();
            row.insert(
                "rps_client_gone".to_owned(),
                Expect::PerSecond(n_gone as f64),
            );
            row
        };
        self.events_by_step(question)
            .into_iter()
            .map(|(t, events)| (t, row(events)))
            .collect()
    }

    pub fn response_time(&self, question: &Question<'_>) -> Rows {
        let row = |events: Vec<&Event>| {
            let named = percentiles(&events, &TIMES).into_iter();
            let mut row: Row = named
                .map(|(name, value)| (format!("{name}_ms"), value.in_milliseconds()))
                .collect();
            row.insert("requests".to_owned(), Expect::Count(events.len() as u64));
            row
        };
        self.events_by_step(question)
            .into_iter()
            .map(|(t, events)| (t, row(events)))
            .collect()
    }

    /// For each step the samples that cover part of it, with how much of it, in microseconds.
    pub fn samples_by_step(
        &self,
        question: &Question<'_>,
    ) -> BTreeMap<i64, Vec<(i64, Seen<'_, Sample>)>> {
        let step = question.step * SECOND;
        let mut steps: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for seen in self
            .samples
            .iter()
            .filter(|s| s.head.deployment_id == question.deployment)
        {
            let to = seen.item.sampled_at_us;
            let from = to - seen.item.interval_us;
            let mut t = from.div_euclid(step) * step;
            while t < to {
                let overlap = to.min(t + step) - from.max(t);
                if overlap > 0 && question.covers(t / SECOND) {
                    steps.entry(t / SECOND).or_default().push((overlap, *seen));
                }
                t += step;
            }
        }
        steps
    }
}
