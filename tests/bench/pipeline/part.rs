//! Roles of the binary as child processes: started on chosen cores, waited for with a deadline, and gone with the benchmark.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::cpu;

/// A broker formats its storage and starts a JVM before it answers; the machine may be busy.
const START: Duration = Duration::from_secs(90);

/// Longer than every role's own deadline for an orderly end.
const STOP: Duration = Duration::from_secs(30);

/// Between two looks at a child that ends.
const POLL: Duration = Duration::from_millis(20);

/// Lines of stdout that wait; a role prints a handful.
const LINES: usize = 64;

/// Lines of a log that a failure shows.
const TAIL: usize = 30;

/// A running role.
pub struct Part {
    name: &'static str,
    child: Child,
    log: PathBuf,
    announced: Receiver<String>,
}

/// The binary with these arguments, run from the repository so that the default `--parts` holds.
fn modelmeter(arguments: &[&str], cores: &[usize]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelmeter"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    cpu::confine(&mut command, cores);
    command
}

/// Runs a role that ends by itself.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(arguments: &[&str], cores: &[usize]) -> anyhow::Result<()> {
    let output = modelmeter(arguments, cores)
        .output()
        .context("the binary does not start")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "modelmeter {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

impl Part {
    /// Starts a role; its log goes into `dir`.
    ///
    /// # Errors
    /// When the binary does not start.
    pub fn start(
        name: &'static str,
        arguments: &[&str],
        cores: &[usize],
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let mut command = modelmeter(arguments, cores);
        command.stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("the binary does not start")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, announced) = sync_channel(LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // a full queue only means that nobody waits for announcements any more
                let _ = sender.try_send(line);
            }
        });
        Ok(Self {
            name,
            child,
            log,
            announced,
        })
    }

    /// Waits for the line that says where the role listens, and gives what follows it.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn address(&self) -> anyhow::Result<String> {
        let prefix = format!("{}: listening on ", self.name);
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.announced.recv_timeout(left) else {
                bail!("{} does not listen:\n{}", self.name, self.tail());
            };
            if let Some(address) = line.strip_prefix(&prefix) {
                return Ok(address.to_owned());
            }
        }
    }

    /// CPU-nanoseconds since its start.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        cpu::ns_of(self.child.id())
            .with_context(|| format!("{} has ended:\n{}", self.name, self.tail()))
    }

    /// The log's last lines.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Part {
    /// SIGTERM, and SIGKILL where that does not help in time.
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        let deadline = Instant::now() + STOP;
        // SAFETY: kill takes plain numbers; the pid is of a child that was not reaped yet, or `try_wait` says so first.
        if matches!(self.child.try_wait(), Ok(None))
            && unsafe { libc::kill(pid, libc::SIGTERM) } == 0
        {
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(POLL);
            }
        }
        // both fail only where it has ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
