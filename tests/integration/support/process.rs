//! Roles of the binary as child processes that cannot outlive the tests.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::{wait_for, wait_until};

/// A broker formats its storage and starts a JVM before it answers; the machine may be busy.
const START: Duration = Duration::from_secs(90);
/// Longer than every role's own deadline for an orderly end.
const STOP: Duration = Duration::from_secs(60);
/// Lines of a log that a failure shows.
const TAIL: usize = 40;
/// Announcements wait here for their reader; a role prints a handful of lines.
const LINES: usize = 64;
/// Requests to spawn wait here; each is answered before the next test goes on.
const SPAWNS: usize = 16;

/// A running role.
pub struct Role {
    name: String,
    child: Child,
    log: PathBuf,
    announced: Receiver<String>,
}

/// The binary under test with these arguments, run from the repository so that the default `--parts` holds.
pub fn modelmeter<S: AsRef<str>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelmeter"));
    command
        .args(arguments.iter().map(AsRef::as_ref))
        .current_dir(super::root());
    command
}

/// Runs a role that ends by itself and gives its exit and all that it printed.
pub fn run<S: AsRef<str>>(arguments: &[S]) -> (ExitStatus, String) {
    let output = modelmeter(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

impl Role {
    /// Starts a role; its output goes to `log`.
    pub fn start<S: AsRef<str>>(name: &str, arguments: &[S], log: &Path) -> Self {
        let mut command = modelmeter(arguments);
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .expect("a log file opens")
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(open());
        let mut child = spawn(command);
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, announced) = sync_channel(LINES);
        let mut copy = open();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(copy, "{line}");
                // A full queue only means that nobody waits for announcements any more.
                let _ = sender.try_send(line);
            }
        });
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            announced,
        }
    }

    /// Waits for the line that says where the role listens, and gives what follows it.
    pub fn address(&mut self) -> String {
        let prefix = format!("{}: listening on ", self.name);
        self.announced(&prefix)
    }

    /// Waits for a line with this beginning, and gives what follows it. Lines before it are not looked at again.
    pub fn announced(&mut self, prefix: &str) -> String {
        let name = self.name.clone();
        wait_for(&format!("{name} says {prefix:?}"), START, || {
            let mut lines = self.announced.try_iter();
            if let Some(line) = lines.find_map(|l| l.strip_prefix(prefix).map(str::to_owned)) {
                return Ok(line);
            }
            match self.child.try_wait().expect("a child can be asked") {
                Some(status) => panic!("{name} ended ({status}):\n{}", self.tail()),
                None => Err(self.tail()),
            }
        })
    }

    /// SIGSTOP: it stands still, its connections stay open.
    pub fn freeze(&self) {
        signal(self.child.id(), libc::SIGSTOP);
    }

    /// SIGCONT: it goes on and knows of nothing.
    pub fn go_on(&self) {
        signal(self.child.id(), libc::SIGCONT);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be asked")
            .is_none()
    }

    /// The most memory that it ever had resident, as the kernel counts it.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the process runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("a size in kB") / 1024
    }

    /// SIGKILL: no word of farewell.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child is reaped");
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut status = self.child.try_wait().expect("a child can be asked");
        signal(self.child.id(), libc::SIGTERM);
        wait_until(&format!("{} ends after SIGTERM", self.name), STOP, || {
            status = self.child.try_wait().expect("a child can be asked");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// The log's last lines, for a failure's message.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Role {
    /// A test that fails leaves no process either.
    fn drop(&mut self) {
        if self.is_running() {
            if std::thread::panicking() {
                eprintln!("the last of {}'s log:\n{}", self.name, self.tail());
            }
            self.kill();
        }
    }
}

pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

pub fn signal(pid: u32, signal: i32) {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: kill takes plain numbers; the pid is of a child that was not reaped yet.
    unsafe { libc::kill(pid, signal) };
}

type Spawn = (Command, SyncSender<std::io::Result<Child>>);

/// Children get SIGKILL when the *thread* that spawned them ends, and each test is a thread of its own:
/// so one thread that lives as long as the process spawns them all.
fn spawn(mut command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<SyncSender<Spawn>>> = OnceLock::new();
    // SAFETY: prctl with these arguments is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = sync_channel::<Spawn>(SPAWNS);
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = sync_channel(1);
    let request = (command, sender);
    spawner
        .lock()
        .expect("no spawn panics")
        .send(request)
        .expect("the spawner lives");
    answer
        .recv()
        .expect("the spawner answers")
        .expect("the binary starts")
}
