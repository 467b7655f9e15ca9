//! Keeps the parts running: starts each as a process of its own, waits until it answers, and starts
//! it again when it has died. What a part is, and in which order parts begin and end, is `up`'s.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::journal::Journal;
use crate::local::lock::FolderLock;
use crate::local::probe;
use crate::local::process::{Launch, Process, Spawner, Stopped, ending};

/// A part that has never answered is given up after this many starts, since then its reason is
/// worth more than another try. One that has answered once is started again for ever.
const FIRST_STARTS: u32 = 3;

/// From a part's start to its first answer; `modelmeter kafka` allows itself 120 s of it.
const START_DEADLINE: Duration = Duration::from_secs(150);

/// How often a log's size is looked at: at the worst rate seen, 1 MiB a second, it doubles its bound.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);

/// The parts that `up` is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Kafka,
    ClickHouse,
    Processor,
    Dashboard,
}

impl Name {
    /// The part's subcommand, which is also its name in logs and in the ready file.
    pub fn role(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Processor => "processor",
            Self::Dashboard => "dashboard",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Not running, or not answering yet.
    #[default]
    Down,
    /// Running as this process, and it has answered.
    Up { pid: u32 },
    /// It never answered, and is not started again.
    GivenUp { reason: String },
}

/// The state of every part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct States {
    kafka: State,
    clickhouse: State,
    processor: State,
    dashboard: State,
}

impl States {
    pub fn of(&self, name: Name) -> &State {
        match name {
            Name::Kafka => &self.kafka,
            Name::ClickHouse => &self.clickhouse,
            Name::Processor => &self.processor,
            Name::Dashboard => &self.dashboard,
        }
    }

    pub fn set(&mut self, name: Name, state: State) {
        match name {
            Name::Kafka => self.kafka = state,
            Name::ClickHouse => self.clickhouse = state,
            Name::Processor => self.processor = state,
            Name::Dashboard => self.dashboard = state,
        }
    }

    /// None unless the part is up.
    pub fn pid(&self, name: Name) -> Option<u32> {
        match self.of(name) {
            State::Up { pid } => Some(*pid),
            State::Down | State::GivenUp { .. } => None,
        }
    }
}

/// How a part shows that it serves.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// The broker at this port names its cluster.
    Kafka { port: u16 },
    /// `GET path` at this port is 200.
    Http { port: u16, path: &'static str },
}

impl Answer {
    async fn given(self) -> bool {
        match self {
            Self::Kafka { port } => probe::kafka_cluster_id(port).await.is_some(),
            Self::Http { port, path } => {
                probe::http_status(port, path).await == Some(StatusCode::OK)
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct Part {
    pub name: Name,
    /// Behind the program: the subcommand and its flags.
    pub arguments: Vec<OsString>,
    pub answer: Answer,
    /// From the word to stop until it is killed.
    pub stop_patience: Duration,
}

/// What every part is started with.
pub struct Host {
    pub program: PathBuf,
    pub spawner: Spawner,
    /// Handed to every child: it is free when the last of them is gone.
    pub lock: FolderLock,
    pub logs: PathBuf,
}

/// Why a one-off command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot be started")]
    Start(#[from] io::Error),
    #[error("ended with {ending}; its log is {log}", log = .log.display())]
    Failed { ending: String, log: PathBuf },
}

/// These are set for roles that run alone; under `up` its own flags say where everything is.
const OWN_SETTINGS: [&str; 6] = [
    "MODELMETER_KAFKA",
    "MODELMETER_CLICKHOUSE",
    "MODELMETER_DATABASE",
    "MODELMETER_CLICKHOUSE_USER",
    "MODELMETER_CLICKHOUSE_PASSWORD",
    "MODELMETER_INSTANCE_ID",
];

impl Host {
    fn journal(&self, role: &str) -> Journal {
        Journal::new(&self.logs, role)
    }

    /// Starts a child whose words go to its log; also where they begin there.
    async fn spawn(&self, arguments: &[OsString], journal: &Journal) -> io::Result<(Process, u64)> {
        let (log, begins_at) = journal.open()?;
        let mut command = Command::new(&self.program);
        command.args(arguments).env("NO_COLOR", "1");
        for setting in OWN_SETTINGS {
            command.env_remove(setting);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = self
            .spawner
            .spawn(Launch::new(command).with_lock(&self.lock))
            .await?;
        Ok((process, begins_at))
    }

    /// Runs a command to its end. Cancelled, it kills it.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn run_once(&self, arguments: &[OsString], role: &str) -> Result<(), CommandError> {
        let journal = self.journal(role);
        let (mut process, begins_at) = self.spawn(arguments, &journal).await?;
        let ended = process.wait().await?;
        if ended.success() {
            return Ok(());
        }
        show_last_lines(role, &journal, begins_at);
        let log = journal.path().to_owned();
        Err(CommandError::Failed {
            ending: ending(ended),
            log,
        })
    }

    /// Begins to keep a part running; its state is told through `states`.
    pub fn supervise(
        self: &Arc<Self>,
        part: Part,
        states: Arc<watch::Sender<States>>,
    ) -> Supervised {
        let stop = CancellationToken::new();
        let watcher = Watcher {
            journal: self.journal(part.name.role()),
            part,
            host: Arc::clone(self),
            states,
        };
        let task = tokio::spawn(watcher.run(stop.clone()));
        Supervised { stop, task }
    }
}

fn show_last_lines(role: &str, journal: &Journal, begins_at: u64) {
    for line in journal.last_lines(begins_at) {
        eprintln!("  {role} | {line}");
    }
}

/// A part that is kept running until `stop`.
pub struct Supervised {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Ends the part within its patience.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a supervisor ended badly");
        }
    }
}

/// How one run of a part ended.
enum RunEnd {
    Told,
    ByItself {
        reason: String,
        answered_for: Option<Duration>,
        begins_at: u64,
    },
}

struct Watcher {
    part: Part,
    journal: Journal,
    host: Arc<Host>,
    states: Arc<watch::Sender<States>>,
}

impl Watcher {
    async fn run(self, stop: CancellationToken) {
        let role = self.part.name.role();
        let mut backoff = Backoff::default();
        let mut ever_answered = false;
        loop {
            let ended = self.run_process(&stop).await;
            self.set(State::Down);
            let RunEnd::ByItself {
                reason,
                answered_for,
                begins_at,
            } = ended
            else {
                return;
            };
            ever_answered |= answered_for.is_some();
            let wait = backoff.after_failure(answered_for.unwrap_or_default());
            show_last_lines(role, &self.journal, begins_at);
            let log = self.journal.path().display();
            if !ever_answered && backoff.n_failures() >= FIRST_STARTS {
                tracing::error!(part = role, %reason, %log, "part never answered, given up");
                return self.set(State::GivenUp { reason });
            }
            let again_in_ms = wait.as_millis();
            tracing::warn!(part = role, %reason, %log, again_in_ms, "part ended, starting it again");
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn set(&self, state: State) {
        self.states.send_if_modified(|states| {
            let changed = *states.of(self.part.name) != state;
            states.set(self.part.name, state);
            changed
        });
    }

    async fn run_process(&self, stop: &CancellationToken) -> RunEnd {
        let by_itself = |reason, answered_for, begins_at| RunEnd::ByItself {
            reason,
            answered_for,
            begins_at,
        };
        let (mut process, begins_at) =
            match self.host.spawn(&self.part.arguments, &self.journal).await {
                Ok(started) => started,
                // Nothing has been written, so there are no last lines.
                Err(error) => {
                    return by_itself(format!("cannot be started: {error}"), None, u64::MAX);
                }
            };
        let answered = tokio::select! {
            ended = process.wait() => return by_itself(reason(ended), None, begins_at),
            () = stop.cancelled() => return self.end(process).await,
            answered = self.answered() => answered,
        };
        if !answered {
            self.end(process).await;
            let reason = format!("no answer within {} s", START_DEADLINE.as_secs());
            return by_itself(reason, None, begins_at);
        }
        let since = Instant::now();
        self.set(State::Up { pid: process.pid() });
        tracing::info!(
            part = self.part.name.role(),
            pid = process.pid(),
            "part answers"
        );
        tokio::select! {
            ended = process.wait() => by_itself(reason(ended), Some(since.elapsed()), begins_at),
            () = stop.cancelled() => self.end(process).await,
            () = self.keep_log_small() => unreachable!("the log is looked after for ever"),
        }
    }

    /// Waits for the first answer; false when it does not come in time.
    async fn answered(&self) -> bool {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if self.part.answer.given().await {
                return true;
            }
            sleep(probe::PROBE_INTERVAL).await;
        }
        false
    }

    async fn keep_log_small(&self) {
        let mut tick = interval(TRIM_INTERVAL);
        loop {
            tick.tick().await;
            if let Err(error) = self.journal.trim() {
                tracing::warn!(part = self.part.name.role(), %error, "log cannot be trimmed");
            }
        }
    }

    async fn end(&self, process: Process) -> RunEnd {
        let role = self.part.name.role();
        match process.stop(self.part.stop_patience).await {
            Ok(Stopped::InOrder) => {}
            Ok(Stopped::Killed) => {
                tracing::warn!(part = role, "part had not ended in time, killed")
            }
            Err(error) => tracing::warn!(part = role, %error, "part cannot be ended"),
        }
        RunEnd::Told
    }
}

fn reason(ended: io::Result<std::process::ExitStatus>) -> String {
    ended.map_or_else(|error| format!("cannot be waited for: {error}"), ending)
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
