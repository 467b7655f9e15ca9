//! What the clients saw against what was recorded, and connections by the thousand.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

const CLIENTS: usize = 8;
const REQUESTS: usize = 150;

/// Plays what the path asks for.
fn actor(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream) {
        let mut body = vec![0; content_length(&head)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = match path {
            "/cut" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
                return;
            }
            "/die" => return,
            "/stall" => {
                let _ = stream.read(&mut [0]);
                return;
            }
            status => format!(
                "HTTP/1.1 {} Told\r\ncontent-length: 4\r\n\r\ntold",
                &status[1..]
            ),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// What one client saw, in the words of the events.
fn ask(address: SocketAddr, client: &mut Option<TcpStream>, path: &str) -> (u16, Outcome) {
    let stream = client.get_or_insert_with(|| connect(address));
    let request = format!("POST {path} HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n\r\nhi");
    stream.write_all(request.as_bytes()).expect("sent");
    if path == "/stall" {
        *client = None;
        return (499, Outcome::ClientGone);
    }
    let head = read_head(stream).expect("an answer");
    let status: u16 = head[9..12].parse().expect("a status");
    let mut body = vec![0; content_length(&head)];
    if stream.read_exact(&mut body).is_err() {
        *client = None;
        return (status, Outcome::Aborted);
    }
    let of_agent = body.starts_with(b"modelmeter agent");
    (
        status,
        if of_agent {
            Outcome::Aborted
        } else {
            Outcome::Completed
        },
    )
}

#[test]
fn what_clients_saw_is_what_was_recorded() {
    let proxy = Running::before(server(|_, stream| actor(stream)), &[]);
    let seen = Mutex::new(BTreeMap::<(u16, &str), usize>::new());
    let paths = [
        "/200", "/404", "/200", "/cut", "/500", "/200", "/die", "/503", "/stall", "/302",
    ];
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (seen, proxy) = (&seen, &proxy);
            scope.spawn(move || {
                let mut stream = None;
                for n in 0..REQUESTS {
                    let path = paths[(n * 7 + client) % paths.len()];
                    let (status, outcome) = ask(proxy.address, &mut stream, path);
                    let mut seen = seen.lock().expect("no panic");
                    *seen.entry((status, outcome.symbol())).or_default() += 1;
                }
            });
        }
    });
    let mut recorded = BTreeMap::<(u16, &str), usize>::new();
    for _ in 0..CLIENTS * REQUESTS {
        let event = proxy.event();
        let key = (event.status().expect("a status"), event.outcome.symbol());
        *recorded.entry(key).or_default() += 1;
    }
    assert_eq!(seen.into_inner().expect("no panic"), recorded);
    proxy.wait_in_flight(0);
    assert!(proxy.meter.take().is_none());
}

/// Ten thousand, or as many as this process may open: both ends of each are here, two descriptors a connection.
fn n_idle() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("linux");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line
        .and_then(|line| line.split_whitespace().nth(3))
        .expect("a limit");
    let soft = soft.parse::<usize>().unwrap_or(usize::MAX);
    (soft.saturating_sub(1_000) / 2).min(10_000)
}

#[test]
fn idle_connections_by_the_thousand_disturb_nobody() {
    // however long it takes to open them all here
    let flags = ["--head-timeout", "300s"];
    let proxy = Running::before(server(|_, stream| echo(stream)), &flags);
    let n = n_idle();
    let mut idle: Vec<TcpStream> = (0..n).map(|_| proxy.connect()).collect();
    let mut busy = proxy.connect();
    for _ in 0..20 {
        post(&mut busy, b"busy");
        assert_eq!(read_answer(&mut busy).2, b"busy");
    }
    // and each of them still works
    for client in idle.iter_mut().step_by(97) {
        post(client, b"awake");
        assert_eq!(read_answer(client).2, b"awake");
    }
}
