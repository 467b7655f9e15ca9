//! The HTTP side: connections, routes, headers. It refuses methods that write and
//! hosts that are not its own, and bounds connections, panels read at
//! once, and how long ClickHouse may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::host::Hosts;
use super::query_string::{self, PanelQuery};
use super::{deployments, files, panel};
use crate::clock;

/// Connections at once; the next one waits to be accepted. A browser opens six.
const MAX_CONNECTIONS: usize = 256;
/// A client that sends no whole header in this time is cut off, so that it does not hold a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer under way may take once the end is asked for: longer than a query may.
const CLOSE_GRACE: Duration = Duration::from_secs(12);
/// After a failed accept (no file descriptor, say) the next try waits, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Panels and lists read at once: a panel asks four or five queries, a list reads a whole table, and the engine has a few cores.
/// Others wait their turn.
pub const MAX_PANELS: usize = 4;
/// A panel is some hundred milliseconds; one that waits longer than this for its turn is told so.
const TURN_DEADLINE: Duration = Duration::from_secs(5);
/// One query. Also ClickHouse's own limit, so that nothing runs on for nobody.
const QUERY_SECONDS: u64 = 10;

/// The page may load from itself only, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// ClickHouse as the handlers see it: bounded in time and in number.
pub struct Store {
    client: clickhouse::Client,
    turns: Semaphore,
}

impl Store {
    pub fn new(client: clickhouse::Client) -> Self {
        let client = client.with_setting("max_execution_time", QUERY_SECONDS.to_string());
        Self {
            client,
            turns: Semaphore::new(MAX_PANELS),
        }
    }

    pub fn query(&self, sql: &str) -> clickhouse::query::Query {
        self.client.query(sql)
    }

    /// # Errors
    /// When ClickHouse refuses, is not there, or takes too long.
    pub async fn rows<T>(&self, query: clickhouse::query::Query) -> Result<Vec<T>, ApiError>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        match timeout(Duration::from_secs(QUERY_SECONDS), query.fetch_all()).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(ApiError::Deadline {
                seconds: QUERY_SECONDS,
            }),
        }
    }

    /// Waits until another panel or list may be read.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        match timeout(TURN_DEADLINE, self.turns.acquire()).await {
            Ok(turn) => Ok(turn.expect("never closed")),
            Err(_) => Err(ApiError::Busy { limit: MAX_PANELS }),
        }
    }
}

/// Serves until `shutdown`, then closes what is idle and lets what runs end.
pub async fn serve(
    listener: TcpListener,
    store: Arc<Store>,
    hosts: Arc<Hosts>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&free).acquire_owned() => permit.expect("never closed"),
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (store, hosts) = (Arc::clone(&store), Arc::clone(&hosts));
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    serve_connection(stream, store, hosts, shutdown).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: TcpStream,
    store: Arc<Store>,
    hosts: Arc<Hosts>,
    shutdown: CancellationToken,
) {
    // Answers are written whole; waiting for more to send only costs time.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let (store, hosts) = (Arc::clone(&store), Arc::clone(&hosts));
        async move {
            let answer = match hosts.check(&request) {
                Ok(()) => answer(&request, &store).await,
                Err(error) => failed(&error),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(CLOSE_GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::warn!("a connection is cut off: its request did not end in time"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer<B>(request: &Request<B>, store: &Store) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = failed(&ApiError::Method);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    match path {
        "/api/v1/deployments" => told(list_deployments(query, store).await),
        "/api/v1/panel" => told(read_panel(query, store).await),
        "/livez" => response(StatusCode::OK, TEXT, Bytes::from_static(b"alive\n")),
        "/readyz" => readyz(store).await,
        _ => match files::find(path) {
            Some(file) => response(StatusCode::OK, file.kind, Bytes::from_static(file.bytes)),
            None => failed(&ApiError::NotFound(path.chars().take(100).collect())),
        },
    }
}

async fn list_deployments(
    query: &str,
    store: &Store,
) -> Result<deployments::Deployments, ApiError> {
    query_string::refuse_all(query)?;
    deployments::list(store).await
}

async fn read_panel(query: &str, store: &Store) -> Result<panel::Panel, ApiError> {
    let query = PanelQuery::parse(query)?;
    let now = u32::try_from(clock::now_us() / 1_000_000).unwrap_or(u32::MAX);
    panel::read(store, query, now).await
}

/// Ready is: the tables are there and ClickHouse answers.
async fn readyz(store: &Store) -> Response<Full<Bytes>> {
    let query = store.query("SELECT count() FROM deployments WHERE deployment_id = ''");
    match store.rows::<u64>(query).await {
        Ok(_) => response(StatusCode::OK, TEXT, Bytes::from_static(b"ready\n")),
        Err(error) => response(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("{error}\n").into(),
        ),
    }
}

fn told<T: Serialize>(outcome: Result<T, ApiError>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(value) => response(StatusCode::OK, JSON, json(&value)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &ApiError) -> Response<Full<Bytes>> {
    if error.status().is_server_error() {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, source, "a request could not be answered");
    }
    let body = serde_json::json!({ "error": error.told() });
    response(error.status(), JSON, json(&body))
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("strings and numbers are JSON")
        .into()
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let cache = if kind == JSON { "no-store" } else { "no-cache" };
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, cache),
        (HeaderName::from_static("content-security-policy"), POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
