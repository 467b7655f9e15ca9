//! `GET /api/v1/panel`: every chart of one deployment over one range, each with its own answer or its own error. The
//! numbers are those of the public views; what is added is which steps are zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::coverage::{Coverage, Known, LastState};
use super::error::{ApiError, Told};
use super::http::Store;
use super::query_string::PanelQuery;
use super::range::Range;
use super::strip::{self, Strip, Total};
use super::views::{self, CHARTS, Chart, Source};

#[derive(Debug, Serialize)]
pub struct Panel {
    deployment: String,
    /// The preset's name; null for a range of one's own, which does not move.
    range: Option<&'static str>,
    start: u32,
    stop: u32,
    step: u32,
    now: u32,
    refresh_s: Option<u32>,
    first_seen: Option<u32>,
    /// The last moment that the deployment was heard of.
    data_until: Option<u32>,
    /// When its last replica stopped, if none has sampled since; in the range or before it.
    stopped_since: Option<u32>,
    /// Of requests, as in the charts `volume`, `end_to_end` and `inference`.
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
        /// All steps of the range that have begun; series and coverage are aligned to it.
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

type Numbers = BTreeMap<u32, Vec<Option<f64>>>;

/// What was read.
struct Answers {
    requests: Result<Requests, ApiError>,
    samples: Numbers,
}

struct Requests {
    steps: Numbers,
    recent: Option<Total>,
    whole: Option<Total>,
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
    let (heard, sampled, asked) = tokio::join!(asking.heard(), asking.samples(), asking.requests());
    let (mut heard, sampled) = (heard?, sampled?);
    let has_first = sampled.first().is_some_and(|step| step.at == range.start);
    let before = if has_first {
        None
    } else {
        asking.before().await?
    };
    let is_empty = matches!(&asked, Ok(rows) if rows.is_empty());
    if heard.last_seen == 0 && before.is_none() && sampled.is_empty() && is_empty {
        return Err(ApiError::UnknownDeployment(query.deployment));
    }
    // the table of deployments is a minute behind; a producer's clock may be ahead
    let ended = asked.iter().flatten().map(|step| step.last_us);
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
        requests: asked.map(Requests::of),
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
    let asked = match &answers.requests {
        Ok(requests) => requests.steps.keys().copied().collect(),
        Err(_) => BTreeSet::new(),
    };
    let known = Known {
        steps: &steps,
        step: range.step,
        now: range.now,
        asked,
        states,
        before,
    };
    let coverage = known.of_requests();
    let seconds = |us: u64| u32::try_from(us / 1_000_000).ok();
    let seen = |at: u32| (at > 0).then_some(at);
    Panel {
        range: range.preset.map(|preset| preset.name),
        start: range.start,
        stop: range.stop,
        step: range.step,
        now: range.now,
        refresh_s: range.preset.map(|preset| preset.refresh_s),
        first_seen: seen(heard.first_seen),
        data_until: seen(heard.last_seen),
        stopped_since: known.stopped_since_us().and_then(seconds),
        charts: CHARTS
            .iter()
            .map(|chart| (chart.name, answers.chart(chart, &known)))
            .collect(),
        strip: answers
            .requests
            .as_ref()
            .ok()
            .map(|requests| strip::of(range, &coverage, requests.recent, requests.whole)),
        coverage,
        deployment,
    }
}

impl Requests {
    fn of(rows: Vec<Asked>) -> Self {
        let (totals, steps): (Vec<Asked>, Vec<Asked>) =
            rows.into_iter().partition(|row| row.at == 0);
        let total = |period| totals.iter().find(|row| row.period == period).map(total);
        Self {
            recent: total(views::RECENT),
            whole: total(views::WHOLE),
            steps: steps.into_iter().map(|row| (row.at, row.numbers)).collect(),
        }
    }
}

fn total(row: &Asked) -> Total {
    let number = |column: &str| {
        let at = views::REQUESTS
            .columns
            .iter()
            .position(|known| *known == column);
        at.and_then(|at| row.numbers.get(at).copied().flatten())
    };
    Total {
        requests: number("requests").unwrap_or_default(),
        share_5xx: number("share_5xx"),
        end_to_end_p95_ms: number("end_to_end_p95_ms"),
        inference_p95_ms: number("inference_p95_ms"),
    }
}

impl Answers {
    fn chart(&self, chart: &Chart, known: &Known<'_>) -> ChartAnswer {
        let (rows, coverage) = match (chart.source, &self.requests) {
            (Source::Requests, Ok(requests)) => (&requests.steps, known.of_requests()),
            (Source::Requests, Err(error)) => {
                return ChartAnswer::Failed {
                    error: error.told(),
                };
            }
            (Source::Samples, _) => {
                let sampled = self.samples.keys().copied().collect();
                (&self.samples, known.of_samples(&sampled))
            }
        };
        let at_zero = chart.is_counted.then_some(0.0);
        let columns = chart.source.statement().columns;
        let of_series = |(series, column): &(&'static str, &'static str)| {
            let at = columns.iter().position(|known| known == column);
            let number = |(t, coverage): (&u32, &Coverage)| match rows.get(t) {
                Some(numbers) => at.and_then(|at| numbers.get(at).copied().flatten()),
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

    async fn requests(&self) -> Result<Vec<Asked>, ApiError> {
        let sql = views::REQUESTS.sql(self.range.tier());
        let (start, stop) = self.range.recent();
        let query = self.query(sql).param("recent_start", start);
        self.store.rows(query.param("recent_stop", stop)).await
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
