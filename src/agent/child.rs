//! The model server as a child of the agent (`modelmeter agent … -- python serve.py`): started, sent on every signal
//! that the agent gets, and its exit code handed back as the agent's own.
//!
//! The child stands in a process group of its own, so that a terminal's Ctrl-C reaches it once, through the agent; it is
//! killed by the kernel when the agent is. It is not started again unless that was asked for: whoever supervises the
//! agent supervises the server.
//!
//! Told to end, the agent first lets the requests in flight end, and only then tells the server: what tells the agent to
//! end tells the server no earlier. A second signal is not kept back.
//!
//! When the server has ended, however it did, what is left of its process group is ended too: workers of a server that was
//! killed would keep its port and its GPU's memory, and answer in the place of the next one.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::orphans::Orphans;
use crate::local::process::{Launch, Process, Spawner, ending};

/// The wait before a restart: from the first, doubling with each failure in a row, to the last. A server that fails as
/// it starts costs a start a minute.
const FIRST_RESTART: Duration = Duration::from_secs(1);
const LAST_RESTART: Duration = Duration::from_secs(60);

/// A server that had run for this long begins anew: its failures are not one failure repeated.
const FORGIVEN_AFTER: Duration = Duration::from_secs(120);

/// Sent on to the server. Those that cannot be caught or speak of the agent's own children are not.
const FORWARDED: [i32; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// After one of these the server is meant to end, and is not started again.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// These end the agent in order, and so reach the server when the requests in flight have ended.
const KEPT_BACK: [i32; 2] = [libc::SIGTERM, libc::SIGINT];

/// What the server's group has left when the server is gone may take this long to end by itself; then it is killed.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// A shell's way to say that a signal ended a program: 128 and the signal's number.
const SIGNALLED: i32 = 128;

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("{program:?} cannot be started")]
    Start {
        program: OsString,
        #[source]
        source: io::Error,
    },
    #[error("no signal can be waited for")]
    Signals(#[source] io::Error),
    #[error("the server cannot be waited for")]
    Wait(#[source] io::Error),
    #[error("no command stands behind the two dashes")]
    Empty,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Restart {
    /// The agent ends with the server.
    #[default]
    Never,
    /// A server that ends with a code other than 0, or by a signal, is started again, unless the agent was told to end. That
    /// holds for a SIGTERM that somebody sent to the server itself, too: while the agent runs, its replica is meant to run.
    OnFailure,
}

/// The server that the agent starts, if any.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ChildArgs {
    /// Whether a server that failed is started again.
    #[arg(long, value_enum, default_value_t, env = "MODELMETER_RESTART")]
    pub restart: Restart,
    /// The model server's command, started by the agent.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What the child is just now. Handed on by a watch channel: counts, so that none is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildStatus {
    /// None before the first start, between an end and the next start, and at last.
    pub pid: Option<u32>,
    /// When the one that runs, or ran last, was started.
    pub started: Instant,
    pub restarts: u64,
    /// It was told to end.
    pub is_stopping: bool,
}

/// A started server.
#[derive(Debug)]
pub struct Wrapped {
    pub status: watch::Receiver<ChildStatus>,
    /// Ends with the server for good; gives the code that the agent shall end with.
    pub ended: JoinHandle<Result<u8, ChildError>>,
}

/// Starts the command. Must be called inside a tokio runtime; aborting `ended` kills the server. `drained` is to be cancelled
/// when the agent ends and no request is in flight any more: the server is told to end then.
///
/// # Errors
/// When it cannot be started, the first time; a later start that fails is a failure of the server.
pub async fn spawn(args: &ChildArgs, drained: CancellationToken) -> Result<Wrapped, ChildError> {
    if args.command.is_empty() {
        return Err(ChildError::Empty);
    }
    // Before the start, so that no signal falls between.
    let signals = Signals::new().map_err(ChildError::Signals)?;
    let spawner = Spawner::start().map_err(|source| args.not_started(source))?;
    let process = args.start(&spawner).await?;
    let (status, watched) = watch::channel(ChildStatus {
        pid: Some(process.pid()),
        started: Instant::now(),
        restarts: 0,
        is_stopping: false,
    });
    let keeper = Keeper {
        args: args.clone(),
        spawner,
        signals,
        orphans: Orphans::new().map_err(ChildError::Signals)?,
        status,
        drained,
        kept_back: None,
        wait: FIRST_RESTART,
    };
    Ok(Wrapped {
        status: watched,
        ended: tokio::spawn(keeper.run(process)),
    })
}

impl ChildArgs {
    async fn start(&self, spawner: &Spawner) -> Result<Process, ChildError> {
        let (program, arguments) = self.command.split_first().ok_or(ChildError::Empty)?;
        let mut command = Command::new(program);
        // In a process group of its own it could not read a terminal: it would stand still instead of failing.
        command.args(arguments).stdin(Stdio::null());
        spawner
            .spawn(Launch::new(command))
            .await
            .map_err(|source| self.not_started(source))
    }

    fn not_started(&self, source: io::Error) -> ChildError {
        ChildError::Start {
            program: self.command.first().cloned().unwrap_or_default(),
            source,
        }
    }
}

struct Keeper {
    args: ChildArgs,
    spawner: Spawner,
    signals: Signals,
    orphans: Orphans,
    status: watch::Sender<ChildStatus>,
    drained: CancellationToken,
    /// A signal that waits until the requests in flight have ended.
    kept_back: Option<i32>,
    wait: Duration,
}

impl Keeper {
    async fn run(mut self, mut process: Process) -> Result<u8, ChildError> {
        loop {
            let status = self.until_it_ends(&mut process).await?;
            let began = self.status.borrow().started;
            self.status.send_modify(|now| now.pid = None);
            self.end_group_of(&process).await;
            if !self.is_restarted_after(status) {
                return Ok(exit_code(status));
            }
            tracing::warn!(
                ending = ending(status),
                "the server failed and is started again"
            );
            if began.elapsed() >= FORGIVEN_AFTER {
                self.wait = FIRST_RESTART;
            }
            process = match self.start_again().await {
                Some(process) => process,
                // Told to end while there was no server.
                None => return Ok(exit_code(status)),
            };
        }
    }

    async fn until_it_ends(&mut self, process: &mut Process) -> Result<ExitStatus, ChildError> {
        let mut is_told = false;
        loop {
            tokio::select! {
                ended = process.wait() => return ended.map_err(ChildError::Wait),
                () = self.drained.cancelled(), if !is_told => {
                    is_told = true;
                    process.signal(self.kept_back.take().unwrap_or(libc::SIGTERM));
                    self.note(libc::SIGTERM);
                }
                number = self.signals.next() => {
                    if self.is_kept_back(number) {
                        self.kept_back = Some(number);
                    } else {
                        process.signal(number);
                    }
                    self.note(number);
                }
                () = self.orphans.next() => Orphans::reap(Some(process.pid())),
            }
        }
    }

    async fn end_group_of(&mut self, process: &Process) {
        // Those that ended with it are no processes that it left.
        Orphans::reap(None);
        let ending = process.end_group(GROUP_PATIENCE);
        tokio::pin!(ending);
        let had_left = loop {
            tokio::select! {
                had_left = &mut ending => break had_left,
                () = self.orphans.next() => Orphans::reap(None),
            }
        };
        if had_left {
            tracing::info!("processes that the server had left behind were ended");
        }
    }

    /// The first of those that end the agent, while requests may be in flight.
    fn is_kept_back(&self, number: i32) -> bool {
        KEPT_BACK.contains(&number) && self.kept_back.is_none() && !self.drained.is_cancelled()
    }

    fn note(&self, number: i32) {
        if ENDING.contains(&number) {
            self.status.send_modify(|now| now.is_stopping = true);
        }
    }

    fn is_restarted_after(&self, status: ExitStatus) -> bool {
        self.args.restart == Restart::OnFailure
            && !status.success()
            && !self.status.borrow().is_stopping
    }

    /// None where it was told to end meanwhile.
    async fn start_again(&mut self) -> Option<Process> {
        loop {
            let wait = self.wait;
            self.wait = (wait * 2).min(LAST_RESTART);
            let pause = sleep(wait);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = self.drained.cancelled() => return None,
                    number = self.signals.next() => {
                        self.note(number);
                        if self.status.borrow().is_stopping {
                            return None;
                        }
                    }
                }
            }
            match self.args.start(&self.spawner).await {
                Ok(process) => {
                    self.status.send_modify(|now| {
                        now.pid = Some(process.pid());
                        now.started = Instant::now();
                        now.restarts += 1;
                    });
                    return Some(process);
                }
                Err(error) => tracing::warn!(%error, "the server cannot be started again yet"),
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|number| SIGNALLED + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> io::Result<Self> {
        FORWARDED
            .iter()
            .map(|&number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next that the agent gets. May be cancelled.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
