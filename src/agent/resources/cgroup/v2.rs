//! A group of version 2: all controllers in one folder.

use std::path::Path;

use super::super::usage::{Throttling, Usage};
use super::Place;
use super::files::{keyed, number, text};

const MICROS: f64 = 1e6;

pub fn read(place: &Place) -> Usage {
    let folder = &place.folder;
    let cpu = text(folder, "cpu.stat");
    let cpu = cpu.as_deref();
    Usage {
        cpu_seconds: cpu
            .and_then(|stat| keyed(stat, "usage_usec"))
            .map(|us| us as f64 / MICROS),
        cpu_limit_cores: place.tightest(quota_cores),
        memory_bytes: working_set(folder),
        memory_limit_bytes: place.tightest(|folder| number(folder, "memory.max")),
        throttling: cpu.and_then(throttling),
    }
}

/// `cpu.max` is `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn quota_cores(folder: &Path) -> Option<f64> {
    let text = text(folder, "cpu.max")?;
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

fn working_set(folder: &Path) -> Option<u64> {
    let current: u64 = number(folder, "memory.current")?;
    let inactive = keyed(&text(folder, "memory.stat")?, "inactive_file")?;
    // The two files are read one after the other, so the second may be the larger.
    Some(current.saturating_sub(inactive))
}

fn throttling(stat: &str) -> Option<Throttling> {
    Some(Throttling {
        n_periods: keyed(stat, "nr_periods")?,
        n_throttled: keyed(stat, "nr_throttled")?,
        throttled_us: keyed(stat, "throttled_usec")?,
    })
}
