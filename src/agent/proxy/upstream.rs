//! The one model server behind the agent: connections to it, kept open and used again.

use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::flow::Counted;
use super::one_piece::poll_write_slices;

/// The server is beside the agent: a connection that takes longer is not one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections that are kept; a model server has tens of requests at once.
const MAX_IDLE: usize = 256;

/// A connection that was idle for longer is closed, and not used again.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// One that was idle for longer is looked at before it is used: servers close theirs after seconds, and a request that
/// may not be sent twice would be lost on it.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// Where the model server is, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `HOST:PORT`.
    pub authority: String,
    /// HTTP/2 for every request, not for gRPC alone.
    pub is_http2: bool,
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_http2, rest) = match (text.strip_prefix("http://"), text.strip_prefix("h2c://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => {
                return Err(format!(
                    "{text:?} does not begin with http:// or h2c:// (HTTP/2 in the clear)"
                ));
            }
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '@', '#']) {
            return Err(format!(
                "{text:?} is not http://HOST[:PORT]: requests keep their own paths"
            ));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        Ok(Self {
            authority,
            is_http2,
        })
    }
}

pub type Sender = http1::SendRequest<Counted>;

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the model server does not take a connection")]
    Connect(#[source] io::Error),
    #[error("the model server did not take a connection in time")]
    ConnectTimeout,
    #[error("the connection to the model server broke")]
    Http(#[from] hyper::Error),
}

/// Connections to the server.
pub struct Pool {
    pub upstream: Upstream,
    idle: Mutex<Vec<Idle>>,
    /// One connection carries every HTTP/2 request.
    http2: tokio::sync::Mutex<Option<http2::SendRequest<Counted>>>,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

/// A connection for one HTTP/1.1 request.
pub struct Taken {
    pub sender: Sender,
    /// It has carried requests before, so that the server may have closed it meanwhile.
    pub is_used: bool,
}

impl Pool {
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            idle: Mutex::default(),
            http2: tokio::sync::Mutex::default(),
        }
    }

    /// An open connection, or a new one.
    ///
    /// # Errors
    /// When the server takes no connection.
    pub async fn take(&self) -> Result<Taken, UpstreamError> {
        let mut has_looked = false;
        while let Some(Idle { mut sender, since }) = self.pop() {
            let idle_for = since.elapsed();
            if idle_for > IDLE_TIME {
                continue;
            }
            if idle_for > LOOK_AFTER && !has_looked {
                // the runtime hears from the sockets meanwhile, and each connection's task of its end
                tokio::task::yield_now().await;
                has_looked = true;
            }
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Ok(Taken {
                    sender,
                    is_used: true,
                });
            }
        }
        // boxed: most requests find one, and carry this future's room for nothing
        Box::pin(self.connect()).await
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the server takes none.
    pub async fn connect(&self) -> Result<Taken, UpstreamError> {
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(Deaf::new(self.dial().await?)))
            .await?;
        tokio::spawn(async move {
            // whoever uses the connection hears of its end by itself
            let _ = connection.with_upgrades().await;
        });
        Ok(Taken {
            sender,
            is_used: false,
        })
    }

    /// Keeps a connection whose request was sent and whose answer was read to its end.
    pub fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.is_closed() {
            return;
        }
        if idle.len() == MAX_IDLE {
            // the one that was idle longest; the last is used first
            idle.remove(0);
        }
        let since = Instant::now();
        idle.push(Idle { sender, since });
    }

    fn pop(&self) -> Option<Idle> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    /// Sends over the one HTTP/2 connection, which is made anew where it has ended.
    ///
    /// # Errors
    /// When the server takes no connection, or breaks it.
    pub async fn send_http2(
        &self,
        request: Request<Counted>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut sender = self.http2().await?;
        let mut error = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        // what never left on an ending connection goes out on the next
        let Some(unsent) = error.take_message() else {
            return Err(error.into_error().into());
        };
        let mut sender = self.http2().await?;
        Ok(sender.send_request(unsent).await?)
    }

    async fn http2(&self) -> Result<http2::SendRequest<Counted>, UpstreamError> {
        let mut kept = self.http2.lock().await;
        if let Some(sender) = &*kept {
            let mut sender = sender.clone();
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(self.dial().await?))
            .await?;
        tokio::spawn(async move {
            // whoever waits on a stream of it hears of its end by itself
            let _ = connection.await;
        });
        Ok(kept.insert(sender).clone())
    }

    async fn dial(&self) -> Result<TcpStream, UpstreamError> {
        let stream = timeout(
            CONNECT_TIMEOUT,
            TcpStream::connect(&self.upstream.authority),
        )
        .await
        .map_err(|_| UpstreamError::ConnectTimeout)?
        .map_err(UpstreamError::Connect)?;
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        Ok(stream)
    }
}

/// A connection that goes on reading when it can no longer be written to. A server may answer early and close while the
/// request is still being sent; the library would give up at the failed write, with the answer unread.
struct Deaf<S> {
    stream: S,
    is_deaf: bool,
}

impl<S> Deaf<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            is_deaf: false,
        }
    }

    /// A failed write is taken for a whole one: the reading side tells how it ends.
    fn written(
        &mut self,
        n_bytes: usize,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(_)) => {
                self.is_deaf = true;
                Poll::Ready(Ok(n_bytes))
            }
            polled => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deaf<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deaf<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(bytes.len(), polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n_bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(n_bytes));
        }
        let polled = poll_write_slices(Pin::new(&mut self.stream), context, slices);
        self.written(n_bytes, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_server_and_no_path() {
        let parse = |text: &str| text.parse::<Upstream>();
        let plain = parse("http://127.0.0.1:8000").expect("right");
        assert_eq!(
            (plain.authority.as_str(), plain.is_http2),
            ("127.0.0.1:8000", false)
        );
        assert_eq!(
            parse("http://model/").map(|it| it.authority).as_deref(),
            Ok("model:80")
        );
        assert!(parse("h2c://[::1]:50051").is_ok_and(|it| it.is_http2));
        for bad in [
            "model:8000",
            "https://m",
            "http://",
            "http://m/path",
            "http://u@m",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
