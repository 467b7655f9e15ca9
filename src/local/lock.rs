//! Locks on folders. A lock may be handed on to child processes, and is then held until the last
//! of them is gone: a successor that gets it knows that no process of its predecessor is left,
//! nor any port or file that one held. It says nothing of processes that were never handed the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a lock's release may go unnoticed. Its holders have just been killed where it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{path} is held by another process", path = .path.display())]
    Held { path: PathBuf },
    #[error("{path} cannot be locked", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// An exclusive lock, given back when it is dropped here and in every process that it was handed to.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock at once or not at all.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Takes the lock, waiting for processes that are just ending.
    ///
    /// # Errors
    /// [`LockError::Held`] when it is still held after `patience`.
    pub async fn acquire_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::acquire(path) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => {
                    sleep(POLL_INTERVAL).await
                }
                taken_or_failed => return taken_or_failed,
            }
        }
    }

    /// For handing the lock to a child process.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_held_once_and_given_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lock");
        let first = FolderLock::acquire(&path).expect("free");
        assert!(matches!(
            FolderLock::acquire(&path),
            Err(LockError::Held { .. })
        ));
        let brief = Duration::from_millis(1);
        assert!(matches!(
            FolderLock::acquire_within(&path, brief).await,
            Err(LockError::Held { .. })
        ));
        drop(first);
        FolderLock::acquire(&path).expect("free again");
    }
}
