//! Child processes that end with this one: how they are started, told to stop, and waited for.
//! Every child is killed by the kernel when this process ends, however it ends, and stands in a
//! process group of its own, so that a terminal's Ctrl-C reaches this process alone, which then
//! ends its children in order. Nothing here decides when a child is started again.

use std::io;
use std::os::fd::RawFd;
use std::process::ExitStatus;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::lock::FolderLock;

/// Starts that may wait for the spawner: as many as `up` has parts. A further caller waits its turn.
const SPAWN_QUEUE: usize = 4;

/// Between two looks at whether a group is empty; a look is one system call.
const GROUP_LOOK: Duration = Duration::from_millis(20);

/// A child to be started.
pub struct Launch {
    command: Command,
    /// Descriptors that stay open in the child: the locks that it is handed.
    handed_on: Vec<RawFd>,
}

impl Launch {
    pub fn new(command: Command) -> Self {
        Self {
            command,
            handed_on: Vec::new(),
        }
    }

    /// Hands a lock on: it is held until the child is gone, too. The lock must outlive the start.
    #[must_use]
    pub fn with_lock(mut self, lock: &FolderLock) -> Self {
        self.handed_on.push(lock.descriptor());
        self
    }
}

struct Request {
    launch: Launch,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// The thread that starts all children. The kernel's parent-death signal fires when the *thread*
/// that started a child ends, and the threads of an async runtime come and go; this one stays as
/// long as its owner keeps the `Spawner`. Dropping it kills the children.
pub struct Spawner {
    requests: SyncSender<Request>,
}

impl Spawner {
    /// # Errors
    /// When no thread can be started. Must be called inside a tokio runtime.
    pub fn start() -> io::Result<Self> {
        let (requests, queue) = sync_channel::<Request>(SPAWN_QUEUE);
        let runtime = tokio::runtime::Handle::current();
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                // tokio registers a child with the runtime's signal driver when it is started.
                let _inside = runtime.enter();
                for Request { launch, answer } in queue {
                    // A caller that went away drops the child, which kills it (`kill_on_drop`).
                    drop(answer.send(spawn(launch)));
                }
            })?;
        Ok(Self { requests })
    }

    /// Starts a child.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub async fn spawn(&self, launch: Launch) -> io::Result<Process> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        // Blocks only while more children than SPAWN_QUEUE are being started, each a matter of milliseconds.
        self.requests
            .send(Request { launch, answer })
            .map_err(|_| gone())?;
        let child = child.await.map_err(|_| gone())??;
        let pid = child
            .id()
            .expect("a child has an id until it is waited for");
        Ok(Process { child, pid })
    }
}

fn spawn(launch: Launch) -> io::Result<Child> {
    let Launch {
        mut command,
        handed_on,
    } = launch;
    let parent = std::process::id();
    command.kill_on_drop(true).process_group(0);
    // SAFETY: between fork and exec the closure only makes the system calls prctl, getppid and
    // fcntl, which are async-signal-safe; it allocates nothing (the errors are OS error codes) and
    // takes no lock.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // A parent that ended before the call above sends no signal any more.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for &descriptor in &handed_on {
                if libc::fcntl(descriptor, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn()
}

/// How a child ended that was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    InOrder,
    /// It had not ended by the deadline, and was killed.
    Killed,
}

/// A running child. Dropping it kills it and its process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it ends by itself. May be cancelled and called again.
    ///
    /// # Errors
    /// When the system cannot wait for it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end (SIGTERM), and kills it where it has not after `patience`.
    ///
    /// # Errors
    /// When the system cannot signal or wait for it.
    pub async fn stop(mut self, patience: Duration) -> io::Result<Stopped> {
        self.terminate();
        match timeout(patience, self.child.wait()).await {
            Ok(ended) => ended.map(|_| Stopped::InOrder),
            Err(_) => self.child.kill().await.map(|()| Stopped::Killed),
        }
    }

    fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Ends what is left of its process group once it has ended itself: asks (SIGTERM), and kills what is still there after
    /// `patience`, which that may take once more. True where anything was left.
    pub async fn end_group(&self, patience: Duration) -> bool {
        let Ok(group) = libc::pid_t::try_from(self.pid) else {
            return false;
        };
        if !signal_group(group, libc::SIGTERM) {
            return false;
        }
        let is_empty = async {
            while signal_group(group, 0) {
                sleep(GROUP_LOOK).await;
            }
        };
        tokio::pin!(is_empty);
        if timeout(patience, &mut is_empty).await.is_err() {
            signal_group(group, libc::SIGKILL);
            // a process that hangs in the kernel, as in a sick driver, is not waited for without an end
            let _ = timeout(patience, is_empty).await;
        }
        true
    }

    /// Sends it a signal. One that has ended gets none.
    pub fn signal(&self, number: i32) {
        // `id` is None once the child has been waited for, when its number may be another's.
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| libc::pid_t::try_from(pid).ok())
        {
            // SAFETY: kill(2) reads no memory of ours. The child has not been waited for, so the
            // number is still its own; a failure means that it has just ended, which `wait` sees.
            unsafe { libc::kill(pid, number) };
        }
    }
}

/// Sends a signal to every process of a group, or with 0 only looks; false where there is none.
fn signal_group(group: libc::pid_t, number: i32) -> bool {
    // SAFETY: kill(2) reads no memory of ours. The kernel gives a number to no new process while one has it that was not
    // waited for, or a group has it; where neither does the number is free, but it gives numbers in turn, and does not come
    // to this one again within the microseconds since its process was waited for.
    group > 1 && unsafe { libc::kill(-group, number) } == 0
}

impl Drop for Process {
    /// The child alone would be killed by `kill_on_drop`, and what it started would stay.
    fn drop(&mut self) {
        // None once it has been waited for, when its group may be another's
        if let Some(group) = self
            .child
            .id()
            .and_then(|id| libc::pid_t::try_from(id).ok())
        {
            signal_group(group, libc::SIGKILL);
        }
    }
}

/// How a process ended, in words: `exit code 1`, `signal 9`.
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown ending".to_owned(),
    }
}
