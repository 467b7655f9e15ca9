//! `POST /v1/events`: events that the server measured itself, taken whole or not at all. Owns the socket and the limits;
//! [`parse`] is what a body may say. It never waits for Kafka or the disk: a full queue is answered at once.

pub mod parse;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::arguments::EventsAddress;
use super::loss::Loss;
use super::meter::Meter;
use crate::clock::now_us;
use crate::core::event::RequestEvent;

/// A body. 10,000 events with every field are some 3 MB; a larger one is answered with 413.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// How long a body may take; its sender is on this machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle or a head be under way.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections at a time, so at most 256 MiB of bodies; a further one waits to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// After a connection that could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where it listens, bound.
pub enum EventsListener {
    Tcp(TcpListener),
    /// The socket's file goes when this is dropped.
    Unix(UnixListener, SocketFile),
}

pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl EventsListener {
    /// A socket that an agent which was killed left is replaced; one that answers is not.
    ///
    /// # Errors
    /// When the address cannot be taken.
    pub async fn bind(address: &EventsAddress) -> io::Result<Self> {
        match address {
            EventsAddress::Loopback(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            EventsAddress::Unix(path) => {
                let taken = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        if tokio::net::UnixStream::connect(path).await.is_ok() {
                            return Err(error);
                        }
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    bound => bound?,
                };
                Ok(Self::Unix(taken, SocketFile(path.clone())))
            }
        }
    }

    /// As it is announced.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<EventsAddress> {
        Ok(match self {
            Self::Tcp(listener) => EventsAddress::Loopback(listener.local_addr()?),
            Self::Unix(_, file) => EventsAddress::Unix(file.0.clone()),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where accepted events go.
pub struct Intake {
    pub meter: Arc<Meter>,
    pub posted: SyncSender<Vec<RequestEvent>>,
}

/// Serves until it is aborted.
pub async fn serve(listener: EventsListener, intake: Arc<Intake>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // never closed
        let Ok(place) = connections.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection of the server could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let intake = intake.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let intake = intake.clone();
                async move { Ok::<_, Infallible>(answer(request, &intake).await) }
            });
            // a client that breaks off is no concern of ours
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer(request: Request<Incoming>, intake: &Intake) -> Response<Full<Bytes>> {
    if request.uri().path() != "/v1/events" {
        return say(StatusCode::NOT_FOUND, "here is POST /v1/events");
    }
    if request.method() != Method::POST {
        return say(StatusCode::METHOD_NOT_ALLOWED, "events are posted");
    }
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("a body has at most {MAX_BODY_BYTES} bytes");
            return say(StatusCode::PAYLOAD_TOO_LARGE, &text);
        }
        Ok(Err(_)) => return say(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => return say(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    take(&body, intake)
}

fn take(body: &[u8], intake: &Intake) -> Response<Full<Bytes>> {
    let events = match parse::events(body, now_us()) {
        Ok(events) => events,
        Err(wrong) => {
            intake.meter.losses().add(Loss::Invalid, wrong.n_events);
            return say(StatusCode::BAD_REQUEST, &wrong.text);
        }
    };
    if events.is_empty() {
        return say(StatusCode::ACCEPTED, "0 events");
    }
    let n = events.len();
    match intake.posted.try_send(events) {
        Ok(()) => {
            intake.meter.wake();
            say(StatusCode::ACCEPTED, &format!("{n} events"))
        }
        // nothing of it was taken, so the server may send it again
        Err(TrySendError::Full(_)) => {
            let mut response = say(StatusCode::SERVICE_UNAVAILABLE, "busy: send it again");
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Err(TrySendError::Disconnected(_)) => {
            say(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping")
        }
    }
}

fn say(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
