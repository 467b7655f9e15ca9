//! Where the model servers are, as `deploy/local/fetch` leaves them. It installs nothing.

use std::path::{Path, PathBuf};

/// Written last: without it the others may be half there.
const MARK: &str = ".pin";

#[derive(Debug)]
pub struct Installed {
    /// The virtual environment's programs.
    programs: PathBuf,
    /// MLServer's folder of models.
    pub models: PathBuf,
    /// The token streamer's code.
    pub tokens: PathBuf,
}

impl Installed {
    pub fn find(parts: &Path) -> Option<Self> {
        let folder = std::path::absolute(parts).ok()?.join("servers");
        folder.join(MARK).exists().then(|| Self {
            programs: folder.join("venv/bin"),
            models: folder.join("models"),
            tokens: folder.join("tokens.py"),
        })
    }

    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }
}
