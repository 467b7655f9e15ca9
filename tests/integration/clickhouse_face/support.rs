//! A `modelmeter clickhouse` of a test's own, and HTTP as bytes on a socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The folder with libchdb.so: `MODELMETER_PARTS`, or where `make local-parts` puts it.
pub fn parts() -> PathBuf {
    std::env::var_os("MODELMETER_PARTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local/parts"),
        PathBuf::from,
    )
}

pub fn command(dir: &Path, parts: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelmeter"));
    command
        .args(["clickhouse", "--port", "0", "--dir"])
        .arg(dir)
        .arg("--parts")
        .arg(parts)
        // The engine must run in UTC wherever it runs.
        .env("TZ", "America/New_York");
    command
}

/// One process, killed when dropped.
pub struct Face {
    pub child: Child,
    pub authority: String,
    _stdout: BufReader<ChildStdout>,
}

impl Face {
    pub fn start(dir: &Path) -> Self {
        let mut child = command(dir, &parts())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("its first line");
        let authority = line
            .trim_end()
            .strip_prefix("clickhouse: listening on http://")
            .unwrap_or_else(|| panic!("instead of its address it said {line:?}"))
            .to_owned();
        Self {
            child,
            authority,
            _stdout: stdout,
        }
    }

    pub fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(format!("http://{}", self.authority))
            .with_database("default")
    }

    /// `POST` of `body` with `query` behind the `?`, percent-encoded here.
    pub fn post(&self, parameters: &[(&str, &str)], body: &[u8]) -> Answer {
        self.request("POST", parameters, &[], body)
    }

    /// The answer's text, of a query that must succeed.
    pub fn sql(&self, sql: &str) -> String {
        let answer = self.post(&[], sql.as_bytes());
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.text()
    }

    pub fn request(
        &self,
        method: &str,
        parameters: &[(&str, &str)],
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut socket = self.send(&head(method, parameters, headers, Some(body.len())));
        // A server that refuses early may have closed already.
        drop(socket.write_all(body));
        Answer::read(socket)
    }

    /// A connection with these bytes sent.
    pub fn send(&self, bytes: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.authority).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.write_all(bytes.as_bytes()).expect("sent");
        socket
    }

    pub fn wait_until(&self, sql: &str, wanted: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let got = self.sql(sql);
            if got.trim_end() == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{sql} is {got:?} and not {wanted:?}"
            );
            std::thread::yield_now();
        }
    }

    /// The number of statements under way that hold `text`, this question itself not among them.
    pub fn wait_until_running(&self, text: &str, n: u32) {
        let sql = format!(
            "SELECT count() FROM system.processes WHERE query LIKE '%{text}%' AND query NOT LIKE '%processes%'"
        );
        self.wait_until(&sql, &n.to_string());
    }
}

impl Drop for Face {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// HTTP/1.0, so that every answer ends with its connection.
pub fn head(
    method: &str,
    parameters: &[(&str, &str)],
    headers: &[&str],
    length: Option<usize>,
) -> String {
    let query: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let mut head = format!("{method} /?{} HTTP/1.0\r\nHost: x\r\n", query.join("&"));
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head
}

fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(mut socket: TcpStream) -> Self {
        let mut bytes = Vec::new();
        socket
            .read_to_end(&mut bytes)
            .expect("an answer to its end");
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        Self {
            status: status.expect("a status line"),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// ClickHouse's code, `0` without one.
    pub fn code(&self) -> u32 {
        self.header("x-clickhouse-exception-code")
            .map_or(0, |code| code.parse().expect("a number"))
    }
}

/// Ends the sending side and reads what comes.
pub fn cut(socket: TcpStream) -> Vec<u8> {
    socket.shutdown(Shutdown::Write).expect("half closed");
    let mut bytes = Vec::new();
    let mut socket = socket;
    // A connection reset is an end too.
    drop(socket.read_to_end(&mut bytes));
    bytes
}
