//! The same conversation straight and through the proxy: whatever the server sends, however it cuts it, the client gets the
//! same, or sees the same break.

use proptest::prelude::*;

use super::*;

/// How the server ends its answer's body.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
    /// The connection's end is the body's.
    Closed,
    /// An old server: HTTP/1.0 and the connection's end.
    Old,
    /// A length that is not reached.
    CutLength,
    /// Chunks without the last.
    CutChunks,
}

fn framing() -> impl Strategy<Value = Framing> {
    prop::sample::select(vec![
        Framing::Length,
        Framing::Chunked,
        Framing::Closed,
        Framing::Old,
        Framing::CutLength,
        Framing::CutChunks,
    ])
}

#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    is_upload_chunked: bool,
    upload: usize,
    answers: Vec<usize>,
    framing: Framing,
    status: u16,
}

fn case() -> impl Strategy<Value = Case> {
    let size = prop_oneof![1..64_usize, 1..5_000_usize, 5_000..120_000_usize];
    (
        prop::sample::select(vec!["GET", "HEAD", "POST", "PUT"]),
        any::<bool>(),
        prop_oneof![Just(0_usize), 1..200_usize, 200..200_000_usize],
        prop::collection::vec(size, 0..5),
        framing(),
        prop::sample::select(vec![200_u16, 201, 204, 304, 404, 500]),
    )
        .prop_map(
            |(method, is_upload_chunked, upload, answers, framing, status)| Case {
                method,
                is_upload_chunked,
                upload: if matches!(method, "GET" | "HEAD") {
                    0
                } else {
                    upload
                },
                answers,
                framing,
                status,
            },
        )
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 253) as u8).collect()
}

fn play(case: &Case, mut stream: TcpStream) {
    let Some(head) = read_head(&mut stream) else {
        return;
    };
    let sent = read_body(&mut stream, &head).expect("the body");
    let total: usize = case.answers.iter().sum();
    let has_body = case.method != "HEAD" && !matches!(case.status, 204 | 304);
    let version = if matches!(case.framing, Framing::Old) {
        "1.0"
    } else {
        "1.1"
    };
    let mut answer = format!(
        "HTTP/{version} {} Told\r\nx-got: {}\r\n",
        case.status,
        sent.len()
    );
    match case.framing {
        _ if case.status == 204 => {}
        Framing::Length => answer += &format!("content-length: {total}\r\n"),
        Framing::CutLength => answer += &format!("content-length: {}\r\n", total + 7),
        Framing::Chunked | Framing::CutChunks => answer += "transfer-encoding: chunked\r\n",
        Framing::Closed | Framing::Old => answer += "connection: close\r\n",
    }
    answer += "\r\n";
    let _ = stream.write_all(answer.as_bytes());
    if !has_body {
        return;
    }
    let all = bytes(total);
    let mut at = 0;
    for &size in &case.answers {
        let piece = &all[at..at + size];
        at += size;
        let _ = match case.framing {
            Framing::Chunked | Framing::CutChunks => stream
                .write_all(format!("{size:x}\r\n").as_bytes())
                .and_then(|()| stream.write_all(piece))
                .and_then(|()| stream.write_all(b"\r\n")),
            _ => stream.write_all(piece),
        };
    }
    if matches!(case.framing, Framing::Chunked) {
        let _ = stream.write_all(b"0\r\n\r\n");
    }
}

/// What a client makes of it: status, what the server says it got, the body, and whether it was whole.
type Seen = Option<(u16, Option<String>, Vec<u8>, bool)>;

fn ask(address: SocketAddr, case: &Case) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        use http_body_util::{BodyExt, Either, Full, StreamBody};
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("it listens");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let connection = tokio::spawn(connection);
        let upload = bytes::Bytes::from(bytes(case.upload));
        let body = if case.is_upload_chunked && case.upload > 0 {
            let pieces: Vec<_> = upload
                .chunks(1500)
                .map(|piece| {
                    Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(
                        upload.slice_ref(piece),
                    ))
                })
                .collect();
            Either::Left(StreamBody::new(futures_util::stream::iter(pieces)))
        } else {
            Either::Right(Full::new(upload))
        };
        let request = hyper::Request::builder()
            .method(case.method)
            .uri("/x")
            .header("host", "m")
            .body(body)
            .expect("a request");
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let got = response
            .headers()
            .get("x-got")
            .map(|it| it.to_str().expect("text").to_owned());
        let mut body = response.into_body();
        let (mut all, mut is_whole) = (Vec::new(), true);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(frame.data_ref().map_or(&b""[..], |it| it)),
                Err(_) => is_whole = false,
            }
            if !is_whole {
                break;
            }
        }
        drop(sender);
        drop(body);
        connection.abort();
        Some((status, got, all, is_whole))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn through_the_proxy_is_as_straight(case in case()) {
        let played = case.clone();
        let upstream = server(move |_, stream| play(&played, stream));
        let proxy = Running::before(upstream, &[]);
        let straight = ask(upstream, &case);
        let through = ask(proxy.address, &case);
        // how much came before a cut is a matter of timing
        match (&straight, &through) {
            (Some((status, got, body, false)), Some((status_2, got_2, body_2, false))) => {
                prop_assert_eq!((status, got), (status_2, got_2));
                let n = body.len().min(body_2.len());
                prop_assert_eq!(&body[..n], &body_2[..n]);
            }
            _ => prop_assert_eq!(&straight, &through),
        }
        let event = proxy.event();
        prop_assert_eq!(event.request_bytes, case.upload as u64);
        let (status, _, body, is_whole) = through.expect("an answer");
        prop_assert_eq!(event.status(), Some(status));
        let outcome = if is_whole { Outcome::Completed } else { Outcome::Aborted };
        prop_assert_eq!(event.outcome, outcome);
        if is_whole {
            prop_assert_eq!(event.response_bytes, body.len() as u64);
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let proxy = Running::before(
        server(|_, mut stream| {
            while let Some(head) = read_head(&mut stream) {
                let body = read_body(&mut stream, &head).expect("the body");
                let path = head.split(' ').nth(1).expect("a path");
                let text = format!("{path} {}", String::from_utf8_lossy(&body));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        }),
        &[],
    );
    let mut client = proxy.connect();
    let requests = "GET /1 HTTP/1.1\r\nhost: m\r\n\r\n\
        POST /2 HTTP/1.1\r\nhost: m\r\ncontent-length: 3\r\n\r\nabc\
        POST /3 HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\ndef\r\n1\r\ng\r\n0\r\n\r\n\
        GET /4 HTTP/1.1\r\nhost: m\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n\
        GET /5 HTTP/1.1\r\nhost: m\r\n\r\n";
    for piece in [1, 7, 50, requests.len()] {
        for part in requests.as_bytes().chunks(piece) {
            client.write_all(part).expect("sent");
        }
        for answer in ["/1 ", "/2 abc", "/3 defg", "/4 ", "/5 "] {
            let (status, _, body) = read_answer(&mut client);
            assert_eq!((status, &*String::from_utf8_lossy(&body)), (200, answer));
        }
    }
}

#[test]
fn a_head_request_has_the_length_and_no_body() {
    let upstream = server(|_, mut stream| {
        while read_head(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        }
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    for _ in 0..2 {
        client
            .write_all(b"HEAD / HTTP/1.1\r\nhost: m\r\n\r\n")
            .expect("sent");
        let head = read_head(&mut client).expect("an answer");
        assert_eq!(content_length(&head), 1000);
        let event = proxy.event();
        assert_eq!(
            (event.outcome, event.response_bytes),
            (Outcome::Completed, 0)
        );
    }
}

#[test]
fn a_token_passes_before_the_next_is_made() {
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let upstream = server(move |_, mut stream| {
        read_head(&mut stream);
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let _ = stream.write_all(head);
        for n in 0..5 {
            let _ = stream.write_all(format!("data: {n}\n\n").as_bytes());
            let passed = gate.lock().expect("no panic").recv_timeout(PATIENCE);
            passed.expect("the client has seen it");
        }
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
        .expect("sent");
    let head = read_head(&mut client).expect("an answer");
    assert!(head.contains("text/event-stream"), "{head}");
    for n in 0..5 {
        let mut got = Vec::new();
        while !got.ends_with(b"\n\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("the token");
            got.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(text.contains(&format!("data: {n}")), "{text}");
        open.send(()).expect("the server waits");
    }
    let event = proxy.event();
    let (first, all) = (event.first_byte_us().expect("a byte"), event.end_to_end_us);
    assert!(event.outcome == Outcome::Completed && first <= all);
    assert_eq!(event.response_bytes, 45);
}
