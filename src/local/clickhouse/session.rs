//! Sessions that outlive a request: a connection of the engine by `session_id`, with its `SET`, `USE` and temporary
//! tables. A session runs one query at a time and ends some seconds after its last one.
//! It refuses to let a request's own settings and database stay behind: they are put back after each query.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::engine::{Connection, Engine};
use super::exception::{Exception, code};
use super::request::SessionRequest;

/// Sessions at once; beyond it a new one is refused, since each keeps its temporary tables in memory.
const MAX_SESSIONS: usize = 1024;

#[derive(Default)]
pub struct Sessions {
    /// `None` while its query runs.
    by_id: Mutex<HashMap<String, Option<Idle>>>,
}

struct Idle {
    connection: Connection,
    expires: Instant,
}

impl Sessions {
    /// The session's connection, until `give_back`.
    ///
    /// # Errors
    /// When the session runs another query, or must exist and does not.
    pub fn take(&self, engine: &Engine, wanted: &SessionRequest) -> Result<Connection, Exception> {
        let mut by_id = self.lock();
        let now = Instant::now();
        by_id.retain(|_, idle| idle.as_ref().is_none_or(|idle| idle.expires > now));
        match by_id.get_mut(&wanted.id).map(Option::take) {
            Some(Some(idle)) => return Ok(idle.connection),
            Some(None) => {
                let message = format!("Session {:?} is locked by a concurrent client", wanted.id);
                return Err(Exception::new(code::SESSION_IS_LOCKED, message));
            }
            None if wanted.must_exist => {
                let message = format!("Session {:?} not found", wanted.id);
                return Err(Exception::new(code::SESSION_NOT_FOUND, message));
            }
            None if by_id.len() >= MAX_SESSIONS => {
                let message = format!("{MAX_SESSIONS} sessions are open already");
                return Err(Exception::new(code::SESSION_IS_LOCKED, message));
            }
            None => {}
        }
        let connection = engine
            .connect(None)
            .map_err(|error| Exception::from_engine(&error.to_string()))?;
        by_id.insert(wanted.id.clone(), None);
        Ok(connection)
    }

    pub fn give_back(&self, session: &SessionRequest, connection: Connection) {
        let idle = Idle {
            connection,
            expires: Instant::now() + Duration::from_secs(session.timeout_s),
        };
        self.lock().insert(session.id.clone(), Some(idle));
    }

    /// Closes every idle session.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Idle>>> {
        self.by_id
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
