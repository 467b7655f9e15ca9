//! What was measured, as a table to read and as JSON to compare. It judges nothing: no time is asserted, since it is the
//! machine's as much as the program's.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::steps::{Costs, Step};

/// Of the rate at which the batch call alone reads.
pub const AIM_SHARE_OF_CALL: f64 = 0.8;

/// CPU-nanoseconds an event, all of the processor on one core.
pub const AIM_NS_PER_EVENT: f64 = 65.0;

/// Everything that one run found out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub steps: Vec<StepCost>,
    pub end_to_end: Vec<EndToEnd>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct StepCost {
    pub input: &'static str,
    pub step: &'static str,
    pub cpu_ns_per_event: f64,
    pub instructions_per_event: Option<f64>,
    /// Events of a round, of which the time is the median.
    pub events: usize,
}

/// Medians of several rounds.
#[derive(Debug, Serialize)]
pub struct EndToEnd {
    pub input: &'static str,
    pub messages: u64,
    pub events: u64,
    pub rounds: usize,
    pub call_ns_per_event: f64,
    pub processor_ns_per_event: f64,
    /// The processor's rate on one core, as a part of the call's.
    pub share_of_call: f64,
    /// The engine's CPU meanwhile, on the other cores: it inserts, and merges what was inserted.
    pub engine_ns_per_event: f64,
    /// The inverse of the rate at which all of it together caught up.
    pub wall_ns_per_event: f64,
    pub aim_share_of_call: f64,
    pub aim_ns_per_event: f64,
}

impl Report {
    pub fn add_steps(&mut self, costs: &Costs, instructions: Option<[f64; 3]>) {
        println!(
            "\n{:<8} {:<8} {:>16} {:>22}",
            "input", "step", "CPU-ns an event", "instructions an event"
        );
        for step in Step::ALL {
            let cost = StepCost {
                input: costs.shape.name(),
                step: step.name(),
                cpu_ns_per_event: costs.ns_per_event[step as usize],
                instructions_per_event: instructions.map(|counted| counted[step as usize]),
                events: costs.n_events,
            };
            line(
                cost.input,
                cost.step,
                cost.cpu_ns_per_event,
                cost.instructions_per_event,
            );
            self.steps.push(cost);
        }
        let ns = costs.ns_per_event.iter().sum();
        let counted = instructions.map(|counted| counted.iter().sum());
        line(costs.shape.name(), "all", ns, counted);
        println!(
            "         {} events and {} rows a round",
            costs.n_events, costs.n_rows
        );
    }

    pub fn add_end_to_end(&mut self, found: EndToEnd) {
        println!(
            "\n{}: {} events in {} messages, one core, medians of {} rounds",
            found.input, found.events, found.messages, found.rounds
        );
        println!(
            "  the batch call, doing nothing {:>8.1} CPU-ns an event",
            found.call_ns_per_event
        );
        println!(
            "  the processor                 {:>8.1} CPU-ns an event (aim {AIM_NS_PER_EVENT})",
            found.processor_ns_per_event
        );
        println!(
            "  its rate beside the call's    {:>8.0} %              (aim {:.0} %)",
            found.share_of_call * 100.0,
            AIM_SHARE_OF_CALL * 100.0
        );
        println!(
            "  the engine meanwhile          {:>8.1} CPU-ns an event, and together {:.0} events a second",
            found.engine_ns_per_event,
            1e9 / found.wall_ns_per_event
        );
        self.end_to_end.push(found);
    }

    pub fn leave_out(&mut self, what: String) {
        println!("\nleft out: {what}");
        self.left_out.push(what);
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        // cargo gives the target directory's `tmp`
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
        let folder = target
            .context("the target directory has no name")?
            .join("bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("pipeline.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

fn line(input: &str, step: &str, ns: f64, instructions: Option<f64>) {
    let counted = instructions.map_or("-".to_owned(), |counted| format!("{counted:.0}"));
    println!("{input:<8} {step:<8} {ns:>16.1} {counted:>22}");
}
