//! The proxy: in front of the model server, in the path of every request. It passes each on as it came, measures it, and
//! leaves the measure in the meter; it never waits for anything else.
//!
//! Both sides are hyper's, on one thread with a runtime of its own, so that nothing that the rest of the agent does can
//! delay a request. A client may come by [`tls`]. [`guard`] looks at raw bytes before the library does, by the rules of
//! [`framing`], and speaks with the rest by [`signals`]. [`exchange`] carries one request: [`admission`] says when,
//! [`upstream`] keeps the connections to the server, [`flow`] is the body that goes there, [`body`] the one that comes back,
//! [`watched`] sees whether its client takes it, [`tunnel`] is what follows an upgrade; [`one_piece`] is how both sides are
//! written to. [`record`] is what is measured.

mod admission;
mod body;
mod descriptors;
mod exchange;
mod flow;
pub mod framing;
mod guard;
mod headers;
mod one_piece;
mod record;
mod signals;
mod silence;
mod tls;
mod tunnel;
mod upstream;
mod watched;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::header::HeaderName;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::condition::Condition;
use super::meter::Meter;
use crate::config::parse_duration;
use admission::Admission;
use descriptors::affordable;
use exchange::{Client, Exchange};
use guard::{Guarded, Patience};
use record::Records;
use signals::Signals;
use upstream::Pool;
pub use upstream::Upstream;

/// Connections past `--max-connections` that are open to be told 503. Past these too, the next waits to be accepted.
const MAX_TURNED_AWAY: usize = 64;

/// Streams that one HTTP/2 client may have open; more wait on its side.
const MAX_STREAMS: u32 = 256;

/// Bytes of a request's head; past it 431. Heads with tokens and trace context are a few kilobytes.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// After a failed accept (no more file descriptors, mostly): others may end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// A certificate for clients, PEM, with those that signed it behind it; without one there is no TLS. Read at start alone.
    #[arg(
        long,
        env = "MODELMETER_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(
        long,
        env = "MODELMETER_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
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
    /// Clients' connections at once, or as many as `ulimit -n` allows; past them 503. Idle, each takes some 18 KB.
    #[arg(long, default_value_t = 10_240, value_name = "N")]
    pub max_connections: usize,
    /// How long a client may take over a request's head; then it is answered 408.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub head_timeout: Duration,
    /// A connection without a request is closed after this. Longer than a load balancer keeps its own, so that no request
    /// meets a connection that closes.
    #[arg(long, default_value = "620s", value_parser = parse_duration, value_name = "DURATION")]
    pub idle_timeout: Duration,
    /// How long the server may take to begin its answer, and be silent in it; then 504, or the answer is cut. Not for gRPC.
    #[arg(long, default_value = "600s", value_parser = parse_duration, value_name = "DURATION")]
    pub answer_timeout: Duration,
    /// How long a client may take nothing of its answer; then it is cut off and counts as gone, so that it holds no place
    /// for ever. Long: a client of a stream may well stop for a while.
    #[arg(long, default_value = "300s", value_parser = parse_duration, value_name = "DURATION")]
    pub send_timeout: Duration,
    /// How long requests in flight may take once the agent is told to end.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain: Duration,
}

/// Why there can be no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("--listen {0}: the address cannot be taken")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("--tls-cert and --tls-key are not usable")]
    Tls(#[from] tls::TlsError),
}

/// Bound and not yet serving.
pub struct Proxy {
    listener: StdListener,
    tls: Option<TlsAcceptor>,
    exchange: Arc<Exchange>,
    patience: Patience,
    max_connections: usize,
    drain: Duration,
}

impl ProxyArgs {
    /// Takes the address, and reads the certificate. None where there is no proxy to run.
    ///
    /// # Errors
    /// When the address cannot be taken, or the certificate not be used.
    pub fn bind(
        &self,
        meter: Arc<Meter>,
        condition: watch::Receiver<Condition>,
    ) -> Result<Option<Proxy>, ProxyError> {
        let (Some(listen), Some(upstream)) = (self.listen, &self.upstream) else {
            return Ok(None);
        };
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let of_listen = |error| ProxyError::Listen(listen, error);
        let listener = StdListener::bind(listen).map_err(of_listen)?;
        listener.set_nonblocking(true).map_err(of_listen)?;
        let exchange = Exchange {
            records: Arc::new(Records {
                meter,
                is_cutting: AtomicBool::new(false),
            }),
            pool: Arc::new(Pool::new(upstream.clone())),
            admission: Admission::new(
                condition,
                self.hold_until_ready,
                self.max_concurrency,
                self.max_queue,
            ),
            front_door_header: self.request_start_header.clone(),
            answer_time: self.answer_timeout,
            send_time: self.send_timeout,
            tunnels: TaskTracker::new(),
        };
        Ok(Some(Proxy {
            listener,
            tls,
            exchange: Arc::new(exchange),
            patience: Patience {
                head_bytes: MAX_HEAD_BYTES as usize,
                head: self.head_timeout,
                idle: self.idle_timeout,
                send: self.send_timeout,
            },
            max_connections: affordable(self.max_connections).clamp(1, Semaphore::MAX_PERMITS),
            drain: self.drain,
        }))
    }
}

impl Proxy {
    /// What a client's URL begins with.
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

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
        let records = self.exchange.records.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let served = runtime.block_on(self.serve(shutdown));
        // what is left goes with the runtime
        records.is_cutting.store(true, Ordering::Relaxed);
        drop(runtime);
        served
    }

    async fn serve(self, shutdown: &CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.max_connections));
        let spare = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
        loop {
            let place = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                place = take_place(&places, &spare) => place,
            };
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let place = place.or_a_better(&places);
                    let connection = Connection {
                        exchange: self.exchange.clone(),
                        patience: self.patience,
                        shutdown: shutdown.clone(),
                        place,
                    };
                    match &self.tls {
                        None => connections.spawn(connection.serve_plain(stream)),
                        Some(tls) => connections.spawn(connection.serve_tls(stream, tls.clone())),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        let all_ended = async {
            connections.wait().await;
            // only a connection can make one
            self.exchange.tunnels.close();
            self.exchange.tunnels.wait().await;
        };
        if timeout(self.drain, all_ended).await.is_err() {
            tracing::warn!("requests in flight did not end in time and are cut");
        }
        Ok(())
    }
}

/// A connection's place, until it is dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    is_spare: bool,
}

impl Place {
    /// One may have become free since this was taken.
    fn or_a_better(self, places: &Arc<Semaphore>) -> Self {
        match places.clone().try_acquire_owned() {
            Ok(permit) if self.is_spare => Self {
                _permit: permit,
                is_spare: false,
            },
            _ => self,
        }
    }
}

async fn take_place(places: &Arc<Semaphore>, spare: &Arc<Semaphore>) -> Place {
    if let Ok(permit) = places.clone().try_acquire_owned() {
        return Place {
            _permit: permit,
            is_spare: false,
        };
    }
    tokio::select! {
        biased;
        permit = spare.clone().acquire_owned() => Place {
            _permit: permit.expect("never closed"),
            is_spare: true,
        },
        permit = places.clone().acquire_owned() => Place {
            _permit: permit.expect("never closed"),
            is_spare: false,
        },
    }
}

/// What serving one client takes.
struct Connection {
    exchange: Arc<Exchange>,
    patience: Patience,
    shutdown: CancellationToken,
    place: Place,
}

impl Connection {
    async fn serve_plain(self, stream: TcpStream) {
        // without it an answer may wait for the client's acknowledgement of the one before
        let _ = stream.set_nodelay(true);
        self.serve(stream).await;
    }

    async fn serve_tls(self, stream: TcpStream, tls: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let accepted = tokio::select! {
            accepted = tls::accept(&tls, stream) => accepted,
            () = self.shutdown.cancelled() => None,
        };
        if let Some(stream) = accepted {
            self.serve(stream).await;
        }
    }

    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let client = Client {
            signals: Arc::new(Signals::default()),
            is_turned_away: self.place.is_spare,
        };
        let guarded = Guarded::new(stream, client.signals.clone(), self.patience);
        let exchange = self.exchange;
        let service = service_fn(|request| exchange.clone().answer(request, client.clone()));
        let builder = http_server();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(guarded), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a client's connection ended");
        }
    }
}

/// The library's side towards clients. The times that it would keep are the guard's: its own end a connection without a
/// word.
fn http_server() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        // the server's own date, or none
        .auto_date_header(false)
        .half_close(false);
    builder
        .http2()
        .auto_date_header(false)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}
