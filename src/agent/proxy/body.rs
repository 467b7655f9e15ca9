//! An answer on its way to the client: counted, never held. The record ends with the last byte that the server sent, not
//! with the last that the client took.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;

use super::flow::Flow;
use super::headers::http_status_of_grpc;
use super::record::Record;
use super::signals::Answering;
use super::silence::Silence;
use super::upstream::{Pool, Sender};
use super::watched::Watched;
use crate::core::event::Outcome;

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the server's answer broke off")]
    Server(#[source] hyper::Error),
    #[error("the server was silent for too long in the middle of its answer")]
    Silent,
    #[error("the client took nothing of its answer for too long")]
    Untaken,
}

/// An answer's body.
pub struct Measured {
    source: Source,
    /// Until it is dropped the client's connection is not idle.
    _answering: Option<Answering>,
}

enum Source {
    Server(Box<FromServer>),
    /// To a client that may stop taking it while its connection stays.
    Watched(Watched),
    /// What the agent says itself.
    Agent(Option<Bytes>),
}

pub struct FromServer {
    body: Incoming,
    /// None once it has ended.
    record: Option<Record>,
    /// The connection that it comes from, to be used again, and where it is kept.
    connection: Option<(Sender, Arc<Pool>)>,
    silence: Option<Silence>,
    broken: Option<AnswerError>,
}

impl Measured {
    pub fn from_server(
        body: Incoming,
        record: Record,
        connection: Option<(Sender, Arc<Pool>)>,
        silence: Option<Duration>,
        untaken: Option<Duration>,
    ) -> Self {
        let mut from = Box::new(FromServer {
            body,
            record: Some(record),
            connection,
            silence: silence.map(Silence::new),
            broken: None,
        });
        let is_whole = from.body.is_end_stream();
        if is_whole {
            from.finish(Outcome::Completed);
        }
        let source = match untaken {
            Some(allowed) if !is_whole => Source::Watched(Watched::new(from, allowed)),
            _ => Source::Server(from),
        };
        Self {
            source,
            _answering: None,
        }
    }

    /// The agent's own words, or none.
    pub const fn from_agent(text: Bytes) -> Self {
        Self {
            source: Source::Agent(Some(text)),
            _answering: None,
        }
    }

    pub fn while_answering(mut self, answering: Answering) -> Self {
        self._answering = Some(answering);
        self
    }
}

impl FromServer {
    fn finish(&mut self, outcome: Outcome) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.end(outcome);
        let flow: &Flow = record.flow();
        if let Some((sender, pool)) = self.connection.take()
            && outcome == Outcome::Completed
            && flow.is_whole()
        {
            pool.give_back(sender);
        }
        // an early answer: what is left of the request is nobody's
        flow.give_up();
    }

    /// Whether more is to come from the server.
    pub const fn is_open(&self) -> bool {
        self.record.is_some()
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(silence) = &mut self.silence {
                    silence.end();
                }
                if let Some(record) = &mut self.record {
                    if let Some(data) = frame.data_ref() {
                        record.add_response_bytes(data.remaining() as u64);
                    }
                    if let Some(code) = frame.trailers_ref().and_then(|all| all.get(GRPC_STATUS)) {
                        record.set_status(http_status_of_grpc(code));
                    }
                }
                // nobody asks for the end of a body whose length is known, or for what comes after trailers
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.finish(Outcome::Completed);
                }
            }
            Poll::Ready(Some(Err(_))) => {
                // a server whose connection breaks because the client's half did has done nothing wrong
                let is_gone = self.record.as_ref().is_some_and(|it| it.flow().is_broken());
                if is_gone {
                    self.record = None;
                } else {
                    self.finish(Outcome::Aborted);
                }
                // at an error the library throws away what it has not written: it may write first
                if let Poll::Ready(Some(Err(error))) = polled {
                    self.broken = Some(AnswerError::Server(error));
                }
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(None) => self.finish(Outcome::Completed),
            Poll::Pending => {
                if let Some(silence) = &mut self.silence {
                    ready!(silence.poll_over(context));
                    self.finish(Outcome::TimedOut);
                    return Poll::Ready(Some(Err(AnswerError::Silent)));
                }
            }
        }
        polled.map_err(AnswerError::Server)
    }
}

impl Body for Measured {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut self.source {
            Source::Server(from) => from.poll_frame(context),
            Source::Watched(watched) => watched.poll_frame(context),
            Source::Agent(text) => {
                let text = text.take().filter(|text| !text.is_empty());
                Poll::Ready(text.map(|text| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Server(from) => from.is_end_stream(),
            Source::Watched(watched) => watched.is_end_stream(),
            Source::Agent(text) => text.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Server(from) => from.size_hint(),
            Source::Watched(watched) => watched.size_hint(),
            Source::Agent(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
