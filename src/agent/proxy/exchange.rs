//! One request through the agent: admitted, handed to the model server, and its answer passed on. Whatever goes wrong is
//! an answer too.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Refused};
use super::body::{GRPC_STATUS, Measured};
use super::flow::{Counted, Flow};
use super::framing::Refusal;
use super::guard::REFUSED_HEADER;
use super::headers::{
    http_status_of_grpc, is_grpc, join_cookies, name_host, path_of, remove_hop_by_hop,
    time_since_front_door, wanted_upgrade, with_authority,
};
use super::record::{Record, Records};
use super::signals::{Decision, Signals};
use super::tunnel;
use super::upstream::{Pool, Sender, Taken, UpstreamError};
use crate::core::event::Outcome;

/// What a refused client is told to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// `Expect: 100-continue`: without the server's word the body is sent after this, as RFC 9110 allows.
const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// What every request of one agent shares.
pub struct Exchange {
    pub records: Arc<Records>,
    pub pool: Arc<Pool>,
    pub admission: Admission,
    pub front_door_header: HeaderName,
    /// From hand-over to the answer's head, and between two pieces of it. Not for gRPC, whose streams may be silent.
    pub answer_time: Duration,
    /// How long a client of HTTP/2 may take nothing of one answer. The guard keeps the time of a whole connection.
    pub send_time: Duration,
    /// Connections that another protocol took over.
    pub tunnels: TaskTracker,
}

/// The client's connection, as far as a request needs it.
#[derive(Clone)]
pub struct Client {
    pub signals: Arc<Signals>,
    /// Past the limit on connections: its requests are refused.
    pub is_turned_away: bool,
}

/// Why the agent answers itself.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("there are too many connections")]
    TooManyConnections,
    #[error("{}", .0.told().trim_end())]
    Malformed(Refusal),
    #[error("CONNECT is not for this kind of proxy")]
    Connect,
    #[error("the model server did not answer in time")]
    Silent,
    #[error("the client's request broke off")]
    ClientGone,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Upstream(UpstreamError::ConnectTimeout) | Self::Silent => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Refused(_) | Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::Malformed(refusal) => {
                StatusCode::from_u16(refusal.status()).expect("a status of HTTP")
            }
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::ClientGone => StatusCode::BAD_REQUEST,
        }
    }

    const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Upstream(UpstreamError::ConnectTimeout) | Self::Silent => Some(Outcome::TimedOut),
            Self::Upstream(_) => Some(Outcome::Aborted),
            Self::Refused(_) | Self::TooManyConnections | Self::Malformed(_) | Self::Connect => {
                Some(Outcome::Refused)
            }
            Self::ClientGone => None,
        }
    }
}

impl Exchange {
    /// Answers one request of one client. It counts from this call on, also when nobody waits for what is returned: the
    /// client may be gone before its request is first looked at.
    pub fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
    ) -> impl Future<Output = Result<Response<Measured>, Infallible>> {
        let answering = client.signals.answering();
        let before = time_since_front_door(request.headers(), &self.front_door_header);
        let record = Record::new(self.records.clone(), before);
        async move {
            let may_upgrade = request.headers().contains_key(header::UPGRADE);
            let response = self.admit(request, record, &client).await;
            if may_upgrade {
                let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                client.signals.decide(if is_upgraded {
                    Decision::OtherProtocol
                } else {
                    Decision::StillHttp
                });
            }
            Ok(response.map(|body| body.while_answering(answering)))
        }
    }

    async fn admit(
        &self,
        request: Request<Incoming>,
        mut record: Record,
        client: &Client,
    ) -> Response<Measured> {
        if let Some(failure) = refusal_of(&request, client) {
            return fail(&failure, record);
        }
        match self.admission.admit(&mut record).await {
            Ok(()) => self.pass_on(request, record, client).await,
            Err(refused) => fail(&refused.into(), record),
        }
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        mut record: Record,
        client: &Client,
    ) -> Response<Measured> {
        let upgrade = wanted_upgrade(&request);
        let is_grpc = is_grpc(request.headers());
        let untaken = (request.version() == Version::HTTP_2).then_some(self.send_time);
        let allowed = (!is_grpc).then_some(self.answer_time);
        let is_http2 = upgrade.is_none() && self.pool.upstream.is_http2
            || is_grpc && request.version() == Version::HTTP_2;
        let (mut parts, body) = request.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        record.hand_over();
        if let Some(protocol) = upgrade {
            // boxed: what is rare need not be moved about with what is not
            let upgraded = self.pass_on_upgrade(parts, body, protocol, record);
            return Box::pin(upgraded).await;
        }
        let flow = record.flow().clone();
        let sent = {
            // in its place: it is large, and a timer around it would move it
            let sent = std::pin::pin!(async {
                if is_http2 {
                    let request = for_http2(parts, Counted::new(body, flow.clone()));
                    let response = Box::pin(self.pool.send_http2(request)).await?;
                    Ok((response, None))
                } else {
                    self.send_http1(parts, body, &mut record).await
                }
            });
            match allowed {
                Some(allowed) => timeout(allowed, sent).await.unwrap_or(Err(Failure::Silent)),
                None => sent.await,
            }
        };
        match sent {
            Ok((response, sender)) => self.pass_back(response, record, sender, allowed, untaken),
            Err(failure) => {
                let of_client = client.signals.refusal().map(Failure::Malformed);
                let failure = match failure {
                    Failure::Upstream(_) if flow.is_broken() => {
                        of_client.unwrap_or(Failure::ClientGone)
                    }
                    failure => failure,
                };
                fail(&failure, record)
            }
        }
    }

    async fn send_http1(
        &self,
        parts: Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Option<Sender>), Failure> {
        let parts = for_http1(parts);
        let flow = record.flow().clone();
        // only what has no body and changes nothing may be sent twice
        let is_repeatable =
            matches!(parts.method, Method::GET | Method::HEAD) && body.is_end_stream();
        let waits = parts.headers.contains_key(header::EXPECT) && !body.is_end_stream();
        let Taken {
            mut sender,
            is_used,
        } = self.pool.take().await?;
        let again = (is_used && is_repeatable)
            .then(|| Request::from_parts(parts.clone(), Counted::empty(flow.clone())));
        let mut request = Request::from_parts(parts, Counted::new(body, flow.clone()));
        if waits {
            keep_back(&mut request, &flow);
        }
        let sending = sender.try_send_request(request);
        let sent = if waits {
            tokio::pin!(sending);
            match timeout(CONTINUE_TIME, &mut sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    flow.open();
                    sending.await
                }
            }
        } else {
            sending.await
        };
        let mut error = match sent {
            Ok(response) => return Ok((response, Some(sender))),
            Err(error) => error,
        };
        // closed while it was idle: what was not sent, or may be sent twice, gets a new connection
        let unsent = error.take_message().or(again).filter(|_| is_used);
        let error = error.into_error();
        let Some(request) = unsent else {
            return Err(UpstreamError::from(error).into());
        };
        tracing::debug!(%error, "a kept connection had ended; sent again on a new one");
        flow.open();
        let Taken { mut sender, .. } = Box::pin(self.pool.connect()).await?;
        record.hand_over();
        let response = sender.send_request(request).await;
        Ok((response.map_err(UpstreamError::from)?, Some(sender)))
    }

    /// Another protocol may take the connection over.
    async fn pass_on_upgrade(
        &self,
        parts: Parts,
        body: Incoming,
        protocol: HeaderValue,
        mut record: Record,
    ) -> Response<Measured> {
        let mut parts = for_http1(parts);
        parts.headers.insert(header::UPGRADE, protocol);
        let connection = HeaderValue::from_static("upgrade");
        parts.headers.insert(header::CONNECTION, connection);
        let mut request = Request::from_parts(parts, body);
        let client = hyper::upgrade::on(&mut request);
        let request = request.map(|body| Counted::new(body, record.flow().clone()));
        let sent = async {
            let Taken { mut sender, .. } = self.pool.connect().await?;
            let response = sender.send_request(request).await;
            Ok::<_, UpstreamError>((response?, sender))
        };
        let (mut response, sender) = match timeout(self.answer_time, sent).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return fail(&error.into(), record),
            Err(_) => return fail(&Failure::Silent, record),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let allowed = Some(self.answer_time);
            return self.pass_back(response, record, Some(sender), allowed, None);
        }
        record.answer_begins(response.status().as_u16());
        let server = hyper::upgrade::on(&mut response);
        self.tunnels.spawn(tunnel::run(client, server, record));
        response.map(|_| Measured::from_agent(Bytes::new()))
    }

    fn pass_back(
        &self,
        mut response: Response<Incoming>,
        mut record: Record,
        connection: Option<Sender>,
        allowed: Option<Duration>,
        untaken: Option<Duration>,
    ) -> Response<Measured> {
        record.answer_begins(response.status().as_u16());
        if let Some(code) = response.headers().get(GRPC_STATUS) {
            record.set_status(http_status_of_grpc(code));
        }
        remove_hop_by_hop(response.headers_mut());
        // an old server's version is its own affair; the library knows what this client speaks
        *response.version_mut() = Version::HTTP_11;
        let connection = connection.map(|sender| (sender, self.pool.clone()));
        response.map(|body| Measured::from_server(body, record, connection, allowed, untaken))
    }
}

fn refusal_of(request: &Request<Incoming>, client: &Client) -> Option<Failure> {
    if let Some(refusal) = client.signals.refusal()
        && request.headers().contains_key(REFUSED_HEADER)
    {
        return Some(Failure::Malformed(refusal));
    }
    if client.is_turned_away {
        return Some(Failure::TooManyConnections);
    }
    (request.method() == Method::CONNECT).then_some(Failure::Connect)
}

/// The client sends its body when the server says 100, and so the agent asks for it no earlier.
fn keep_back(request: &mut Request<Counted>, flow: &Arc<Flow>) {
    flow.close();
    let flow = flow.clone();
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            flow.open();
        }
    });
}

fn for_http1(mut parts: Parts) -> Parts {
    name_host(&mut parts);
    join_cookies(&mut parts.headers);
    parts.uri = path_of(&parts);
    parts.version = Version::HTTP_11;
    parts
}

fn for_http2(mut parts: Parts, body: Counted) -> Request<Counted> {
    if parts.uri.authority().is_none() {
        parts.uri = with_authority(&parts);
    }
    parts.headers.remove(header::HOST);
    // the library itself says 100 as soon as the server reads
    parts.headers.remove(header::EXPECT);
    parts.version = Version::HTTP_2;
    Request::from_parts(parts, body)
}

fn fail(failure: &Failure, mut record: Record) -> Response<Measured> {
    let status = failure.status();
    let text = Bytes::from(format!("modelmeter agent: {failure}\n"));
    if let Some(outcome) = failure.outcome() {
        record.answered_here(status.as_u16(), outcome);
        record.add_response_bytes(text.len() as u64);
    }
    // the connection to the server that still sends the request ends
    record.flow().give_up();
    let mut response = Response::new(Measured::from_agent(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if matches!(failure, Failure::Malformed(_) | Failure::TooManyConnections) {
        let close = HeaderValue::from_static("close");
        headers.insert(header::CONNECTION, close);
    }
    response
}
