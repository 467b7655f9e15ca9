//! A request's body on its way to the server: counted, never held. The exchange learns here whether it has ended, and
//! may keep it back until the server asks for it, or give it up when nobody needs it any more.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// What is known of one request's body.
#[derive(Default)]
pub struct Flow {
    n_bytes: AtomicU64,
    /// All of it has been read from the client.
    is_whole: AtomicBool,
    /// It ended in an error on the client's side.
    is_broken: AtomicBool,
    gate: Mutex<Gate>,
}

#[derive(Default)]
struct Gate {
    state: GateState,
    waker: Option<Waker>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    /// The client sends the body only when the server wants it.
    Closed,
    GivenUp,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error("the client's body broke off")]
    Client(#[source] hyper::Error),
    #[error("the answer had ended before the body")]
    GivenUp,
}

impl Flow {
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    pub fn add_bytes(&self, n: u64) {
        self.n_bytes.fetch_add(n, Ordering::Relaxed);
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Keeps the body back until [`Self::open`].
    pub fn close(&self) {
        self.set_gate(GateState::Closed);
    }

    pub fn open(&self) {
        self.set_gate(GateState::Open);
    }

    /// Nobody needs the rest: the connection to the server that still sends it ends.
    pub fn give_up(&self) {
        if !self.is_whole() {
            self.set_gate(GateState::GivenUp);
        }
    }

    fn set_gate(&self, state: GateState) {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.state = state;
        if let Some(waker) = gate.waker.take() {
            waker.wake();
        }
    }

    fn poll_gate(&self, context: &Context<'_>) -> Poll<Result<(), FlowError>> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        match gate.state {
            GateState::GivenUp => return Poll::Ready(Err(FlowError::GivenUp)),
            GateState::Open => {}
            GateState::Closed => {}
        }
        // also while it is open: it may be given up while the client is silent
        if !gate
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            gate.waker = Some(context.waker().clone());
        }
        if gate.state == GateState::Closed {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// The body as it is given to the library; none for a request without one.
pub struct Counted {
    inner: Option<Incoming>,
    flow: Arc<Flow>,
}

impl Counted {
    pub fn new(inner: Incoming, flow: Arc<Flow>) -> Self {
        let inner = (!inner.is_end_stream()).then_some(inner);
        flow.is_whole.store(inner.is_none(), Ordering::Relaxed);
        Self { inner, flow }
    }

    /// Of a request that has none.
    pub const fn empty(flow: Arc<Flow>) -> Self {
        Self { inner: None, flow }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = FlowError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        match this.flow.poll_gate(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => {}
        }
        let polled = Pin::new(&mut *inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.flow.add_bytes(data.remaining() as u64);
                }
                if inner.is_end_stream() {
                    this.flow.is_whole.store(true, Ordering::Relaxed);
                }
            }
            Poll::Ready(None) => this.flow.is_whole.store(true, Ordering::Relaxed),
            Poll::Ready(Some(Err(_))) => this.flow.is_broken.store(true, Ordering::Relaxed),
            Poll::Pending => {}
        }
        polled.map_err(FlowError::Client)
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
