//! Whatever the agent's framing lets through as one request, the HTTP library behind it must read as that one request:
//! the same end, and what follows is a request of its own. A library that refuses it is right too.
#![no_main]

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use modelmeter::agent::proxy::framing::{Head, Place, read_head};

/// The agent's own limit on a head.
const HEAD_BYTES: usize = 64 * 1024;

/// What is put behind each request.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: n\r\n\r\n";

/// The library rests now and then; it never waits for anything here.
const POLLS: usize = 10_000;

fuzz_target!(|data: &[u8]| {
    let mut at = 0;
    // each request in turn, as the guard of a connection sees them
    while at < data.len() {
        let Head::Whole(head, mut place) = read_head(&data[at..], HEAD_BYTES) else {
            return;
        };
        if place == Place::Opaque {
            return;
        }
        let is_undecided = place == Place::Undecided;
        let body_from = at + head;
        let Ok(body) = place.skip_body(&data[body_from..]) else {
            return;
        };
        if place.is_in_body() {
            return;
        }
        let end = body_from + body;
        check(&data[at..end]);
        if is_undecided {
            return;
        }
        at = end;
    }
});

/// One request as the library saw it.
struct Seen {
    method: Method,
    path: String,
    is_whole: bool,
}

fn check(request: &[u8]) {
    let (seen, answers) = serve(&[request, NEXT].concat());
    let Some(first) = seen.first() else {
        // refused as a whole
        return;
    };
    let told = || String::from_utf8_lossy(request).into_owned();
    assert!(first.is_whole, "the library waits for more: {:?}", told());
    match seen.get(1) {
        // it closes after this one, or takes it for a change of protocol
        None => assert!(
            first.method == Method::CONNECT || !answers.starts_with(b"HTTP/1.1 400") && closes(request),
            "what follows is not a request: {:?}",
            told()
        ),
        Some(next) => assert_eq!(next.path, "/next", "smuggled: {:?}", told()),
    }
    assert!(seen.len() <= 2, "three of two: {:?}", told());
}

/// Whether the request says that its connection ends with it.
fn closes(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let line = text.trim_start_matches("\r\n").lines().next().unwrap_or_default();
    line.ends_with("http/1.0")
        || text.lines().any(|line| {
            let is_of_connection = line.starts_with("connection:");
            is_of_connection && (line.contains("close") || line.contains("upgrade"))
        })
        || text.contains("\nupgrade:")
}

fn serve(bytes: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let io = Script {
        left: bytes.to_vec(),
        answers: answers.clone(),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let place = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(Seen {
                    method: parts.method.clone(),
                    path: parts.uri.path().to_owned(),
                    is_whole: false,
                });
                seen.len() - 1
            };
            let is_whole = body.collect().await.is_ok();
            seen.lock().expect("no panic")[place].is_whole = is_whole;
            let mut response = Response::new(Empty::<Bytes>::new());
            if parts.method == Method::CONNECT {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            Ok::<_, Infallible>(response)
        }
    });
    {
        let mut server = http1::Builder::new();
        server.header_read_timeout(None).half_close(true);
        let mut connection = pin!(server.serve_connection(io, service));
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0..POLLS;
        while connection.as_mut().poll(&mut context).is_pending() {
            assert!(polls.next().is_some(), "it waits for nothing");
        }
    }
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    let answers = std::mem::take(&mut *answers.lock().expect("no panic"));
    (seen, answers)
}

/// A connection on which everything has come, and then the end.
struct Script {
    left: Vec<u8>,
    answers: Arc<Mutex<Vec<u8>>>,
}

impl Read for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let n = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.left[..n]);
        self.left.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl Write for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.answers.lock().expect("no panic").extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
