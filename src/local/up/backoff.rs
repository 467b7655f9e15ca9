//! How long to wait before a part is started again. It counts failures in a row; what a failure is,
//! is the supervisor's to say.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// After the first failure: a part that was killed once is back at once.
const SHORTEST: Duration = Duration::from_millis(200);

/// After many: a part that cannot run costs a start every 10 s, and is back within 10 s of its cure.
const LONGEST: Duration = Duration::from_secs(10);

/// A part that had answered for this long begins anew: its failures are not one failure repeated.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Backoff {
    n_failures: u32,
}

impl Backoff {
    /// The wait after one more failure, of a part that had answered for `answered_for`.
    pub fn after_failure(&mut self, answered_for: Duration) -> Duration {
        if answered_for >= FORGIVEN_AFTER {
            self.n_failures = 0;
        }
        let wait = whole_wait(self.n_failures);
        self.n_failures = self.n_failures.saturating_add(1);
        // Half of it is chance, so that parts which fell together do not rise together.
        wait.mul_f64(0.5 + 0.5 * chance())
    }

    pub fn n_failures(&self) -> u32 {
        self.n_failures
    }
}

fn whole_wait(n_failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(n_failures);
    SHORTEST.saturating_mul(doubled).min(LONGEST)
}

/// A number in [0, 1), from the keys that the standard library draws for its hash maps.
fn chance() -> f64 {
    let drawn = RandomState::new().hash_one(0_u8) >> 32;
    drawn as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_anew_after_a_good_time() {
        let mut backoff = Backoff::default();
        for n in 0..40 {
            let whole = whole_wait(n);
            assert!(whole <= LONGEST);
            let wait = backoff.after_failure(Duration::ZERO);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} for {whole:?}");
        }
        assert_eq!(backoff.n_failures(), 40);
        assert_eq!(whole_wait(39), LONGEST);
        assert!(backoff.after_failure(FORGIVEN_AFTER) <= SHORTEST);
        assert_eq!(backoff.n_failures(), 1);
    }
}
