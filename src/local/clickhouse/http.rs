//! The HTTP side: connections, bodies in, answers out. What a query means is decided in `dispatch`.
//! It refuses bodies that end early (they never reach the engine), that are too large, and paths it does not have.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{AnswerBody, encoded, failed, plain};
use super::dispatch::Dispatcher;
use super::exception::{Exception, code};
use super::outbox::Reply;
use super::request::Request;
use super::spool::{Spool, body_error};

/// Connections at once; the next one waits to be accepted. Pools of a few processes and a page are tens.
const MAX_CONNECTIONS: usize = 512;
/// A client that sends no whole header in this time is cut off, so that it does not hold a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request under way may take to be answered once the end is asked for; reads are cancelled at once, so this
/// is for inserts and for bodies that still arrive. What has begun in the engine goes on beyond it.
const CLOSE_GRACE: Duration = Duration::from_secs(15);
/// After a failed accept (no file descriptor, say) the next try waits, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then closes what is idle and lets what runs end.
pub async fn serve(
    listener: TcpListener,
    dispatcher: Arc<Dispatcher>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let ids = Arc::new(QueryIds::new());
    loop {
        let permit = Arc::clone(&free).acquire_owned();
        let permit = tokio::select! {
            permit = permit => permit.expect("never closed"),
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (dispatcher, ids, shutdown) =
                    (Arc::clone(&dispatcher), Arc::clone(&ids), shutdown.clone());
                connections.spawn(async move {
                    serve_connection(stream, dispatcher, ids, shutdown).await;
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
    dispatcher: Arc<Dispatcher>,
    ids: Arc<QueryIds>,
    shutdown: CancellationToken,
) {
    // Answers are written whole; waiting for more to send only costs time.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let (dispatcher, ids) = (Arc::clone(&dispatcher), Arc::clone(&ids));
        async move { Ok::<_, Infallible>(answer(request, &dispatcher, &ids).await) }
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
            match tokio::time::timeout(CLOSE_GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::warn!("a connection is cut off: its request did not end in time"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Ids for queries that bring none: unique among the processes that ever served a directory.
struct QueryIds {
    boot: i64,
    serial: AtomicU64,
}

impl QueryIds {
    fn new() -> Self {
        Self {
            boot: crate::clock::now_us(),
            serial: AtomicU64::new(0),
        }
    }

    fn next(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            self.boot & 0xFFFF_FFFF,
            (self.boot >> 32) & 0xFFFF,
            0,
            0,
            serial
        )
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    dispatcher: &Arc<Dispatcher>,
    ids: &QueryIds,
) -> Response<AnswerBody> {
    let (method, path) = (request.method().clone(), request.uri().path());
    match (&method, path) {
        (&Method::GET | &Method::HEAD, "/ping" | "/replicas_status") => {
            return plain(StatusCode::OK, "Ok.\n");
        }
        (&Method::GET | &Method::HEAD, "/") if request.uri().query().is_none_or(str::is_empty) => {
            return plain(StatusCode::OK, "Ok.\n");
        }
        (&Method::GET | &Method::HEAD | &Method::POST | &Method::PUT, "/") => {}
        (_, "/") => {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "There is GET, HEAD, POST and PUT.\n",
            );
        }
        _ => {
            return plain(
                StatusCode::NOT_FOUND,
                &format!("There is no handle {path}\n\nUse / or /ping for health checks.\n"),
            );
        }
    }
    let (head, body) = request.into_parts();
    let parsed = Request::parse(&head.method, &head.uri, &head.headers);
    let query_id = parsed
        .as_ref()
        .ok()
        .and_then(|request| request.query_id.clone())
        .unwrap_or_else(|| ids.next());
    let result = match parsed {
        Ok(parsed) => {
            let encoding = parsed.answer_encoding;
            run(parsed, &head, body, dispatcher, &query_id)
                .await
                .and_then(|reply| encoded(reply, encoding, &query_id))
        }
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| failed(&error));
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-timezone", HeaderValue::from_static("UTC"));
    headers.insert(
        "x-clickhouse-server-display-name",
        HeaderValue::from_static("modelmeter"),
    );
    if let Ok(id) = HeaderValue::from_str(&query_id) {
        headers.insert("x-clickhouse-query-id", id);
    }
    response
}

async fn run(
    request: Request,
    head: &hyper::http::request::Parts,
    body: Incoming,
    dispatcher: &Arc<Dispatcher>,
    query_id: &str,
) -> Result<Reply, Exception> {
    let is_framed =
        head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if !is_framed && (head.method == Method::POST || head.method == Method::PUT) {
        let message = "The Transfer-Encoding is not chunked and there is no Content-Length header for POST request";
        return Err(Exception::new(code::HTTP_LENGTH_REQUIRED, message));
    }
    let body = whole(body, dispatcher).await?;
    let mut request = request;
    // The form's own fields may name the id, as they may everything else.
    let query_id = request
        .query_id
        .take()
        .unwrap_or_else(|| query_id.to_owned());
    dispatcher.run(request, body, query_id).await
}

/// The body to its end. One that ends early is an error, so that nothing of it is ever executed.
async fn whole(mut body: Incoming, dispatcher: &Dispatcher) -> Result<Spool, Exception> {
    let mut spool = dispatcher.folder.writer();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Exception::new(
                code::CANNOT_READ_ALL_DATA,
                format!("the body ended early, nothing was executed: {error}"),
            )
        })?;
        if let Ok(data) = frame.into_data() {
            spool.write_all(&data).map_err(|error| body_error(&error))?;
        }
    }
    Ok(spool.finish())
}
