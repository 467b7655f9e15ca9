//! A blocking client of ClickHouse's HTTP interface, small enough to be seen through: one request a
//! connection. It shares nothing with the clients that the product uses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Map, Value as Json};

/// Longer than the slowest query of these tests on a busy machine.
pub const ANSWER: Duration = Duration::from_secs(60);

/// Doubles come back to the last bit, NaN as a word that is no number, wide integers as numbers.
const FORMAT: &str = "output_format_json_quote_64bit_integers=0&output_format_json_quote_denormals=1\
    &output_format_json_quote_decimals=0";

pub type Record = Map<String, Json>;

#[derive(Clone)]
pub struct Sql {
    authority: String,
    database: String,
}

impl Sql {
    pub fn new(url: &str, database: &str) -> Self {
        let authority = url
            .strip_prefix("http://")
            .expect("an http URL")
            .trim_end_matches('/');
        Self {
            authority: authority.to_owned(),
            database: database.to_owned(),
        }
    }

    /// # Errors
    /// What the engine says, or that it does not answer.
    pub fn try_execute(&self, statement: &str, body: &[u8]) -> Result<String, String> {
        let io = |e: std::io::Error| format!("no answer: {e}");
        let mut stream = TcpStream::connect(&self.authority).map_err(io)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(io)?;
        let target = format!(
            "/?database={}&{FORMAT}&query={}",
            self.database,
            encode(statement)
        );
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.authority,
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .map_err(io)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(io)?;
        let (status, text) = parse(&answer)?;
        // An exception after the first rows cannot change the status any more.
        match status {
            200 if !text.contains("DB::Exception") => Ok(text),
            _ => Err(format!("{status}: {text}")),
        }
    }

    pub fn execute(&self, statement: &str) {
        self.try_execute(statement, b"")
            .unwrap_or_else(|e| panic!("{statement}\n{e}"));
    }

    pub fn insert(&self, statement: &str, body: &[u8]) {
        self.try_execute(statement, body)
            .unwrap_or_else(|e| panic!("{statement}\n{e}"));
    }

    /// # Errors
    /// What the engine says, or that it does not answer.
    pub fn try_rows(&self, query: &str) -> Result<Vec<Record>, String> {
        let text = self.try_execute(&format!("{query} FORMAT JSONEachRow"), b"")?;
        let rows = text.lines().filter(|line| !line.is_empty());
        rows.map(|line| serde_json::from_str(line).map_err(|e| format!("{e}: {line}")))
            .collect()
    }

    pub fn rows(&self, query: &str) -> Vec<Record> {
        self.try_rows(query)
            .unwrap_or_else(|e| panic!("{query}\n{e}"))
    }
}

/// Status and body of a plain `GET`.
///
/// # Errors
/// That nobody answers, or not whole.
pub fn get(authority: &str, target: &str) -> Result<(u16, String), String> {
    let io = |e: std::io::Error| format!("no answer: {e}");
    let mut stream = TcpStream::connect(authority).map_err(io)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(io)?;
    let head = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(io)?;
    parse(&answer)
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

fn parse(answer: &[u8]) -> Result<(u16, String), String> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or("an answer without a head")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("an answer without a status")?;
    let body = &answer[end + 4..];
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(body)?
    } else {
        body.to_vec()
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .and_then(|l| l.trim().parse::<usize>().ok());
    match length {
        Some(length) if body.len() != length => Err("an answer cut short".to_owned()),
        _ => Ok((status, String::from_utf8_lossy(&body).into_owned())),
    }
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .ok_or("an answer cut short")?;
        let size = std::str::from_utf8(&rest[..line])
            .ok()
            .and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
        let size = size.ok_or("a chunk without a size")?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend(rest.get(..size).ok_or("an answer cut short")?);
        rest = rest.get(size + 2..).ok_or("an answer cut short")?;
    }
}
