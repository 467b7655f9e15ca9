//! How long the steps of the time charts are: long enough that most of them rest on enough requests, short enough that a
//! course is left to see. It counts requests and computes no time.

use std::collections::BTreeMap;

use super::range::{LADDER, Range};

/// A p95 rests on ten of 200 requests; with fewer beyond it the page calls a percentile thin.
const ENOUGH_REQUESTS: f64 = 200.0;

/// With fewer points a chart shows no course any more; where requests are so few, its steps stay thin and are drawn so.
const MIN_POINTS: u32 = 24;

/// The first step of the ladder whose median of requests, steps without any left out, is enough, as long as enough points
/// are left; else the longest that leaves so many. Where nothing was asked it is the range's own step. `requests` are those
/// of each of the range's steps.
pub fn step(range: &Range, requests: &BTreeMap<u32, f64>) -> u32 {
    if requests.is_empty() {
        return range.step;
    }
    let mut longest = range.step;
    for step in LADDER {
        if !step.is_multiple_of(range.step) || (range.stop - range.start) / step < MIN_POINTS {
            continue;
        }
        longest = step;
        if median(step, requests) >= ENOUGH_REQUESTS {
            break;
        }
    }
    longest
}

/// The range, aligned outward to whole latency steps.
pub fn aligned(range: &Range, step: u32) -> (u32, u32) {
    // a range ends before 2106 by a step at least, and a longer one is cut off there
    let stop = range.stop.div_ceil(step).saturating_mul(step);
    (range.start / step * step, stop)
}

/// The beginnings of the latency steps that have begun and reach into the range.
pub fn steps(range: &Range, step: u32) -> Vec<u32> {
    let (start, stop) = aligned(range, step);
    let stop = stop.min(range.now.saturating_add(1));
    (start..stop).step_by(step as usize).collect()
}

/// Of the steps with requests; the lower one where two lie in the middle.
fn median(step: u32, requests: &BTreeMap<u32, f64>) -> f64 {
    let mut sums = BTreeMap::<u32, f64>::new();
    for (at, n) in requests {
        *sums.entry(at / step).or_default() += n;
    }
    let mut sums: Vec<f64> = sums.into_values().collect();
    sums.sort_by(f64::total_cmp);
    let middle = sums.len().saturating_sub(1) / 2;
    sums.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::range::{Asked, Preset};
    use super::*;

    const NOW: u32 = 1_700_000_003;

    fn range(preset: &str) -> Range {
        let preset = Preset::named(preset).expect("known");
        Range::of(Asked::Last(preset), NOW).expect("good")
    }

    /// `n` requests in every `nth` step.
    fn every(range: &Range, nth: usize, n: f64) -> BTreeMap<u32, f64> {
        range.steps().step_by(nth).map(|at| (at, n)).collect()
    }

    #[test]
    fn it_is_the_first_step_with_enough_requests() {
        let range = range("6h");
        for (nth, n, expected) in [
            (1, 200.0, 60),
            (1, 199.0, 300),
            (1, 40.0, 300),
            (1, 39.0, 900),
            // what was asked in bursts is enough where it was asked
            (30, 200.0, 60),
            (30, 199.0, 900),
            // an hour leaves six points
            (1, 1.0, 900),
        ] {
            let requests = every(&range, nth, n);
            assert_eq!(step(&range, &requests), expected, "{n} in every {nth}");
        }
    }

    #[test]
    fn half_of_the_steps_must_have_enough() {
        let range = range("1h");
        let mut requests = every(&range, 1, 200.0);
        let n = requests.len();
        for n_requests in requests.values_mut().take(n / 2 + 1) {
            *n_requests = 1.0;
        }
        assert_eq!(step(&range, &requests), 60);
        for n_requests in requests.values_mut().take(n / 2 - 1) {
            *n_requests = 200.0;
        }
        assert_eq!(step(&range, &requests), 30);
    }

    #[test]
    fn where_nothing_is_enough_it_is_the_longest_with_a_course() {
        for (preset, longest) in [
            ("15m", 30),
            ("1h", 60),
            ("6h", 900),
            ("24h", 3600),
            ("7d", 21_600),
            ("30d", 86_400),
        ] {
            let range = range(preset);
            assert_eq!(step(&range, &every(&range, 1, 0.1)), longest, "{preset}");
            assert_eq!(step(&range, &BTreeMap::new()), range.step, "{preset}");
        }
        let short = Range::of(
            Asked::Between {
                start: NOW - 203,
                stop: NOW - 3,
            },
            NOW,
        );
        let short = short.expect("good");
        assert_eq!(step(&short, &every(&short, 1, 1.0)), 10);
    }

    #[test]
    fn a_latency_step_is_read_whole() {
        let range = Range::of(
            Asked::Between {
                start: 1_699_999_950,
                stop: 1_700_000_060,
            },
            NOW,
        );
        assert_eq!(
            aligned(&range.expect("good"), 300),
            (1_699_999_800, 1_700_000_100)
        );
    }
}
