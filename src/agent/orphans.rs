//! Processes that were left to the agent by others: as the first process of a container it is the parent of every process
//! whose own parent has ended, and nobody but a parent can clear a dead process away. It refuses to wait for anything that
//! the agent started itself.

use std::fs;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug)]
pub struct Orphans(Signal);

impl Orphans {
    /// # Errors
    /// When the signal cannot be waited for. Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        signal(SignalKind::child()).map(Self)
    }

    /// Resolves when any child has ended. May be cancelled.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // the runtime is ending
            std::future::pending::<()>().await;
        }
    }

    /// Clears away every child that is dead but this one, which is waited for elsewhere.
    pub fn reap(own: Option<u32>) {
        let this = std::process::id();
        let Ok(entries) = fs::read_dir("/proc") else {
            return;
        };
        for entry in entries.flatten() {
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let Some(pid) = pid.filter(|&pid| Some(pid) != own) else {
                continue;
            };
            if parent_of(pid) == Some(this)
                && let Ok(pid) = libc::pid_t::try_from(pid)
            {
                // SAFETY: waitpid with a null status writes nothing. It does not wait (WNOHANG), and takes only a dead child.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
    }
}

/// proc(5): the parent is the second field behind the name's last bracket.
fn parent_of(pid: u32) -> Option<u32> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &line[line.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}
