//! A control group with half a core and a limit of memory, in which a process spins and holds 100 MiB.

use std::time::Instant;

use super::{Pipeline, STEP_S, number};
use crate::agent_resources::containers::{Group, HELD, HOLD_AND_SPIN, Spinning};
use crate::support::space::CATCH_UP;
use crate::support::wait_for;

const DEPLOYMENT: &str = "half-core";
const QUOTA: f64 = 0.5;
const LIMIT: u64 = 256 << 20;

/// The group's counter of CPU time as the test itself reads it, over and over.
struct Truth {
    began: Instant,
    began_us: i64,
    /// Microseconds since 1970, and nanoseconds of CPU.
    readings: Vec<(i64, u64)>,
}

impl Truth {
    fn read(&mut self, group: &Group) {
        let elapsed = i64::try_from(self.began.elapsed().as_micros()).expect("not that long");
        self.readings
            .push((self.began_us + elapsed, group.number(1, "cpuacct.usage")));
    }

    fn used_ns(&self, at_us: i64) -> Option<f64> {
        let after = self.readings.iter().position(|&(us, _)| us >= at_us)?;
        let (us, ns) = self.readings[after];
        let (us_before, ns_before) = *self.readings.get(after.checked_sub(1)?)?;
        let share = (at_us - us_before) as f64 / (us - us_before).max(1) as f64;
        Some(ns_before as f64 + share * (ns - ns_before) as f64)
    }

    /// Cores over the step that begins here; none where it was not all seen.
    fn cores(&self, at_s: i64) -> Option<f64> {
        let from = self.used_ns(at_s * 1_000_000)?;
        let to = self.used_ns((at_s + STEP_S) * 1_000_000)?;
        Some((to - from) / (STEP_S as f64 * 1e9))
    }
}

pub fn check(pipeline: &Pipeline) {
    let Some(group) = Group::new("sql") else {
        eprintln!("skipped: no control group of version 1 can be made here");
        return;
    };
    group.set(0, "cpu.cfs_quota_us", "50000");
    group.set(2, "memory.limit_in_bytes", &LIMIT.to_string());
    let spinning = Spinning::start(&format!(
        "{} exec python3 -c '{HOLD_AND_SPIN}'",
        group.joins()
    ));
    wait_for("it holds its memory", CATCH_UP, || {
        match group.number(2, "memory.usage_in_bytes") {
            bytes if bytes >= HELD => Ok(()),
            bytes => Err(bytes.to_string()),
        }
    });
    let path = group.folder(2).display().to_string();
    let agent = pipeline.agent(DEPLOYMENT, &["--cgroup", &path, "--gpus", "none"]);
    let mut truth = Truth {
        began: Instant::now(),
        began_us: modelmeter::clock::now_us(),
        readings: Vec::new(),
    };
    let (row, cores) = wait_for("a whole step is in the view", CATCH_UP, || {
        truth.read(&group);
        let rows = pipeline.rows("cpu", DEPLOYMENT)?;
        // a step has begun to be written before its last sample is: the next one says that it is over
        let whole = rows.iter().rev().skip(1);
        let mut whole = whole.filter_map(|row| {
            let at = number(row, "at")? as i64;
            Some((row.clone(), truth.cores(at)?))
        });
        whole.next().ok_or_else(|| format!("{rows:?}"))
    });
    let of = |column: &str| number(&row, column).unwrap_or_else(|| panic!("{column}: {row:?}"));
    let used = of("usage_cores_avg");
    // A reading is taken some milliseconds after its second began, one in ten of them outside of the step.
    assert!((used - cores).abs() < 0.05, "{used}, in truth {cores}");
    // a mean over time, whose sums round
    let is = |column: &str, value: f64| {
        let found = of(column);
        assert!(
            (found / value - 1.0).abs() < 1e-9,
            "{column}: {found}, in truth {value}"
        );
    };
    is("limit_cores_avg", QUOTA);
    is("usage_ratio_avg", used / QUOTA);
    let memory = of("memory_bytes_avg");
    let held = HELD as f64;
    assert!(
        (held..held + (64 << 20) as f64).contains(&memory),
        "{memory}"
    );
    is("memory_limit_bytes_avg", LIMIT as f64);
    is("memory_ratio_avg", memory / LIMIT as f64);
    is("replicas", 1.0);
    drop(agent);
    drop(spinning);
}
