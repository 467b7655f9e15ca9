//! What a replay leaves for others to read: how far it has come, and what it has produced. Each file is replaced whole, so that
//! no reader sees half of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} cannot be written", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} cannot be read", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what a replay writes", path = .path.display())]
    Content {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// How far a replay has come: the next one with the same file goes on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The model's time up to which everything is in Kafka, microseconds since 1970.
    pub until_us: i64,
    /// When the past was filled; none while it is not.
    pub live_from_us: Option<i64>,
}

/// Reads a file; none where there is none.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(FileError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| FileError::Content {
            path: path.to_owned(),
            source,
        })
}

/// Writes a file in the place of the one before.
///
/// # Errors
/// When it cannot be written.
pub fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(content).expect("text and numbers are JSON");
    text.push(b'\n');
    let mut unfinished = path.to_owned().into_os_string();
    unfinished.push(".unfinished");
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(|source| FileError::Write {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("progress.json");
        assert_eq!(read::<Progress>(&path).expect("readable"), None);
        let progress = Progress {
            until_us: 7,
            live_from_us: Some(5),
        };
        write(&path, &progress).expect("written");
        assert_eq!(read(&path).expect("readable"), Some(progress));
        fs::write(&path, "{}").expect("written");
        assert!(matches!(
            read::<Progress>(&path),
            Err(FileError::Content { .. })
        ));
    }
}
