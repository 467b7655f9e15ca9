//! `grpc.health.v1.Health/Check` over HTTP/2 without TLS. The two messages have one field each, so they are written and
//! read by hand: `HealthCheckRequest { string service = 1 }`, `HealthCheckResponse { ServingStatus status = 1 }`.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

pub const USER_AGENT: &str = concat!("modelmeter/", env!("CARGO_PKG_VERSION"));

/// An answer is two bytes behind a prefix of five. One that is longer than this is no answer of a health service.
const ANSWER_LIMIT: usize = 1024;

/// Compressed or not, and the length.
const PREFIX: usize = 5;

/// Field 1 as length-delimited bytes, and as a number.
const SERVICE: u8 = 0x0a;
const STATUS: u8 = 0x08;

/// ServingStatus.SERVING
const SERVING: u64 = 1;

/// Service names are short; one that is longer than a byte's varint can say is refused.
const LONGEST_SERVICE: usize = 127;

/// Whether the service says that it serves. None without a proper answer.
pub async fn is_serving(stream: TcpStream, authority: &str, service: &str) -> Option<bool> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", USER_AGENT)
        .body(Full::new(question(service)?))
        .ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .ok()?;
    let asked = async move {
        let answer = sender.send_request(request).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.ok()?;
        let grpc_status = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            // An answer without a message may say it all in its head.
            .or_else(|| head.headers.get("grpc-status"))
            .cloned();
        (head.status.is_success() && grpc_status? == "0").then(|| body.to_bytes())
    };
    tokio::pin!(connection);
    tokio::pin!(asked);
    let message = tokio::select! {
        message = &mut asked => message,
        _ = &mut connection => asked.await,
    };
    Some(status(&message?)? == SERVING)
}

fn question(service: &str) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    let length = u8::try_from(service.len())
        .ok()
        .filter(|&length| usize::from(length) <= LONGEST_SERVICE)?;
    bytes.put_u8(0);
    // A field with its default, the empty text, is left out.
    bytes.put_u32(if length == 0 {
        0
    } else {
        u32::from(length) + 2
    });
    if length > 0 {
        bytes.put_u8(SERVICE);
        bytes.put_u8(length);
        bytes.put_slice(service.as_bytes());
    }
    Some(bytes.freeze())
}

/// The status of an answer; 0 (unknown) where the field is left out.
fn status(answer: &[u8]) -> Option<u64> {
    let (prefix, message) = answer.split_at_checked(PREFIX)?;
    let is_plain = prefix[0] == 0;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if !is_plain || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        // A varint below 128: the four statuses there are.
        [STATUS, value] if *value < 128 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_framed_as_protobuf_has_it() {
        assert_eq!(question("").as_deref(), Some(&[0, 0, 0, 0, 0][..]));
        assert_eq!(
            question("ab").as_deref(),
            Some(&[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b'][..])
        );
        assert_eq!(question(&"x".repeat(128)), None);
    }

    #[test]
    fn an_answer_is_taken_only_whole() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [
            &[][..],
            &[0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 2, 16, 1],
        ] {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }
}
