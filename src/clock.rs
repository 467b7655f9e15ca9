//! The one place that reads the wall clock. `core` is never given it; the edges pass times in.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, UTC.
pub fn now_us() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}
