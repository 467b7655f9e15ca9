//! Clients that are not ours through the agent: curl, h2load, gRPC's own library and the `websockets` one, the latter two
//! on both sides. What they say of the answers must be what the model server gave.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};

use modelmeter::core::event::{Outcome, RequestEvent};

use crate::agent_proxy::support::{Running, content_length, read_body, read_head, server};
use crate::support::root;

/// What `h2load` asks for in each run.
const MANY: usize = 2_000;

/// Runs a client to its end; what it printed, where it was content.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<String, String> {
    let mut child = Command::new(program)
        .current_dir(root())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} is missing ({error}): `make prerequisites` installs it")
        });
    let mut stdin = child.stdin.take().expect("piped");
    // a client that wants none of it may have gone
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(told);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}\n{told}\n{error}", output.status))
}

fn curl(arguments: &[&str], input: &[u8]) -> String {
    let fixed = ["--silent", "--show-error", "--max-time", "60"];
    run("curl", &[&fixed, arguments].concat(), input).unwrap_or_else(|error| panic!("{error}"))
}

/// Answers with the head that it got, and the body's length behind it; `/trailers` in chunks, with a trailer.
fn mirror(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream) {
        if head.contains("expect: 100-continue") {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let Some(body) = read_body(&mut stream, &head) else {
            return;
        };
        let seen = format!("{}bytes: {}", head.trim_end_matches("\r\n"), body.len());
        let answer = if head.contains(" /trailers") {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n"
                .to_owned()
        } else if head.starts_with("HEAD") {
            "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_owned()
        } else {
            let length = seen.len();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{seen}")
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn completed(proxy: &Running) -> RequestEvent {
    let event = proxy.event();
    assert_eq!(
        (event.status(), event.outcome),
        (Some(200), Outcome::Completed)
    );
    event
}

#[test]
fn curl_by_http1() {
    let proxy = Running::before(server(|_, stream| mirror(stream)), &[]);
    let url = format!("http://{}/v1/predict?a=b%20c", proxy.address);
    let told = curl(&["-w", " %{num_connects}", &url, &url], b"");
    assert!(
        told.starts_with("GET /v1/predict?a=b%20c HTTP/1.1"),
        "{told}"
    );
    assert!(told.ends_with(" 0"), "one connection for both: {told}");
    completed(&proxy);
    completed(&proxy);

    let head = curl(&["--head", &url], b"");
    assert_eq!(content_length(&head), 1234, "{head}");
    assert_eq!(completed(&proxy).response_bytes, 0);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("upload");
    std::fs::write(&file, vec![7; 3_000_000]).expect("written");
    let file = file.display().to_string();
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "50"];
    let told = curl(&[&expect[..], &["-T", &file, &url]].concat(), b"");
    assert!(told.starts_with("PUT "), "{told}");
    assert!(told.contains("expect: 100-continue"), "{told}");
    assert!(told.ends_with("bytes: 3000000"), "{told}");
    assert_eq!(completed(&proxy).request_bytes, 3_000_000);

    let chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", "@-"];
    let told = curl(&[&chunked[..], &[&url]].concat(), &vec![b'x'; 200_000]);
    assert!(told.ends_with("bytes: 200000"), "{told}");
    assert_eq!(completed(&proxy).request_bytes, 200_000);

    let trailers = format!("http://{}/trailers", proxy.address);
    let told = curl(&["--include", "-H", "TE: trailers", &trailers], b"");
    assert!(told.contains("hi") && told.contains("x-sum: 42"), "{told}");
    completed(&proxy);
}

#[test]
fn curl_by_http2_in_the_clear() {
    let proxy = Running::before(server(|_, stream| mirror(stream)), &[]);
    let url = format!("http://{}/v1/predict?a=b", proxy.address);
    let known = ["--http2-prior-knowledge", "-w", "\n%{http_version}"];
    let body = vec![b'x'; 1_000_000];
    let told = curl(
        &[&known[..], &["--data-binary", "@-", &url]].concat(),
        &body,
    );
    assert!(told.starts_with("POST /v1/predict?a=b HTTP/1.1"), "{told}");
    assert!(told.ends_with("bytes: 1000000\n2"), "{told}");
    assert_eq!(completed(&proxy).request_bytes, 1_000_000);
    let told = curl(&[&known[..], &["--head", &url]].concat(), b"");
    assert!(told.contains("content-length: 1234"), "{told}");
    completed(&proxy);
    let trailers = format!("http://{}/trailers", proxy.address);
    let told = curl(&["--http2-prior-knowledge", "--include", &trailers], b"");
    assert!(told.contains("hi") && told.contains("x-sum: 42"), "{told}");
    completed(&proxy);
}

#[test]
fn h2load_by_either_http() {
    let proxy = Running::before(server(|_, stream| mirror(stream)), &[]);
    let url = format!("http://{}/", proxy.address);
    let n = MANY.to_string();
    for kind in [&["--h1"][..], &["-m", "10"]] {
        let told = run(
            "h2load",
            &[&["-n", &n, "-c", "4"], kind, &[&url]].concat(),
            b"",
        );
        let told = told.unwrap_or_else(|error| panic!("{error}"));
        let right = format!("{n} done, {n} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(told.contains(&right), "{kind:?}: {told}");
        let mut recorded = BTreeMap::new();
        for _ in 0..MANY {
            let event = proxy.event();
            let key = (event.status(), event.outcome.symbol());
            *recorded.entry(key).or_insert(0) += 1;
        }
        let expected = BTreeMap::from([((Some(200), Outcome::Completed.symbol()), MANY)]);
        assert_eq!(recorded, expected, "{kind:?}");
    }
    proxy.wait_in_flight(0);
    assert!(proxy.meter.take().is_none());
}

fn python() -> String {
    let python = root().join("deploy/local/parts/venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `make test` makes it",
        python.display()
    );
    python.display().to_string()
}

/// A server in Python, which ends with its input.
struct Served {
    child: Child,
    address: SocketAddr,
    _input: ChildStdin,
}

impl Served {
    fn start(script: &str) -> Self {
        let mut child = Command::new(python())
            .current_dir(root())
            .args([script, "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let input = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("it starts").expect("a line");
        let port: u16 = port.parse().expect("a port");
        Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _input: input,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the client says, and how often each status and outcome was recorded.
fn between(script: &str) -> (String, BTreeMap<(i64, &'static str), usize>) {
    let served = Served::start(script);
    let proxy = Running::before(served.address, &[]);
    let address = proxy.address.to_string();
    let told = run(&python(), &[script, "call", &address], b"");
    let told = told.unwrap_or_else(|error| panic!("{error}"));
    proxy.wait_in_flight(0);
    let mut recorded = BTreeMap::new();
    while let Some(event) = proxy.meter.take() {
        let status = i64::from(event.status().expect("a status"));
        *recorded
            .entry((status, event.outcome.symbol()))
            .or_insert(0) += 1;
    }
    (told, recorded)
}

#[test]
fn grpc_in_all_four_kinds_of_calls() {
    let (told, mut recorded) = between("tests/integration/python/agent_grpc.py");
    assert!(told.contains("as without the agent"), "{told}");
    let completed = Outcome::Completed.symbol();
    let gone = Outcome::ClientGone.symbol();
    // A deadline is known to both sides. Whoever sees first that it passed ends the call: the
    // client by a reset, the server by its status.
    let by_server = recorded.remove(&(504, completed)).unwrap_or_default();
    *recorded.entry((499, gone)).or_default() += by_server;
    assert!(
        by_server <= 1,
        "the server answered {by_server} calls too late"
    );
    let expected = BTreeMap::from([
        // four unary, two counts, a sum, a talk, and four hundred at once
        ((200, completed), 408),
        ((429, completed), 1),
        // one cancelled, one whose deadline passed
        ((499, gone), 2),
        ((501, completed), 1),
        ((503, completed), 1),
    ]);
    assert_eq!(recorded, expected);
}

#[test]
fn websockets_on_both_sides() {
    let (told, recorded) = between("tests/integration/python/agent_websocket.py");
    assert!(told.contains("as without the agent"), "{told}");
    let expected = BTreeMap::from([((101, Outcome::Completed.symbol()), 16)]);
    assert_eq!(recorded, expected);
}
