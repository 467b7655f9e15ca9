//! Which queries run: ids that may run once at a time, and one mutex per table for the inserts into it.
//! Exactness rests on the mutex: the guard inside an insert is a check, and nothing may commit between it and the
//! insert's own commit. Whoever holds a claim or a lock holds it until the engine is done, whatever the client does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard};

use super::exception::{Exception, code};

/// How long `replace_running_query=1` waits for the query it replaces: ClickHouse's
/// `replace_running_query_max_wait_ms`.
pub const REPLACE_WAIT: Duration = Duration::from_secs(5);

/// The ids and tables of the queries under way.
#[derive(Debug, Default)]
pub struct Running {
    ids: Mutex<HashMap<String, Arc<Notify>>>,
    /// One entry per table ever inserted into and not idle; pruned at each use.
    tables: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A query id in use, until dropped.
#[derive(Debug)]
pub struct Claim {
    running: Arc<Running>,
    id: String,
}

impl Running {
    /// Takes the id at once or refuses.
    ///
    /// # Errors
    /// Code 216 while a query of that id runs.
    pub fn claim(self: &Arc<Self>, id: &str) -> Result<Claim, Exception> {
        let mut ids = lock(&self.ids);
        if ids.contains_key(id) {
            let message = format!(
                "Query with id = {id} is already running. (QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)"
            );
            return Err(Exception::new(
                code::QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING,
                message,
            ));
        }
        ids.insert(id.to_owned(), Arc::default());
        Ok(Claim {
            running: Arc::clone(self),
            id: id.to_owned(),
        })
    }

    /// Takes the id, after the query that has it if that ends in time.
    ///
    /// # Errors
    /// Code 216 when it does not.
    pub async fn claim_after(
        self: &Arc<Self>,
        id: &str,
        patience: Duration,
    ) -> Result<Claim, Exception> {
        let wait = async {
            loop {
                let ended = lock(&self.ids).get(id).map(Arc::clone);
                if let Some(ended) = ended {
                    let ended = ended.notified();
                    tokio::pin!(ended);
                    // Registered before looking again, so that an end in between is not missed.
                    ended.as_mut().enable();
                    if lock(&self.ids).contains_key(id) {
                        ended.await;
                    }
                }
                if let Ok(claim) = self.claim(id) {
                    return claim;
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(claim) => Ok(claim),
            Err(_) => self.claim(id),
        }
    }

    /// The table's turn. Waiters are served in order.
    pub async fn lock_table(&self, table: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut tables = lock(&self.tables);
            tables.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(tables.entry(table.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(ended) = lock(&self.running.ids).remove(&self.id) {
            ended.notify_waiters();
        }
    }
}

/// A map whose holder panicked is still whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_runs_once_at_a_time() {
        let running = Arc::new(Running::default());
        let first = running.claim("q").expect("free");
        assert_eq!(running.claim("q").err().map(|e| e.code), Some(216));
        assert!(running.claim("other").is_ok());
        drop(first);
        assert!(running.claim("q").is_ok());
    }

    #[tokio::test]
    async fn a_replacement_waits_for_the_end() {
        let running = Arc::new(Running::default());
        let first = running.claim("q").expect("free");
        let (second, ()) = tokio::join!(running.claim_after("q", REPLACE_WAIT), async move {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn a_replacement_gives_up() {
        let running = Arc::new(Running::default());
        let _first = running.claim("q").expect("free");
        assert_eq!(
            running
                .claim_after("q", Duration::from_millis(1))
                .await
                .err()
                .map(|e| e.code),
            Some(216)
        );
    }

    #[tokio::test]
    async fn a_table_has_one_insert_at_a_time() {
        let running = Running::default();
        let first = running.lock_table("d.t").await;
        running.lock_table("d.other").await;
        let second = running.lock_table("d.t");
        tokio::pin!(second);
        assert!(futures_poll(second.as_mut()).await.is_none());
        drop(first);
        second.await;
    }

    /// Polls once.
    async fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut future = future;
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
