//! Early answers, late answers, slow ends, and connections that go stale.

use std::sync::mpsc::sync_channel;

use super::*;

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let refused =
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
        let _ = stream.write_all(refused);
    });
    let proxy = Running::before(upstream, &[]);
    for _ in 0..10 {
        let mut client = proxy.connect();
        // all of it is sent before the answer is looked at
        post(&mut client, &vec![7; 5_000_000]);
        let (status, _, body) = read_answer(&mut client);
        assert_eq!((status, &body[..]), (413, &b"big"[..]));
        let event = proxy.event();
        assert_eq!(
            (event.status(), event.outcome),
            (Some(413), Outcome::Completed)
        );
    }
}

#[test]
fn a_connection_with_half_a_request_on_it_is_not_used_again() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let early = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";
        let _ = stream.write_all(early);
        // whatever else comes here is the rest of the body
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = Running::before(upstream, &[]);
    for _ in 0..3 {
        let mut client = proxy.connect();
        let head = b"POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 10\r\n\r\nhalf";
        client.write_all(head).expect("sent");
        assert_eq!(read_answer(&mut client).2, b"early");
        assert_eq!(proxy.event().outcome, Outcome::Completed);
    }
}

#[test]
fn the_server_says_100_and_only_then_the_body_comes() {
    let (told, asked) = sync_channel(1);
    let (open, gate) = sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let upstream = server(move |_, mut stream| {
        let head = read_head(&mut stream).expect("a request");
        let _ = told.send(head.contains("expect: 100-continue"));
        let passed = gate.lock().expect("no panic").recv_timeout(PATIENCE);
        passed.expect("the test opens the gate");
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = vec![0; content_length(&head)];
        stream.read_exact(&mut body).expect("the body");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let head = b"POST / HTTP/1.1\r\nhost: m\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    client.write_all(head).expect("sent");
    assert_eq!(asked.recv_timeout(PATIENCE), Ok(true));
    open.send(()).expect("the server waits");
    let interim = read_head(&mut client).expect("an interim answer");
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    client.write_all(b"hello").expect("sent");
    assert_eq!(read_answer(&mut client).0, 200);
    assert_eq!(proxy.event().request_bytes, 5);
}

#[test]
fn a_server_that_does_not_want_the_body_does_not_get_it() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let head = b"POST / HTTP/1.1\r\nhost: m\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    client.write_all(head).expect("sent");
    // no 100 comes before it
    assert_eq!(read_answer(&mut client).0, 417);
    let event = proxy.event();
    assert_eq!((event.status(), event.request_bytes), (Some(417), 0));
}

#[test]
fn a_server_that_never_says_100_gets_the_body_all_the_same() {
    let proxy = Running::before(server(|_, stream| echo(stream)), &[]);
    let mut client = proxy.connect();
    let head =
        b"POST / HTTP/1.1\r\nhost: m\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello";
    client.write_all(head).expect("sent");
    assert!(read_head(&mut client).expect("interim").contains(" 100 "));
    assert_eq!(read_answer(&mut client).2, b"hello");
}

#[test]
fn a_server_that_does_not_answer_in_time_is_504() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let _ = stream.read(&mut [0]);
    });
    let proxy = Running::before(upstream, &["--answer-timeout", "200ms"]);
    let mut client = proxy.connect();
    post(&mut client, b"");
    assert_eq!(read_answer(&mut client).0, 504);
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(504), Outcome::TimedOut)
    );
}

#[test]
fn a_server_that_falls_silent_in_its_answer_is_cut() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        let _ = stream.write_all(half);
        let _ = stream.read(&mut [0]);
    });
    let proxy = Running::before(upstream, &["--answer-timeout", "200ms"]);
    let mut client = proxy.connect();
    post(&mut client, b"");
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(all.ends_with(b"half"));
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(200), Outcome::TimedOut)
    );
}

#[test]
fn an_idle_connection_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let (open, gate) = sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let upstream = server(move |_, mut stream| {
        while let Some(head) = read_head(&mut stream) {
            if head.starts_with("GET /slow") {
                let passed = gate.lock().expect("no panic").recv_timeout(PATIENCE);
                passed.expect("the test opens the gate");
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let proxy = Running::before(upstream, &["--idle-timeout", "100ms"]);
    let mut busy = proxy.connect();
    let slow = b"GET /slow HTTP/1.1\r\nhost: m\r\n\r\n";
    busy.write_all(slow).expect("sent");
    proxy.wait_in_flight(1);
    // each of these begins later than the slow one: once they are closed, its time has passed too
    for _ in 0..2 {
        let mut idle = proxy.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
            .expect("sent");
        assert_eq!(read_answer(&mut idle).0, 200);
        assert_eq!(idle.read(&mut [0]).expect("the end"), 0);
    }
    open.send(()).expect("the server waits");
    assert_eq!(read_answer(&mut busy).0, 200);
}

#[test]
fn a_post_does_not_meet_a_connection_that_was_closed_while_idle() {
    let (closed, is_closed) = sync_channel(16);
    let upstream = server(move |_, mut stream| {
        let head = read_head(&mut stream).expect("a request");
        let mut body = vec![0; content_length(&head)];
        stream.read_exact(&mut body).expect("the body");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        drop(stream);
        let _ = closed.send(Instant::now());
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    for _ in 0..10 {
        post(&mut client, b"once");
        assert_eq!(read_answer(&mut client).0, 200);
        assert_eq!(proxy.event().outcome, Outcome::Completed);
        let at = is_closed.recv_timeout(PATIENCE).expect("it closes");
        while at.elapsed() < Duration::from_millis(10) {
            thread::yield_now();
        }
    }
}

#[test]
fn a_post_that_was_sent_is_never_sent_twice() {
    let (told, seen) = sync_channel(16);
    let upstream = server(move |_, mut stream| {
        for n in 0..2 {
            let Some(head) = read_head(&mut stream) else {
                return;
            };
            let mut body = vec![0; content_length(&head)];
            let _ = stream.read_exact(&mut body);
            let _ = told.send(());
            if n == 0 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    post(&mut client, b"x");
    assert_eq!(read_answer(&mut client).0, 200);
    post(&mut client, b"x");
    assert_eq!(read_answer(&mut client).0, 502);
    assert_eq!(proxy.event().status(), Some(200));
    assert_eq!(proxy.event().status(), Some(502));
    assert_eq!(seen.try_iter().count(), 2);
}

#[test]
fn what_the_drain_cuts_off_is_aborted_and_nobodys_going_away() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        let _ = stream.write_all(half);
        let _ = stream.read(&mut [0]);
    });
    let mut proxy = Running::before(upstream, &["--drain", "100ms"]);
    let mut client = proxy.connect();
    post(&mut client, b"");
    let head = read_head(&mut client).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    proxy.shutdown.cancel();
    let ended = proxy.thread.take().expect("running").join();
    ended.expect("no panic").expect("it ends well");
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(200), Outcome::Aborted)
    );
}

#[test]
fn a_client_that_stops_in_its_body_is_gone() {
    let upstream = server(|_, mut stream| {
        read_head(&mut stream);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = Running::before(upstream, &[]);
    let mut client = proxy.connect();
    let head = b"POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 10\r\n\r\nhalf";
    client.write_all(head).expect("sent");
    proxy.wait_in_flight(1);
    drop(client);
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(499), Outcome::ClientGone)
    );
}

#[test]
fn the_front_doors_time_counts_into_the_queue() {
    let proxy = Running::before(server(|_, stream| echo(stream)), &[]);
    let mut client = proxy.connect();
    let before = modelmeter::clock::now_us() - 3_000_000;
    let request = format!("GET / HTTP/1.1\r\nhost: m\r\nx-request-start: t={before}\r\n\r\n");
    client.write_all(request.as_bytes()).expect("sent");
    assert_eq!(read_answer(&mut client).0, 200);
    let event = proxy.event();
    let (queue, inference) = (
        event.queue_us().expect("sent"),
        event.inference_us().expect("sent"),
    );
    assert!(queue >= 3_000_000 && event.first_byte_us().expect("a byte") >= queue);
    assert!(event.end_to_end_us >= queue + inference);
}
