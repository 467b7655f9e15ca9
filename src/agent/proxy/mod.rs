//! The proxy: in front of the model server, in the path of every request. It passes each on as it came, measures it, and
//! leaves the measure in the meter; it never waits for anything else.
//!
//! Both sides are hyper's, on one thread with a runtime of its own, so that nothing that the rest of the agent does can
//! delay a request. [`guard`] looks at raw bytes before the library does, [`exchange`] carries one request, [`upstream`]
//! keeps the connections to the server, [`body`] counts what passes, [`record`] is what is measured.

mod body;
mod exchange;
mod guard;
mod headers;
mod record;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::condition::Condition;
use super::meter::Meter;
use crate::config::parse_duration;
use exchange::{Admission, Exchange};
use guard::{Guarded, MAX_HEAD_BYTES};
use upstream::Pool;
pub use upstream::Upstream;

/// Clients' connections at once; one more is answered 503 and closed. Idle, each takes some 18 KB.
const MAX_CONNECTIONS: usize = 10_240;

/// Header lines of a request; more is answered 431.
const MAX_HEADERS: usize = 100;

/// How long a client may take over a request's head. Then its connection is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// After a failed accept (no more file descriptors, mostly): others may end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
content-type: text/plain\r\ncontent-length: 40\r\n\r\nmodelmeter agent: too many connections.\n";

/// How requests reach the model server.
#[derive(Debug, Clone, clap::Args)]
pub struct ProxyArgs {
    /// Where clients connect; port 0 is any free one.
    #[arg(
        long,
        env = "MODELMETER_LISTEN",
        value_name = "ADDRESS",
        requires = "upstream"
    )]
    pub listen: Option<SocketAddr>,
    /// The model server: http://HOST:PORT (gRPC over HTTP/2 all the same), or h2c://HOST:PORT for HTTP/2 alone.
    #[arg(
        long,
        env = "MODELMETER_UPSTREAM",
        value_name = "URL",
        requires = "listen"
    )]
    pub upstream: Option<Upstream>,
    /// Requests that the server runs at once; the others wait in the agent, which tells queueing from inference.
    #[arg(long, env = "MODELMETER_MAX_CONCURRENCY", value_name = "N")]
    pub max_concurrency: Option<NonZeroU32>,
    /// Requests that may wait for a place; one more is answered 503.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_queue: usize,
    /// Requests that come while the model loads wait for it this long, instead of failing.
    #[arg(long, env = "MODELMETER_HOLD_UNTIL_READY", value_parser = parse_duration, value_name = "DURATION")]
    pub hold_until_ready: Option<Duration>,
    /// The front door's header that says when a request arrived there.
    #[arg(long, default_value = "x-request-start", value_name = "NAME")]
    pub request_start_header: HeaderName,
    /// How long requests in flight may take once the agent is told to end.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain: Duration,
}

/// Bound and not yet serving.
pub struct Proxy {
    listener: StdListener,
    exchange: Arc<Exchange>,
    drain: Duration,
}

impl ProxyArgs {
    /// Takes the address. None where there is no proxy to run.
    ///
    /// # Errors
    /// When the address cannot be taken.
    pub fn bind(
        &self,
        meter: Arc<Meter>,
        condition: watch::Receiver<Condition>,
    ) -> io::Result<Option<Proxy>> {
        let (Some(listen), Some(upstream)) = (self.listen, &self.upstream) else {
            return Ok(None);
        };
        let listener = StdListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        Ok(Some(Proxy {
            listener,
            exchange: Arc::new(Exchange {
                meter,
                pool: Arc::new(Pool::new(upstream.clone())),
                condition,
                front_door_header: self.request_start_header.clone(),
                hold: self.hold_until_ready,
                admission: self
                    .max_concurrency
                    .map(|max| Admission::new(max, self.max_queue)),
            }),
            drain: self.drain,
        }))
    }
}

impl Proxy {
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then until the requests in flight have ended, or the drain's time has passed. Blocks: it is
    /// a thread's whole work.
    ///
    /// # Errors
    /// When there can be no runtime.
    pub fn run(self, shutdown: &CancellationToken) -> io::Result<()> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.serve(shutdown))
    }

    async fn serve(self, shutdown: &CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let connection =
                            serve_one(stream, self.exchange.clone(), shutdown.clone(), place);
                        tokio::spawn(connection);
                    }
                    Err(_) => {
                        tokio::spawn(turn_away(stream));
                    }
                },
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // every connection holds a place until it has ended
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        if timeout(self.drain, places.acquire_many(all)).await.is_err() {
            tracing::warn!("requests in flight did not end in time and are cut");
        }
        Ok(())
    }
}

async fn serve_one(
    stream: TcpStream,
    exchange: Arc<Exchange>,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    // without it an answer may wait for the client's acknowledgement of the one before
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .half_close(false);
    let service = service_fn(|request| exchange.clone().answer(request));
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(Guarded::new(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a client's connection ended");
    }
}

async fn turn_away(mut stream: TcpStream) {
    // whoever is turned away may have gone already
    let _ = stream.write_all(TOO_MANY).await;
    let _ = stream.shutdown().await;
}
