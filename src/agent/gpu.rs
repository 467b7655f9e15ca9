//! The GPUs that the replica can see, read through NVIDIA's management library.
//!
//! The library is called by a thread of its own ([`session`]), because a call into a sick driver may never return. The
//! thread leaves what it reads on a [`board`]; a sample takes it from there and never waits. A thread that has not come
//! back from a call is given up and counted, and another one is started in its place.
//!
//! No driver, no permission, a GPU that is lost, a MIG device: what cannot be read is none, with one warning, and is
//! tried again, less and less often.

mod board;
mod session;
mod visible;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use board::Board;
pub use visible::Visible;

use super::readings::NamedGpu;

/// A call into the library that takes longer has hung: they take well under a millisecond, and a second where a
/// sleeping GPU is woken. Readings older than this are none.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// Threads that may hang at once. Each holds a stack; a driver that swallows this many is left alone until one of
/// them returns.
const MOST_HUNG: usize = 4;

/// Which GPUs, and by which library.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GpuArgs {
    /// The replica's GPUs: `all`, `none`, or a list of indexes, UUIDs and MIG names. Without it what
    /// CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES say, else all.
    #[arg(long = "gpus", env = "MODELMETER_GPUS", value_name = "LIST")]
    pub gpus: Option<String>,
    #[arg(
        long = "cuda-visible-devices",
        env = "CUDA_VISIBLE_DEVICES",
        hide = true
    )]
    pub cuda_visible_devices: Option<String>,
    #[arg(
        long = "nvidia-visible-devices",
        env = "NVIDIA_VISIBLE_DEVICES",
        hide = true
    )]
    pub nvidia_visible_devices: Option<String>,
    /// NVIDIA's management library, where it is not found by its name.
    #[arg(
        long = "nvml-library",
        env = "MODELMETER_NVML_LIBRARY",
        value_name = "PATH"
    )]
    pub library: Option<PathBuf>,
}

/// What the thread needs to know.
#[derive(Debug, Clone)]
struct Wanted {
    visible: Visible,
    library: Option<PathBuf>,
}

/// The readings of the GPUs, as the thread leaves them.
#[derive(Debug)]
pub struct Gpus {
    wanted: Option<Wanted>,
    board: Arc<Board>,
    hung_after: Duration,
    /// Threads that were given up; each board is the last sign of one.
    given_up: Vec<Arc<Board>>,
    n_hangs: u64,
}

impl Gpus {
    /// Starts the thread, unless no GPU is wanted.
    pub fn start(args: &GpuArgs) -> Self {
        Self::start_with(args, HUNG_AFTER)
    }

    /// With a patience of the caller's own.
    pub fn start_with(args: &GpuArgs, hung_after: Duration) -> Self {
        let visible = Visible::new(
            args.gpus.as_deref(),
            args.cuda_visible_devices.as_deref(),
            args.nvidia_visible_devices.as_deref(),
        );
        let wanted = (!visible.is_none()).then(|| Wanted {
            visible,
            library: args.library.clone(),
        });
        let board = Arc::new(Board::default());
        if let Some(wanted) = &wanted {
            session::start(wanted.clone(), Arc::clone(&board));
        }
        Self {
            wanted,
            board,
            hung_after,
            given_up: Vec::new(),
            n_hangs: 0,
        }
    }

    /// What was read since the last call. Never waits for the library.
    pub fn read(&mut self) -> Vec<NamedGpu> {
        let now = Instant::now();
        self.replace_a_hung_thread(now);
        self.board.take(now, self.hung_after)
    }

    /// Threads that were given up so far.
    pub fn n_hangs(&self) -> u64 {
        self.n_hangs
    }

    fn replace_a_hung_thread(&mut self, now: Instant) {
        let Some(wanted) = &self.wanted else {
            return;
        };
        if !self.board.has_hung(now, self.hung_after) {
            return;
        }
        if !self.board.is_given_up() {
            self.board.give_up();
            self.n_hangs += 1;
            tracing::warn!(
                n_hangs = self.n_hangs,
                "a call into the gpu library does not return; its thread is given up"
            );
        }
        self.given_up.retain(|board| !board.has_ended());
        if self.given_up.len() >= MOST_HUNG {
            return;
        }
        // The GPUs stay in the list, without readings, until the next thread has found them again.
        let board = Arc::new(self.board.successor());
        self.given_up
            .push(std::mem::replace(&mut self.board, Arc::clone(&board)));
        session::start(wanted.clone(), board);
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        self.board.give_up();
    }
}
