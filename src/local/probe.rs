//! Whether a part answers, asked as its clients would. Each probe has a deadline of its own and
//! never waits for a part that is down; when to ask again is the caller's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How often a part that is starting is asked. A start takes seconds, a probe well under 10 ms.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// How long one answer may take. A part that takes longer is asked again.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// The cluster id of the broker at this port, once it has a leader and takes clients; None until then.
pub async fn kafka_cluster_id(port: u16) -> Option<String> {
    // librdkafka would go on trying to connect; while nothing listens there is nothing to ask.
    connect(port).await?;
    tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{port}"))
            .create()
            .ok()?;
        let metadata = client.fetch_metadata(None, ANSWER_DEADLINE).ok()?;
        // A broker that has not joined its own cluster yet names none.
        let joined = metadata
            .brokers()
            .iter()
            .any(|broker| i32::from(port) == broker.port());
        if joined {
            client.client().fetch_cluster_id(ANSWER_DEADLINE)
        } else {
            None
        }
    })
    .await
    .ok()?
}

/// The status of `GET path` at this port; None where there is no answer.
pub async fn http_status(port: u16, path: &str) -> Option<StatusCode> {
    let stream = connect(port).await?;
    let asked = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let request = Request::get(path)
            .header("host", format!("127.0.0.1:{port}"))
            .body(Empty::<Bytes>::new())
            .ok()?;
        // The sender goes once it has its answer, and the connection ends then. Waiting for the
        // first of both would lose an answer that comes together with the connection's end.
        let answer = async move { sender.send_request(request).await };
        let (answer, _) = tokio::join!(answer, connection);
        Some(answer.ok()?.status())
    };
    timeout(ANSWER_DEADLINE, asked).await.ok()?
}

async fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    timeout(ANSWER_DEADLINE, TcpStream::connect(address))
        .await
        .ok()?
        .ok()
}
