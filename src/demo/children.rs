//! The roles that the demo runs: this same program, each with a log of its own in the folder. Their last words are shown when
//! they end badly.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

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

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("{path} cannot be written", path = .path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("this program cannot start another")]
    Start(#[source] io::Error),
    #[error("`modelmeter {role}` cannot be started")]
    Role { role: String, source: io::Error },
    #[error("`modelmeter {role}` ended with {how}")]
    Ended { role: String, how: String },
    #[error("`modelmeter {role}` cannot be told to stop or waited for")]
    Lost { role: String, source: io::Error },
}

/// A role to be run.
pub struct Job {
    /// What it is called in the log's name and in errors: the role's word, and which one where there are several.
    pub name: String,
    pub arguments: Vec<String>,
    /// Set in its environment.
    pub settings: Vec<(&'static str, String)>,
    /// Where it runs; here without one.
    pub folder: Option<PathBuf>,
}

pub struct Children {
    program: PathBuf,
    spawner: Spawner,
    logs: PathBuf,
}

impl Children {
    /// # Errors
    /// When the logs' folder cannot be made.
    pub fn start(folder: &Path) -> Result<Self, ChildError> {
        let logs = folder.join("logs");
        if let Err(source) = fs::create_dir_all(&logs) {
            return Err(ChildError::Log { path: logs, source });
        }
        Ok(Self {
            program: std::env::current_exe().map_err(ChildError::Start)?,
            spawner: Spawner::start().map_err(ChildError::Start)?,
            logs,
        })
    }

    /// Starts a role.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, role: &str, arguments: Vec<String>) -> Result<Child, ChildError> {
        self.start_job(Job {
            name: role.to_owned(),
            arguments,
            settings: Vec::new(),
            folder: None,
        })
        .await
    }

    /// Starts a role with settings and a folder of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_job(&self, job: Job) -> Result<Child, ChildError> {
        let role = job.name;
        let log = self
            .logs
            .join(format!("demo-{}.log", role.replace(' ', "-")));
        // each run begins it anew, so that its last lines are this run's
        let opened = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&log)
            .and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = opened.map_err(|source| ChildError::Log {
            path: log.clone(),
            source,
        })?;
        let mut command = Command::new(&self.program);
        command.args(job.arguments).env("NO_COLOR", "1");
        command.envs(job.settings);
        if let Some(folder) = job.folder {
            command.current_dir(folder);
        }
        for setting in OWN_SETTINGS {
            command.env_remove(setting);
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let process = self
            .spawner
            .spawn(Launch::new(command))
            .await
            .map_err(|source| ChildError::Role {
                role: role.clone(),
                source,
            })?;
        Ok(Child { role, process, log })
    }
}

/// A running role. Dropping it kills it.
pub struct Child {
    role: String,
    process: Process,
    log: PathBuf,
}

impl Child {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where all that it says goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until it ends, which it was not meant to: the reason. May be cancelled and called again.
    pub async fn ended(&mut self) -> ChildError {
        match self.process.wait().await {
            Ok(status) => self.has_ended(status),
            Err(source) => self.lost(source),
        }
    }

    /// Waits until it has done its work. May be cancelled and called again.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn succeeded(&mut self) -> Result<(), ChildError> {
        match self.process.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.has_ended(status)),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it cannot be told or waited for.
    pub async fn stop(self) -> Result<(), ChildError> {
        let role = self.role;
        match self.process.stop(STOP_PATIENCE).await {
            Ok(Stopped::Killed) => tracing::warn!(role, "had not ended in time, killed"),
            Ok(Stopped::InOrder) => {}
            Err(source) => return Err(ChildError::Lost { role, source }),
        }
        Ok(())
    }

    /// The error of an ending that was not meant; its last words go where a person sees them.
    fn has_ended(&self, status: ExitStatus) -> ChildError {
        self.show_last_lines();
        ChildError::Ended {
            role: self.role.clone(),
            how: ending(status),
        }
    }

    fn lost(&self, source: io::Error) -> ChildError {
        ChildError::Lost {
            role: self.role.clone(),
            source,
        }
    }

    fn show_last_lines(&self) {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("  {} | {line}", self.role);
        }
    }
}
