//! What is kept of one replica's samples of one window: time in each state, and of every reading its integral over
//! time, the time it covers, and its maximum.
//!
//! Each reading has a covered time of its own, so that one that could not be taken is missing and never 0.

use super::event::{GpuReading, Kind, ReplicaSample, ReplicaState};

/// What is read of a replica, in the order of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ReadingKind {
    CpuCores,
    CpuLimit,
    CpuRatio,
    MemoryBytes,
    MemoryLimit,
    MemoryRatio,
    GpuUtilization,
    GpuSmActivity,
    GpuMemoryUsed,
    GpuMemoryTotal,
    GpuMemoryRatio,
    InFlight,
}

impl ReadingKind {
    pub const N: usize = 12;
    pub const ALL: [Self; Self::N] = [
        Self::CpuCores,
        Self::CpuLimit,
        Self::CpuRatio,
        Self::MemoryBytes,
        Self::MemoryLimit,
        Self::MemoryRatio,
        Self::GpuUtilization,
        Self::GpuSmActivity,
        Self::GpuMemoryUsed,
        Self::GpuMemoryTotal,
        Self::GpuMemoryRatio,
        Self::InFlight,
    ];

    /// The stem of its columns.
    pub const fn column(self) -> &'static str {
        match self {
            Self::CpuCores => "cpu_cores",
            Self::CpuLimit => "cpu_limit",
            Self::CpuRatio => "cpu_ratio",
            Self::MemoryBytes => "memory_bytes",
            Self::MemoryLimit => "memory_limit",
            Self::MemoryRatio => "memory_ratio",
            Self::GpuUtilization => "gpu_utilization",
            Self::GpuSmActivity => "gpu_sm_activity",
            Self::GpuMemoryUsed => "gpu_memory_used",
            Self::GpuMemoryTotal => "gpu_memory_total",
            Self::GpuMemoryRatio => "gpu_memory_ratio",
            Self::InFlight => "in_flight",
        }
    }

    /// Limits and totals hardly change, so they have no maximum.
    pub const fn has_max(self) -> bool {
        !matches!(
            self,
            Self::CpuLimit | Self::MemoryLimit | Self::GpuMemoryTotal
        )
    }
}

/// One reading's share of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Unit × seconds.
    pub integral: f64,
    pub covered_us: u64,
    pub max: f64,
}

/// One replica's samples of one window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicaWindow {
    /// Samples whose interval ends here.
    pub samples: u64,
    /// By [`ReplicaState`]; a loading sample of a development deployment is in `active`.
    pub state_us: [u64; 4],
    /// `sampled_at` in µs × 4 + state: the last state and when, in one maximum. 0 without a sample.
    pub last_sample: u64,
    readings: [Reading; ReadingKind::N],
    pub gpus_max: u32,
    pub oldest_in_flight_us_max: u64,
    pub restarts_max: u64,
    pub load_us_max: u64,
    pub dropped_max: u64,
}

impl ReplicaWindow {
    pub const fn reading(&self, kind: ReadingKind) -> &Reading {
        &self.readings[kind as usize]
    }

    /// Adds another window's samples.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        for (sum, more) in self.state_us.iter_mut().zip(other.state_us) {
            *sum += more;
        }
        self.last_sample = self.last_sample.max(other.last_sample);
        for (mine, theirs) in self.readings.iter_mut().zip(&other.readings) {
            mine.integral += theirs.integral;
            mine.covered_us += theirs.covered_us;
            mine.max = mine.max.max(theirs.max);
        }
        self.gpus_max = self.gpus_max.max(other.gpus_max);
        self.oldest_in_flight_us_max = self
            .oldest_in_flight_us_max
            .max(other.oldest_in_flight_us_max);
        self.restarts_max = self.restarts_max.max(other.restarts_max);
        self.load_us_max = self.load_us_max.max(other.load_us_max);
        self.dropped_max = self.dropped_max.max(other.dropped_max);
    }
}

/// A sample reduced to what its windows take from it. The interval is split over windows by [`Self::record`].
pub struct SampleValues {
    state: usize,
    last_sample: u64,
    /// (mean, maximum) of each reading that was taken.
    readings: [Option<(f64, f64)>; ReadingKind::N],
    gpus: u32,
    oldest_in_flight_us: u64,
    restarts: u64,
    load_us: u64,
    dropped: u64,
    is_own: bool,
}

impl SampleValues {
    /// `is_own` is false where a limit put the replica under `__other__`: then only the count and the time in states
    /// are kept, since the readings of different replicas do not add up to one.
    pub fn new(sample: &ReplicaSample<'_>, gpus: &[GpuReading], is_own: bool) -> Self {
        let state = match (sample.state, sample.kind) {
            (ReplicaState::Loading, Kind::Development) => ReplicaState::Active,
            (state, _) => state,
        };
        let sampled_at = u64::try_from(sample.sampled_at_us).unwrap_or(0);
        Self {
            state: state as usize,
            last_sample: sampled_at << 2 | sample.state as u64,
            readings: readings(sample, gpus),
            gpus: u32::try_from(gpus.len()).unwrap_or(u32::MAX),
            oldest_in_flight_us: sample.oldest_in_flight_us.unwrap_or(0),
            restarts: sample.restarts,
            load_us: sample.load_us.unwrap_or(0),
            dropped: sample.dropped,
            is_own,
        }
    }

    /// How many readings the sample has.
    pub fn n_readings(&self) -> u64 {
        self.readings.iter().flatten().count() as u64
    }

    /// Adds `covered_us` of the sample's interval to a window; `is_end` for the one that the interval ends in.
    pub fn record(&self, window: &mut ReplicaWindow, covered_us: u64, is_end: bool) {
        window.samples += u64::from(is_end);
        window.state_us[self.state] += covered_us;
        if !self.is_own {
            return;
        }
        if is_end {
            window.last_sample = window.last_sample.max(self.last_sample);
        }
        if covered_us == 0 {
            return;
        }
        let seconds = covered_us as f64 / 1e6;
        for (reading, value) in window.readings.iter_mut().zip(&self.readings) {
            if let Some((mean, max)) = *value {
                reading.integral += mean * seconds;
                reading.covered_us += covered_us;
                reading.max = reading.max.max(max);
            }
        }
        window.gpus_max = window.gpus_max.max(self.gpus);
        window.oldest_in_flight_us_max =
            window.oldest_in_flight_us_max.max(self.oldest_in_flight_us);
        window.restarts_max = window.restarts_max.max(self.restarts);
        window.load_us_max = window.load_us_max.max(self.load_us);
        window.dropped_max = window.dropped_max.max(self.dropped);
    }
}

fn readings(
    sample: &ReplicaSample<'_>,
    gpus: &[GpuReading],
) -> [Option<(f64, f64)>; ReadingKind::N] {
    let mut readings = [None; ReadingKind::N];
    let mut set = |kind: ReadingKind, value: Option<(f64, f64)>| readings[kind as usize] = value;
    let alone = |value: Option<f64>| value.map(|value| (value, value));
    let bytes = |value: Option<u64>| value.map(|value| value as f64);
    let (cpu, cpu_limit) = (sample.cpu_cores_used, sample.cpu_cores_limit);
    let (memory, memory_limit) = (bytes(sample.memory_bytes), bytes(sample.memory_limit_bytes));
    set(ReadingKind::CpuCores, alone(cpu));
    set(ReadingKind::CpuLimit, alone(cpu_limit));
    set(ReadingKind::CpuRatio, alone(ratio(cpu, cpu_limit)));
    set(ReadingKind::MemoryBytes, alone(memory));
    set(ReadingKind::MemoryLimit, alone(memory_limit));
    set(ReadingKind::MemoryRatio, alone(ratio(memory, memory_limit)));
    set(
        ReadingKind::GpuUtilization,
        over_gpus(gpus, |gpu| gpu.utilization),
    );
    set(
        ReadingKind::GpuSmActivity,
        over_gpus(gpus, |gpu| gpu.sm_activity),
    );
    set(
        ReadingKind::GpuMemoryUsed,
        over_gpus(gpus, |gpu| bytes(gpu.memory_used_bytes)),
    );
    set(
        ReadingKind::GpuMemoryTotal,
        over_gpus(gpus, |gpu| bytes(gpu.memory_total_bytes)),
    );
    set(
        ReadingKind::GpuMemoryRatio,
        over_gpus(gpus, |gpu| {
            ratio(bytes(gpu.memory_used_bytes), bytes(gpu.memory_total_bytes))
        }),
    );
    let now = sample.in_flight.map(f64::from);
    let in_flight = sample
        .in_flight_mean
        .or(now)
        .map(|mean| (mean, now.map_or(mean, |now| now.max(mean))));
    set(ReadingKind::InFlight, in_flight);
    readings
}

/// Used over limit; none without a limit above 0.
fn ratio(used: Option<f64>, limit: Option<f64>) -> Option<f64> {
    let limit = limit.filter(|&limit| limit > 0.0)?;
    Some(used? / limit)
}

/// Mean and maximum over the GPUs that have the reading.
fn over_gpus(
    gpus: &[GpuReading],
    reading: impl Fn(&GpuReading) -> Option<f64>,
) -> Option<(f64, f64)> {
    let (mut n, mut sum, mut max) = (0_u32, 0.0, 0.0_f64);
    for value in gpus.iter().filter_map(reading) {
        n += 1;
        sum += value;
        max = max.max(value);
    }
    (n > 0).then(|| (sum / f64::from(n), max))
}
