//! The average over an interval, from a counter that only grows. Knows no file and reads no clock.

use std::time::Duration;

/// A counter's last value, and when it was read.
#[derive(Debug, Default)]
pub struct Counter {
    last: Option<(Duration, f64)>,
}

impl Counter {
    /// The growth a second since the reading before; none at the first reading, and none where the counter went back
    /// (its container was made anew) or could not be read. In each of these cases counting begins anew.
    pub fn rate(&mut self, at: Duration, value: Option<f64>) -> Option<f64> {
        let before = std::mem::replace(&mut self.last, value.map(|value| (at, value)));
        let ((earlier, least), value) = (before?, value?);
        let seconds = at.checked_sub(earlier)?.as_secs_f64();
        (seconds > 0.0 && value >= least).then(|| (value - least) / seconds)
    }

    /// What is read next is another thing's counter.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_interval_and_never_of_a_counter_that_went_back() {
        let mut counter = Counter::default();
        let at = Duration::from_secs;
        assert_eq!(counter.rate(at(10), Some(100.0)), None, "no interval yet");
        assert_eq!(counter.rate(at(14), Some(102.0)), Some(0.5));
        assert_eq!(counter.rate(at(18), Some(102.0)), Some(0.0), "a true zero");
        assert_eq!(counter.rate(at(20), Some(1.0)), None, "it went back");
        assert_eq!(counter.rate(at(22), Some(3.0)), Some(1.0));
        assert_eq!(counter.rate(at(24), None), None);
        assert_eq!(
            counter.rate(at(26), Some(9.0)),
            None,
            "no interval after a gap"
        );
        assert_eq!(
            counter.rate(at(26), Some(9.0)),
            None,
            "an interval of no length"
        );
        counter.forget();
        assert_eq!(counter.rate(at(30), Some(90.0)), None);
    }
}
