//! What must not pass: requests that two parsers could read in two ways, and what is past a limit. Each is answered in its
//! turn, recorded, and ends the connection.

use super::*;

/// What the server got, a line a request.
fn seeing_server() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (told, seen) = std::sync::mpsc::sync_channel(64);
    let address = server(move |_, mut stream| {
        while let Some(head) = read_head(&mut stream) {
            if read_body(&mut stream, &head).is_none() {
                return;
            }
            let first = head.lines().next().unwrap_or_default().to_owned();
            let _ = told.send(first);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    (address, seen)
}

fn rest_of(client: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

const GOOD: &str = "GET /good HTTP/1.1\r\nhost: m\r\n\r\n";
const EVIL: &str = "GET /evil HTTP/1.1\r\nhost: m\r\n\r\n";

#[test]
fn nothing_is_smuggled_behind_a_request() {
    let both = "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let (upstream, seen) = seeing_server();
    let proxy = Running::before(upstream, &[]);
    for (before, evil) in [
        ("", format!("POST /odd HTTP/1.1\r\nhost: m\r\n{both}")),
        // an upgrade that the server does not take up must not end the watch
        (
            "GET /good HTTP/1.1\r\nhost: m\r\nupgrade: x\r\n\r\n",
            format!("POST /odd HTTP/1.1\r\nhost: m\r\n{both}"),
        ),
        (
            "GET /good HTTP/1.1\r\nhost: m\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            format!("POST /odd HTTP/1.1\r\nhost: m\r\n{both}"),
        ),
        // nor a body in chunks
        (
            "POST /good HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            format!("POST /odd HTTP/1.1\r\nhost: m\r\n{both}"),
        ),
        (
            "",
            "POST /odd HTTP/1.1\r\nhost: m\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n"
                .to_owned(),
        ),
        (
            "",
            "POST /odd HTTP/1.1\r\nhost: m\r\ncontent-length: +4\r\n\r\n".to_owned(),
        ),
        (
            "",
            "POST /odd HTTP/1.1\r\nhost: m\r\ntransfer-encoding : chunked\r\n\r\n".to_owned(),
        ),
        (
            "",
            "POST /odd HTTP/1.1\r\nhost: m\r\nx: y\r\n transfer-encoding: chunked\r\n\r\n"
                .to_owned(),
        ),
        // a change to HTTP/2 in the middle would end the watch
        (
            "",
            format!("PRI * HTTP/2.0\r\n\r\nPOST /odd HTTP/1.1\r\nhost: m\r\n{both}"),
        ),
        // a head with bare line feeds ends elsewhere for those who take them
        (
            "",
            format!("POST /odd HTTP/1.1\nhost: m\ncontent-length: 9\n\n{GOOD}"),
        ),
        (
            "",
            format!("GET /odd HTTP/1.1\r\nhost: m\r\nx: y\n\r\n{GOOD}"),
        ),
    ] {
        let mut client = proxy.connect();
        let sent = format!("{GOOD}{before}{evil}{EVIL}");
        client.write_all(sent.as_bytes()).expect("sent");
        let n_good = 1 + usize::from(!before.is_empty());
        for _ in 0..n_good {
            assert_eq!(read_answer(&mut client).0, 200, "{sent:?}");
            assert_eq!(proxy.event().status(), Some(200));
            assert!(seen.recv_timeout(PATIENCE).expect("seen").contains("/good"));
        }
        let (status, head, _) = read_answer(&mut client);
        assert_eq!(status, 400, "{sent:?}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(rest_of(&mut client), "", "{sent:?}");
        let event = proxy.event();
        assert_eq!(
            (event.status(), event.outcome),
            (Some(400), Outcome::Refused)
        );
        assert_eq!(seen.try_recv().ok(), None, "{sent:?}");
    }
}

#[test]
fn a_coding_that_is_not_known_is_501() {
    let (upstream, _seen) = seeing_server();
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let odd = "POST / HTTP/1.1\r\nhost: m\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    client.write_all(odd.as_bytes()).expect("sent");
    assert_eq!(read_answer(&mut client).0, 501);
    assert_eq!(proxy.event().status(), Some(501));
}

#[test]
fn a_malformed_chunk_is_400_wherever_it_stands() {
    let (upstream, seen) = seeing_server();
    let proxy = Running::before(upstream, &[]);
    let head = "POST / HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunks in ["5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "x\r\n"] {
        for first in ["", "3\r\nabc\r\n"] {
            let mut client = proxy.connect();
            let sent = format!("{head}{first}{chunks}{EVIL}");
            client.write_all(sent.as_bytes()).expect("sent");
            assert_eq!(read_answer(&mut client).0, 400, "{sent:?}");
            assert_eq!(rest_of(&mut client), "", "{sent:?}");
            let event = proxy.event();
            assert_eq!(
                (event.status(), event.outcome),
                (Some(400), Outcome::Refused)
            );
        }
    }
    assert!(seen.try_iter().all(|line| !line.contains("evil")));
}

#[test]
fn heads_have_a_size_and_a_time() {
    let (upstream, _seen) = seeing_server();
    let proxy = Running::before(upstream, &["--head-timeout", "300ms"]);
    let wide = format!(
        "GET / HTTP/1.1\r\nhost: m\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: m\r\n{}\r\n",
        "x: y\r\n".repeat(120)
    );
    for (sent, status) in [
        (wide.as_str(), 431),
        (many.as_str(), 431),
        ("GET / HTTP/1.1\r\nhost: m\r\n", 408),
    ] {
        let mut client = proxy.connect();
        client.write_all(sent.as_bytes()).expect("sent");
        assert_eq!(read_answer(&mut client).0, status);
        assert_eq!(rest_of(&mut client), "");
        let event = proxy.event();
        assert_eq!(
            (event.status(), event.outcome),
            (Some(status), Outcome::Refused)
        );
    }
    // nothing at all is no request, and no answer
    let mut silent = proxy.connect();
    assert_eq!(rest_of(&mut silent), "");
    assert!(proxy.meter.take().is_none());
}

#[test]
fn a_head_that_comes_slowly_but_in_time_passes() {
    let (upstream, _seen) = seeing_server();
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    for byte in format!("{GOOD}{GOOD}").as_bytes() {
        client.write_all(&[*byte]).expect("sent");
    }
    for _ in 0..2 {
        assert_eq!(read_answer(&mut client).0, 200);
    }
}

#[test]
fn past_the_connections_requests_are_refused() {
    let (upstream, _seen) = seeing_server();
    let proxy = Running::before(upstream, &["--max-connections", "1"]);
    let mut first = proxy.connect();
    first.write_all(GOOD.as_bytes()).expect("sent");
    assert_eq!(read_answer(&mut first).0, 200);
    assert_eq!(proxy.event().status(), Some(200));
    let mut second = proxy.connect();
    second.write_all(GOOD.as_bytes()).expect("sent");
    let (status, head, _) = read_answer(&mut second);
    assert!(status == 503 && head.contains("retry-after: 1"), "{head}");
    assert_eq!(proxy.event().outcome, Outcome::Refused);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut third = proxy.connect();
        third.write_all(GOOD.as_bytes()).expect("sent");
        if read_answer(&mut third).0 == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "no place becomes free");
    }
}

#[test]
fn connect_is_refused() {
    let (upstream, _seen) = seeing_server();
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let request = b"CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n";
    client.write_all(request).expect("sent");
    assert_eq!(read_answer(&mut client).0, 405);
    assert_eq!(proxy.event().outcome, Outcome::Refused);
}
