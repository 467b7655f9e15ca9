//! A proxy on a thread of its own, servers that follow a script, and clients that read answers byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use modelmeter::agent::condition::Condition;
use modelmeter::agent::meter::Meter;
use modelmeter::agent::proxy::ProxyArgs;
use modelmeter::core::event::{ReplicaState, RequestEvent};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub const ACTIVE: Condition = Condition {
    state: ReplicaState::Active,
    restarts: 0,
    load_us: None,
};

#[derive(Parser)]
pub struct Flags {
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

/// A proxy on its thread; it ends with this value.
pub struct Running {
    pub address: SocketAddr,
    pub meter: Arc<Meter>,
    pub condition: watch::Sender<Condition>,
    pub shutdown: CancellationToken,
    pub thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    pub fn before(upstream: SocketAddr, flags: &[&str]) -> Self {
        Self::with(&format!("http://{upstream}"), flags)
    }

    pub fn with(upstream: &str, flags: &[&str]) -> Self {
        let mut all = vec!["test", "--listen", "127.0.0.1:0", "--upstream", upstream];
        all.extend(flags);
        let flags = Flags::try_parse_from(all).expect("right flags");
        let (condition, watched) = watch::channel(ACTIVE);
        let meter = Arc::new(Meter::new(Instant::now()));
        let proxy = flags
            .proxy
            .bind(meter.clone(), watched)
            .expect("a free port")
            .expect("a proxy");
        let address = proxy.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        Self {
            address,
            meter,
            condition,
            shutdown,
            thread: Some(thread::spawn(move || proxy.run(&stop))),
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    pub fn event(&self) -> RequestEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.meter.take() {
                return event;
            }
            assert!(Instant::now() < deadline, "no request was recorded");
            thread::yield_now();
        }
    }

    pub fn wait_in_flight(&self, n: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.meter.n_in_flight() != n {
            assert!(Instant::now() < deadline, "never {n} in flight");
            thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().expect("the proxy's thread ends");
            ended.expect("the proxy ends well");
        }
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a deadline for reads");
    stream
}

/// A server that plays `script` with each connection, one after another.
pub fn server(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let script = Arc::new(script);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a deadline for reads");
            let script = script.clone();
            thread::spawn(move || script(number, stream));
        }
    });
    address
}

/// The bytes up to the blank line; nothing where the connection ends first.
pub fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).expect("a head is text"))
}

pub fn content_length(head: &str) -> usize {
    head.lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim().parse().ok()?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        })
        .unwrap_or(0)
}

/// A request's body, in chunks or by its length; nothing where it breaks off.
pub fn read_body(stream: &mut TcpStream, head: &str) -> Option<Vec<u8>> {
    if !head.contains("transfer-encoding: chunked") {
        let mut body = vec![0; content_length(head)];
        stream.read_exact(&mut body).ok()?;
        return Some(body);
    }
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            line.push(byte[0]);
        }
        let text = std::str::from_utf8(&line).ok()?.trim();
        let size = usize::from_str_radix(text, 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Some(body);
        }
    }
}

/// Status line's code, and the body by its length.
pub fn read_answer(stream: &mut TcpStream) -> (u16, String, Vec<u8>) {
    let head = read_head(stream).expect("an answer");
    let status = head[9..12].parse().expect("a status");
    let mut body = vec![0; content_length(&head)];
    stream.read_exact(&mut body).expect("the body");
    (status, head, body)
}

/// Answers each request with its own body.
pub fn echo(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream) {
        let mut body = vec![0; content_length(&head)];
        stream.read_exact(&mut body).expect("the request's body");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).expect("a client");
        stream.write_all(&body).expect("a client");
    }
}

pub fn post(stream: &mut TcpStream, body: &[u8]) {
    let head = format!(
        "POST /v1/predict?x=1 HTTP/1.1\r\nhost: model\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
}
