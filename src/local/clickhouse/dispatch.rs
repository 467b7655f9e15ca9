//! From a planned query to its answer, through ids, locks and the bounded pool of query threads.
//!
//! The order is the point. An insert's task is its own: it takes the id, then the table's turn, then a thread, runs,
//! and gives all of them back before the client hears of it, so that a client's next request never meets its last
//! one. A client that goes away ends only its waiting; an insert runs to its end, a read is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::engine::{Connection, Engine};
use super::exception::{Exception, code};
use super::execute;
use super::outbox::{Outbox, Reply, ReplySender};
use super::plan::Plan;
use super::request::{Request, SessionRequest};
use super::running::{Claim, REPLACE_WAIT, Running};
use super::session::Sessions;
use super::spool::{Spool, SpoolFolder};

/// Reads at once, and inserts at once: apart, so that a page full of charts never keeps an insert waiting. The engine
/// divides the cores among them; more wait in line.
const MAX_READS: usize = 24;
const MAX_INSERTS: usize = 16;
/// The engine refuses deeply nested queries by the stack that is left; a server's threads have 8 MiB.
const THREAD_STACK_BYTES: usize = 8 << 20;

/// Begins the `log_comment` of every read, by which the engine finds the one to cancel.
const READ_MARK: &str = "modelmeter-read:";

/// Everything that queries share.
pub struct Dispatcher {
    pub engine: Engine,
    pub folder: SpoolFolder,
    sessions: Sessions,
    running: Arc<Running>,
    reads: Arc<Semaphore>,
    inserts: Arc<Semaphore>,
    /// Queries under way, whether or not a client still waits.
    tasks: TaskTracker,
    serial: AtomicU64,
}

impl Dispatcher {
    pub fn new(engine: Engine, folder: SpoolFolder) -> Self {
        Self {
            engine,
            folder,
            sessions: Sessions::default(),
            running: Arc::default(),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            inserts: Arc::new(Semaphore::new(MAX_INSERTS)),
            tasks: TaskTracker::new(),
            serial: AtomicU64::new(0),
        }
    }

    /// Runs a request under the id `query_id` and waits for its answer. Dropped, it lets an insert go on and cancels
    /// a read.
    ///
    /// # Errors
    /// What the engine says, or why the request may not run.
    pub async fn run(
        self: &Arc<Self>,
        request: Request,
        body: Spool,
        query_id: String,
    ) -> Result<Reply, Exception> {
        let gone = Abandon {
            dispatcher: Arc::clone(self),
            mark: format!("{READ_MARK}{}", self.serial.fetch_add(1, Ordering::Relaxed)),
            is_gone: Arc::default(),
        };
        let (reply, answer) = oneshot::channel();
        let dispatcher = Arc::clone(self);
        let (mark, is_gone) = (gone.mark.clone(), Arc::clone(&gone.is_gone));
        self.tasks.spawn(async move {
            if let Err((reply, error)) = dispatcher
                .start(request, body, query_id, mark, is_gone, reply)
                .await
            {
                // Nobody waits any more: nobody to tell.
                drop(reply.send(Err(error)));
            }
        });
        let result = answer.await.unwrap_or_else(|_| {
            Err(Exception::new(
                code::STD_EXCEPTION,
                "the query's thread ended",
            ))
        });
        // From here on a long answer is cancelled by its channel.
        gone.forget();
        result
    }

    async fn start(
        self: Arc<Self>,
        request: Request,
        body: Spool,
        query_id: String,
        mark: String,
        is_gone: Arc<AtomicBool>,
        reply: ReplySender,
    ) -> Result<(), (ReplySender, Exception)> {
        let (held, plan) = match self.prepare(request, body, query_id).await {
            Ok(ready) => ready,
            Err(error) => return Err((reply, error)),
        };
        let permits = if plan.is_insert() {
            &self.inserts
        } else {
            &self.reads
        };
        let permit = Arc::clone(permits)
            .acquire_owned()
            .await
            .expect("the pool is never closed");
        let plan = if plan.is_insert() {
            plan
        } else {
            marked(plan, mark)
        };
        let work = move || {
            let sink = Outbox::new(reply, &plan, is_gone);
            held.run(plan, sink);
            drop(permit);
        };
        let thread = std::thread::Builder::new()
            .name("clickhouse-query".to_owned())
            .stack_size(THREAD_STACK_BYTES);
        let (done, ended) = oneshot::channel::<()>();
        let spawned = thread.spawn(move || {
            let _done = done;
            work();
        });
        match spawned {
            // The task ends with its thread, so that draining waits for the engine.
            Ok(_) => drop(ended.await),
            Err(error) => tracing::error!(%error, "no thread for a query"),
        }
        Ok(())
    }

    /// Plans the request, then takes session, id and table, in this order everywhere.
    async fn prepare(
        self: &Arc<Self>,
        request: Request,
        body: Spool,
        query_id: String,
    ) -> Result<(Held, Plan), Exception> {
        let folder = self.folder.clone();
        let plan = tokio::task::spawn_blocking(move || Plan::new(request, body, &folder))
            .await
            .map_err(|error| Exception::new(code::STD_EXCEPTION, error))??;
        let mut lease = Lease::take(self, plan.request.session.clone())?;
        let claim = if plan.request.replace_running_query {
            self.running.claim_after(&query_id, REPLACE_WAIT).await?
        } else {
            self.running.claim(&query_id)?
        };
        let mut turn = None;
        if plan.is_insert() {
            let current = match (&plan.request.database, plan.request.session.is_some()) {
                (Some(database), _) => database.clone(),
                (None, true) => execute::current_database(lease.connection())?,
                (None, false) => "default".to_owned(),
            };
            if let Some(table) = plan.table(&current) {
                turn = Some(self.running.lock_table(&table).await);
            }
        }
        let held = Held { turn, claim, lease };
        Ok((held, plan))
    }

    /// Ends every read under way; its client is told.
    pub async fn cancel_reads(self: &Arc<Self>) {
        let dispatcher = Arc::clone(self);
        let cancelled =
            tokio::task::spawn_blocking(move || dispatcher.kill("LIKE", &format!("{READ_MARK}%")));
        if let Err(error) = cancelled.await {
            tracing::warn!(%error, "reads could not be cancelled");
        }
    }

    /// Inserts carry no mark, so this ends reads alone.
    fn kill(&self, comparison: &'static str, mark: &str) {
        let sql =
            format!("KILL QUERY WHERE Settings['log_comment'] {comparison} {{mark:String}} ASYNC");
        let params = [("mark".to_owned(), mark.to_owned())];
        let killed = match self.engine.connect() {
            Ok(mut connection) => connection.query(sql.as_bytes(), "Null", &params).map(drop),
            Err(error) => Err(Exception::from_engine(&error.to_string())),
        };
        if let Err(error) = killed {
            tracing::warn!(%error, "a read could not be cancelled");
        }
    }

    /// Waits for the queries under way.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Closes sessions and engine.
    pub fn close(&self) {
        self.sessions.close();
        self.engine.close();
    }
}

/// A read carries its mark, by which it can be cancelled; a client's own `log_comment` goes before.
fn marked(mut plan: Plan, mark: String) -> Plan {
    if !plan
        .request
        .settings
        .iter()
        .any(|(name, _)| name == "log_comment")
    {
        plan.request.settings.push(("log_comment".to_owned(), mark));
    }
    plan
}

/// What a query holds while it runs. Fields are dropped from the first: turn, id, connection.
struct Held {
    turn: Option<OwnedMutexGuard<()>>,
    claim: Claim,
    lease: Lease,
}

impl Held {
    fn run(mut self, plan: Plan, mut sink: Outbox) {
        let is_session = plan.request.session.is_some();
        // Nobody waits for a read that has not begun. An insert is the writer's word and runs.
        let result = if sink.is_gone() && !plan.is_insert() {
            Err(Exception::new(
                code::QUERY_WAS_CANCELLED,
                "the client is gone",
            ))
        } else {
            execute::run(self.lease.connection(), plan, &mut sink, is_session)
        };
        let Self { turn, claim, lease } = self;
        drop(turn);
        drop(lease);
        drop(claim);
        // Last, so that the client's next request finds table, id and session free.
        sink.finish(result);
    }
}

/// A connection: the session's, given back when dropped, or the request's own.
struct Lease {
    connection: Option<Connection>,
    session: Option<(Arc<Dispatcher>, SessionRequest)>,
}

impl Lease {
    fn take(
        dispatcher: &Arc<Dispatcher>,
        session: Option<SessionRequest>,
    ) -> Result<Self, Exception> {
        let connection = match &session {
            Some(session) => dispatcher.sessions.take(&dispatcher.engine, session)?,
            None => dispatcher
                .engine
                .connect()
                .map_err(|error| Exception::from_engine(&error.to_string()))?,
        };
        Ok(Self {
            connection: Some(connection),
            session: session.map(|session| (Arc::clone(dispatcher), session)),
        })
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is there until dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(connection), Some((dispatcher, session))) =
            (self.connection.take(), &self.session)
        {
            dispatcher.sessions.give_back(session, connection);
        }
    }
}

/// Cancels a read whose client went away, when dropped before `forget`.
struct Abandon {
    dispatcher: Arc<Dispatcher>,
    mark: String,
    is_gone: Arc<AtomicBool>,
}

impl Abandon {
    fn forget(mut self) {
        self.mark.clear();
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if self.mark.is_empty() {
            return;
        }
        self.is_gone.store(true, Ordering::Release);
        let (dispatcher, mark) = (Arc::clone(&self.dispatcher), std::mem::take(&mut self.mark));
        self.dispatcher
            .tasks
            .spawn_blocking(move || dispatcher.kill("=", &mark));
    }
}
