//! A range of time and the step it is read at. The step is chosen here, so that no query passes a bound of sketches and
//! no chart one of points; a caller cannot choose it.

use super::error::ApiError;

/// A range of the dropdown, with its step and how often the page asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    pub seconds: u32,
    step: u32,
    pub refresh_s: u32,
}

/// Each reads at most 1,440 windows, beside those that its ends are aligned outward to.
const PRESETS: [Preset; 6] = [
    Preset {
        name: "15m",
        seconds: 900,
        step: 10,
        refresh_s: 5,
    },
    Preset {
        name: "1h",
        seconds: 3600,
        step: 30,
        refresh_s: 5,
    },
    Preset {
        name: "6h",
        seconds: 6 * 3600,
        step: 60,
        refresh_s: 15,
    },
    Preset {
        name: "24h",
        seconds: 86_400,
        step: 300,
        refresh_s: 30,
    },
    Preset {
        name: "7d",
        seconds: 7 * 86_400,
        step: 3600,
        refresh_s: 60,
    },
    Preset {
        name: "30d",
        seconds: 30 * 86_400,
        step: 10_800,
        refresh_s: 60,
    },
];

impl Preset {
    pub const DEFAULT: Self = PRESETS[2];

    /// # Errors
    /// When there is none of this name.
    pub fn named(name: &str) -> Result<Self, ApiError> {
        PRESETS
            .into_iter()
            .find(|preset| preset.name == name)
            .ok_or_else(|| {
                ApiError::bad(
                    "range",
                    format!("is one of {}", PRESETS.map(|p| p.name).join(", ")),
                )
            })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Up to now, and read again.
    Last(Preset),
    /// From start to stop, seconds since 1970.
    Between { start: u32, stop: u32 },
}

/// The steps of a range of one's own, finest first; each divides the next.
pub const LADDER: [u32; 9] = [10, 30, 60, 300, 900, 3600, 10_800, 21_600, 86_400];

/// More points than this are less than two pixels wide.
const MAX_POINTS: u32 = 400;

/// Windows of one query. Each has three sketches, and to merge so many takes some 35 ms.
const MAX_WINDOWS: u32 = 2400;

/// The longest range: 2,400 windows of the coarsest tier.
const MAX_SECONDS: u32 = MAX_WINDOWS * 3600;

/// How long the windows of a tier are kept: 10 s two days, 1 m thirty days, 1 h two years.
const KEPT_S: [(u32, u32); 3] = [(10, 2 * 86_400), (60, 30 * 86_400), (3600, 730 * 86_400)];

/// What the strip calls recent, where steps are not longer: long enough for a percentile, short enough for an alarm.
const RECENT_S: u32 = 300;

/// From a step's end until all of it has been read: the interval of a sample, and a flush. As the page has it.
const LAG_S: u32 = 10;

/// A range, aligned outward to whole steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u32,
    pub stop: u32,
    pub step: u32,
    pub now: u32,
    /// None where the range does not move with time.
    pub preset: Option<Preset>,
}

impl Range {
    /// # Errors
    /// When it is empty, or too long for one answer.
    pub fn of(asked: Asked, now: u32) -> Result<Self, ApiError> {
        let (start, stop, step, preset) = match asked {
            // the step that begins in this second has begun
            Asked::Last(preset) => (
                now.saturating_sub(preset.seconds),
                now.saturating_add(1),
                preset.step,
                Some(preset),
            ),
            Asked::Between { start, stop } => (start, stop, step_for(start, stop, now)?, None),
        };
        let stop = stop.div_ceil(step).checked_mul(step);
        Ok(Self {
            start: start / step * step,
            stop: stop.ok_or_else(|| ApiError::bad("stop", "is later than 2106"))?,
            step,
            now,
            preset,
        })
    }

    pub fn tier(&self) -> Tier {
        Tier::of(self.step)
    }

    /// The last five minutes of complete steps, or the last of them, if longer: start and stop, steps both.
    pub fn recent(&self) -> (u32, u32) {
        let ended = self.now.saturating_sub(LAG_S) / self.step * self.step;
        let stop = ended.clamp(self.start, self.stop);
        let start = stop.saturating_sub(RECENT_S.max(self.step));
        (start.max(self.start), stop)
    }

    /// The beginnings of its steps, those of the future left out.
    pub fn steps(&self) -> impl Iterator<Item = u32> + use<> {
        let (start, stop, step) = (
            self.start,
            self.stop.min(self.now.saturating_add(1)),
            self.step,
        );
        (start..stop).step_by(step as usize)
    }
}

/// The windows that a range is read from; the newest ones always come from 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    TenSeconds,
    Minute,
    Hour,
}

impl Tier {
    pub fn of(step: u32) -> Self {
        match tier_of(step) {
            3600 => Self::Hour,
            60 => Self::Minute,
            _ => Self::TenSeconds,
        }
    }
}

/// The width of the windows that a step is read from.
fn tier_of(step: u32) -> u32 {
    KEPT_S
        .iter()
        .map(|(width, _)| *width)
        .filter(|width| step.is_multiple_of(*width))
        .max()
        .unwrap_or(10)
}

fn step_for(start: u32, stop: u32, now: u32) -> Result<u32, ApiError> {
    let Some(seconds) = stop.checked_sub(start).filter(|seconds| *seconds > 0) else {
        return Err(ApiError::bad("stop", "is not later than start"));
    };
    if seconds > MAX_SECONDS {
        let days = MAX_SECONDS / 86_400;
        return Err(ApiError::bad(
            "stop",
            format!("is more than {days} days after start: ask in parts"),
        ));
    }
    let is_kept = |tier: u32| {
        KEPT_S
            .iter()
            .any(|(width, kept)| *width == tier && start >= now.saturating_sub(*kept))
    };
    let fits = |step: &u32| {
        let tier = tier_of(*step);
        seconds.div_ceil(*step) <= MAX_POINTS
            && seconds.div_ceil(tier) <= MAX_WINDOWS
            && (is_kept(tier) || tier == 3600)
    };
    let step = LADDER.into_iter().find(fits);
    Ok(step.expect("the longest range is of the coarsest tier, and 6 h make few points of it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_700_000_003;

    fn between(start: u32, stop: u32) -> Result<Range, ApiError> {
        Range::of(Asked::Between { start, stop }, NOW)
    }

    #[test]
    fn presets_end_now_and_stay_under_the_bounds() {
        const ON_EVERY_STEP: u32 = 1_699_995_600;
        for (preset, now) in PRESETS
            .into_iter()
            .flat_map(|preset| [(preset, NOW), (preset, ON_EVERY_STEP)])
        {
            let range = Range::of(Asked::Last(preset), now).expect("good");
            let points = range.steps().count() as u32;
            assert!(points <= MAX_POINTS + 1, "{range:?}");
            let n_windows = (range.stop - range.start) / tier_of(preset.step);
            assert!(n_windows <= MAX_WINDOWS, "{range:?}");
            let last = range.steps().last().expect("some");
            assert!(last <= now && now - last < range.step, "{range:?}");
            assert!(range.start <= now - preset.seconds && range.start.is_multiple_of(range.step));
        }
    }

    #[test]
    fn the_step_of_a_range_is_the_first_that_fits_and_is_kept() {
        for (start, stop, step) in [
            (NOW - 900, NOW, 10),
            (NOW - 4000, NOW, 10),
            (NOW - 4001, NOW, 30),
            (NOW - 3 * 86_400, NOW - 3 * 86_400 + 600, 60),
            (NOW - 86_400, NOW, 300),
            (NOW - 2 * 86_400, NOW, 3600),
            (NOW - 40 * 86_400, NOW - 40 * 86_400 + 600, 3600),
            (NOW - 100 * 86_400, NOW, 21_600),
            (0, 600, 3600),
        ] {
            assert_eq!(
                between(start, stop).expect("good").step,
                step,
                "{start} {stop}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (start, stop) in [
            (5, 5),
            (6, 5),
            (0, 100 * 86_400 + 1),
            (u32::MAX - 10, u32::MAX),
        ] {
            let error = between(start, stop).expect_err("refused").to_string();
            assert!(error.starts_with("stop: "), "{error}");
        }
    }

    #[test]
    fn recent_is_five_minutes_of_complete_steps_or_one_step() {
        for (preset, start, stop) in [
            ("15m", 1_699_999_690, 1_699_999_990),
            ("6h", 1_699_999_680, 1_699_999_980),
            ("24h", 1_699_999_500, 1_699_999_800),
            ("7d", 1_699_995_600, 1_699_999_200),
        ] {
            let preset = Preset::named(preset).expect("known");
            let range = Range::of(Asked::Last(preset), NOW).expect("good");
            assert_eq!(range.recent(), (start, stop), "{range:?}");
        }
        // a past range ends with its own last minutes; a short one is all recent
        assert_eq!(
            between(NOW - 9003, NOW - 8003).expect("good").recent(),
            (NOW - 8303, NOW - 8003)
        );
        assert_eq!(
            between(NOW - 8063, NOW - 8003).expect("good").recent(),
            (NOW - 8063, NOW - 8003)
        );
    }

    #[test]
    fn the_future_has_no_steps() {
        let range = between(NOW - 3, NOW + 600).expect("good");
        assert_eq!(range.steps().collect::<Vec<_>>(), [1_700_000_000]);
    }
}
