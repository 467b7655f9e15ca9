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
    /// From the last fault of the round (from the restart, where something was away) until all that was logged by then was
    /// counted in the finest tables.
    recovered_alone: Vec<Duration>,
    recovered_in_pair: Vec<Duration>,
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
            let recovered = match faults {
                [_] => &mut tally.recovered_alone,
                _ => &mut tally.recovered_in_pair,
            };
            recovered.extend(outcome.recovered);
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
            "crash: {:<34} {:>6} {:>5} {:>7} {:>7} {:>23} {:>23}",
            "fault",
            "rounds",
            "lost",
            "doubled",
            "fenced",
            "alone: back in, most",
            "with another: in, most"
        );
        for (fault, tally) in &mut self.faults {
            println!(
                "crash: {fault:<34} {:>6} {:>5} {:>7} {:>7} {:>23} {:>23}",
                tally.rounds,
                tally.lost,
                tally.doubled,
                tally.fenced,
                median_and_most(&mut tally.recovered_alone),
                median_and_most(&mut tally.recovered_in_pair),
            );
        }
        for line in &self.lines {
            println!("crash: {line}");
        }
    }
}

fn median_and_most(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    let (Some(median), Some(most)) = (durations.get(durations.len() / 2), durations.last()) else {
        return "-".to_owned();
    };
    format!("{:.1} s, {:.1} s", median.as_secs_f64(), most.as_secs_f64())
}
