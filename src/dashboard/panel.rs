//! `GET /api/v1/panel`: every chart of one deployment over one range, each with its own answer or its own error. The
//! numbers are those of the public views; what is added is which steps are zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::asking::{Asking, Heard, Numbers, Requests, number};
use super::charts::{CHARTS, Chart, Source};
use super::coverage::{Coverage, Known, LastState};
use super::error::{ApiError, Told};
use super::http::Store;
use super::latency;
use super::query_string::PanelQuery;
use super::range::Range;
use super::strip::{self, Strip, Total};
use super::views;

#[derive(Debug, Serialize)]
pub struct Panel {
    deployment: String,
    /// The preset's name; null for a range of one's own, which does not move.
    range: Option<&'static str>,
    start: u32,
    stop: u32,
    step: u32,
    /// The step of the charts `end_to_end` and `inference`: `step`, or as many of it as enough requests take.
    latency_step: u32,
    now: u32,
    refresh_s: Option<u32>,
    first_seen: Option<u32>,
    /// The last moment that the deployment was heard of.
    data_until: Option<u32>,
    /// When its last replica stopped, if none has sampled since; in the range or before it.
    stopped_since: Option<u32>,
    /// Of requests, as in the chart `volume`.
    coverage: Vec<Coverage>,
    /// Null where requests could not be read.
    strip: Option<Strip>,
    charts: BTreeMap<&'static str, ChartAnswer>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ChartAnswer {
    Read {
        step: u32,
        /// All steps that have begun and lie in the range, the first perhaps in part; series and coverage are aligned to it.
        t: Vec<u32>,
        coverage: Vec<Coverage>,
        series: BTreeMap<&'static str, Vec<Option<f64>>>,
    },
    Failed {
        error: Told,
    },
}

/// What was read.
struct Answers {
    requests: Result<Requests, ApiError>,
    samples: Numbers,
}

/// Asks for requests and samples at once.
///
/// # Errors
/// When the deployment is unknown, or samples cannot be read: without them nobody knows which steps are zero. Requests
/// that cannot be read leave the charts of samples alone.
pub async fn read(store: &Store, query: PanelQuery, now: u32) -> Result<Panel, ApiError> {
    let range = Range::of(query.asked, now)?;
    let _turn = store.turn().await?;
    let asking = Asking {
        store,
        deployment: &query.deployment,
        range: &range,
    };
    let (heard, sampled, requests) =
        tokio::join!(asking.heard(), asking.samples(), asking.requests());
    let (mut heard, sampled) = (heard?, sampled?);
    let has_first = sampled.first().is_some_and(|step| step.at == range.start);
    let before = if has_first {
        None
    } else {
        asking.before().await?
    };
    let is_empty = matches!(&requests, Ok(read) if read.volume.steps.is_empty());
    if heard.last_seen == 0 && before.is_none() && sampled.is_empty() && is_empty {
        return Err(ApiError::UnknownDeployment(query.deployment));
    }
    // the table of deployments is a minute behind; a producer's clock may be ahead
    let ended = requests.iter().filter_map(|read| read.last_us);
    let seen = sampled.iter().map(|step| step.last_us).chain(ended).max();
    let seen = u32::try_from(seen.unwrap_or(0) / 1_000_000).unwrap_or(u32::MAX);
    heard.last_seen = heard.last_seen.max(seen.min(now));
    let states = sampled.iter().map(|step| {
        let (at_us, is_running) = (step.last_us, step.is_running);
        (step.at, LastState { at_us, is_running })
    });
    let states = states.collect();
    let covered = sampled.into_iter().filter(|step| !step.numbers.is_empty());
    let answers = Answers {
        requests,
        samples: covered.map(|step| (step.at, step.numbers)).collect(),
    };
    Ok(assemble(
        query.deployment,
        &range,
        &heard,
        (states, before),
        &answers,
    ))
}

fn assemble(
    deployment: String,
    range: &Range,
    heard: &Heard,
    (states, before): (BTreeMap<u32, LastState>, Option<LastState>),
    answers: &Answers,
) -> Panel {
    let steps: Vec<u32> = range.steps().collect();
    let known = Known {
        steps: &steps,
        step: range.step,
        now: range.now,
        asked: asked(answers.rows(Source::Volume)),
        states,
        before,
    };
    let latency_step = answers.latency_step(range);
    let latency_steps = latency::steps(range, latency_step);
    let known_of_times = known.at(
        &latency_steps,
        latency_step,
        asked(answers.rows(Source::Times)),
    );
    let coverage = known.of_requests();
    let seconds = |us: u64| u32::try_from(us / 1_000_000).ok();
    let seen = |at: u32| (at > 0).then_some(at);
    Panel {
        range: range.preset.map(|preset| preset.name),
        start: range.start,
        stop: range.stop,
        step: range.step,
        latency_step,
        now: range.now,
        refresh_s: range.preset.map(|preset| preset.refresh_s),
        first_seen: seen(heard.first_seen),
        data_until: seen(heard.last_seen),
        stopped_since: known.stopped_since_us().and_then(seconds),
        charts: CHARTS
            .iter()
            .map(|chart| {
                let known = match chart.source {
                    Source::Times => &known_of_times,
                    Source::Volume | Source::Samples => &known,
                };
                (chart.name, answers.chart(chart, known))
            })
            .collect(),
        strip: answers.strip(range, &coverage),
        coverage,
        deployment,
    }
}

/// Steps with requests.
fn asked(rows: Result<&Numbers, &ApiError>) -> BTreeSet<u32> {
    rows.into_iter().flat_map(BTreeMap::keys).copied().collect()
}

impl Requests {
    fn total(&self, period: u8) -> Option<Total> {
        let counted = self.volume.totals.get(&period)?;
        let count = |column| number(Source::Volume, counted, column);
        let timed = self.times.as_ref().ok();
        let timed = timed.and_then(|times| times.totals.get(&period));
        let time = |column| timed.and_then(|numbers| number(Source::Times, numbers, column));
        Some(Total {
            requests: count("requests").unwrap_or_default(),
            share_5xx: count("share_5xx"),
            end_to_end_p95_ms: time("end_to_end_p95_ms"),
            inference_p95_ms: time("inference_p95_ms"),
            queue_p95_ms: time("queue_p95_ms"),
        })
    }
}

impl Answers {
    fn rows(&self, source: Source) -> Result<&Numbers, &ApiError> {
        let requests = self.requests.as_ref();
        match source {
            Source::Samples => Ok(&self.samples),
            Source::Volume => requests.map(|requests| &requests.volume.steps),
            Source::Times => match &requests?.times {
                Ok(times) => Ok(&times.steps),
                Err(error) => Err(error),
            },
        }
    }

    fn latency_step(&self, range: &Range) -> u32 {
        let requests = self.requests.as_ref();
        requests.map_or(range.step, |requests| requests.latency_step)
    }

    fn strip(&self, range: &Range, coverage: &[Coverage]) -> Option<Strip> {
        let requests = self.requests.as_ref().ok()?;
        let (recent, whole) = (requests.total(views::RECENT), requests.total(views::WHOLE));
        Some(strip::of(range, coverage, recent, whole))
    }

    fn chart(&self, chart: &Chart, known: &Known<'_>) -> ChartAnswer {
        let rows = match self.rows(chart.source) {
            Ok(rows) => rows,
            Err(error) => {
                return ChartAnswer::Failed {
                    error: error.told(),
                };
            }
        };
        let coverage = match chart.source {
            Source::Volume | Source::Times => known.of_requests(),
            Source::Samples => known.of_samples(&rows.keys().copied().collect()),
        };
        let at_zero = chart.is_counted.then_some(0.0);
        let of_series = |(series, column): &(&'static str, &'static str)| {
            let number = |(t, coverage): (&u32, &Coverage)| match rows.get(t) {
                Some(numbers) => number(chart.source, numbers, column),
                None => (*coverage == Coverage::Zero).then_some(at_zero).flatten(),
            };
            (
                *series,
                known.steps.iter().zip(&coverage).map(number).collect(),
            )
        };
        let series = chart.series.iter().map(of_series).collect();
        ChartAnswer::Read {
            step: known.step,
            t: known.steps.to_vec(),
            series,
            coverage,
        }
    }
}
