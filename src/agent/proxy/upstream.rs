//! The one model server behind the agent: connections to it, kept open and used again.

use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::Counted;

/// The server is beside the agent: a connection that takes longer is not one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections that are kept; a model server has tens of requests at once.
const MAX_IDLE: usize = 256;

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
    idle: Mutex<Vec<Sender>>,
    /// One connection carries every HTTP/2 request.
    http2: tokio::sync::Mutex<Option<http2::SendRequest<Counted>>>,
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
        while let Some(mut sender) = self.pop() {
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Ok(Taken {
                    sender,
                    is_used: true,
                });
            }
        }
        self.connect().await
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the server takes none.
    pub async fn connect(&self) -> Result<Taken, UpstreamError> {
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(self.dial().await?))
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

    /// Keeps a connection whose answer was read to its end.
    pub fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    fn pop(&self) -> Option<Sender> {
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
        let mut sender = {
            let mut kept = self.http2.lock().await;
            match &*kept {
                Some(sender) if !sender.is_closed() => sender.clone(),
                _ => {
                    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                        .handshake(TokioIo::new(self.dial().await?))
                        .await?;
                    tokio::spawn(connection);
                    kept.insert(sender).clone()
                }
            }
        };
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
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
