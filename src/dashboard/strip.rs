//! What the strip of tiles tells of requests: the last minutes, and the whole range to hold them against. Shares and
//! percentiles come merged from ClickHouse; only the seconds that a rate divides by are counted here, since steps of which
//! nothing is known are no silence.

use serde::Serialize;

use super::coverage::Coverage;
use super::range::Range;

/// A total over several steps, as the statements of volume and of times add it up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Total {
    pub requests: f64,
    pub share_5xx: Option<f64>,
    pub end_to_end_p95_ms: Option<f64>,
    pub inference_p95_ms: Option<f64>,
    pub queue_p95_ms: Option<f64>,
}

impl Total {
    /// No request at all: of nothing there is no share and no time.
    const ZERO: Self = Self {
        requests: 0.0,
        share_5xx: None,
        end_to_end_p95_ms: None,
        inference_p95_ms: None,
        queue_p95_ms: None,
    };
}

/// A period with what was asked in it; the numbers are null where nothing is known of any of its steps.
#[derive(Debug, PartialEq, Serialize)]
pub struct Period {
    start: u32,
    stop: u32,
    requests: Option<f64>,
    rps: Option<f64>,
    share_5xx: Option<f64>,
    end_to_end_p95_ms: Option<f64>,
    inference_p95_ms: Option<f64>,
    queue_p95_ms: Option<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Strip {
    recent: Period,
    range: Period,
}

/// The totals of both, and what the steps of the range are.
pub fn of(
    range: &Range,
    coverage: &[Coverage],
    recent: Option<Total>,
    whole: Option<Total>,
) -> Strip {
    let (start, stop) = range.recent();
    Strip {
        recent: period(range, coverage, (start, stop), recent),
        range: period(range, coverage, (range.start, range.stop), whole),
    }
}

fn period(
    range: &Range,
    coverage: &[Coverage],
    (start, stop): (u32, u32),
    total: Option<Total>,
) -> Period {
    let known = range.steps().zip(coverage).filter(|(t, of)| {
        (start..stop).contains(t) && matches!(of, Coverage::Data | Coverage::Zero)
    });
    let seconds: u32 = known
        .map(|(t, _)| range.now.saturating_sub(t).clamp(1, range.step))
        .sum();
    let total = total.or_else(|| (seconds > 0).then_some(Total::ZERO));
    Period {
        start,
        stop,
        requests: total.map(|total| total.requests),
        rps: total.map(|total| total.requests / f64::from(seconds.max(1))),
        share_5xx: total.and_then(|total| total.share_5xx),
        end_to_end_p95_ms: total.and_then(|total| total.end_to_end_p95_ms),
        inference_p95_ms: total.and_then(|total| total.inference_p95_ms),
        queue_p95_ms: total.and_then(|total| total.queue_p95_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::Asked;
    use super::*;

    const NOW: u32 = 1_700_000_012;

    fn total(requests: f64) -> Total {
        Total {
            requests,
            ..Total::ZERO
        }
    }

    #[test]
    fn a_rate_is_over_the_steps_of_which_something_is_known() {
        let asked = Asked::Between {
            start: 1_699_999_400,
            stop: 1_700_000_000,
        };
        let range = Range::of(asked, NOW).expect("good");
        assert_eq!((range.step, range.steps().count()), (10, 60));
        let mut coverage = vec![Coverage::None; 60];
        coverage[30..50].fill(Coverage::Zero);
        coverage[50..].fill(Coverage::Data);
        let strip = of(&range, &coverage, Some(total(600.0)), Some(total(600.0)));
        assert_eq!(
            (strip.recent.start, strip.recent.stop),
            (1_699_999_700, 1_700_000_000)
        );
        assert_eq!(strip.recent.rps, Some(2.0));
        assert_eq!(
            strip.range.rps,
            Some(2.0),
            "the first half is unknown, not silent"
        );
    }

    #[test]
    fn zero_is_told_from_nothing() {
        let asked = Asked::Between {
            start: 1_699_999_400,
            stop: 1_700_000_000,
        };
        let range = Range::of(asked, NOW).expect("good");
        let strip = of(&range, &[Coverage::Zero; 60], None, None);
        assert_eq!(
            (strip.recent.requests, strip.recent.rps),
            (Some(0.0), Some(0.0))
        );
        assert_eq!(strip.recent.share_5xx, None);
        let strip = of(&range, &[Coverage::None; 60], None, None);
        assert_eq!((strip.range.requests, strip.range.rps), (None, None));
    }
}
