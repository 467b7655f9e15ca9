//! An answer on a stream of HTTP/2, where a client may stop taking one answer and keep its connection. Nobody asks for more
//! of it then, so that it would hold its place among those that run at once, and the server's connection, for ever: it is
//! watched from outside, and given up. The other streams of the connection go on. What the client's stream still holds
//! is the library's, at most its window's bytes, and ends with the connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::body::{AnswerError, FromServer};

pub struct Watched {
    answer: Arc<Mutex<Answer>>,
    allowed: Duration,
    /// Set with the first piece that is not the last: most answers have one.
    watching: Option<AbortHandle>,
}

struct Answer {
    /// None once it is given up.
    from: Option<Box<FromServer>>,
    /// Since when it is the client's turn to take what it was given.
    given: Option<Instant>,
}

impl Watched {
    pub fn new(from: Box<FromServer>, allowed: Duration) -> Self {
        let answer = Answer {
            from: Some(from),
            given: None,
        };
        Self {
            answer: Arc::new(Mutex::new(answer)),
            allowed,
            watching: None,
        }
    }

    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let mut answer = lock(&self.answer);
        let Some(from) = &mut answer.from else {
            return Poll::Ready(Some(Err(AnswerError::Untaken)));
        };
        let polled = from.poll_frame(context);
        let is_given = from.is_open() && matches!(polled, Poll::Ready(Some(Ok(_))));
        answer.given = is_given.then(Instant::now);
        drop(answer);
        if is_given && self.watching.is_none() {
            let watching = tokio::spawn(watch(Arc::downgrade(&self.answer), self.allowed));
            self.watching = Some(watching.abort_handle());
        }
        polled
    }

    /// One that was given up is not whole.
    pub fn is_end_stream(&self) -> bool {
        let answer = lock(&self.answer);
        answer
            .from
            .as_ref()
            .is_some_and(|from| from.is_end_stream())
    }

    pub fn size_hint(&self) -> SizeHint {
        let answer = lock(&self.answer);
        let from = answer.from.as_ref();
        from.map_or_else(SizeHint::default, |from| from.size_hint())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

async fn watch(answer: Weak<Mutex<Answer>>, allowed: Duration) {
    let mut look_at = Instant::now() + allowed;
    loop {
        sleep_until(look_at).await;
        let Some(answer) = answer.upgrade() else {
            return;
        };
        let now = Instant::now();
        let mut answer = lock(&answer);
        look_at = answer.given.unwrap_or(now) + allowed;
        if look_at <= now {
            // without a word of how it ended: the client went away
            let given_up = answer.from.take();
            drop(answer);
            drop(given_up);
            return;
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    // a panic in between ends the stream with it
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}
