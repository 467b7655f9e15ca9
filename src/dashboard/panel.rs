//! `GET /api/v1/panel`: every chart of one deployment over one range, each with its own answer or its own error. The
//! numbers are those of the public views; what is added is which steps are zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

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

/// A step of requests, or with `at` 0 a total.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Asked {
    period: u8,
    at: u32,
    numbers: Vec<Option<f64>>,
    last_us: u64,
}

/// A step of samples; without numbers where they cover no part of it.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Sampled {
    at: u32,
    numbers: Vec<Option<f64>>,
    last_us: u64,
    is_running: bool,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct Before {
    last_us: u64,
    is_running: bool,
}

#[derive(Debug, Default, clickhouse::Row, Deserialize)]
struct Heard {
    first_seen: u32,
    last_seen: u32,
}

/// A latency step, or with `at` 0 a total.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Timed {
    period: u8,
    at: u32,
    numbers: Vec<Option<f64>>,
}

type Numbers = BTreeMap<u32, Vec<Option<f64>>>;

/// What was read.
struct Answers {
    requests: Result<Requests, ApiError>,
    samples: Numbers,
}

/// Times are asked for once volume has said how long their steps are; they may fail alone.
struct Requests {
    volume: Periods,
    last_us: Option<u64>,
    latency_step: u32,
    times: Result<Periods, ApiError>,
}

/// Steps and totals of a statement.
#[derive(Default)]
struct Periods {
    steps: Numbers,
    totals: BTreeMap<u8, Vec<Option<f64>>>,
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

/// A number of a statement's row, by the name of its column.
fn number(source: Source, numbers: &[Option<f64>], column: &str) -> Option<f64> {
    let columns = source.statement().columns;
    let at = columns.iter().position(|known| *known == column)?;
    numbers.get(at).copied().flatten()
}

impl Periods {
    fn of(rows: impl Iterator<Item = (u8, u32, Vec<Option<f64>>)>) -> Self {
        let mut periods = Self::default();
        for (period, at, numbers) in rows {
            if at == 0 {
                periods.totals.insert(period, numbers);
            } else {
                periods.steps.insert(at, numbers);
            }
        }
        periods
    }
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

struct Asking<'a> {
    store: &'a Store,
    deployment: &'a str,
    range: &'a Range,
}

impl Asking<'_> {
    fn query(&self, sql: &str) -> clickhouse::query::Query {
        self.store
            .query(sql)
            .param("deployment", self.deployment)
            .param("start", self.range.start)
            .param("stop", self.range.stop)
            .param("step", self.range.step)
    }

    /// Times fail by themselves: what was counted is shown.
    async fn requests(&self) -> Result<Requests, ApiError> {
        let rows = self.volume().await?;
        let last_us = rows.iter().map(|row| row.last_us).max();
        let volume = Periods::of(rows.into_iter().map(|r| (r.period, r.at, r.numbers)));
        let counts = volume
            .steps
            .iter()
            .filter_map(|(at, numbers)| Some((*at, number(Source::Volume, numbers, "requests")?)));
        let latency_step = latency::step(self.range, &counts.collect());
        Ok(Requests {
            times: self.times(latency_step).await,
            volume,
            last_us,
            latency_step,
        })
    }

    async fn volume(&self) -> Result<Vec<Asked>, ApiError> {
        let sql = views::VOLUME.sql(self.range.tier());
        let (start, stop) = self.range.recent();
        let query = self.query(sql).param("recent_start", start);
        self.store.rows(query.param("recent_stop", stop)).await
    }

    async fn times(&self, latency_step: u32) -> Result<Periods, ApiError> {
        let (start, stop) = latency::aligned(self.range, latency_step);
        let (recent_start, recent_stop) = self.range.recent();
        let query = self
            .store
            .query(views::TIMES.sql(self.range.tier()))
            .param("deployment", self.deployment)
            .param("start", start)
            .param("stop", stop)
            .param("latency_step", latency_step)
            .param("range_start", self.range.start)
            .param("range_stop", self.range.stop)
            .param("recent_start", recent_start)
            .param("recent_stop", recent_stop);
        let rows: Vec<Timed> = self.store.rows(query).await?;
        Ok(Periods::of(
            rows.into_iter().map(|r| (r.period, r.at, r.numbers)),
        ))
    }

    /// In the order of their steps.
    async fn samples(&self) -> Result<Vec<Sampled>, ApiError> {
        let sql = views::SAMPLES.sql(self.range.tier());
        let mut steps: Vec<Sampled> = self.store.rows(self.query(sql)).await?;
        steps.sort_unstable_by_key(|step| step.at);
        Ok(steps)
    }

    async fn before(&self) -> Result<Option<LastState>, ApiError> {
        let rows: Vec<Before> = self.store.rows(self.query(views::BEFORE)).await?;
        let state = |row: &Before| LastState {
            at_us: row.last_us,
            is_running: row.is_running,
        };
        Ok(rows.first().map(state))
    }

    async fn heard(&self) -> Result<Heard, ApiError> {
        let query = self
            .store
            .query(views::HEARD)
            .param("deployment", self.deployment);
        let rows: Vec<Heard> = self.store.rows(query).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}
