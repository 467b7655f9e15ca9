//! How long the writer waits between tries.

use std::time::Duration;

use crate::clock;

/// While another writer holds the table: its insert takes tens of milliseconds.
const BUSY_WAIT_MS: (u64, u64) = (5, 50);

/// Between tries of an insert or a read that failed: from the first, doubling, to the last. ClickHouse restarts in
/// seconds; a tenth of a second does not hurt one that is up, five seconds do not hurt one that is down.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Waits between tries, longer each time, never in step with another process.
pub struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Starts at the first wait, at a random place of its own.
    pub fn seeded() -> Self {
        Self {
            next: FIRST_RETRY,
            random: clock::now_us().cast_unsigned() | 1,
        }
    }

    /// A number below `n`, from xorshift: spreading retries needs no better one.
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n.max(1)
    }

    pub async fn wait(&mut self) {
        let half = self.next / 2;
        let jitter = self.below(u64::try_from(half.as_millis()).unwrap_or(1));
        tokio::time::sleep(half + Duration::from_millis(jitter)).await;
        self.next = (self.next * 2).min(LAST_RETRY);
    }

    pub async fn wait_for_busy(&mut self) {
        let (least, most) = BUSY_WAIT_MS;
        let ms = least + self.below(most - least + 1);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// True when there had been failures.
    pub fn reset(&mut self) -> bool {
        std::mem::replace(&mut self.next, FIRST_RETRY) != FIRST_RETRY
    }
}
