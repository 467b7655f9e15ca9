//! What the guard of a connection and the exchange of its requests tell each other: why a request is refused, whether one is
//! being answered, and whether the connection is still HTTP.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use super::framing::Refusal;

/// What the guard and the exchange of one connection tell each other.
#[derive(Default)]
pub struct Signals {
    /// 0, or one more than the refusal's place in [`Refusal::ALL`].
    refusal: AtomicU8,
    /// Requests being answered: until then the connection is not idle.
    n_answering: AtomicU32,
    upgrade: Mutex<Upgrade>,
}

#[derive(Default)]
struct Upgrade {
    decision: Option<Decision>,
    waker: Option<Waker>,
}

/// What follows a request that asked for another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    StillHttp,
    OtherProtocol,
}

/// A request is being answered until this is dropped.
pub struct Answering(Arc<Signals>);

impl Signals {
    pub fn refusal(&self) -> Option<Refusal> {
        let place = usize::from(self.refusal.load(Ordering::Relaxed));
        Refusal::ALL.get(place.checked_sub(1)?).copied()
    }

    pub fn refuse(&self, refusal: Refusal) {
        let place = Refusal::ALL.iter().position(|&it| it == refusal);
        let place = place.and_then(|place| u8::try_from(place + 1).ok());
        self.refusal
            .store(place.expect("all are listed"), Ordering::Relaxed);
    }

    pub fn answering(self: &Arc<Self>) -> Answering {
        self.n_answering.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    pub fn is_answering(&self) -> bool {
        self.n_answering.load(Ordering::Relaxed) > 0
    }

    pub fn decide(&self, decision: Decision) {
        let mut upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner);
        upgrade.decision = Some(decision);
        if let Some(waker) = upgrade.waker.take() {
            waker.wake();
        }
    }

    pub fn poll_decision(&self, context: &Context<'_>) -> Option<Decision> {
        let mut upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = upgrade.decision.take();
        if decision.is_none() {
            upgrade.waker = Some(context.waker().clone());
        }
        decision
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.n_answering.fetch_sub(1, Ordering::Relaxed);
    }
}
