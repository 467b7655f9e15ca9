//! Times statements and panels one at a time. A statement goes the dashboard's way: the same text, client, format and
//! parameters; a panel is an answer of the running dashboard over a connection that is kept.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use modelmeter::config::StoreAddress;
use modelmeter::dashboard::range::Tier;
use modelmeter::dashboard::views;
use serde::{Deserialize, Serialize};

use super::roles::cpu_ms;
use super::traffic::DEPLOYMENT;

pub const RANGES: [&str; 3] = ["6h", "24h", "30d"];

/// Requests before those that are timed: caches, connections.
const N_WARM_UP: u32 = 10;

/// What is known of the time that one thing took.
#[derive(Debug, Serialize)]
pub struct Row {
    pub range: &'static str,
    pub what: String,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU of the engine a request, other requests' merges included.
    pub engine_cpu_ms: f64,
    pub answer_bytes: usize,
}

/// What the dashboard made of a range.
#[derive(Debug, Deserialize)]
struct Asked {
    start: u32,
    stop: u32,
    step: u32,
    latency_step: u32,
    strip: Strip,
}

#[derive(Debug, Deserialize)]
struct Strip {
    recent: Period,
}

#[derive(Debug, Deserialize)]
struct Period {
    start: u32,
    stop: u32,
}

pub struct Bench {
    client: clickhouse::Client,
    /// `HOST:PORT` of the dashboard.
    page: String,
    engine_pid: u32,
    n_requests: u32,
}

impl Bench {
    pub fn new(address: &StoreAddress, page: &str, engine_pid: u32, n_requests: u32) -> Self {
        Self {
            client: address.client(),
            page: page.trim_start_matches("http://").to_owned(),
            engine_pid,
            n_requests,
        }
    }

    /// Everything over one range.
    pub async fn measure(&self, range: &'static str, why: bool) -> anyhow::Result<Vec<Row>> {
        let mut sender = self.connect().await?;
        let answer = self.panel(&mut sender, range).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        ensure!(!text.contains("\"error\""), "the panel failed: {text}");
        let asked: Asked = serde_json::from_str(&text)?;

        let mut rows = vec![
            self.time(range, "whole panel", async || {
                self.panel(&mut sender, range).await
            })
            .await?,
        ];
        for (name, sql) in statements(asked.step) {
            rows.push(self.time_statement(range, name, sql, &asked).await?);
        }
        rows.push(
            self.time_statement(range, "SELECT 1", "SELECT 1", &asked)
                .await?,
        );
        if why {
            for (name, sql) in statements(asked.step) {
                let named = format!("{name}, planning alone");
                let planned = format!("EXPLAIN {sql}");
                rows.push(self.time_statement(range, &named, &planned, &asked).await?);
            }
        }
        Ok(rows)
    }

    async fn time_statement(
        &self,
        range: &'static str,
        what: &str,
        sql: &str,
        asked: &Asked,
    ) -> anyhow::Result<Row> {
        let ask = async || {
            let query = self
                .client
                .query(sql)
                .param("deployment", DEPLOYMENT)
                .param("start", asked.start)
                .param("stop", asked.stop)
                .param("step", asked.step)
                .param("latency_step", asked.latency_step)
                .param("range_start", asked.start)
                .param("range_stop", asked.stop)
                .param("recent_start", asked.strip.recent.start)
                .param("recent_stop", asked.strip.recent.stop);
            let mut bytes = query.fetch_bytes("RowBinaryWithNamesAndTypes")?;
            Ok(bytes.collect().await?)
        };
        self.time(range, what, ask)
            .await
            .with_context(|| what.to_owned())
    }

    async fn time(
        &self,
        range: &'static str,
        what: &str,
        mut ask: impl AsyncFnMut() -> anyhow::Result<Bytes>,
    ) -> anyhow::Result<Row> {
        let mut answer_bytes = 0;
        for _ in 0..N_WARM_UP {
            answer_bytes = ask().await?.len();
        }
        ensure!(answer_bytes > 0, "an empty answer");
        let cpu_before = cpu_ms(self.engine_pid)?;
        let mut took_ms = Vec::with_capacity(self.n_requests as usize);
        for _ in 0..self.n_requests {
            let begun = Instant::now();
            ask().await?;
            took_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        let cpu = cpu_ms(self.engine_pid)? - cpu_before;
        took_ms.sort_by(f64::total_cmp);
        let row = Row {
            range,
            what: what.to_owned(),
            p50_ms: percentile(&took_ms, 0.5),
            p99_ms: percentile(&took_ms, 0.99),
            engine_cpu_ms: cpu / f64::from(self.n_requests),
            answer_bytes,
        };
        super::report::print_row(&row);
        Ok(row)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = tokio::net::TcpStream::connect(&self.page).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn panel(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        range: &str,
    ) -> anyhow::Result<Bytes> {
        let request = hyper::Request::get(format!(
            "/api/v1/panel?deployment={DEPLOYMENT}&range={range}"
        ))
        .header(HOST, &self.page)
        .body(Empty::new())?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

/// What a panel asks, by name.
fn statements(step: u32) -> [(&'static str, &'static str); 5] {
    let tier = Tier::of(step);
    [
        ("volume", views::VOLUME.sql(tier)),
        ("times", views::TIMES.sql(tier)),
        ("samples", views::SAMPLES.sql(tier)),
        ("before", views::BEFORE),
        ("heard", views::HEARD),
    ]
}

/// The smallest value that at least this share of the sorted values does not exceed.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
