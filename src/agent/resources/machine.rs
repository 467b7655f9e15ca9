//! The whole machine, where a replica has it alone: `/proc/stat` and `/proc/meminfo`. Its limits are what it has.

use std::fs;
use std::io;

use super::usage::Usage;

/// Clock ticks a second in `/proc/stat`.
const TICKS: f64 = 100.0;
const KIBI: u64 = 1024;

/// # Errors
/// When `/proc` cannot be read.
pub fn read() -> io::Result<Usage> {
    let stat = fs::read_to_string("/proc/stat")?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let total = kib(&meminfo, "MemTotal:");
    let available = kib(&meminfo, "MemAvailable:");
    Ok(Usage {
        cpu_seconds: busy_ticks(&stat).map(|ticks| ticks as f64 / TICKS),
        cpu_limit_cores: Some(n_cores(&stat)).filter(|&cores| cores > 0.0),
        memory_bytes: total
            .zip(available)
            .map(|(total, available)| total.saturating_sub(available)),
        memory_limit_bytes: total,
        ..Usage::default()
    })
}

/// User, nice, system, irq and softirq: not idle, not waiting for a disk, not another machine's (steal), and guests
/// are inside user already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6]
        .iter()
        .map(|&at: &usize| fields.get(at))
        .sum()
}

fn n_cores(stat: &str) -> f64 {
    stat.lines()
        .filter_map(|line| line.strip_prefix("cpu"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .count() as f64
}

fn kib(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
        .map(|kib: u64| kib * KIBI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_are_not_used() {
        let stat = "cpu  10 2 30 1000 500 4 5 600 7 8\ncpu0 5 1 15 500 250 2 2 300 3 4\ncpu1 5 1 15 500 250 2 3 300 4 4\nintr 1\n";
        assert_eq!(busy_ticks(stat), Some(51));
        assert_eq!(n_cores(stat), 2.0);
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let usage = read().expect("/proc is there");
        assert!(usage.cpu_seconds > Some(0.0));
        assert!(usage.memory_bytes > Some(0) && usage.memory_bytes < usage.memory_limit_bytes);
    }
}
