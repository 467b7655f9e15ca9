//! How many replicas a deployment should have. It sees what a real autoscaler sees, requests waiting and being served, and
//! decides every few seconds: up at once, down only when fewer would have done for a while.

use std::collections::VecDeque;

use super::profile::{MINUTE, SECOND, Scaling};

/// Between two decisions, as in Kubernetes' horizontal autoscaler.
pub const DECIDE_EVERY_US: i64 = 15 * SECOND;

/// The greatest wish of so long counts: Kubernetes' stabilization window before it scales down.
const CALM_US: i64 = 5 * MINUTE;

/// A replica is meant to have this share of its places taken, so that there is room until the next one has loaded.
const WANTED_LOAD: f64 = 0.7;

/// The weight of the newest measurement; the rest is what was measured before.
const NEWEST: f64 = 0.4;

#[derive(Debug, Default)]
pub struct Autoscaler {
    demand: f64,
    /// (when, how many were wished), at most as many as fit in [`CALM_US`].
    wishes: VecDeque<(i64, usize)>,
}

impl Autoscaler {
    /// How many replicas there should be, given what is there now.
    pub fn decide(&mut self, scaling: &Scaling, now: Seen) -> usize {
        self.demand += NEWEST * (now.n_requests as f64 - self.demand);
        let places = now.concurrency as f64 * WANTED_LOAD;
        let is_idle = now.n_requests == 0 && now.idle_us > scaling.idle_us;
        let least = if scaling.min == 0 && !is_idle {
            1
        } else {
            scaling.min
        };
        let wish = ((self.demand / places).ceil() as usize).clamp(least, scaling.max);
        let wish = if least == 0 && is_idle { 0 } else { wish };
        self.wishes.push_back((now.at_us, wish));
        while self
            .wishes
            .front()
            .is_some_and(|&(at, _)| at <= now.at_us - CALM_US)
        {
            self.wishes.pop_front();
        }
        let calm = self.wishes.iter().map(|&(_, n)| n).max().unwrap_or(wish);
        if wish >= now.n_replicas {
            // never more than twice as many at once, since new ones take work only when they have loaded
            wish.min((2 * now.n_replicas).max(1))
        } else {
            calm.min(now.n_replicas)
        }
    }
}

/// What the autoscaler sees.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub at_us: i64,
    /// Waiting and being served.
    pub n_requests: usize,
    /// Those that are not stopping.
    pub n_replicas: usize,
    /// Requests that one replica serves at once.
    pub concurrency: usize,
    /// Since the last request.
    pub idle_us: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at_s: i64, n_requests: usize, n_replicas: usize) -> Seen {
        Seen {
            at_us: at_s * SECOND,
            n_requests,
            n_replicas,
            concurrency: 10,
            idle_us: if n_requests == 0 { at_s * SECOND } else { 0 },
        }
    }

    fn scaling(min: usize) -> Scaling {
        Scaling {
            min,
            max: 6,
            initial: 1,
            idle_us: 20 * MINUTE,
            place_us: 0.0,
            load_us: 0.0,
        }
    }

    #[test]
    fn up_at_once_within_limits_and_down_after_calm() {
        let mut autoscaler = Autoscaler::default();
        let scaling = scaling(1);
        let mut n = 1;
        for step in 0..20 {
            let next = autoscaler.decide(&scaling, seen(step * 15, 200, n));
            assert!(next <= 6 && next <= 2 * n, "{n} then {next}");
            assert!(next >= n);
            n = next;
        }
        assert_eq!(n, 6);
        let mut since_calm = 0;
        while n == 6 {
            since_calm += 15;
            n = autoscaler.decide(&scaling, seen(300 + since_calm, 3, n));
        }
        assert!((300..=390).contains(&since_calm), "{since_calm}");
    }

    #[test]
    fn only_a_minimum_of_zero_lets_an_idle_one_go() {
        for (min, expected) in [(0, 0), (1, 1)] {
            let mut autoscaler = Autoscaler::default();
            let mut n = 1;
            for step in 0..200 {
                n = autoscaler.decide(&scaling(min), seen(step * 15, 0, n));
            }
            assert_eq!(n, expected);
        }
    }
}
