//! How long one side may be silent before its time is over, with a timer that is touched only while it is: most requests
//! never set one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

pub struct Silence {
    allowed: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
}

impl Silence {
    pub const fn new(allowed: Duration) -> Self {
        Self {
            allowed,
            timer: None,
            since: None,
        }
    }

    /// It has ended.
    pub const fn end(&mut self) {
        self.since = None;
    }

    /// It goes on; ready when it has lasted for too long.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.allowed;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(self.allowed)));
        loop {
            ready!(timer.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // it was set in an earlier silence
            timer.as_mut().reset(deadline);
        }
    }
}
