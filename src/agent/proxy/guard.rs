//! A client's connection, looked at before the HTTP library sees it. It holds a head back until it is whole, and lets
//! through only what [`super::framing`] can read in one way; in place of any other head the library is given one that
//! says why, and the exchange answers it in its turn, behind the answers to what came before.
//!
//! It also keeps the time that the library does not: of a head that comes slowly, of a connection without requests, of a
//! client that takes nothing of what is sent to it. And it reads on for a moment after an early answer, since closing with unread input would reset the connection under it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::framing::{Head, Place, Refusal, read_head};
use super::one_piece::poll_write_slices;
use super::signals::{Decision, Signals};
use super::silence::Silence;

/// What the client sent while it is not known whether it is still HTTP: past it the client waits for the answer.
const MAX_UNDECIDED: usize = 16 * 1024;
/// A read that is not for the library's own buffer takes so much at a time.
const READ_BYTES: usize = 4096;
/// The library's buffer is used where it has this much room; its look at a connection's first bytes has less.
const DIRECT_BYTES: usize = 1024;
/// After an early answer the rest of the request is read and thrown away for this long or this much, so that the client
/// reads the answer and not a reset. Then the connection is closed anyway.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Marks the head that stands for a refused one. A client that sends it is not believed: there is the signal too.
pub const REFUSED_HEADER: &str = "modelmeter-refused";
const REFUSED_HEAD: &[u8] = b"GET / HTTP/1.1\r\nmodelmeter-refused: 1\r\nconnection: close\r\n\r\n";

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub head_bytes: usize,
    /// From the first byte of a head to its last, and for the first one from the connection's start.
    pub head: Duration,
    pub idle: Duration,
    /// While something is to be sent and the client takes none of it.
    pub send: Duration,
}

/// The connection.
pub struct Guarded<S> {
    stream: S,
    signals: Arc<Signals>,
    patience: Patience,
    place: Place,
    /// Bytes that the library has not got yet; the first `n_ready` of them it may have.
    held: BytesMut,
    n_ready: usize,
    /// Nothing more is read as HTTP.
    is_refused: bool,
    is_first: bool,
    /// Since when the head at hand is being read, or none came.
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// Of the client, while something is to be sent to it.
    untaken: Silence,
    /// Set when the connection is being closed.
    linger: Option<(Instant, usize)>,
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    pub fn new(stream: S, signals: Arc<Signals>, patience: Patience) -> Self {
        Self {
            stream,
            signals,
            patience,
            place: Place::Head,
            held: BytesMut::new(),
            n_ready: 0,
            is_refused: false,
            is_first: true,
            since: Instant::now(),
            timer: None,
            untaken: Silence::new(patience.send),
            linger: None,
        }
    }

    /// Follows new bytes; how many of them the library may have.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match self.place {
                Place::Opaque => return Ok(bytes.len()),
                Place::Undecided => break,
                Place::Head => match read_head(&bytes[at..], self.patience.head_bytes) {
                    Head::Partial => break,
                    // HTTP/2 begins with a connection or not at all
                    Head::Whole(_, Place::Opaque) if !self.is_first => {
                        self.refuse(Refusal::Malformed);
                        break;
                    }
                    Head::Whole(length, place) => {
                        at += length;
                        self.place = place;
                        self.is_first = false;
                        self.since = Instant::now();
                    }
                    Head::Refused(refusal) => {
                        self.refuse(refusal);
                        break;
                    }
                },
                before => match self.place.skip_body(&bytes[at..]) {
                    Ok(n) => at += n,
                    Err(refusal) if at == 0 => return Err(self.break_off(refusal)),
                    Err(_) => {
                        // first the head that stands before it; then this is looked at again
                        self.place = before;
                        break;
                    }
                },
            }
        }
        Ok(at)
    }

    /// The head at hand is replaced by one that the exchange answers.
    fn refuse(&mut self, refusal: Refusal) {
        self.signals.refuse(refusal);
        self.is_refused = true;
    }

    /// In the middle of a body there is no head to replace: the body ends in an error.
    fn break_off(&mut self, refusal: Refusal) -> io::Error {
        self.refuse(refusal);
        io::Error::new(io::ErrorKind::InvalidData, refusal.told())
    }

    /// Looks at the held bytes behind those that are ready.
    fn follow_held(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let followed = self.follow(&held[self.n_ready..]);
        self.held = held;
        self.n_ready += followed?;
        if self.is_refused {
            self.held.truncate(self.n_ready);
            self.held.extend_from_slice(REFUSED_HEAD);
            self.n_ready = self.held.len();
        }
        Ok(())
    }

    /// Reads more into the held bytes. False at the end of the stream.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        if self.held.is_empty() {
            self.since = Instant::now();
        }
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Reads straight into the library's buffer, and holds back what it may not have yet.
    fn poll_direct(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(false));
        }
        let n = self.follow(new)?;
        if self.is_refused {
            self.held.extend_from_slice(REFUSED_HEAD);
            self.n_ready = self.held.len();
        } else if n < new.len() {
            self.since = Instant::now();
            self.held.extend_from_slice(&new[n..]);
        }
        buffer.set_filled(before + n);
        Poll::Ready(Ok(true))
    }

    /// The client is slow, or has nothing to ask: true when its time is over.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let is_in_head = self.is_first || !self.held.is_empty();
            let allowed = if is_in_head {
                self.patience.head
            } else {
                self.patience.idle
            };
            let deadline = self.since + allowed;
            match &mut self.timer {
                // one that is set earlier looks again when it comes, so that most requests need not touch it
                Some(timer) if timer.deadline() <= deadline && !timer.is_elapsed() => {}
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(sleep_until(deadline))),
            }
            let timer = self.timer.as_mut().expect("set above");
            ready!(timer.as_mut().poll(context));
            let now = Instant::now();
            if now >= deadline {
                if !self.signals.is_answering() {
                    return Poll::Ready(());
                }
                // what is slow is the answer
                self.since = now;
            }
        }
    }

    /// A client that takes nothing for too long is cut off: an error for whoever sends to it.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.untaken.end();
            return polled;
        }
        ready!(self.untaken.poll_over(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Which protocol the connection goes on with is not known yet.
    fn poll_undecided(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.signals.poll_decision(context) {
                Some(Decision::OtherProtocol) => self.place = Place::Opaque,
                Some(Decision::StillHttp) => {
                    self.place = Place::Head;
                    self.since = Instant::now();
                }
                None if self.held.len() < MAX_UNDECIDED => {
                    if ready!(self.poll_hold(context))? {
                        continue;
                    }
                    return Poll::Ready(Ok(false));
                }
                None => return Poll::Pending,
            }
            self.follow_held()?;
            return Poll::Ready(Ok(true));
        }
    }

    /// Moves on: true when there may be something for the library, false at the end.
    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        if self.is_refused {
            // the answer is on its way, and then the end
            return Poll::Pending;
        }
        if self.place == Place::Undecided {
            return self.poll_undecided(context);
        }
        let is_in_head = self.place == Place::Head;
        if !is_in_head && !self.held.is_empty() {
            self.follow_held()?;
            return Poll::Ready(Ok(true));
        }
        if !is_in_head || self.held.is_empty() && buffer.remaining() >= DIRECT_BYTES {
            match self.poll_direct(context, buffer) {
                Poll::Pending if is_in_head => {}
                polled => return polled,
            }
        } else {
            match self.poll_hold(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(true)) => {
                    self.follow_held()?;
                    return Poll::Ready(Ok(true));
                }
                polled => return polled,
            }
        }
        ready!(self.poll_overdue(context));
        if self.held.is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.refuse(Refusal::HeadTooSlow);
        self.follow_held()?;
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        loop {
            if this.n_ready > 0 {
                let n = this.n_ready.min(buffer.remaining());
                buffer.put_slice(&this.held[..n]);
                this.held.advance(n);
                this.n_ready -= n;
                if this.held.is_empty() {
                    // an idle connection keeps no buffer of ours
                    this.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let is_open = ready!(this.poll_more(context, buffer))?;
            if !is_open || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = poll_write_slices(Pin::new(&mut self.stream), context, slices);
        self.in_time(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (deadline, n_read) = match this.linger {
            Some(lingering) => lingering,
            None => {
                let polled = Pin::new(&mut this.stream).poll_shutdown(context);
                ready!(this.in_time(context, polled))?;
                let is_owed = this.is_refused || this.place.is_in_body() || !this.held.is_empty();
                if !is_owed {
                    return Poll::Ready(Ok(()));
                }
                let deadline = Instant::now() + LINGER_TIME;
                this.timer = Some(Box::pin(sleep_until(deadline)));
                *this.linger.insert((deadline, 0))
            }
        };
        let mut n_read = n_read;
        let mut scratch = [0; READ_BYTES];
        while n_read < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    n_read += buffer.filled().len();
                    this.linger = Some((deadline, n_read));
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let timer = this.timer.as_mut().expect("set with the deadline");
                    ready!(timer.as_mut().poll(context));
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
