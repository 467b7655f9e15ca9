//! Bodies on their way through: counted, never held.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;

use super::headers::http_status_of_grpc;
use super::record::Record;
use super::upstream::{Pool, Sender};
use crate::core::event::Outcome;

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A request's body on its way to the server.
pub struct Counted {
    inner: Option<Incoming>,
    n_bytes: Arc<AtomicU64>,
}

impl Counted {
    pub const fn new(inner: Incoming, n_bytes: Arc<AtomicU64>) -> Self {
        Self {
            inner: Some(inner),
            n_bytes,
        }
    }

    /// Of a request that has none.
    pub const fn empty(n_bytes: Arc<AtomicU64>) -> Self {
        Self {
            inner: None,
            n_bytes,
        }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.n_bytes
                .fetch_add(data.remaining() as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// An answer on its way to the client: the record ends with it.
pub struct Measured {
    source: Source,
    record: Option<Record>,
}

enum Source {
    Server {
        body: Incoming,
        /// The connection that it comes from, to be used again, and where it is kept.
        connection: Option<(Sender, Arc<Pool>)>,
    },
    /// What the agent says itself.
    Agent(Option<Bytes>),
}

impl Measured {
    pub const fn from_server(
        body: Incoming,
        record: Record,
        connection: Option<(Sender, Arc<Pool>)>,
    ) -> Self {
        Self {
            source: Source::Server { body, connection },
            record: Some(record),
        }
    }

    /// The agent's own words, or none; the record goes elsewhere or ends here.
    pub const fn from_agent(text: Bytes, record: Option<Record>) -> Self {
        Self {
            source: Source::Agent(Some(text)),
            record,
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(mut record) = self.record.take() {
            record.end(outcome);
        }
        if let Source::Server { connection, .. } = &mut self.source
            && let Some((sender, pool)) = connection.take()
            && outcome == Outcome::Completed
        {
            pool.give_back(sender);
        }
    }
}

impl Body for Measured {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = match &mut self.source {
            Source::Server { body, .. } => body,
            Source::Agent(text) => {
                let text = text.take().filter(|text| !text.is_empty());
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
        };
        let polled = Pin::new(body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(record) = &mut self.record {
                    if let Some(data) = frame.data_ref() {
                        record.add_response_bytes(data.remaining() as u64);
                    }
                    if let Some(code) = frame.trailers_ref().and_then(|all| all.get(GRPC_STATUS)) {
                        record.set_status(http_status_of_grpc(code));
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => self.finish(Outcome::Aborted),
            Poll::Ready(None) => self.finish(Outcome::Completed),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Server { body, .. } => body.is_end_stream(),
            Source::Agent(text) => text.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Server { body, .. } => body.size_hint(),
            Source::Agent(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // the library does not ask for the end of a body whose length it knows
        if let Source::Server { body, .. } = &self.source
            && body.is_end_stream()
        {
            self.finish(Outcome::Completed);
        }
    }
}
