//! Instructions an event, counted by callgrind: they do not depend on the machine's speed or load, so that two of them
//! can be compared where two times cannot.
//!
//! The benchmark's own binary runs under it, counting inside one step's function alone. What one round costs is the
//! difference between three rounds and two: the first allocates what later ones find.

use std::io;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::cpu::{self, Cores};
use super::input::Shape;
use super::steps::Step;

/// Two rounds and then three: the first is not like the others.
const ROUNDS: [usize; 2] = [2, 3];

/// Whether callgrind is there.
///
/// # Errors
/// What to do about it where it is not.
pub fn find() -> Result<(), String> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("valgrind does not run ({})", output.status)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("valgrind is not installed (Debian's package valgrind)".to_owned())
        }
        Err(error) => Err(format!("valgrind does not run ({error})")),
    }
}

/// Instructions an event of each step.
///
/// # Errors
/// When a run under callgrind fails, or counts nothing.
pub fn measure(shape: Shape) -> anyhow::Result<[f64; 3]> {
    let mut per_event = [0.0; 3];
    for step in Step::ALL {
        let (few, n_events) = count(shape, step, ROUNDS[0])?;
        let (more, _) = count(shape, step, ROUNDS[1])?;
        let n_rounds = (ROUNDS[1] - ROUNDS[0]) as f64;
        ensure!(
            more > few && few > 0,
            "callgrind counted nothing in {}",
            step.symbol()
        );
        per_event[step as usize] = (more - few) as f64 / n_rounds / n_events as f64;
    }
    Ok(per_event)
}

/// Instructions inside one step's function, and the events of a round.
fn count(shape: Shape, step: Step, n_rounds: usize) -> anyhow::Result<(u64, u64)> {
    let binary = std::env::current_exe().context("the benchmark's own binary is not found")?;
    let mut command = Command::new("valgrind");
    // it ends with this process, whatever ends that
    cpu::confine(&mut command, &Cores::split()?.others);
    let output = command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={}", step.symbol()))
        .arg(binary)
        .args(["rounds", shape.name(), &n_rounds.to_string()])
        .output()
        .context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind ended with {}:\n{said}", output.status);
    }
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, number)| number.trim().parse().ok());
    let n_events = String::from_utf8_lossy(&output.stdout).trim().parse();
    Ok((
        collected.with_context(|| format!("valgrind told no count:\n{said}"))?,
        n_events.context("the run under valgrind told no events")?,
    ))
}
