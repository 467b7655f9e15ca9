//! One request through the agent: admitted, held or queued, handed to the model server, and its answer passed on.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::body::{Counted, GRPC_STATUS, Measured};
use super::headers::{
    http_status_of_grpc, remove_hop_by_hop, time_since_front_door, wanted_upgrade,
};
use super::record::Record;
use super::upstream::{Pool, Taken, UpstreamError};
use crate::agent::condition::Condition;
use crate::agent::meter::Meter;
use crate::core::event::{Outcome, ReplicaState};

/// What a refused client is told to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What every request of one agent shares.
pub struct Exchange {
    pub meter: Arc<Meter>,
    pub pool: Arc<Pool>,
    pub condition: watch::Receiver<Condition>,
    pub front_door_header: HeaderName,
    pub hold: Option<Duration>,
    pub admission: Option<Admission>,
}

/// How many run at once, and how many may wait for that.
pub struct Admission {
    places: Arc<Semaphore>,
    n_waiting: AtomicUsize,
    max_waiting: usize,
}

/// The agent's own answer.
struct Refusal {
    status: StatusCode,
    outcome: Outcome,
    text: String,
}

impl Refusal {
    fn busy(text: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            outcome: Outcome::Refused,
            text: text.to_owned(),
        }
    }

    fn of(error: &UpstreamError) -> Self {
        let is_timeout = matches!(error, UpstreamError::ConnectTimeout);
        Self {
            status: if is_timeout {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::BAD_GATEWAY
            },
            outcome: if is_timeout {
                Outcome::TimedOut
            } else {
                Outcome::Aborted
            },
            text: error.to_string(),
        }
    }
}

impl Admission {
    pub fn new(max_concurrency: NonZeroU32, max_waiting: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max_concurrency.get() as usize)),
            n_waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    async fn admit(&self, record: &mut Record) -> Result<(), Refusal> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            record.permit = Some(permit);
            return Ok(());
        }
        let _waiting = Waiting::begin(self)?;
        match self.places.clone().acquire_owned().await {
            Ok(permit) => record.permit = Some(permit),
            Err(_) => return Err(Refusal::busy("the agent is ending")),
        }
        Ok(())
    }
}

/// A place in the queue, given back however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(admission: &'a Admission) -> Result<Self, Refusal> {
        let taken = admission
            .n_waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < admission.max_waiting).then_some(n + 1)
            });
        match taken {
            Ok(_) => Ok(Self(&admission.n_waiting)),
            Err(_) => Err(Refusal::busy("the queue before the model server is full")),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Exchange {
    /// Answers one request; whatever goes wrong is an answer too.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Measured>, Infallible> {
        let before = time_since_front_door(request.headers(), &self.front_door_header);
        let mut record = Record::new(self.meter.clone(), before);
        // an unread chunked body hides where the next request begins: see `guard`
        let must_close = request.version() < Version::HTTP_2
            && request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut response = match self.admit(&mut record).await {
            Ok(()) => self.pass_on(request, record).await,
            Err(refusal) => refuse(refusal, record),
        };
        if must_close {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn admit(&self, record: &mut Record) -> Result<(), Refusal> {
        if is_cold(&self.condition) {
            match self.hold {
                // the server answers as it can
                None => record.met_cold_start(None),
                Some(longest) => {
                    let began = Instant::now();
                    let mut condition = self.condition.clone();
                    let ready = condition.wait_for(|now| !is_starting(now.state));
                    let held = timeout(longest, ready).await.map(|ready| ready.is_ok());
                    record.met_cold_start(Some(began.elapsed()));
                    if held != Ok(true) {
                        return Err(Refusal::busy("the model is still loading"));
                    }
                }
            }
        }
        match &self.admission {
            Some(admission) => admission.admit(record).await,
            None => Ok(()),
        }
    }

    async fn pass_on(&self, request: Request<Incoming>, mut record: Record) -> Response<Measured> {
        let upgrade = wanted_upgrade(request.headers());
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let (mut parts, body) = request.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        // the library itself says 100 as soon as the server reads
        parts.headers.remove(header::EXPECT);
        record.hand_over();
        if self.pool.upstream.is_http2 || is_grpc && parts.version == Version::HTTP_2 {
            return self.pass_on_http2(parts, body, record).await;
        }
        match upgrade {
            Some(protocol) => self.pass_on_upgrade(parts, body, protocol, record).await,
            None => self.pass_on_http1(parts, body, record).await,
        }
    }

    async fn pass_on_http1(
        &self,
        mut parts: Parts,
        body: Incoming,
        mut record: Record,
    ) -> Response<Measured> {
        name_host(&mut parts);
        parts.uri = path_of(&parts.uri);
        parts.version = Version::HTTP_11;
        let n_bytes = record.request_bytes();
        // only what has no body and changes nothing may be sent twice
        let again = (matches!(parts.method, Method::GET | Method::HEAD) && body.is_end_stream())
            .then(|| Request::from_parts(parts.clone(), Counted::empty(n_bytes.clone())));
        let mut request = Request::from_parts(parts, Counted::new(body, n_bytes));
        let taken = match self.pool.take().await {
            Ok(taken) => taken,
            Err(error) => return refuse(Refusal::of(&error), record),
        };
        let Taken {
            mut sender,
            is_used,
        } = taken;
        let error = match sender.try_send_request(request).await {
            Ok(response) => return self.pass_back(response, record, Some(sender)),
            Err(mut error) => {
                // closed while it was idle: what was not sent, or may be sent twice, gets a new connection
                match error.take_message().or(again.filter(|_| is_used)) {
                    Some(unsent) if is_used => request = unsent,
                    _ => return refuse(Refusal::of(&error.into_error().into()), record),
                }
                error.into_error()
            }
        };
        tracing::debug!(error = %error, "a kept connection had ended; sent again on a new one");
        match self.pool.connect().await {
            Ok(Taken { mut sender, .. }) => match sender.send_request(request).await {
                Ok(response) => {
                    record.hand_over();
                    self.pass_back(response, record, Some(sender))
                }
                Err(error) => refuse(Refusal::of(&error.into()), record),
            },
            Err(error) => refuse(Refusal::of(&error), record),
        }
    }

    async fn pass_on_http2(
        &self,
        mut parts: Parts,
        body: Incoming,
        record: Record,
    ) -> Response<Measured> {
        if parts.uri.authority().is_none() {
            parts.uri = with_authority(&parts);
        }
        parts.headers.remove(header::HOST);
        parts.version = Version::HTTP_2;
        let body = Counted::new(body, record.request_bytes());
        let sent = self.pool.send_http2(Request::from_parts(parts, body));
        match sent.await {
            Ok(response) => self.pass_back(response, record, None),
            Err(error) => refuse(Refusal::of(&error), record),
        }
    }

    /// Another protocol takes the connection over: both ways are copied until either end is done.
    async fn pass_on_upgrade(
        &self,
        mut parts: Parts,
        body: Incoming,
        protocol: HeaderValue,
        mut record: Record,
    ) -> Response<Measured> {
        name_host(&mut parts);
        parts.uri = path_of(&parts.uri);
        parts.headers.insert(header::UPGRADE, protocol);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let n_bytes = record.request_bytes();
        let mut request = Request::from_parts(parts, body);
        let client = hyper::upgrade::on(&mut request);
        let request = request.map(|body| Counted::new(body, n_bytes));
        let mut sender = match self.pool.connect().await {
            Ok(taken) => taken.sender,
            Err(error) => return refuse(Refusal::of(&error), record),
        };
        let mut response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return refuse(Refusal::of(&error.into()), record),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.pass_back(response, record, Some(sender));
        }
        record.answer_begins(response.status().as_u16());
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
                return record.end(Outcome::Aborted);
            };
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            if let Ok((up, down)) = copied {
                record.request_bytes().fetch_add(up, Ordering::Relaxed);
                record.add_response_bytes(down);
            }
            record.end(copied.map_or(Outcome::Aborted, |_| Outcome::Completed));
        });
        response.map(|_| Measured::from_agent(Bytes::new(), None))
    }

    fn pass_back(
        &self,
        mut response: Response<Incoming>,
        mut record: Record,
        connection: Option<super::upstream::Sender>,
    ) -> Response<Measured> {
        record.answer_begins(response.status().as_u16());
        if let Some(code) = response.headers().get(GRPC_STATUS) {
            record.set_status(http_status_of_grpc(code));
        }
        remove_hop_by_hop(response.headers_mut());
        let connection = connection.map(|sender| (sender, self.pool.clone()));
        response.map(|body| Measured::from_server(body, record, connection))
    }
}

fn is_cold(condition: &watch::Receiver<Condition>) -> bool {
    is_starting(condition.borrow().state)
}

const fn is_starting(state: ReplicaState) -> bool {
    matches!(state, ReplicaState::Waiting | ReplicaState::Loading)
}

fn refuse(refusal: Refusal, mut record: Record) -> Response<Measured> {
    record.answered_here(refusal.status.as_u16(), refusal.outcome);
    let text = Bytes::from(format!("modelmeter agent: {}\n", refusal.text));
    let mut response = Response::new(Measured::from_agent(text, Some(record)));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if refusal.outcome == Outcome::Refused {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// HTTP/2 names the host in its address, HTTP/1.1 in a header.
fn name_host(parts: &mut Parts) {
    if !parts.headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
}

fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query()
        .map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}

fn with_authority(parts: &Parts) -> Uri {
    let host = parts.headers.get(header::HOST);
    let authority = host
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<Authority>().ok())
        .unwrap_or_else(|| Authority::from_static("localhost"));
    let mut uri = path_of(&parts.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    Uri::from_parts(uri).unwrap_or_default()
}
