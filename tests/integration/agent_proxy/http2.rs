//! HTTP/2 in the clear: gRPC's four kinds of streams, both kinds of clients before both kinds of servers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::*;

pub type Frames = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

pub fn trailers(status: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", status.parse().expect("a header"));
    map
}

/// Every frame of the request comes back at once, then the status that `x-status` asks for; `never` does not come.
fn echo_frames(request: Request<Incoming>) -> Response<Frames> {
    let status = request.headers().get("x-status").cloned();
    let status = status.map_or_else(
        || "0".to_owned(),
        |it| it.to_str().expect("text").to_owned(),
    );
    let last = futures_util::stream::once(async move {
        if status == "never" {
            std::future::pending::<()>().await;
        }
        Ok(Frame::trailers(trailers(&status)))
    });
    let frames = request
        .into_body()
        .into_data_stream()
        .map(|data| data.map(Frame::data))
        .chain(last);
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    let kind = "application/grpc".parse().expect("a header");
    response.headers_mut().insert("content-type", kind);
    response
}

fn grpc_server(runtime: &Runtime) -> SocketAddr {
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request| async move {
                Ok::<_, Infallible>(echo_frames(request))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

pub type Sender = hyper::client::conn::http2::SendRequest<Frames>;

pub async fn connect_http2(address: SocketAddr) -> Sender {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

pub fn call(body: Frames) -> Request<Frames> {
    Request::post("http://model/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request")
}

pub fn whole(data: &'static [u8]) -> Frames {
    let full = Full::new(Bytes::from_static(data));
    full.map_err(|never| match never {}).boxed_unsync()
}

#[test]
fn messages_pass_both_ways_while_both_are_open() {
    let runtime = Runtime::new().expect("a runtime");
    let proxy = Running::before(grpc_server(&runtime), &[]);
    runtime.block_on(async {
        let mut sender = connect_http2(proxy.address).await;
        let (say, heard) = mpsc::channel::<Bytes>(1);
        let frames = futures_util::stream::unfold(heard, |mut heard| async move {
            heard
                .recv()
                .await
                .map(|data| (Ok(Frame::data(data)), heard))
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        let answer = sender.send_request(call(body)).await.expect("an answer");
        let mut answer = answer.into_body();
        for n in 0..20_u8 {
            say.send(Bytes::from(vec![n; 100]))
                .await
                .expect("it is open");
            let frame = answer.frame().await.expect("open").expect("no error");
            assert_eq!(frame.into_data().ok(), Some(Bytes::from(vec![n; 100])));
        }
        drop(say);
        let last = answer.frame().await.expect("trailers").expect("no error");
        assert_eq!(last.into_trailers().ok(), Some(trailers("0")));
    });
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(200), Outcome::Completed)
    );
    assert_eq!((event.request_bytes, event.response_bytes), (2000, 2000));
}

#[test]
fn a_call_that_is_cancelled_is_a_client_gone() {
    let runtime = Runtime::new().expect("a runtime");
    let proxy = Running::before(grpc_server(&runtime), &[]);
    runtime.block_on(async {
        let mut sender = connect_http2(proxy.address).await;
        let mut request = call(whole(b"hi"));
        let never = "never".parse().expect("a header");
        request.headers_mut().insert("x-status", never);
        let answer = sender.send_request(request).await.expect("an answer");
        let mut answer = answer.into_body();
        let frame = answer.frame().await.expect("open").expect("no error");
        assert!(frame.is_data());
    });
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(499), Outcome::ClientGone)
    );
    // others on the same connections are not disturbed
    runtime.block_on(async {
        let mut sender = connect_http2(proxy.address).await;
        let answer = sender
            .send_request(call(whole(b"hi")))
            .await
            .expect("an answer");
        let all = answer.into_body().collect().await.expect("a body");
        assert_eq!(all.trailers(), Some(&trailers("0")));
    });
    assert_eq!(proxy.event().status(), Some(200));
}

#[test]
fn many_calls_share_a_connection() {
    let runtime = Runtime::new().expect("a runtime");
    let proxy = Running::before(grpc_server(&runtime), &[]);
    runtime.block_on(async {
        let sender = connect_http2(proxy.address).await;
        let calls = (0..200).map(|n| {
            let mut sender = sender.clone();
            async move {
                let mut request = call(whole(b"hello"));
                let status = if n % 4 == 0 { "13" } else { "0" };
                request
                    .headers_mut()
                    .insert("x-status", status.parse().expect("a header"));
                let answer = sender.send_request(request).await.expect("an answer");
                let all = answer.into_body().collect().await.expect("a body");
                assert_eq!(all.trailers(), Some(&trailers(status)));
            }
        });
        futures_util::future::join_all(calls).await;
    });
    let events: Vec<_> = (0..200).map(|_| proxy.event()).collect();
    let n_failed = events
        .iter()
        .filter(|event| event.status() == Some(500))
        .count();
    assert_eq!(n_failed, 50);
}

#[test]
fn an_http2_client_reaches_a_server_that_speaks_http1() {
    let runtime = Runtime::new().expect("a runtime");
    let upstream = server(|_, mut stream| {
        while let Some(head) = read_head(&mut stream) {
            assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("host: model\r\n"), "{head}");
            assert!(head.contains("cookie: a=1; b=2\r\n"), "{head}");
            let mut body = vec![0; content_length(&head)];
            stream.read_exact(&mut body).expect("the body");
            let _ = stream.write_all(b"HTTP/1.1 201 Made\r\nconnection: x\r\nx: 1\r\nkeep-alive: 5\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let proxy = Running::before(upstream, &[]);
    runtime.block_on(async {
        let mut sender = connect_http2(proxy.address).await;
        for _ in 0..3 {
            let request = Request::post("http://model/a?b=c")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("content-length", "5")
                .body(whole(b"hello"))
                .expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::CREATED);
            assert!(
                !answer.headers().contains_key("keep-alive") && !answer.headers().contains_key("x")
            );
            let all = answer.into_body().collect().await.expect("a body");
            assert_eq!(all.to_bytes(), &b"ok"[..]);
        }
    });
    assert_eq!(proxy.event().request_bytes, 5);
}

#[test]
fn an_http1_client_reaches_a_server_that_speaks_http2() {
    let runtime = Runtime::new().expect("a runtime");
    let upstream = grpc_server(&runtime);
    let proxy = Running::with(&format!("h2c://{upstream}"), &[]);
    let mut client = proxy.connect();
    for _ in 0..2 {
        let head = b"POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\nhello";
        client.write_all(head).expect("sent");
        let head = read_head(&mut client).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut got = Vec::new();
        while !got.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("chunks");
            got.push(byte[0]);
        }
        assert!(String::from_utf8_lossy(&got).contains("hello"));
        assert_eq!(proxy.event().outcome, Outcome::Completed);
    }
}

#[test]
fn a_server_that_restarts_is_found_again() {
    let runtime = Runtime::new().expect("a runtime");
    let first = Runtime::new().expect("a runtime");
    let upstream = grpc_server(&first);
    let proxy = Running::with(&format!("h2c://{upstream}"), &[]);
    let mut client = runtime.block_on(connect_http2(proxy.address));
    let mut status = || {
        runtime.block_on(async {
            let answer = client
                .send_request(call(whole(b"hi")))
                .await
                .expect("an answer");
            answer.status().as_u16()
        })
    };
    assert_eq!(status(), 200);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while status() != 502 {
        assert!(Instant::now() < deadline, "it is still there");
    }
    let again = Runtime::new().expect("a runtime");
    let listener = again.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(upstream).expect("the same port");
        socket.listen(64).expect("it listens")
    });
    again.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request| async move {
                Ok::<_, Infallible>(echo_frames(request))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    assert_eq!(status(), 200);
}
