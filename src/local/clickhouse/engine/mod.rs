//! The real ClickHouse engine, `libchdb.so`, opened at run time: every C call and every `unsafe` of this part is in this
//! folder.
//! It owns handles and their lifetimes. It refuses to know HTTP, SQL or policy.
//!
//! A connection is a session (settings, current database, temporary tables) and runs one statement at a time,
//! which `&mut self` enforces; several connections run in parallel. One costs 0.2 ms, so that every request gets its
//! own. The engine boots with the first connection and shuts down with the last, so one is kept until the end; the
//! library is never unloaded, since its threads outlive every call.

mod api;
mod connection;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use api::Api;

pub use connection::{Answer, Class, Connection, Counts, Param};

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "the ClickHouse engine {path} is not there; fetch it with `make local-parts`, or name its folder with --parts"
    )]
    Missing { path: PathBuf },
    #[error("the ClickHouse engine {path} cannot be opened")]
    Load {
        path: PathBuf,
        #[source]
        source: libloading::Error,
    },
    #[error("the ClickHouse engine does not open {0} (its own words are on stderr)")]
    Connect(PathBuf),
    #[error("the path {0} holds a NUL byte")]
    Path(PathBuf),
    #[error("the ClickHouse engine is closed")]
    Closed,
}

/// The engine on one directory.
pub struct Engine {
    api: &'static Api,
    data: PathBuf,
    /// The connection that keeps the engine up; taken at the end.
    keeper: Mutex<Option<Connection>>,
}

impl Engine {
    /// Loads the library and boots the engine on `data`, with the server's configuration file `config`.
    ///
    /// # Errors
    /// When the library is missing or foreign, or the engine refuses the directory.
    pub fn open(library: &Path, data: &Path, config: &Path) -> Result<Self, EngineError> {
        if !library.is_file() {
            return Err(EngineError::Missing {
                path: library.to_owned(),
            });
        }
        // SAFETY: the variable is written once, before the library's first use, and this program's own code reads the
        // environment only through clap at its start; the engine takes its time zone from here and nowhere else.
        unsafe { std::env::set_var("TZ", "UTC") };
        let api = Api::load(library).map_err(|source| EngineError::Load {
            path: library.to_owned(),
            source,
        })?;
        let api: &'static Api = Box::leak(Box::new(api));
        let config_flag = format!("--config-file={}", config.display());
        let keeper = Connection::open(api, data, &[&config_flag])?;
        Ok(Self {
            api,
            data: data.to_owned(),
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// A session of its own.
    ///
    /// # Errors
    /// When the engine is closed or refuses.
    pub fn connect(&self) -> Result<Connection, EngineError> {
        // Held while connecting, so that closing cannot boot the engine anew with this connection as its first.
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if keeper.is_none() {
            return Err(EngineError::Closed);
        }
        Connection::open(self.api, &self.data, &[])
    }

    /// Shuts the engine down once the sessions still open are closed. Nothing connects any more.
    pub fn close(&self) {
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        drop(keeper);
    }
}
