//! When requests come and how large they are: the real part of the model. Recordings are played as they are, again and
//! again; a client's ten minutes hold as many requests as were counted in them, at distances drawn from what was fitted to
//! that client. A moment's requests depend on the seed, the moment and the midnight (UTC) before the model began, from which
//! a trace's time is counted: two models that begin on the same day agree on every moment that both have, two that begin on
//! different days need not.

use std::sync::Arc;

use super::random::Random;
use crate::replay::traces::{CLIENT_WINDOW_US, ClientWindow, Recording, Spread, Tokens};

/// A request at the front door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub at_us: i64,
    pub tokens: Tokens,
}

/// How the trace's time follows from the model's.
#[derive(Debug, Clone, Copy)]
pub struct Tempo {
    /// Where the trace's time is 0: a midnight, so that numbers stay exact in a double.
    pub anchor_us: i64,
    /// Trace time that passes in one unit of the model's time.
    pub speed: f64,
}

const DAY_US: i64 = 86_400_000_000;

impl Tempo {
    pub fn new(start_us: i64, speed: f64) -> Self {
        Self {
            anchor_us: start_us - start_us.rem_euclid(DAY_US),
            speed,
        }
    }

    fn trace_time(&self, at_us: i64) -> i64 {
        ((at_us - self.anchor_us) as f64 * self.speed) as i64
    }

    fn model_time(&self, trace_us: i64) -> i64 {
        self.anchor_us + (trace_us as f64 / self.speed) as i64
    }
}

/// Where requests come from.
#[derive(Debug)]
pub enum Arrivals {
    /// Several copies of a recording, apart from one another in phase.
    Recorded(Vec<Playback>),
    Client(Box<ClientPlayback>),
}

impl Arrivals {
    /// The next request, never before the one given last.
    pub fn take_next(&mut self) -> Arrival {
        match self {
            Self::Recorded(copies) => copies
                .iter_mut()
                .min_by_key(|copy| copy.upcoming.at_us)
                .expect("a recording is played at least once")
                .take_next(),
            Self::Client(client) => client.take_next(),
        }
    }
}

/// Load that rises and falls: the share of a recording's requests that come, between `low` and 1.
#[derive(Debug, Clone, Copy)]
pub struct Wave {
    pub period_us: i64,
    pub low: f64,
}

/// One copy of a recording.
#[derive(Debug)]
pub struct Playback {
    recording: Arc<Recording>,
    tempo: Tempo,
    phase_us: i64,
    /// The share of its requests that are taken.
    share: f64,
    wave: Option<Wave>,
    seed: u64,
    /// Which time the recording is being played, and at which row it stands.
    round: i64,
    row: usize,
    upcoming: Arrival,
}

/// How a recording is played.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub phase_us: i64,
    pub share: f64,
    pub wave: Option<Wave>,
}

impl Playback {
    /// Plays from `start_us` on.
    pub fn new(
        recording: Arc<Recording>,
        tempo: Tempo,
        part: Part,
        seed: u64,
        start_us: i64,
    ) -> Self {
        let from = tempo.trace_time(start_us) + part.phase_us;
        let within = from.rem_euclid(recording.length_us);
        let mut playback = Self {
            round: from.div_euclid(recording.length_us),
            row: recording.rows.partition_point(|row| row.at_us < within),
            recording,
            tempo,
            phase_us: part.phase_us,
            share: part.share,
            wave: part.wave,
            seed,
            upcoming: Arrival {
                at_us: start_us,
                tokens: Tokens {
                    context: 0,
                    generated: 0,
                },
            },
        };
        // rounding may put the first one a microsecond early
        loop {
            playback.upcoming = playback.draw();
            if playback.upcoming.at_us >= start_us {
                return playback;
            }
        }
    }

    fn take_next(&mut self) -> Arrival {
        let next = self.draw();
        std::mem::replace(&mut self.upcoming, next)
    }

    fn draw(&mut self) -> Arrival {
        loop {
            if self.row == self.recording.rows.len() {
                self.row = 0;
                self.round += 1;
            }
            let row = self.recording.rows[self.row];
            let number = self.round * self.recording.rows.len() as i64 + self.row as i64;
            self.row += 1;
            let trace_us = self.round * self.recording.length_us + row.at_us - self.phase_us;
            let at_us = self.tempo.model_time(trace_us);
            let share = self.share * self.wave.map_or(1.0, |wave| wave.share_at(at_us));
            if share >= 1.0 || Random::of(self.seed, "kept", number).is_hit(share) {
                return Arrival {
                    at_us,
                    tokens: row.tokens,
                };
            }
        }
    }
}

impl Wave {
    fn share_at(self, at_us: i64) -> f64 {
        let turn = at_us.rem_euclid(self.period_us) as f64 / self.period_us as f64;
        let height = 0.5 - 0.5 * (std::f64::consts::TAU * turn).cos();
        self.low + (1.0 - self.low) * height
    }
}

/// A client that is silent for longer is silent for so long, so that one which asks for ten minutes a day can be watched:
/// half an hour, in which its deployment is scaled to zero.
const LONGEST_SILENCE: usize = 3;

/// One client's day without its long silences, again and again.
#[derive(Debug)]
pub struct ClientPlayback {
    windows: Vec<ClientWindow>,
    /// The traces with a row a request lend their token counts: a client's model has none.
    sizes: Arc<Recording>,
    tempo: Tempo,
    /// A client's day begins at an hour of its own, as those of tenants in several time zones do.
    phase_windows: i64,
    seed: u64,
    window: i64,
    /// The requests of the window, the last one first.
    ahead: Vec<Arrival>,
}

impl ClientPlayback {
    pub fn new(
        day: &[ClientWindow],
        sizes: Arc<Recording>,
        tempo: Tempo,
        seed: u64,
        start_us: i64,
    ) -> Self {
        let windows = without_long_silences(day);
        let phase_windows = Random::of(seed, "phase", 0).index(windows.len()) as i64;
        let mut playback = Self {
            windows,
            sizes,
            tempo,
            phase_windows,
            seed,
            window: tempo.trace_time(start_us).div_euclid(CLIENT_WINDOW_US),
            ahead: Vec::new(),
        };
        playback.draw_window();
        playback.ahead.retain(|arrival| arrival.at_us >= start_us);
        playback
    }

    fn take_next(&mut self) -> Arrival {
        loop {
            if let Some(arrival) = self.ahead.pop() {
                return arrival;
            }
            self.window += 1;
            self.draw_window();
        }
    }

    /// As many distances as there were requests and one more, stretched so that they fill the window: the count is the
    /// real one, the spread that of the client.
    fn draw_window(&mut self) {
        let of_day = (self.window + self.phase_windows).rem_euclid(self.windows.len() as i64);
        let ClientWindow { n_requests, spread } = self.windows[of_day as usize];
        let day = self.tempo.anchor_us / DAY_US;
        let name = "window";
        let mut random = Random::of(self.seed, name, day * 10_000 + self.window);
        let mut reached = 0.0;
        let places: Vec<f64> = (0..=n_requests)
            .map(|_| {
                reached += match spread {
                    Spread::Gamma { shape } => random.gamma(shape),
                    Spread::Weibull { shape } => random.weibull(shape),
                    Spread::Poisson => random.exponential(1.0),
                };
                reached
            })
            .collect();
        let begin = self.window * CLIENT_WINDOW_US;
        for place in &places[..n_requests] {
            // where every distance was too small for a double they all come at once
            let share = if reached > 0.0 { place / reached } else { 0.0 };
            let at = begin + (share * CLIENT_WINDOW_US as f64) as i64;
            let size = self.sizes.rows[random.index(self.sizes.rows.len())].tokens;
            self.ahead.push(Arrival {
                at_us: self.tempo.model_time(at),
                tokens: size,
            });
        }
        self.ahead.reverse();
    }
}

/// The windows of a day, of each silence at most [`LONGEST_SILENCE`].
fn without_long_silences(day: &[ClientWindow]) -> Vec<ClientWindow> {
    let mut silence = 0;
    day.iter()
        .copied()
        .filter(|window| {
            silence = if window.n_requests == 0 {
                silence + 1
            } else {
                0
            };
            silence <= LONGEST_SILENCE
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::traces::Traces;

    const START: i64 = 1_790_000_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn arrivals(traces: &Traces, start_us: i64, speed: f64) -> [Arrivals; 2] {
        let tempo = Tempo::new(start_us, speed);
        let part = |phase_us| Part {
            phase_us,
            share: 0.7,
            wave: Some(Wave {
                period_us: HOUR / 3,
                low: 0.2,
            }),
        };
        let copy = |phase| {
            let recording = Arc::clone(&traces.conversation);
            Playback::new(recording, tempo, part(phase), 3, start_us)
        };
        let client = ClientPlayback::new(
            &traces.clients[35],
            Arc::clone(&traces.code),
            tempo,
            3,
            start_us,
        );
        [
            Arrivals::Recorded(vec![copy(0), copy(HOUR / 2)]),
            Arrivals::Client(Box::new(client)),
        ]
    }

    fn until(arrivals: &mut Arrivals, end_us: i64) -> Vec<Arrival> {
        std::iter::from_fn(|| Some(arrivals.take_next()))
            .take_while(|arrival| arrival.at_us < end_us)
            .collect()
    }

    #[test]
    fn a_moment_does_not_depend_on_the_start() {
        let traces = Traces::load().expect("traces");
        let early = arrivals(&traces, START, 1.0).map(|mut a| until(&mut a, START + 3 * HOUR));
        let late =
            arrivals(&traces, START + HOUR, 1.0).map(|mut a| until(&mut a, START + 3 * HOUR));
        for (mut early, late) in early.into_iter().zip(late) {
            assert!(early.is_sorted_by_key(|a| a.at_us));
            early.retain(|a| a.at_us >= START + HOUR);
            assert!(early.len() > 1_000, "{}", early.len());
            assert_eq!(early, late);
        }
    }

    #[test]
    fn a_day_of_a_client_has_its_real_count() {
        let traces = Traces::load().expect("traces");
        let midnight = START - START.rem_euclid(DAY_US);
        let n_windows = without_long_silences(&traces.clients[35]).len();
        assert!((100..144).contains(&n_windows), "{n_windows}");
        for speed in [1.0, 4.0] {
            let [_, mut client] = arrivals(&traces, midnight, speed);
            let day_us = (n_windows as i64 * CLIENT_WINDOW_US) as f64 / speed;
            let found = until(&mut client, midnight + day_us as i64).len();
            let expected: usize = traces.clients[35].iter().map(|w| w.n_requests).sum();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn only_silences_are_shortened() {
        let day = |counts: &[usize]| -> Vec<ClientWindow> {
            let window = |&n_requests| ClientWindow {
                n_requests,
                spread: Spread::Poisson,
            };
            counts.iter().map(window).collect()
        };
        let shortened = without_long_silences(&day(&[5, 0, 0, 7, 0, 0, 0, 0, 0, 9, 9, 0]));
        assert_eq!(shortened, day(&[5, 0, 0, 7, 0, 0, 0, 9, 9, 0]));
    }

    #[test]
    fn a_recording_is_played_whole_and_again() {
        let traces = Traces::load().expect("traces");
        let recording = Arc::clone(&traces.code);
        let (rows, length) = (recording.rows.len(), recording.length_us);
        let part = Part {
            phase_us: 0,
            share: 1.0,
            wave: None,
        };
        let playback = Playback::new(recording, Tempo::new(START, 1.0), part, 1, START);
        let mut recorded = Arrivals::Recorded(vec![playback]);
        assert_eq!(until(&mut recorded, START + 3 * length).len(), 3 * rows);
    }
}
