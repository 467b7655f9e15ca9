//! A group of version 1: each controller in a hierarchy of its own, which may lack the group.

use std::path::Path;

use super::super::usage::{Throttling, UnreadLimits, Usage};
use super::Place;
use super::files::{Unread, keyed, limit_number, number, text};

const NANOS: f64 = 1e9;
const NANOS_IN_MICRO: u64 = 1000;

/// Without a limit the kernel shows the most that it can count: `i64::MAX` rounded down to a page, of whatever size.
/// No machine holds an exbibyte.
const NO_LIMIT_FROM: u64 = 1 << 60;

pub fn read(cpu: Option<&Place>, cpuacct: Option<&Place>, memory: Option<&Place>) -> Usage {
    let cpu_limit = cpu.map_or(Ok(None), |place| place.tightest(quota_cores));
    let memory_limit = memory.map_or(Ok(None), |place| place.tightest(limit_bytes));
    let used_ns: Option<u64> = cpuacct.and_then(|place| number(&place.folder, "cpuacct.usage"));
    Usage {
        cpu_seconds: used_ns.map(|ns| ns as f64 / NANOS),
        cpu_limit_cores: cpu_limit.unwrap_or(None),
        memory_bytes: memory.and_then(|place| working_set(&place.folder)),
        memory_limit_bytes: memory_limit.unwrap_or(None),
        unread_limits: UnreadLimits {
            cpu: cpu_limit.is_err(),
            memory: memory_limit.is_err(),
        },
        throttling: cpu.and_then(|place| throttling(&place.folder)),
    }
}

/// A quota of -1 is none.
fn quota_cores(folder: &Path) -> Result<Option<f64>, Unread> {
    let quota: Option<f64> = limit_number(folder, "cpu.cfs_quota_us")?;
    let Some(quota) = quota.filter(|&quota| quota > 0.0) else {
        return Ok(None);
    };
    let period: Option<f64> = limit_number(folder, "cpu.cfs_period_us")?;
    let period = period.filter(|&period| period > 0.0).ok_or(Unread)?;
    Ok(Some(quota / period))
}

fn limit_bytes(folder: &Path) -> Result<Option<u64>, Unread> {
    let bytes = limit_number(folder, "memory.limit_in_bytes")?;
    Ok(bytes.filter(|&bytes: &u64| bytes < NO_LIMIT_FROM))
}

fn working_set(folder: &Path) -> Option<u64> {
    let usage: u64 = number(folder, "memory.usage_in_bytes")?;
    let inactive = keyed(&text(folder, "memory.stat")?, "total_inactive_file")?;
    Some(usage.saturating_sub(inactive))
}

fn throttling(folder: &Path) -> Option<Throttling> {
    let stat = text(folder, "cpu.stat")?;
    Some(Throttling {
        n_periods: keyed(&stat, "nr_periods")?,
        n_throttled: keyed(&stat, "nr_throttled")?,
        throttled_us: keyed(&stat, "throttled_time")? / NANOS_IN_MICRO,
    })
}
