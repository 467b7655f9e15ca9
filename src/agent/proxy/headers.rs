//! Headers: which stop here, what the front door's clock said, and what a gRPC status means in HTTP.

use std::time::Duration;

use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Uri};

use crate::clock;

/// The oldest arrival that the front door's header may tell: longer than any request waits in a queue that is sane.
const MAX_BEFORE_US: i64 = 3_600_000_000;

/// How far the front door's clock may be ahead of ours before its header is not believed; less than this is no time.
const MAX_SKEW_US: i64 = 1_000_000;

/// Never taken out because `Connection` names them: without these a message means something else.
const END_TO_END: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TE,
];

/// Whether a header is meant for the next hop alone, by RFC 9110 section 7.6.1.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    // the length first: it is told without looking at the name
    match name.as_str().len() {
        2 => name == header::TE,
        7 => name == header::UPGRADE,
        10 => name == header::CONNECTION || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => name == header::TRANSFER_ENCODING,
        _ => false,
    }
}

/// Takes out what was meant for the agent alone, and whatever `Connection` names. `TE: trailers` stays: gRPC needs it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // one look over all is cheaper than a search for each, and most messages have none
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    if found.is_empty() {
        return;
    }
    let wants_trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let connection: Vec<HeaderValue> = headers
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect();
    let named = connection
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok());
    for name in named.filter(|name| !END_TO_END.contains(name)) {
        headers.remove(name);
    }
    for name in found {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The protocol that the client wants to change to, if it does. HTTP/2 by this way is not taken up, nor anything behind a
/// body: there it would not be plain where the one ends and the other begins.
pub fn wanted_upgrade<B: Body>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let protocol = headers.get(header::UPGRADE)?;
    let is_wanted = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let is_possible =
        request.body().is_end_stream() && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c");
    (is_wanted && is_possible).then(|| protocol.clone())
}

pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 has one line for it.
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    if pieces.next().is_none() || pieces.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// HTTP/2 names the host in its address, HTTP/1.1 in a header. An address that names one wins, as RFC 9112 asks.
pub fn name_host(parts: &mut Parts) {
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
}

/// The address without the host: what a server, not a proxy, is asked for.
pub fn path_of(parts: &Parts) -> Uri {
    if parts.uri.authority().is_none() && parts.uri.scheme().is_none() {
        return parts.uri.clone();
    }
    parts
        .uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}

/// The address with the host that a header names.
pub fn with_authority(parts: &Parts) -> Uri {
    let host = parts.headers.get(header::HOST);
    let authority = host
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<Authority>().ok())
        .unwrap_or_else(|| Authority::from_static("localhost"));
    let mut uri = path_of(parts).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    Uri::from_parts(uri).unwrap_or_default()
}

/// How long before now the request had arrived at the front door: `t=` or a bare number, in seconds, milliseconds or
/// microseconds since 1970. Nothing where the header is not there or says what cannot be.
pub fn time_since_front_door(headers: &HeaderMap, name: &HeaderName) -> Duration {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(arrival_us)
        .map(|arrival| clock::now_us() - arrival)
        .filter(|before| (-MAX_SKEW_US..=MAX_BEFORE_US).contains(before))
        .map_or(Duration::ZERO, |before| {
            Duration::from_micros(before.max(0).cast_unsigned())
        })
}

/// Microseconds since 1970. The unit is told by the size: today is 1.8e9 s.
fn arrival_us(text: &str) -> Option<i64> {
    let text = text.trim();
    let number: f64 = text.strip_prefix("t=").unwrap_or(text).parse().ok()?;
    let us = match number {
        n if !n.is_finite() || n < 1e9 => return None,
        n if n < 1e11 => n * 1e6,
        n if n < 1e14 => n * 1e3,
        n if n < 1e17 => n,
        _ => return None,
    };
    Some(us as i64)
}

/// The HTTP status that a gRPC status stands for.
pub fn http_status_of_grpc(code: &HeaderValue) -> u16 {
    match code.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(0_u32) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_is_read_in_any_unit() {
        for text in [
            "t=1800000000.123456",
            "1800000000123.456",
            "t=1800000000123456",
        ] {
            assert_eq!(arrival_us(text), Some(1_800_000_000_123_456), "{text}");
        }
        for bad in ["", "t=", "t=-1", "yesterday", "t=5", "t=1e300", "nan"] {
            assert_eq!(arrival_us(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let name = HeaderName::from_static("x-request-start");
        let told = |us: i64| {
            let mut headers = HeaderMap::new();
            let text = format!("t={us}").parse().expect("a header");
            headers.insert(&name, text);
            time_since_front_door(&headers, &name)
        };
        let now = clock::now_us();
        assert!(told(now - 2_000_000) >= Duration::from_secs(2));
        assert_eq!(told(now + 900_000), Duration::ZERO);
        assert_eq!(told(now + 60_000_000), Duration::ZERO);
        assert_eq!(told(now - 2 * MAX_BEFORE_US), Duration::ZERO);
    }

    #[test]
    fn hop_by_hop_headers_stop_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-Foo, close, Host"),
            ("host", "model"),
            ("x-foo", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("traceparent", "00-1-2-01"),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "te", "traceparent", "x-forwarded-for"]);
    }
}
