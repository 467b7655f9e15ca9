//! The HTTP side: connections, bodies in, answers out. What a query means is decided in `dispatch`.
//! It refuses bodies that end early (they never reach the engine), that are too large, and paths it does not have.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::compression::{Encoder, Encoding};
use super::dispatch::{Dispatcher, Reply};
use super::engine::Counts;
use super::exception::{Exception, code};
use super::request::Request;
use super::spool::{Spool, body_error};

/// Connections at once; the next one waits to be accepted. Pools of a few processes and a page are tens.
const MAX_CONNECTIONS: usize = 512;
/// A client that sends no whole header in this time is cut off, so that it does not hold a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptor, say) the next try waits, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Separates an exception from the rows before it. A client finds it by the header `X-ClickHouse-Exception-Tag`.
const TAG_LENGTH: usize = 16;

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
            connection.await
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
    use std::io::Write;
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

fn plain(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(text.as_bytes().to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=UTF-8"),
    );
    response
}

fn failed(error: &Exception) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(format!("{}\n", error.text).into_bytes()));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    headers.insert("x-clickhouse-exception-code", HeaderValue::from(error.code));
    response
}

/// The answer with its headers, packed as the client asked.
fn encoded(
    reply: Reply,
    encoding: Option<Encoding>,
    query_id: &str,
) -> Result<Response<AnswerBody>, Exception> {
    let pack_error = |error: std::io::Error| {
        Exception::new(
            code::STD_EXCEPTION,
            format!("the answer cannot be packed: {error}"),
        )
    };
    // An answer without a byte has nothing to pack, and clients expect it bare.
    let encoding = encoding.filter(|_| !(reply.head.is_empty() && reply.rest.is_none()));
    let mut encoder = Encoder::new(encoding).map_err(pack_error)?;
    let mut first = encoder.push(&reply.head).map_err(pack_error)?;
    let tag = exception_tag(query_id);
    let body = match reply.rest {
        None => {
            first.extend(encoder.finish().map_err(pack_error)?);
            AnswerBody::whole(first)
        }
        Some(rest) => AnswerBody {
            first: Some(first.into()),
            rest: Some((rest, encoder)),
            tag: tag.clone(),
        },
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-clickhouse-summary", &summary(&reply.counts));
    set("x-clickhouse-exception-tag", &tag);
    if let Some(format) = &reply.format {
        set("x-clickhouse-format", format);
        set("content-type", content_type(format));
    }
    if let Some(name) = encoding.and_then(Encoding::name) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    Ok(response)
}

/// Unlikely in any row: the clock's microseconds and the query's id, mixed.
fn exception_tag(query_id: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut number = RandomState::new().hash_one((crate::clock::now_us(), query_id));
    let mut tag = String::with_capacity(TAG_LENGTH);
    for _ in 0..TAG_LENGTH {
        tag.push(char::from(b'a' + (number % 26) as u8));
        number = number.rotate_right(7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    tag
}

fn summary(counts: &Counts) -> String {
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
         \"result_rows\":\"{}\",\"result_bytes\":\"{}\"}}",
        counts.read_rows,
        counts.read_bytes,
        counts.written_rows,
        counts.written_bytes,
        counts.result_rows,
        counts.result_bytes
    )
}

fn content_type(format: &str) -> &'static str {
    match format {
        "JSON"
        | "JSONCompact"
        | "JSONStrings"
        | "JSONCompactStrings"
        | "JSONColumns"
        | "JSONColumnsWithMetadata"
        | "JSONCompactColumns"
        | "JSONObjectEachRow" => "application/json; charset=UTF-8",
        _ if format.starts_with("JSON") || format == "NDJSON" => {
            "application/x-ndjson; charset=UTF-8"
        }
        _ if format.starts_with("TabSeparated") || format.starts_with("TSV") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        _ if format.starts_with("CSV") => "text/csv; charset=UTF-8; header=absent",
        "Native" | "Parquet" | "ORC" | "Arrow" | "ArrowStream" | "Avro" | "MsgPack" => {
            "application/octet-stream"
        }
        _ if format.starts_with("RowBinary") => "application/octet-stream",
        "XML" => "application/xml; charset=UTF-8",
        _ => "text/plain; charset=UTF-8",
    }
}

/// An answer: whole, or its beginning and blocks that follow.
struct AnswerBody {
    first: Option<Bytes>,
    rest: Option<(mpsc::Receiver<Result<Bytes, Exception>>, Encoder)>,
    tag: String,
}

impl AnswerBody {
    fn whole(bytes: Vec<u8>) -> Self {
        Self {
            first: Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()),
            rest: None,
            tag: String::new(),
        }
    }

    /// The exception as ClickHouse writes it behind rows that are sent already.
    fn exception(&self, error: &Exception) -> Vec<u8> {
        let (tag, message) = (&self.tag, format!("{}\n", error.text));
        let length = message.len();
        format!("\r\n__exception__\r\n{tag}\r\n{message}{length} {tag}\r\n__exception__\r\n")
            .into_bytes()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(first) = self.first.take()
                && !first.is_empty()
            {
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            let Some((rest, _)) = &mut self.rest else {
                return Poll::Ready(None);
            };
            let next = ready!(rest.poll_recv(context));
            let (rest, mut encoder) = self.rest.take().expect("looked at just now");
            let packed = match next {
                Some(Ok(block)) => {
                    let packed = encoder.push(&block)?;
                    self.rest = Some((rest, encoder));
                    packed
                }
                Some(Err(error)) => {
                    let mut packed = encoder.push(&self.exception(&error))?;
                    packed.extend(encoder.finish()?);
                    packed
                }
                None => encoder.finish()?,
            };
            self.first = Some(packed.into());
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match (&self.first, &self.rest) {
            (first, None) => hyper::body::SizeHint::with_exact(
                first.as_ref().map_or(0, |first| first.len() as u64),
            ),
            _ => hyper::body::SizeHint::default(),
        }
    }
}
