//! Clients that ask and do not take the answer: they are cut off, so that others get their place.

use http_body_util::BodyExt as _;
use tokio::runtime::Runtime;

use super::http2::{call, connect_http2, whole};
use super::*;

/// More than the sockets and the library take on their way.
const LARGE: usize = 64 << 20;

/// One at a time: whoever comes next needs the stuck one's place.
const FLAGS: [&str; 4] = ["--max-concurrency", "1", "--send-timeout", "300ms"];

/// Answers `/large` with more than a client that does not read can take, all else with two bytes.
fn large_or_small(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream) {
        if read_body(&mut stream, &head).is_none() {
            return;
        }
        let is_large = head.contains(" /large ");
        let size = if is_large { LARGE } else { 2 };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err()
            || stream.write_all(&vec![b'x'; size]).is_err()
        {
            return;
        }
    }
}

fn assert_gone(proxy: &Running) {
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(499), Outcome::ClientGone)
    );
}

#[test]
fn a_client_that_never_reads_gives_its_place_back() {
    let proxy = Running::before(server(|_, stream| large_or_small(stream)), &FLAGS);
    let mut stuck = proxy.connect();
    let request = b"GET /large HTTP/1.1\r\nhost: m\r\n\r\n";
    stuck.write_all(request).expect("sent");
    proxy.wait_in_flight(1);
    let mut next = proxy.connect();
    post(&mut next, b"");
    assert_eq!(read_answer(&mut next).0, 200);
    assert_gone(&proxy);
    let event = proxy.event();
    assert!(event.queue_us().expect("handed over") > 0 && event.in_flight == 2);
    // what had been sent is there, and then the end
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got);
    assert!(got.len() < LARGE, "{}", got.len());
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_it() {
    let flags = ["--send-timeout", "4s"];
    let proxy = Running::before(server(|_, stream| large_or_small(stream)), &flags);
    let mut slow = proxy.connect();
    let request = b"GET /large HTTP/1.1\r\nhost: m\r\n\r\n";
    slow.write_all(request).expect("sent");
    let head = read_head(&mut slow).expect("an answer");
    let mut left = content_length(&head);
    let began = Instant::now();
    let mut chunk = vec![0; 1 << 16];
    while left > 0 {
        let n = slow.read(&mut chunk).expect("it goes on");
        assert_ne!(n, 0, "cut off with {left} bytes left");
        left -= n;
        // in all it takes longer than may pass without a byte
        if began.elapsed() < Duration::from_secs(5) {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
    assert_eq!(proxy.event().outcome, Outcome::Completed);
}

#[test]
fn a_stream_that_nobody_takes_is_given_up_and_its_connection_goes_on() {
    let proxy = Running::before(server(|_, stream| large_or_small(stream)), &FLAGS);
    let runtime = Runtime::new().expect("a runtime");
    let asked = async {
        let mut sender = connect_http2(proxy.address).await;
        let get = |path: &str| {
            let (mut parts, body) = call(whole(b"")).into_parts();
            parts.headers.remove("content-type");
            parts.uri = format!("http://model{path}").parse().expect("an address");
            hyper::Request::from_parts(parts, body)
        };
        let stuck = sender.send_request(get("/large")).await.expect("a head");
        // its window fills; the connection's has room for the next
        let next = sender.send_request(get("/small")).await.expect("a place");
        let body = next.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), &b"xx"[..]);
        let rest = stuck.into_body().collect().await;
        assert!(rest.is_err(), "what was given up is not whole");
    };
    let in_time = async { tokio::time::timeout(PATIENCE, asked).await };
    runtime.block_on(in_time).expect("the next gets its place");
    assert_gone(&proxy);
    assert_eq!(proxy.event().outcome, Outcome::Completed);
}

#[test]
fn a_tunnel_whose_client_never_reads_ends() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let switched =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switched);
        let _ = stream.write_all(&vec![b'x'; LARGE]);
    });
    let proxy = Running::before(upstream, &FLAGS);
    let mut stuck = proxy.connect();
    let request =
        b"GET /ws HTTP/1.1\r\nhost: m\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stuck.write_all(request).expect("sent");
    assert_gone(&proxy);
}
