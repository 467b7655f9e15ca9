//! A deadline for reads and small writes: the `clickhouse` crate has none, and a server that was stopped keeps its
//! connections alive.

use std::time::Duration;

/// A ledger is read in milliseconds; a server that takes this long has stalled.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("ClickHouse did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Client(#[from] clickhouse::error::Error),
}

/// Waits for an answer, but not for ever.
///
/// # Errors
/// [`StoreError::Timeout`], or what the client says.
pub async fn answer<T>(
    asking: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(StoreError::Timeout),
    }
}
