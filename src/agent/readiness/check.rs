//! One check of the server, over a connection of its own: HTTP, TCP or gRPC health. Never waits past its deadline.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::grpc;

/// How the server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Http {
        authority: String,
        path: String,
    },
    /// Whether the port takes a connection.
    Tcp(String),
    /// An empty service asks for the server as a whole.
    Grpc {
        authority: String,
        service: String,
    },
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ready,
    /// Somebody is there, but not ready, not right, or too slow.
    NotReady,
    /// Nobody listens.
    Refused,
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| {
            format!(
                "{text:?}: {why}; http://HOST:PORT/PATH, tcp://HOST:PORT or grpc://HOST:PORT[/SERVICE]"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port || authority.contains('@') {
            return Err(wrong("no host and port"));
        }
        let authority = authority.to_owned();
        match scheme {
            "http" => {
                let path = if path.is_empty() { "/" } else { path }.to_owned();
                path.parse::<Uri>().map_err(|_| wrong("no path"))?;
                Ok(Self::Http { authority, path })
            }
            "tcp" if path.trim_matches('/').is_empty() => Ok(Self::Tcp(authority)),
            "grpc" => Ok(Self::Grpc {
                authority,
                service: path.trim_matches('/').to_owned(),
            }),
            _ => Err(wrong("no such check")),
        }
    }
}

impl Check {
    /// Asks once.
    pub async fn ask(&self, deadline: Duration) -> Outcome {
        timeout(deadline, self.answer())
            .await
            .unwrap_or(Outcome::NotReady)
    }

    async fn answer(&self) -> Outcome {
        let authority = match self {
            Self::Http { authority, .. } | Self::Tcp(authority) | Self::Grpc { authority, .. } => {
                authority
            }
        };
        let stream = match TcpStream::connect(authority.as_str()).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Outcome::Refused,
            Err(_) => return Outcome::NotReady,
        };
        let is_ready = match self {
            Self::Tcp(_) => Some(true),
            Self::Http { authority, path } => http_is_ready(stream, authority, path).await,
            Self::Grpc { authority, service } => grpc::is_serving(stream, authority, service).await,
        };
        match is_ready {
            Some(true) => Outcome::Ready,
            _ => Outcome::NotReady,
        }
    }
}

/// As Kubernetes has it: a status from 200 to below 400 is success. None without an answer.
async fn http_is_ready(stream: TcpStream, authority: &str, path: &str) -> Option<bool> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let request = Request::get(path)
        .header("host", authority)
        .header("user-agent", grpc::USER_AGENT)
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let asked = sender.send_request(request);
    tokio::pin!(connection);
    tokio::pin!(asked);
    let answer = tokio::select! {
        answer = &mut asked => answer,
        // The connection may end together with its answer.
        _ = &mut connection => asked.await,
    };
    let status = answer.ok()?.status();
    Some(status.is_success() || status.is_redirection())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_how_and_where() {
        let http = |path: &str| Check::Http {
            authority: "localhost:80".to_owned(),
            path: path.to_owned(),
        };
        assert_eq!("http://localhost:80".parse(), Ok(http("/")));
        assert_eq!(
            "http://localhost:80/v2/ready?a=b".parse(),
            Ok(http("/v2/ready?a=b"))
        );
        assert_eq!(
            "tcp://[::1]:80".parse(),
            Ok(Check::Tcp("[::1]:80".to_owned()))
        );
        let grpc = Check::Grpc {
            authority: "a:1".to_owned(),
            service: "inference.Model".to_owned(),
        };
        assert_eq!("grpc://a:1/inference.Model".parse(), Ok(grpc));
        for wrong in [
            "localhost:80",
            "http://localhost",
            "https://a:1",
            "tcp://a:1/x",
            "http://:80/",
            "http://u:p@a:1/",
            "http://a:99999/",
        ] {
            assert!(wrong.parse::<Check>().is_err(), "{wrong}");
        }
    }
}
