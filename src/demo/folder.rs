//! The demo's folder: one that was named and stays, or a fresh one that goes with a demo that went well. What went wrong is in
//! its logs, so that it never goes with a demo that did not.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Names that are tried for a fresh folder: another demo of the same process id may have left one behind.
const N_NAMES: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("a fresh folder for the demo cannot be made")]
    Fresh(#[source] io::Error),
    #[error("the folder {path} cannot be made", path = .path.display())]
    Named { path: PathBuf, source: io::Error },
    #[error("the folder {path} cannot be removed", path = .path.display())]
    Remove { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_fresh: bool,
}

impl Folder {
    /// # Errors
    /// When it cannot be made.
    pub fn open(named: Option<&Path>) -> Result<Self, FolderError> {
        let Some(named) = named else {
            return Ok(Self {
                path: fresh().map_err(FolderError::Fresh)?,
                is_fresh: true,
            });
        };
        let made = std::path::absolute(named).and_then(|path| {
            fs::create_dir_all(&path)?;
            Ok(path)
        });
        match made {
            Ok(path) => Ok(Self {
                path,
                is_fresh: false,
            }),
            Err(source) => Err(FolderError::Named {
                path: named.to_owned(),
                source,
            }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends its use: a fresh one is removed after success, and any other is named where something went wrong. Every process
    /// that used it must have ended.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn close(self, is_success: bool) -> Result<(), FolderError> {
        if !is_success {
            eprintln!(
                "demo: its data and logs are left in {}",
                self.path.display()
            );
            return Ok(());
        }
        if !self.is_fresh {
            return Ok(());
        }
        fs::remove_dir_all(&self.path).map_err(|source| FolderError::Remove {
            path: self.path,
            source,
        })
    }
}

fn fresh() -> io::Result<PathBuf> {
    let id = std::process::id();
    for number in 0..N_NAMES {
        let path = std::env::temp_dir().join(format!("modelmeter-demo-{id}-{number}"));
        // for this user alone, since there is no password on what it holds
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_one_goes_and_a_named_one_stays() {
        let first = Folder::open(None).expect("a folder");
        let second = Folder::open(None).expect("another folder");
        assert_ne!(first.path(), second.path());
        let path = first.path().to_owned();
        fs::write(path.join("file"), "of the demo").expect("written");
        first.close(true).expect("removed");
        second.close(true).expect("removed");
        assert!(!path.exists());

        let parent = tempfile::tempdir().expect("a temporary folder");
        let named = parent.path().join("kept");
        Folder::open(Some(&named))
            .expect("made")
            .close(true)
            .expect("left");
        assert!(named.exists());
    }

    #[test]
    fn a_fresh_one_of_a_demo_that_failed_stays() {
        let folder = Folder::open(None).expect("a folder");
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "of the demo").expect("written");
        folder.close(false).expect("left");
        assert!(path.join("file").exists());
        fs::remove_dir_all(&path).expect("removed by the test");
    }
}
