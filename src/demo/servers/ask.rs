//! One request to a replica, and what became of it as its client saw it: nothing here knows what the agent counted.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer that is not over by then is a failure of the demo: every server answers, or is killed and started again.
const PATIENCE: Duration = Duration::from_secs(480);

/// The agent's own answers begin so; a server's do not.
const BY_AGENT: &[u8] = b"modelmeter agent:";

/// What is asked, and whether the client stays for all of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub path: String,
    pub body: String,
    pub leaves_early: bool,
    /// How long the server takes at the least, because it was asked to.
    pub at_least: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Whole {
        status: u16,
        is_by_agent: bool,
    },
    /// A status line came, and not all that belongs to it.
    Broken {
        status: u16,
    },
    /// The client left after the first piece.
    Left,
    /// No status line. The agent gives one to every request: this is always wrong.
    None(String),
}

/// Asks on a connection of its own. `begun` is told when the first piece of the answer is there.
pub async fn ask(address: &str, ask: &Ask, begun: impl FnOnce()) -> Answer {
    match timeout(PATIENCE, answer(address, ask, begun)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::None(error.to_string()),
        Err(_) => Answer::None(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("no such request: {0}")]
    Request(#[from] hyper::http::Error),
}

async fn answer(address: &str, ask: &Ask, begun: impl FnOnce()) -> Result<Answer, AskError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // dropped with the answer, and the connection with it: to leave early is to hang up
    let connection = AbortOnDrop(tokio::spawn(connection));
    let request = Request::builder()
        .method(Method::POST)
        .uri(&ask.path)
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(ask.body.clone())))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut first: Option<Bytes> = None;
    let mut begun = Some(begun);
    let answer = loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                first.get_or_insert(data);
                if let Some(begun) = begun.take() {
                    begun();
                }
                if ask.leaves_early {
                    break Answer::Left;
                }
            }
            Some(Err(_)) => break Answer::Broken { status },
            None => {
                let is_by_agent = first.is_some_and(|data| data.starts_with(BY_AGENT));
                break Answer::Whole {
                    status,
                    is_by_agent,
                };
            }
        }
    };
    drop(connection);
    Ok(answer)
}

struct AbortOnDrop(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
