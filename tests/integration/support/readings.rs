//! The recount's half for samples: time in each state, and the means and maxima of readings.

use std::collections::BTreeMap;

use super::expect::{Expect, Row, Rows};
use super::message::{Gpu, Sample};
use super::recount::{Question, Seen, Truth};

/// How much of a step a sample covers (microseconds), and the sample.
type Covering<'a> = (i64, Seen<'a, Sample>);

/// What one sample says of one reading: its mean, and its highest single value.
struct Reading {
    mean: f64,
    highest: f64,
}

fn single(value: Option<f64>) -> Option<Reading> {
    value.map(|value| Reading {
        mean: value,
        highest: value,
    })
}

fn ratio(used: Option<f64>, limit: Option<f64>) -> Option<f64> {
    match (used, limit) {
        (Some(used), Some(limit)) if limit > 0.0 => Some(used / limit),
        _ => None,
    }
}

fn over_gpus(gpus: &[Gpu], read: impl Fn(&Gpu) -> Option<f64>) -> Option<Reading> {
    let values: Vec<f64> = gpus.iter().filter_map(read).collect();
    let highest = values.iter().copied().reduce(f64::max)?;
    Some(Reading {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        highest,
    })
}

fn number(value: Option<i64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// The mean over the interval, without it the number at its end; the higher of both is the highest.
fn in_flight(sample: &Sample) -> Option<Reading> {
    let now = sample.in_flight.map(f64::from);
    let mean = sample.in_flight_mean.or(now)?;
    let highest = now.map_or(mean, |now| now.max(mean));
    Some(Reading { mean, highest })
}

type ReadSample = fn(&Sample) -> Option<Reading>;

/// The readings under the names that their columns in the tables have.
const READINGS: [(&str, ReadSample); 12] = [
    ("cpu_cores", |s| single(s.cpu_cores_used)),
    ("cpu_limit", |s| single(s.cpu_cores_limit)),
    ("cpu_ratio", |s| {
        single(ratio(s.cpu_cores_used, s.cpu_cores_limit))
    }),
    ("memory_bytes", |s| single(number(s.memory_bytes))),
    ("memory_limit", |s| single(number(s.memory_limit_bytes))),
    ("memory_ratio", |s| {
        single(ratio(number(s.memory_bytes), number(s.memory_limit_bytes)))
    }),
    ("gpu_utilization", |s| over_gpus(&s.gpus, |g| g.utilization)),
    ("gpu_sm_activity", |s| over_gpus(&s.gpus, |g| g.sm_activity)),
    ("gpu_memory_used", |s| {
        over_gpus(&s.gpus, |g| number(g.memory_used_bytes))
    }),
    ("gpu_memory_total", |s| {
        over_gpus(&s.gpus, |g| number(g.memory_total_bytes))
    }),
    ("gpu_memory_ratio", |s| {
        over_gpus(&s.gpus, |g| {
            ratio(number(g.memory_used_bytes), number(g.memory_total_bytes))
        })
    }),
    ("in_flight", in_flight),
];

/// The readings whose maximum the tables keep.
const WITH_MAXIMUM: [&str; 9] = [
    "cpu_cores",
    "cpu_ratio",
    "memory_bytes",
    "memory_ratio",
    "gpu_utilization",
    "gpu_sm_activity",
    "gpu_memory_used",
    "gpu_memory_ratio",
    "in_flight",
];

fn read(name: &str) -> ReadSample {
    READINGS
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no reading {name}"))
        .1
}

fn by_replica<'a>(covering: &[Covering<'a>]) -> BTreeMap<&'a str, Vec<Covering<'a>>> {
    let mut replicas: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for one in covering {
        replicas
            .entry(one.1.head.replica_id.as_str())
            .or_default()
            .push(*one);
    }
    replicas
}

/// The mean over replicas that have the reading, of each one's time-weighted mean.
fn mean(covering: &[Covering<'_>], read: ReadSample) -> Expect {
    let means: Vec<f64> = by_replica(covering)
        .into_values()
        .filter_map(|samples| {
            let (integral, covered) = integrate(&samples, read);
            (covered > 0).then(|| integral / (covered as f64 / 1e6))
        })
        .collect();
    if means.is_empty() {
        Expect::Null
    } else {
        Expect::Mean(means.iter().sum::<f64>() / means.len() as f64)
    }
}

/// The reading's integral (unit × seconds) and the time that had it (microseconds).
fn integrate(samples: &[Covering<'_>], read: ReadSample) -> (f64, i64) {
    samples.iter().fold(
        (0.0, 0),
        |(integral, covered), (overlap, seen)| match read(seen.item) {
            Some(reading) => (
                integral + reading.mean * *overlap as f64 / 1e6,
                covered + overlap,
            ),
            None => (integral, covered),
        },
    )
}

fn highest(covering: &[Covering<'_>], read: ReadSample) -> Expect {
    let values = covering
        .iter()
        .filter_map(|(_, seen)| read(seen.item).map(|r| r.highest));
    values
        .reduce(f64::max)
        .map_or(Expect::Null, Expect::Exactly)
}

/// Microseconds in a state; a development replica that loads is active.
fn time_in(covering: &[Covering<'_>], state: &str) -> i64 {
    let counted_as = |s: &Sample| match (s.state, s.facts.kind) {
        ("loading", "development") => "active",
        (state, _) => state,
    };
    covering
        .iter()
        .filter(|(_, seen)| counted_as(seen.item) == state)
        .map(|(overlap, _)| overlap)
        .sum()
}

fn row<const N: usize>(columns: [(&str, Expect); N]) -> Row {
    columns.map(|(name, value)| (name.to_owned(), value)).into()
}

impl Truth<'_> {
    pub fn replicas(&self, question: &Question<'_>) -> Rows {
        self.each_step(question, |covering| {
            let mean = |states: &[&str]| {
                let us: i64 = states.iter().map(|s| time_in(covering, s)).sum();
                Expect::PerSecond(us as f64 / 1e6)
            };
            row([
                ("active", mean(&["active"])),
                ("starting", mean(&["waiting", "loading"])),
                ("waiting", mean(&["waiting"])),
                ("loading", mean(&["loading"])),
                ("stopping", mean(&["stopping"])),
            ])
        })
    }

    pub fn cpu(&self, question: &Question<'_>) -> Rows {
        self.each_step(question, |covering| {
            row([
                ("replicas", Expect::Count(by_replica(covering).len() as u64)),
                ("usage_cores_avg", mean(covering, read("cpu_cores"))),
                ("usage_cores_max", highest(covering, read("cpu_cores"))),
                ("limit_cores_avg", mean(covering, read("cpu_limit"))),
                ("usage_ratio_avg", mean(covering, read("cpu_ratio"))),
                ("memory_bytes_avg", mean(covering, read("memory_bytes"))),
                ("memory_bytes_max", highest(covering, read("memory_bytes"))),
                (
                    "memory_limit_bytes_avg",
                    mean(covering, read("memory_limit")),
                ),
                ("memory_ratio_avg", mean(covering, read("memory_ratio"))),
            ])
        })
    }

    pub fn gpu(&self, question: &Question<'_>) -> Rows {
        self.each_step(question, |covering| {
            let replicas = by_replica(covering);
            let most = |samples: &Vec<Covering<'_>>| {
                samples.iter().map(|(_, s)| s.item.gpus.len() as u64).max()
            };
            row([
                ("replicas", Expect::Count(replicas.len() as u64)),
                (
                    "gpus",
                    Expect::Count(replicas.values().filter_map(most).sum()),
                ),
                ("usage_ratio_avg", mean(covering, read("gpu_utilization"))),
                (
                    "usage_ratio_max",
                    highest(covering, read("gpu_utilization")),
                ),
                (
                    "memory_used_bytes_avg",
                    mean(covering, read("gpu_memory_used")),
                ),
                (
                    "memory_used_bytes_max",
                    highest(covering, read("gpu_memory_used")),
                ),
                (
                    "memory_total_bytes_avg",
                    mean(covering, read("gpu_memory_total")),
                ),
                ("memory_ratio_avg", mean(covering, read("gpu_memory_ratio"))),
                ("sm_activity_avg", mean(covering, read("gpu_sm_activity"))),
            ])
        })
    }

    fn each_step(&self, question: &Question<'_>, of: impl Fn(&[Covering<'_>]) -> Row) -> Rows {
        self.samples_by_step(question)
            .into_iter()
            .map(|(t, covering)| (t, of(&covering)))
            .collect()
    }

    /// What one replica's row of a `replicas_*` table must hold besides its count of samples.
    pub fn replica_window(covering: &[Covering<'_>]) -> Row {
        let mut row = Row::new();
        for state in ["waiting", "loading", "active", "stopping"] {
            row.insert(
                format!("{state}_us"),
                Expect::Count(time_in(covering, state).unsigned_abs()),
            );
        }
        for (name, read) in READINGS {
            let (integral, covered) = integrate(covering, read);
            row.insert(format!("{name}_integral"), Expect::Mean(integral));
            row.insert(format!("{name}_us"), Expect::Count(covered.unsigned_abs()));
            if WITH_MAXIMUM.contains(&name) {
                // A table has no NULL: without a reading its maximum stays at 0.
                let expect = match highest(covering, read) {
                    Expect::Null => Expect::Exactly(0.0),
                    found => found,
                };
                row.insert(format!("{name}_max"), expect);
            }
        }
        row
    }
}
