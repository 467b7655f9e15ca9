//! What the fault bench has seen, a line a fault; printed however the rounds end.

use std::collections::BTreeMap;
use std::time::Duration;

/// What one kind of fault came to.
#[derive(Default)]
struct Tally {
    rounds: u32,
    lost: u64,
    doubled: u64,
    fenced: u64,
    /// From the fault until all that was logged by then was counted in the finest tables.
    recovered: Vec<Duration>,
}

#[derive(Default)]
pub struct Report {
    faults: BTreeMap<String, Tally>,
    lines: Vec<String>,
}

/// What a round came to.
#[derive(Default, Clone, Copy)]
pub struct Outcome {
    pub lost: u64,
    pub doubled: u64,
    pub fenced: u64,
    pub recovered: Option<Duration>,
}

impl Report {
    /// Counts the round for each fault that struck in it.
    pub fn tell(&mut self, faults: &[String], outcome: Outcome) {
        for fault in faults {
            let tally = self.faults.entry(fault.clone()).or_default();
            tally.rounds += 1;
            tally.lost += outcome.lost;
            tally.doubled += outcome.doubled;
            tally.fenced += outcome.fenced;
            tally.recovered.extend(outcome.recovered);
        }
    }

    /// A figure that belongs to no single fault.
    pub fn say(&mut self, line: String) {
        self.lines.push(line);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        println!(
            "crash: {:<32} {:>6} {:>5} {:>7} {:>7} {:>12} {:>12}",
            "fault", "rounds", "lost", "doubled", "fenced", "back median", "back most"
        );
        for (fault, tally) in &mut self.faults {
            tally.recovered.sort_unstable();
            let of = |index: Option<usize>| {
                index
                    .and_then(|index| tally.recovered.get(index))
                    .map_or("-".to_owned(), |d| format!("{:.1} s", d.as_secs_f64()))
            };
            let n = tally.recovered.len();
            println!(
                "crash: {fault:<32} {:>6} {:>5} {:>7} {:>7} {:>12} {:>12}",
                tally.rounds,
                tally.lost,
                tally.doubled,
                tally.fenced,
                of(Some(n / 2)),
                of(n.checked_sub(1)),
            );
        }
        for line in &self.lines {
            println!("crash: {line}");
        }
    }
}
