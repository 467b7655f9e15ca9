//! The roles that the demo runs: this same program, each with a log of its own in the folder. Their last words are shown when
//! they end badly.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::process::Command;

use crate::local::process::{Launch, Process, Spawner, Stopped, ending};

/// Longer than `up` gives its own parts one after another.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// Lines of a log that are shown when its writer has ended badly.
const LAST_LINES: usize = 15;

/// These are set for roles that run alone; in a demo its own flags say where everything is.
const OWN_SETTINGS: [&str; 5] = [
    "MODELMETER_KAFKA",
    "MODELMETER_CLICKHOUSE",
    "MODELMETER_DATABASE",
    "MODELMETER_CLICKHOUSE_USER",
    "MODELMETER_CLICKHOUSE_PASSWORD",
];

pub struct Children {
    program: PathBuf,
    spawner: Spawner,
    logs: PathBuf,
}

impl Children {
    /// # Errors
    /// When the logs' folder cannot be made.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)
            .with_context(|| format!("the folder {} cannot be made", logs.display()))?;
        Ok(Self {
            program: std::env::current_exe().context("this program's own file")?,
            spawner: Spawner::start()?,
            logs,
        })
    }

    /// Starts a role.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, role: &'static str, arguments: Vec<String>) -> anyhow::Result<Child> {
        let log = self.logs.join(format!("demo-{role}.log"));
        // each run begins it anew, so that its last lines are this run's
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&log)
            .with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(arguments).env("NO_COLOR", "1");
        for setting in OWN_SETTINGS {
            command.env_remove(setting);
        }
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = self
            .spawner
            .spawn(Launch::new(command))
            .await
            .with_context(|| format!("`modelmeter {role}` cannot be started"))?;
        Ok(Child { role, process, log })
    }
}

/// A running role. Dropping it kills it.
pub struct Child {
    role: &'static str,
    process: Process,
    log: PathBuf,
}

impl Child {
    /// Waits until it ends, which it was not meant to: the reason. May be cancelled and called again.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.process.wait().await {
            Ok(status) => {
                self.show_last_lines();
                anyhow!("`modelmeter {}` ended with {}", self.role, ending(status))
            }
            Err(error) => error.into(),
        }
    }

    /// Waits until it has done its work. May be cancelled and called again.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn succeeded(&mut self) -> anyhow::Result<()> {
        let status = self.process.wait().await?;
        if status.success() {
            return Ok(());
        }
        self.show_last_lines();
        Err(anyhow!(
            "`modelmeter {}` ended with {}",
            self.role,
            ending(status)
        ))
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it cannot be told or waited for.
    pub async fn stop(self) -> anyhow::Result<()> {
        if self.process.stop(STOP_PATIENCE).await? == Stopped::Killed {
            tracing::warn!(role = self.role, "had not ended in time, killed");
        }
        Ok(())
    }

    fn show_last_lines(&self) {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("  {} | {line}", self.role);
        }
    }
}
