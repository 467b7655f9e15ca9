//! `modelmeter replay`: real traces as live load. It turns the traces into requests, the [`model`] into deployments that
//! serve them, and what those would say into the messages that any producer sends. It fills the past as fast as it can and goes
//! on live without a seam: both are the same model, told up to which moment to go on.
//!
//! ```text
//! traces (real) ─► model::arrivals ─► model::deployment ─► publish ─► Kafka
//! ```
//!
//! Times in messages are the wall clock's. `--speed` plays the traces faster, so that more requests come in a second; it does
//! not make the clock run ahead, since the processor refuses what lies in the future.

pub mod files;
pub mod fleet;
pub mod model;
pub mod publish;
pub mod summary;
pub mod traces;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::files::Progress;
use self::fleet::{Beginning, Fleet};
use self::publish::Publisher;
use self::summary::Summary;
use self::traces::Traces;
use crate::clock;
use crate::config::{KafkaArgs, parse_duration};

#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// How much faster than it was recorded the load arrives; deployments may grow as much larger.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// So much of the past is filled first, at most 47h.
    #[arg(long, value_name = "DURATION", value_parser = parse_history)]
    pub history: Option<Duration>,
    /// The same seed, start and speed give the same messages.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Ends after so long of live load; without it the replay goes on until it is told to stop.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub run_for: Option<Duration>,
    /// Keeps how far the replay has come. Where the file exists, the gap since then is filled instead of `--history`.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Written at the end: what was produced, by deployment.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
}

/// The processor takes what is at most 48 h old when the broker appends it; filling takes its time.
const LONGEST_HISTORY: Duration = Duration::from_secs(47 * 3600);

/// Far past what one machine can replay.
const LARGEST_SPEED: f64 = 1000.0;

/// How much is told before the deployments are asked again: messages of different deployments lie at most so far apart in a
/// partition. It is also what is still told after the word to stop, well under a second's work.
const HISTORY_STEP_US: i64 = 60_000_000;

/// Between two looks at the clock. An event is sent when its second is over, so that twice a second loses little.
const LIVE_STEP: Duration = Duration::from_millis(500);

/// How often the progress is kept: what a killed replay has told without remembering it.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// A `--history` that the processor still takes, refused on the command line rather than once everything has started.
///
/// # Errors
/// With the reason in words.
pub fn parse_history(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        length if length <= LONGEST_HISTORY => Ok(length),
        _ => Err(format!(
            "{text:?}: at most 47h, since the processor refuses what is older than 48h"
        )),
    }
}

/// Replays until the time is over or the word to stop.
///
/// # Errors
/// When Kafka does not take a message, or a file cannot be written.
pub async fn run(args: ReplayArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut replay = Replay::new(args)?;
    if replay.fill(&shutdown)? {
        replay.go_live(&shutdown).await?;
    }
    replay.end()
}

struct Replay {
    args: ReplayArgs,
    fleet: Fleet,
    publisher: Publisher,
    /// The model's time: everything before it has been told, but for what ended in a second that is not over.
    reached_us: i64,
    from_us: i64,
    live_from_us: Option<i64>,
}

impl Replay {
    fn new(args: ReplayArgs) -> anyhow::Result<Self> {
        ensure!(
            args.speed > 0.0 && args.speed <= LARGEST_SPEED,
            "--speed {}: above 0 and at most {LARGEST_SPEED}",
            args.speed
        );
        let history = args.history.unwrap_or_default();
        let last: Option<Progress> = match &args.resume {
            Some(path) => files::read(path).context("--resume")?,
            None => None,
        };
        let now_us = clock::now_us();
        let from_us = begin_at(last, history, now_us);
        let beginning = Beginning {
            seed: args.seed,
            start_us: from_us,
            live_from_us: now_us,
            speed: args.speed,
            is_continued: last.is_some(),
        };
        let fleet = Fleet::new(&Traces::load()?, beginning);
        let summary = Summary {
            seed: args.seed,
            from_us,
            ..Summary::default()
        };
        let publisher = Publisher::new(&args.kafka, summary)?;
        Ok(Self {
            args,
            fleet,
            publisher,
            reached_us: from_us,
            from_us,
            live_from_us: None,
        })
    }

    /// Tells the past, as fast as Kafka takes it, and says whether all of it was told: the word to stop ends it early. It blocks.
    fn fill(&mut self, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        tokio::task::block_in_place(|| {
            let began = Instant::now();
            let is_full = self.catch_up(shutdown)?;
            self.publisher.flush()?;
            self.live_from_us = is_full.then_some(self.reached_us);
            self.keep_progress()?;
            let summary = self.publisher.summary();
            println!(
                "replay: {} s of the past filled in {:.1} s{}: {} requests, {} samples of {} deployments",
                (self.reached_us - self.from_us) / 1_000_000,
                began.elapsed().as_secs_f64(),
                if is_full { "" } else { ", then told to stop" },
                summary.n_requests(),
                summary.n_samples(),
                summary.deployments.len(),
            );
            Ok(is_full)
        })
    }

    /// Tells everything up to now in steps, and says whether it came so far: the word to stop is heard between two of them.
    fn catch_up(&mut self, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        loop {
            if shutdown.is_cancelled() {
                return Ok(false);
            }
            let now_us = clock::now_us();
            let is_last = now_us - self.reached_us <= HISTORY_STEP_US;
            self.advance(now_us.min(self.reached_us + HISTORY_STEP_US))?;
            if is_last {
                return Ok(true);
            }
        }
    }

    async fn go_live(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let until = self.args.run_for.map(|length| Instant::now() + length);
        let mut tick = interval(LIVE_STEP);
        // after a pause one look at the clock catches up
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let is_over = until.is_some_and(|until| Instant::now() >= until);
            tokio::task::block_in_place(|| {
                // what lies behind may be hours: the machine may have slept
                self.catch_up(shutdown)?;
                if kept.elapsed() >= KEEP_EVERY {
                    kept = Instant::now();
                    self.publisher.flush()?;
                    self.keep_progress()?;
                }
                anyhow::Ok(())
            })?;
            if is_over {
                return Ok(());
            }
        }
    }

    /// A clock that was set back makes the model wait, not repeat itself.
    fn advance(&mut self, end_us: i64) -> anyhow::Result<()> {
        if end_us > self.reached_us {
            self.fleet.advance(end_us, &mut self.publisher);
            self.reached_us = end_us;
        }
        Ok(self.publisher.check()?)
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.fleet.tell_all(&mut self.publisher);
        tokio::task::block_in_place(|| self.publisher.flush())?;
        self.keep_progress()?;
        let mut summary = self.publisher.summary().clone();
        summary.until_us = self.reached_us;
        println!(
            "replay: {} requests and {} samples in {} messages, all acknowledged",
            summary.n_requests(),
            summary.n_samples(),
            summary.n_messages
        );
        if let Some(path) = &self.args.summary {
            files::write(path, &summary).context("--summary")?;
        }
        Ok(())
    }

    fn keep_progress(&self) -> anyhow::Result<()> {
        let Some(path) = &self.args.resume else {
            return Ok(());
        };
        let progress = Progress {
            until_us: self.reached_us,
            live_from_us: self.live_from_us,
        };
        files::write(path, &progress).context("--resume")
    }
}

/// Where the last run ended, else the beginning of the history; never further back than the processor takes.
fn begin_at(last: Option<Progress>, history: Duration, now_us: i64) -> i64 {
    let before_now = |length: Duration| now_us - length.as_micros() as i64;
    match last {
        Some(Progress { until_us, .. }) => until_us.clamp(before_now(LONGEST_HISTORY), now_us),
        None => before_now(history),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_the_processor_refuses_is_refused_at_once() {
        assert_eq!(parse_history("47h"), Ok(LONGEST_HISTORY));
        assert_eq!(parse_history("5m"), Ok(Duration::from_secs(300)));
        for bad in ["47.1h", "48h", "0s", "6"] {
            assert!(parse_history(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_run_begins_where_the_last_one_ended_within_what_is_taken() {
        const HOUR: i64 = 3_600_000_000;
        let now = 1_000 * HOUR;
        let after = |hours: i64| {
            Some(Progress {
                until_us: now - hours * HOUR,
                live_from_us: None,
            })
        };
        let history = Duration::from_secs(6 * 3600);
        assert_eq!(begin_at(None, history, now), now - 6 * HOUR);
        assert_eq!(begin_at(after(1), history, now), now - HOUR);
        assert_eq!(begin_at(after(12), history, now), now - 12 * HOUR);
        assert_eq!(begin_at(after(100), history, now), now - 47 * HOUR);
        assert_eq!(begin_at(after(-1), history, now), now);
    }
}
