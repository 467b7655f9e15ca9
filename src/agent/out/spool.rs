//! The spool's files: a message is written before it is given to Kafka and removed when Kafka has it. Owns the folder;
//! which messages stay and which go is the [`outbox`](super::outbox)'s to say.
//!
//! ```text
//! DIR/deployment-ID/0.lock   held by the agent that owns the folder beside it
//! DIR/deployment-ID/0/…      its messages; a second agent of the same deployment takes 1, and so on
//! ```
//!
//! Files are not synced: they outlive the process however it ends, but after a power cut the last ones may be missing
//! or torn, which the checksum tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::message::{self, MAX_FILE_BYTES, Name};
use crate::local::lock::{FolderLock, LockError};

/// Agents of one deployment that may share a spool's folder on one machine. A further one keeps its messages in memory.
const MAX_SLOTS: usize = 64;

/// The unit in which files take room: counted, so that many small ones do not pass the limit unseen.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool's folder {path} cannot be used", path = .path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("a lock in the spool's folder cannot be taken")]
    Lock(#[source] LockError),
    #[error("all {MAX_SLOTS} places in the spool's folder {path} are taken by other agents", path = .path.display())]
    Crowded { path: PathBuf },
}

/// A file that an earlier start left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    pub name: Name,
    pub bytes: u64,
}

/// What became of a file that should be there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the file is torn or was changed")]
    Torn,
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// Whether the process, not the file, is in trouble: out of descriptors or memory. The file is read again later.
    pub fn may_pass(&self) -> bool {
        let Self::Io(error) = self else {
            return false;
        };
        let code = error.raw_os_error();
        code.is_some_and(|code| [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&code))
    }
}

/// A folder that no other agent uses.
#[derive(Debug)]
pub struct Spool {
    /// With the folders of the other agents of this deployment.
    dir: PathBuf,
    folder: PathBuf,
    _lock: FolderLock,
}

impl Spool {
    /// Takes the first free place, moves into it what agents that are gone left in others, and lists it all, oldest first.
    ///
    /// # Errors
    /// When there is no folder that can be written.
    pub fn open(dir: &Path, deployment_id: &str) -> Result<(Self, Vec<Leftover>), SpoolError> {
        // the prefix keeps the valid id ".." from being a way out
        let dir = dir.join(format!("deployment-{deployment_id}"));
        fs::create_dir_all(&dir).map_err(folder_error(&dir))?;
        let mut free = Self::free_slots(&dir)?.into_iter();
        let Some(own) = free.next() else {
            return Err(SpoolError::Crowded { path: dir });
        };
        fs::create_dir_all(&own.folder).map_err(folder_error(&own.folder))?;
        own.probe().map_err(folder_error(&own.folder))?;
        for other in free {
            own.adopt(&other);
        }
        let leftovers = own.list().map_err(folder_error(&own.folder))?;
        Ok((own, leftovers))
    }

    /// The places that nobody holds: all that exist, or one that is new.
    fn free_slots(dir: &Path) -> Result<Vec<Self>, SpoolError> {
        let mut free = Vec::new();
        for slot in 0..MAX_SLOTS {
            let lock = dir.join(format!("{slot}.lock"));
            if !lock.exists() && !free.is_empty() {
                break;
            }
            match FolderLock::acquire(&lock) {
                Ok(lock) => free.push(Self::of_slot(dir, slot, lock)),
                Err(LockError::Held { .. }) => {}
                Err(error) => return Err(SpoolError::Lock(error)),
            }
        }
        Ok(free)
    }

    fn of_slot(dir: &Path, slot: usize, lock: FolderLock) -> Self {
        Self {
            dir: dir.to_owned(),
            folder: dir.join(slot.to_string()),
            _lock: lock,
        }
    }

    /// Whether a file can be written at all: better known at the start than with the first batch.
    fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        fs::write(&path, b"modelmeter")?;
        fs::remove_file(path)
    }

    /// Moves here what agents that have ended since left behind, as one does that was replaced while Kafka was away.
    pub fn take_over(&self) -> Vec<Leftover> {
        let mut taken = Vec::new();
        for slot in 0..MAX_SLOTS {
            let lock = self.dir.join(format!("{slot}.lock"));
            if !lock.exists() {
                break;
            }
            // held: by its agent, or by this one
            if let Ok(lock) = FolderLock::acquire(&lock) {
                taken.extend(self.adopt(&Self::of_slot(&self.dir, slot, lock)));
            }
        }
        taken.sort_unstable_by_key(|leftover| leftover.name);
        taken
    }

    /// What cannot be moved stays for a later start.
    fn adopt(&self, other: &Self) -> Vec<Leftover> {
        let mut left = other.list().unwrap_or_default();
        left.retain(|leftover| {
            let from = other.path(leftover.name);
            let moved = fs::rename(&from, self.path(leftover.name));
            if let Err(error) = &moved {
                tracing::warn!(%error, file = %from.display(), "a spooled batch of another agent cannot be taken over");
            }
            moved.is_ok()
        });
        left
    }

    fn list(&self) -> io::Result<Vec<Leftover>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(Name::parse) else {
                continue;
            };
            found.push(Leftover {
                name,
                bytes: on_disk(entry.metadata()?.len()),
            });
        }
        found.sort_unstable_by_key(|leftover| leftover.name);
        Ok(found)
    }

    /// Writes a message; gives the bytes that it takes. A file that was begun in vain is removed.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, name: Name, message: &[u8]) -> io::Result<u64> {
        let file = message::to_file(message);
        let path = self.path(name);
        fs::write(&path, &file).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(on_disk(file.len() as u64))
    }

    /// # Errors
    /// When it is not there as it was written.
    pub fn read(&self, name: Name) -> Result<Vec<u8>, ReadError> {
        let path = self.path(name);
        if fs::metadata(&path)?.len() > MAX_FILE_BYTES {
            return Err(ReadError::Torn);
        }
        let file = fs::read(path)?;
        message::from_file(&file)
            .map(<[u8]>::to_vec)
            .ok_or(ReadError::Torn)
    }

    /// # Errors
    /// When it stays; it is then sent again by the next start, and its sequence says that it was there before.
    pub fn remove(&self, name: Name) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn path(&self, name: Name) -> PathBuf {
        self.folder.join(name.to_string())
    }
}

fn folder_error(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    |source| SpoolError::Folder { path, source }
}

const fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::Stream;

    fn name(sequence: i64) -> Name {
        Name {
            created_us: 1_000 + sequence,
            boot_id: [9; 16],
            stream: Stream::Requests,
            sequence,
            n_events: 3,
        }
    }

    fn open(dir: &Path) -> (Spool, Vec<i64>) {
        let (spool, left) = Spool::open(dir, "..").expect("opens");
        (spool, left.iter().map(|l| l.name.sequence).collect())
    }

    #[test]
    fn what_was_written_is_there_after_a_start_and_torn_files_are_known() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (spool, left) = open(dir.path());
        assert!(left.is_empty());
        for sequence in [1, 0, 2] {
            spool.write(name(sequence), b"message").expect("written");
        }
        spool.remove(name(2)).expect("removed");
        let torn = spool.path(name(1));
        let bytes = fs::read(&torn).expect("there");
        fs::write(&torn, &bytes[..bytes.len() - 1]).expect("written");
        fs::write(spool.folder.join("README"), b"not ours").expect("written");
        drop(spool);
        let (spool, left) = open(dir.path());
        assert_eq!(left, [0, 1]);
        assert_eq!(spool.read(name(0)).expect("whole"), b"message");
        assert!(matches!(spool.read(name(1)), Err(ReadError::Torn)));
        assert!(matches!(spool.read(name(2)), Err(ReadError::Io(_))));
        assert!(spool.folder.starts_with(dir.path()), "an id is no way out");
    }

    #[test]
    fn agents_beside_each_other_keep_apart_and_one_takes_over_what_others_left() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (first, _) = open(dir.path());
        let (second, _) = open(dir.path());
        first.write(name(1), b"first").expect("written");
        second.write(name(2), b"second").expect("written");
        let (third, left) = open(dir.path());
        assert!(left.is_empty(), "both are still there");
        assert_eq!(third.take_over(), []);
        drop((second, third));
        let (third, left) = open(dir.path());
        assert_eq!(left, [2]);
        drop((first, third));
        let (spool, left) = open(dir.path());
        assert_eq!(left, [1, 2]);
        let (other, _) = open(dir.path());
        other.write(name(3), b"third").expect("written");
        assert_eq!(spool.take_over(), []);
        drop(other);
        let taken: Vec<_> = spool.take_over().iter().map(|l| l.name.sequence).collect();
        assert_eq!(taken, [3]);
        assert_eq!(spool.read(name(3)).expect("whole"), b"third");
    }
}
