//! What a panel asks of the store, and the rows that come. Which statements, over which span and in which order is here;
//! their texts are [`views`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::charts::Source;
use super::coverage::LastState;
use super::error::ApiError;
use super::http::Store;
use super::latency;
use super::range::Range;
use super::views;

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
pub struct Sampled {
    pub at: u32,
    pub numbers: Vec<Option<f64>>,
    pub last_us: u64,
    pub is_running: bool,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct Before {
    last_us: u64,
    is_running: bool,
}

#[derive(Debug, Default, clickhouse::Row, Deserialize)]
pub struct Heard {
    pub first_seen: u32,
    pub last_seen: u32,
}

/// A latency step, or with `at` 0 a total.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Timed {
    period: u8,
    at: u32,
    numbers: Vec<Option<f64>>,
}

pub type Numbers = BTreeMap<u32, Vec<Option<f64>>>;

/// Times are asked for once volume has said how long their steps are; they may fail alone.
pub struct Requests {
    pub volume: Periods,
    pub last_us: Option<u64>,
    pub latency_step: u32,
    pub times: Result<Periods, ApiError>,
}

/// Steps and totals of a statement.
#[derive(Default)]
pub struct Periods {
    pub steps: Numbers,
    pub totals: BTreeMap<u8, Vec<Option<f64>>>,
}

/// A number of a statement's row, by the name of its column.
pub fn number(source: Source, numbers: &[Option<f64>], column: &str) -> Option<f64> {
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

pub struct Asking<'a> {
    pub store: &'a Store,
    pub deployment: &'a str,
    pub range: &'a Range,
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
    pub async fn requests(&self) -> Result<Requests, ApiError> {
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
    pub async fn samples(&self) -> Result<Vec<Sampled>, ApiError> {
        let sql = views::SAMPLES.sql(self.range.tier());
        let mut steps: Vec<Sampled> = self.store.rows(self.query(sql)).await?;
        steps.sort_unstable_by_key(|step| step.at);
        Ok(steps)
    }

    pub async fn before(&self) -> Result<Option<LastState>, ApiError> {
        let rows: Vec<Before> = self.store.rows(self.query(views::BEFORE)).await?;
        let state = |row: &Before| LastState {
            at_us: row.last_us,
            is_running: row.is_running,
        };
        Ok(rows.first().map(state))
    }

    pub async fn heard(&self) -> Result<Heard, ApiError> {
        let query = self
            .store
            .query(views::HEARD)
            .param("deployment", self.deployment);
        let rows: Vec<Heard> = self.store.rows(query).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}
