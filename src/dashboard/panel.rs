//! `GET /api/v1/panel`: every chart of one deployment over one range, each with its own answer or its own error. The
//! numbers are the views'; what is added is which steps are zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::coverage::{Coverage, Known, LastState};
use super::error::{ApiError, Told};
use super::http::Store;
use super::query_string::PanelQuery;
use super::range::Range;
use super::views::{self, CHARTS, Chart, Source, View};

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

/// A step of a view.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Step {
    at: u32,
    numbers: Vec<Option<f64>>,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct State {
    at: u32,
    last_us: u64,
    is_running: bool,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct Heard {
    first_seen: u32,
    last_seen: u32,
}

type Rows = Result<BTreeMap<u32, Vec<Option<f64>>>, ApiError>;

/// What the views said.
struct Answers {
    volume: Rows,
    times: Rows,
    replicas: Rows,
    cpu: Rows,
    gpu: Rows,
}

/// Asks all views at once.
///
/// # Errors
/// When the deployment is unknown, or nothing at all could be read. One view that fails leaves the others alone.
pub async fn read(store: &Store, query: PanelQuery, now: u32) -> Result<Panel, ApiError> {
    let range = Range::of(query.asked, now)?;
    let _turn = store.turn().await?;
    let asking = Asking {
        store,
        deployment: &query.deployment,
        range: &range,
    };
    let (heard, states, volume, times, replicas, cpu, gpu) = tokio::join!(
        asking.heard(),
        asking.states(),
        asking.view(&views::VOLUME),
        asking.view(&views::TIMES),
        asking.view(&views::REPLICAS),
        asking.view(&views::CPU),
        asking.view(&views::GPU),
    );
    let (heard, states) = (heard?, states?);
    if heard.last_seen == 0 && states.is_empty() && matches!(&volume, Ok(rows) if rows.is_empty()) {
        return Err(ApiError::UnknownDeployment(query.deployment));
    }
    let answers = Answers {
        volume,
        times,
        replicas,
        cpu,
        gpu,
    };
    Ok(assemble(query.deployment, &range, &heard, states, answers))
}

fn assemble(
    deployment: String,
    range: &Range,
    heard: &Heard,
    mut states: BTreeMap<u32, LastState>,
    answers: Answers,
) -> Panel {
    let steps: Vec<u32> = range.steps().collect();
    let before = states.remove(&BEFORE);
    let asked = match (&answers.volume, &answers.times) {
        (Ok(rows), _) | (Err(_), Ok(rows)) => rows.keys().copied().collect(),
        (Err(_), Err(_)) => BTreeSet::new(),
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
        coverage,
        deployment,
    }
}

impl Answers {
    fn of(&self, source: Source) -> &Rows {
        match source {
            Source::Volume => &self.volume,
            Source::Times => &self.times,
            Source::Replicas => &self.replicas,
            Source::Cpu => &self.cpu,
            Source::Gpu => &self.gpu,
        }
    }

    fn chart(&self, chart: &Chart, known: &Known<'_>) -> ChartAnswer {
        let rows = match self.of(chart.source) {
            Ok(rows) => rows,
            Err(error) => {
                return ChartAnswer::Failed {
                    error: error.told(),
                };
            }
        };
        let coverage = match chart.source {
            Source::Volume | Source::Times => known.of_requests(),
            Source::Replicas | Source::Cpu | Source::Gpu => {
                known.of_samples(&rows.keys().copied().collect())
            }
        };
        // no request is a rate of zero, and no replica a count of zero; no request has no time, no replica no usage
        let at_zero = matches!(chart.source, Source::Volume | Source::Replicas).then_some(0.0);
        let columns = chart.source.view().columns;
        let of_series = |series: &&'static str| {
            let at = columns.iter().position(|column| column == series);
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

/// Where the statement of states puts what was before the range.
const BEFORE: u32 = 0;

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

    async fn view(&self, view: &View) -> Rows {
        let steps: Vec<Step> = self.store.rows(self.query(view.sql)).await?;
        Ok(steps
            .into_iter()
            .map(|step| (step.at, step.numbers))
            .collect())
    }

    async fn states(&self) -> Result<BTreeMap<u32, LastState>, ApiError> {
        let states: Vec<State> = self.store.rows(self.query(views::STATES)).await?;
        let state = |state: State| {
            (
                state.at,
                LastState {
                    at_us: state.last_us,
                    is_running: state.is_running,
                },
            )
        };
        Ok(states.into_iter().map(state).collect())
    }

    async fn heard(&self) -> Result<Heard, ApiError> {
        let query = self
            .store
            .query(views::HEARD)
            .param("deployment", self.deployment);
        let rows: Vec<Heard> = self.store.rows(query).await?;
        Ok(rows.into_iter().next().unwrap_or(Heard {
            first_seen: 0,
            last_seen: 0,
        }))
    }
}
