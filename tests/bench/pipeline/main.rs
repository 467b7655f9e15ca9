//! `make bench`: what one event costs the pipeline, in CPU time and in instructions, step by step on fixed inputs, and all
//! of it beside librdkafka's batch call doing nothing on the same topic in the same run.
//!
//! It measures and says so; it asserts no time. What it does assert is that nothing was lost on the way: a benchmark of a
//! pipeline that drops events would be a fast one.

mod call;
mod callgrind;
mod cpu;
mod end_to_end;
mod input;
mod part;
mod report;
mod steps;

use clap::{Parser, Subcommand};
use input::Shape;
use report::Report;

#[derive(Parser)]
struct Cli {
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Only decode, fold and encode, on messages in memory.
    Steps,
    /// Only the processor beside the batch call, on a real broker and engine.
    EndToEnd,
    /// What runs under callgrind.
    #[command(hide = true)]
    Rounds { shape: Shape, n_rounds: usize },
    /// What the processor is measured beside.
    #[command(hide = true)]
    Call { bootstrap: String, topic: String },
}

fn main() -> anyhow::Result<()> {
    let (is_steps, is_end_to_end) = match Cli::parse().mode {
        None => (true, true),
        Some(Mode::Steps) => (true, false),
        Some(Mode::EndToEnd) => (false, true),
        Some(Mode::Rounds { shape, n_rounds }) => {
            println!("{}", steps::run_counted(shape, n_rounds));
            return Ok(());
        }
        Some(Mode::Call { bootstrap, topic }) => {
            let (n_messages, cpu_ns) = call::run(&bootstrap, &topic)?;
            println!("{n_messages} {cpu_ns}");
            return Ok(());
        }
    };
    modelmeter::processor::memory::keep_what_was_used();
    let mut report = Report::default();
    if is_steps {
        measure_steps(&mut report)?;
    }
    if is_end_to_end {
        end_to_end::measure(&mut report)?;
    }
    println!("\nwritten to {}", report.write()?.display());
    Ok(())
}

fn measure_steps(report: &mut Report) -> anyhow::Result<()> {
    let is_counted = match callgrind::find() {
        Ok(()) => true,
        Err(reason) => {
            report.leave_out(format!("instructions an event: {reason}"));
            false
        }
    };
    for shape in Shape::ALL {
        let costs = steps::measure(shape);
        let instructions = is_counted.then(|| callgrind::measure(shape)).transpose()?;
        report.add_steps(&costs, instructions);
    }
    Ok(())
}
