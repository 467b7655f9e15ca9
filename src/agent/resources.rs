//! What the replica uses: CPU and memory of its control group, its processes or the machine; its GPUs.
//!
//! Every reading is an average over the interval since the one before where there is a counter for it (CPU), and the
//! level at the interval's end where there is none (memory). What cannot be read is none, with one warning until it can
//! be read again; never 0. Nothing here waits: files of the kernel are read in place, and the GPUs' library, which may
//! hang, has a thread of its own ([`crate::agent::gpu`]).

mod cgroup;
mod counter;
mod machine;
mod processes;
mod usage;
mod warned;

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use tokio::sync::watch;

use super::child::ChildStatus;
use super::gpu::{GpuArgs, Gpus};
use super::readings::Readings;
use cgroup::Cgroup;
use counter::Counter;
use processes::Processes;
pub use usage::{Throttling, UnreadLimits, Usage};
use warned::Warned;

/// Where CPU and memory are read. Without any of these: the agent's own control group where it is a container's or a
/// service's, else the processes of the server that the agent started, else the machine.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ResourceArgs {
    /// The control group of the model server, where it is not the agent's own (a sidecar): a folder below
    /// /sys/fs/cgroup, or a path as in /proc/PID/cgroup.
    #[arg(long, env = "MODELMETER_CGROUP", value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// A process of the model server: it and its descendants are read.
    #[arg(
        long,
        env = "MODELMETER_PID",
        value_name = "PID",
        conflicts_with = "cgroup"
    )]
    pub pid: Option<u32>,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// What is read for CPU and memory.
#[derive(Debug)]
enum Source {
    Cgroup(Cgroup),
    Process(u32),
    /// The server that the agent started, whichever process that is just now.
    Child(watch::Receiver<ChildStatus>),
    Machine,
    /// What the person asked for cannot be found yet: it is looked for at each reading.
    Missing(PathBuf),
}

/// Reads, at each call, what was used since the call before.
#[derive(Debug)]
pub struct ResourceSampler {
    source: Source,
    /// Times of readings count from here.
    began: Instant,
    cpu: Counter,
    /// Which process the counter is of: its start, beside the number in `source`.
    counted_process: Option<u64>,
    throttling: Option<Throttling>,
    processes: Processes,
    warned: Warned,
    warned_of_parts: Warned,
    warned_of_limits: Warned,
    gpus: Gpus,
}

impl ResourceSampler {
    /// Finds what to read, and starts the GPUs' thread. `child` is the server that the agent started, if it did.
    pub fn new(args: &ResourceArgs, child: Option<watch::Receiver<ChildStatus>>) -> Self {
        let source = find(args, child);
        tracing::info!(source = %source, "cpu and memory are read here");
        Self {
            source,
            began: Instant::now(),
            cpu: Counter::default(),
            counted_process: None,
            throttling: None,
            processes: Processes::default(),
            warned: Warned::default(),
            warned_of_parts: Warned::default(),
            warned_of_limits: Warned::default(),
            gpus: Gpus::start(&args.gpu),
        }
    }

    /// Averages since the last call. Takes a few milliseconds at most; the first has no CPU usage, for want of an
    /// interval.
    pub fn read(&mut self) -> Readings {
        let usage = match self.usage() {
            Ok(usage) => {
                if self.warned.is_over() {
                    tracing::info!(source = %self.source, "cpu and memory can be read again");
                }
                self.warn_of_parts(&usage);
                self.warn_of_limits(usage.unread_limits);
                usage
            }
            Err(error) => {
                if self.warned.is_new(&error.to_string()) {
                    tracing::warn!(%error, "cpu and memory cannot be read");
                }
                Usage::default()
            }
        };
        self.throttling = usage.throttling;
        Readings {
            cpu_cores_used: self.cpu.rate(self.began.elapsed(), usage.cpu_seconds),
            cpu_cores_limit: usage.cpu_limit_cores,
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: usage.memory_limit_bytes,
            gpus: self.gpus.read(),
        }
    }

    /// How often the CPU quota held the container back, up to the last reading; none where that is not told.
    pub fn throttling(&self) -> Option<Throttling> {
        self.throttling
    }

    /// Calls into the GPUs' library that never came back.
    pub fn n_gpu_hangs(&self) -> u64 {
        self.gpus.n_hangs()
    }

    fn usage(&mut self) -> io::Result<Usage> {
        if let Source::Missing(path) = &self.source {
            self.source = Source::Cgroup(Cgroup::named(path)?);
        }
        match &self.source {
            Source::Cgroup(cgroup) => cgroup.read(),
            Source::Process(pid) => {
                let pid = *pid;
                self.tree(pid)
            }
            Source::Child(child) => {
                let pid = child.borrow().pid;
                // Between two starts nothing is used, but nothing is there to be read either.
                pid.map_or_else(|| Ok(Usage::default()), |pid| self.tree(pid))
            }
            Source::Machine => machine::read(),
            Source::Missing(path) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no control group {}", path.display()),
            )),
        }
    }

    fn tree(&mut self, pid: u32) -> io::Result<Usage> {
        let tree = self.processes.read(pid)?;
        if self.counted_process.replace(tree.root_started) != Some(tree.root_started) {
            self.cpu.forget();
        }
        let mut usage = tree.usage;
        // What bounds its group bounds the process, too.
        if let Ok(bounds) = Cgroup::of_process(&pid.to_string()).and_then(|group| group.read()) {
            usage.cpu_limit_cores = bounds.cpu_limit_cores;
            usage.memory_limit_bytes = bounds.memory_limit_bytes;
            usage.unread_limits = bounds.unread_limits;
        }
        Ok(usage)
    }

    fn warn_of_limits(&mut self, unread: UnreadLimits) {
        let limits = match (unread.cpu, unread.memory) {
            (false, false) => {
                if self.warned_of_limits.is_over() {
                    tracing::info!(source = %self.source, "the limits can be read again");
                }
                return;
            }
            (true, false) => "cpu",
            (false, true) => "memory",
            (true, true) => "cpu and memory",
        };
        if self.warned_of_limits.is_new(limits) {
            tracing::warn!(limits, source = %self.source, "a limit cannot be read, and is told as unknown");
        }
    }

    /// A group that is there may still lack a controller.
    fn warn_of_parts(&mut self, usage: &Usage) {
        if matches!(&self.source, Source::Child(child) if child.borrow().pid.is_none()) {
            return;
        }
        let missing = match (usage.cpu_seconds, usage.memory_bytes) {
            (Some(_), Some(_)) => {
                self.warned_of_parts.is_over();
                return;
            }
            (None, Some(_)) => "cpu usage",
            (Some(_), None) => "memory usage",
            (None, None) => "cpu and memory usage",
        };
        if self.warned_of_parts.is_new(missing) {
            tracing::warn!(missing, source = %self.source, "a reading is not offered here");
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup(cgroup) => write!(f, "control group {cgroup}"),
            Self::Process(pid) => write!(f, "process {pid} and its descendants"),
            Self::Child(_) => f.write_str("the started server and its descendants"),
            Self::Machine => f.write_str("the whole machine"),
            Self::Missing(path) => write!(f, "control group {}", path.display()),
        }
    }
}

fn find(args: &ResourceArgs, child: Option<watch::Receiver<ChildStatus>>) -> Source {
    if let Some(path) = &args.cgroup {
        return Cgroup::named(path).map_or_else(|_| Source::Missing(path.clone()), Source::Cgroup);
    }
    if let Some(pid) = args.pid {
        return Source::Process(pid);
    }
    match (Cgroup::of_process("self"), child) {
        (Ok(own), _) if own.is_one_thing() => Source::Cgroup(own),
        (_, Some(child)) => Source::Child(child),
        (_, None) => Source::Machine,
    }
}
