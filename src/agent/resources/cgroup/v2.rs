//! A group of version 2: all controllers in one folder.

use std::path::Path;

use super::super::usage::{Throttling, UnreadLimits, Usage};
use super::Place;
use super::files::{Unread, keyed, limit, number, text};

const MICROS: f64 = 1e6;

/// In the place of a number.
const NO_LIMIT: &str = "max";

pub fn read(place: &Place) -> Usage {
    let folder = &place.folder;
    let cpu = text(folder, "cpu.stat");
    let cpu = cpu.as_deref();
    let cpu_limit = place.tightest(quota_cores);
    let memory_limit = place.tightest(limit_bytes);
    Usage {
        cpu_seconds: cpu
            .and_then(|stat| keyed(stat, "usage_usec"))
            .map(|us| us as f64 / MICROS),
        cpu_limit_cores: cpu_limit.unwrap_or(None),
        memory_bytes: working_set(folder),
        memory_limit_bytes: memory_limit.unwrap_or(None),
        unread_limits: UnreadLimits {
            cpu: cpu_limit.is_err(),
            memory: memory_limit.is_err(),
        },
        throttling: cpu.and_then(throttling),
    }
}

/// `cpu.max` is `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn quota_cores(folder: &Path) -> Result<Option<f64>, Unread> {
    let Some(text) = limit(folder, "cpu.max")? else {
        return Ok(None);
    };
    let (quota, period) = text.split_once(' ').ok_or(Unread)?;
    if quota == NO_LIMIT {
        return Ok(None);
    }
    let number = |text: &str| text.parse::<f64>().ok().filter(|&number| number > 0.0);
    let (quota, period) = number(quota).zip(number(period)).ok_or(Unread)?;
    Ok(Some(quota / period))
}

fn limit_bytes(folder: &Path) -> Result<Option<u64>, Unread> {
    let text = limit(folder, "memory.max")?.filter(|text| text != NO_LIMIT);
    text.map(|text| text.parse().map_err(|_| Unread))
        .transpose()
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
