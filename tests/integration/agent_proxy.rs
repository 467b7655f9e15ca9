//! The agent's proxy between real sockets: servers that follow a script byte by byte, clients that do, and what the meter
//! says of it afterwards.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use modelmeter::agent::condition::Condition;
use modelmeter::agent::meter::Meter;
use modelmeter::core::event::{Outcome, ReplicaState};
use tokio::sync::watch;

mod http2;
mod refusals;
mod straight;
mod stuck;
pub mod support;
mod timing;
mod tls;
mod truth;

use support::*;

#[test]
fn bodies_of_any_size_come_back_as_they_went() {
    let proxy = Running::before(server(|_, stream| echo(stream)), &[]);
    let mut client = proxy.connect();
    for size in [0, 1, 100, 8_191, 8_192, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|i: usize| (i * 31 % 251) as u8).collect();
        let mut writer = client.try_clone().expect("a second handle");
        let sent = body.clone();
        // both ways at once: neither side holds a whole body
        let writing = thread::spawn(move || post(&mut writer, &sent));
        let (status, _, got) = read_answer(&mut client);
        writing.join().expect("it was sent");
        assert_eq!((status, got == body), (200, true), "{size}");
        let event = proxy.event();
        assert_eq!(
            (event.status(), event.outcome, event.in_flight),
            (Some(200), Outcome::Completed, 1)
        );
        assert_eq!(
            (event.request_bytes, event.response_bytes),
            (size as u64, size as u64)
        );
        let (all, inference) = (
            event.end_to_end_us,
            event.inference_us().expect("handed over"),
        );
        assert!(inference <= all && event.first_byte_us().expect("a byte") <= all);
    }
}

#[test]
fn two_lengths_in_one_request_are_refused_and_end_the_connection() {
    let proxy = Running::before(server(|_, stream| echo(stream)), &[]);
    for order in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "transfer-encoding:\tchunked\r\ncontent-length:4",
    ] {
        let mut client = proxy.connect();
        post(&mut client, b"first");
        assert_eq!(read_answer(&mut client).0, 200);
        let smuggled = format!(
            "POST / HTTP/1.1\r\nhost: m\r\n{order}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: m\r\n\r\n"
        );
        client.write_all(smuggled.as_bytes()).expect("sent");
        assert_eq!(read_answer(&mut client).0, 400, "{order}");
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(
            rest.is_empty(),
            "{order}: {}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[test]
fn hop_by_hop_headers_stop_and_the_others_pass() {
    let upstream = server(|_, mut stream| {
        let head = read_head(&mut stream).expect("a request");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nkeep-alive: timeout=5\r\nx-kept: 1\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).expect("a client");
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let request = "GET /a?b=c HTTP/1.1\r\nhost: model\r\nconnection: x-secret\r\nx-secret: 1\r\n\
                   x-forwarded-for: 10.0.0.9\r\ntraceparent: 00-aa-bb-01\r\n\r\n";
    client.write_all(request.as_bytes()).expect("sent");
    let (_, head, seen) = read_answer(&mut client);
    let seen = String::from_utf8(seen).expect("text");
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    for kept in [
        "host: model",
        "x-forwarded-for: 10.0.0.9",
        "traceparent: 00-aa-bb-01",
    ] {
        assert!(seen.contains(kept), "{seen}");
    }
    assert!(!seen.contains("x-secret"), "{seen}");
    assert!(
        head.contains("x-kept") && !head.contains("keep-alive"),
        "{head}"
    );
}

#[test]
fn a_client_that_goes_away_is_499_and_the_server_hears_of_it() {
    let (told, heard) = std::sync::mpsc::sync_channel(1);
    let upstream = server(move |_, mut stream| {
        read_head(&mut stream);
        // the end of the connection is all that comes
        let _ = told.send(stream.read(&mut [0; 16]).unwrap_or(0));
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
        .expect("sent");
    proxy.wait_in_flight(1);
    drop(client);
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(499), Outcome::ClientGone)
    );
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
    proxy.wait_in_flight(0);
}

#[test]
fn a_stream_that_the_server_cuts_is_aborted() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(cut).expect("a client");
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
        .expect("sent");
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(!all.ends_with(b"0\r\n\r\n"), "the cut must be seen");
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome, event.response_bytes),
        (Some(200), Outcome::Aborted, 5)
    );
}

#[test]
fn a_server_that_is_not_there_is_502() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let proxy = Running::before(gone, &[]);
    let mut client = proxy.connect();
    post(&mut client, b"x");
    let (status, _, text) = read_answer(&mut client);
    assert_eq!(status, 502, "{}", String::from_utf8_lossy(&text));
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome, event.first_byte_us()),
        (Some(502), Outcome::Aborted, None)
    );
}

#[test]
fn a_kept_connection_that_the_server_closed_is_replaced() {
    // every connection answers once, says that it stays, and closes on the next request
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        read_head(&mut stream);
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    for round in 0..6 {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
            .expect("sent");
        assert_eq!(read_answer(&mut client).0, 200, "{round}");
        assert_eq!(proxy.event().outcome, Outcome::Completed);
    }
}

#[test]
fn past_its_concurrency_requests_queue_and_past_the_queue_they_are_refused() {
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(8);
    let gate = std::sync::Mutex::new(gate);
    let upstream = server(move |_, mut stream| {
        while read_head(&mut stream).is_some() {
            let passed = gate.lock().expect("no panic").recv_timeout(PATIENCE);
            passed.expect("the test opens the gate");
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let proxy = Running::before(upstream, &["--max-concurrency", "1", "--max-queue", "1"]);
    let mut clients: Vec<TcpStream> = Vec::new();
    for n in 1..=2 {
        let mut client = proxy.connect();
        post(&mut client, b"");
        proxy.wait_in_flight(n);
        clients.push(client);
    }
    let mut third = proxy.connect();
    post(&mut third, b"");
    let (status, head, _) = read_answer(&mut third);
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 1"), "{head}");
    let refused = proxy.event();
    assert_eq!(
        (refused.status(), refused.outcome, refused.inference_us()),
        (Some(503), Outcome::Refused, None)
    );
    for client in &mut clients {
        open.send(()).expect("the server waits");
        assert_eq!(read_answer(client).0, 200);
    }
    let (first, second) = (proxy.event(), proxy.event());
    assert_eq!((first.in_flight, second.in_flight), (1, 2));
    let queued = second.queue_us().expect("handed over");
    assert!(queued > first.queue_us().expect("handed over"));
    assert!(queued + second.inference_us().expect("handed over") <= second.end_to_end_us + 1);
}

#[test]
fn requests_are_held_while_the_model_loads_and_are_cold() {
    let proxy = Running::before(
        server(|_, stream| echo(stream)),
        &["--hold-until-ready", "20s"],
    );
    let loading = Condition {
        state: ReplicaState::Loading,
        ..ACTIVE
    };
    proxy.condition.send_replace(loading);
    let mut client = proxy.connect();
    post(&mut client, b"early");
    // whoever is held listens for the condition
    let deadline = Instant::now() + PATIENCE;
    while proxy.condition.receiver_count() < 2 {
        assert!(Instant::now() < deadline, "the request was not held");
        thread::yield_now();
    }
    assert!(proxy.meter.take().is_none());
    proxy.condition.send_replace(ACTIVE);
    assert_eq!(read_answer(&mut client).2, b"early");
    let cold = proxy.event();
    let waited = cold.cold_start_us().expect("it waited");
    assert!(cold.cold_start && waited > 0);
    let queued = cold.queue_us().expect("handed over");
    let inference = cold.inference_us().expect("handed over");
    // the three lie one behind another within the whole, each rounded down
    let parts = waited + queued + inference;
    assert!(
        parts <= cold.end_to_end_us && cold.end_to_end_us < parts + 3,
        "{cold:?}"
    );
    post(&mut client, b"later");
    assert_eq!(read_answer(&mut client).2, b"later");
    let warm = proxy.event();
    assert_eq!((warm.cold_start, warm.cold_start_us()), (false, None));
}

#[test]
fn another_protocol_takes_the_connection_over() {
    let upstream = server(|_, mut stream| {
        let head = read_head(&mut stream).expect("a request");
        assert!(head.contains("upgrade: websocket"), "{head}");
        let switched =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi";
        stream.write_all(switched).expect("a client");
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..n]).expect("a client");
        }
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let request =
        b"GET /ws HTTP/1.1\r\nhost: m\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(request).expect("sent");
    let head = read_head(&mut client).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut got = [0; 7];
    client.write_all(b"frame").expect("sent");
    client.read_exact(&mut got).expect("both ways");
    assert_eq!(&got, b"hiframe");
    drop(client);
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(101), Outcome::Completed)
    );
    assert_eq!((event.request_bytes, event.response_bytes), (5, 7));
}

#[test]
fn requests_in_flight_end_before_the_proxy_does() {
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let upstream = server(move |_, mut stream| {
        read_head(&mut stream);
        let passed = gate.lock().expect("no panic").recv_timeout(PATIENCE);
        passed.expect("the test opens the gate");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast");
    });
    let mut proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    post(&mut client, b"");
    proxy.wait_in_flight(1);
    proxy.shutdown.cancel();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(proxy.address).is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        thread::yield_now();
    }
    open.send(()).expect("the server waits");
    assert_eq!(read_answer(&mut client).2, b"last");
    let ended = proxy.thread.take().expect("running").join();
    ended.expect("no panic").expect("it ends well");
    assert_eq!(proxy.event().outcome, Outcome::Completed);
}

/// gRPC's shape: HTTP/2 in the clear, and a status that comes behind the body.
#[test]
fn a_status_in_trailers_is_the_requests_status() {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::body::{Frame, Incoming};
    use hyper::{HeaderMap, Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a free port");
    let upstream = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let data = request.into_body().collect().await?.to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "8".parse().expect("a header"));
                let frames = [
                    Ok::<_, hyper::Error>(Frame::data(data)),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, hyper::Error>(Response::new(body))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let proxy = Running::before(upstream, &[]);
    let trailers = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.address)
            .await
            .expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::post("http://model/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let collected = answer.into_body().collect().await.expect("a body");
        let trailers = collected.trailers().cloned().expect("trailers");
        assert_eq!(collected.to_bytes(), &b"\0\0\0\0\x02hi"[..]);
        trailers
    });
    assert_eq!(trailers["grpc-status"], "8");
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(429), Outcome::Completed)
    );
    assert_eq!((event.request_bytes, event.response_bytes), (7, 7));
}
