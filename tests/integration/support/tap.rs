//! A proxy before the engine that lets everything through, but can keep one guarded insert back, as a
//! slow network would, or tell the moment at which one is under way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{sql, wait_until};

#[derive(Default)]
enum Mode {
    #[default]
    Pass,
    /// Keep the next guarded insert.
    Hold,
    /// It was kept: the whole request.
    Held(Vec<u8>),
    /// Tell of the next guarded insert, as soon as it has been passed on whole.
    Watch,
    Seen,
}

/// The proxy; its threads end with the process.
#[derive(Clone)]
pub struct Tap {
    engine: String,
    mode: Arc<Mutex<Mode>>,
    address: String,
}

impl Tap {
    /// Listens on a free port before the engine at this URL.
    pub fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let engine = url.strip_prefix("http://").expect("an http URL").to_owned();
        let tap = Self {
            engine,
            mode: Arc::default(),
            address,
        };
        let accepting = tap.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let tap = accepting.clone();
                std::thread::spawn(move || tap.serve(client));
            }
        });
        tap
    }

    pub fn url(&self) -> &str {
        &self.address
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().expect("nothing panics with it") = mode;
    }

    pub fn hold_next_insert(&self) {
        self.set(Mode::Hold);
    }

    pub fn watch_for_insert(&self) {
        self.set(Mode::Watch);
    }

    pub fn is_holding(&self) -> bool {
        matches!(
            *self.mode.lock().expect("nothing panics with it"),
            Mode::Held(_)
        )
    }

    pub fn has_seen(&self) -> bool {
        matches!(
            *self.mode.lock().expect("nothing panics with it"),
            Mode::Seen
        )
    }

    /// Gives the engine what was kept back, and the engine's answer.
    pub fn release(&self) -> String {
        let mode = std::mem::take(&mut *self.mode.lock().expect("nothing panics with it"));
        let Mode::Held(request) = mode else {
            panic!("nothing was kept back")
        };
        let mut answer = String::new();
        // 216: another insert into the table is running, so the guard was not asked yet
        wait_until("the engine takes the late insert", sql::ANSWER, || {
            answer = self.send(&request);
            !answer.contains("Code: 216.")
        });
        answer
    }

    fn send(&self, request: &[u8]) -> String {
        let mut engine = TcpStream::connect(&self.engine).expect("the engine answers");
        engine
            .set_read_timeout(Some(sql::ANSWER))
            .expect("a timeout");
        engine.write_all(request).expect("the engine takes it");
        let mut answer = vec![0; 1 << 16];
        let n = engine.read(&mut answer).expect("the engine answers");
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }

    /// One client's connection: whole requests forward, whatever comes back.
    fn serve(&self, mut client: TcpStream) {
        let Ok(mut engine) = TcpStream::connect(&self.engine) else {
            return;
        };
        let (mut answers, mut back) = match (engine.try_clone(), client.try_clone()) {
            (Ok(answers), Ok(back)) => (answers, back),
            _ => return,
        };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Both);
        });
        let mut pending = Vec::new();
        while let Some(request) = next_request(&mut client, &mut pending) {
            let guarded = is_guarded_insert(&request);
            let mut mode = self.mode.lock().expect("nothing panics with it");
            match *mode {
                Mode::Hold if guarded => {
                    *mode = Mode::Held(request);
                    continue;
                }
                Mode::Watch if guarded => {
                    let sent = engine.write_all(&request);
                    *mode = Mode::Seen;
                    drop(mode);
                    if sent.is_err() {
                        break;
                    }
                }
                _ => {
                    drop(mode);
                    if engine.write_all(&request).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = engine.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }
}

/// The guard and the insert stand in the target or at the body's beginning.
fn is_guarded_insert(request: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&request[..request.len().min(1 << 14)]);
    let names = |word: &str| start.contains(word);
    names("INSERT") && names("throwIf")
}

/// Reads until a whole request is there; none when the client has gone, whatever it left unfinished.
fn next_request(client: &mut TcpStream, pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = request_length(pending) {
            let rest = pending.split_off(length);
            return Some(std::mem::replace(pending, rest));
        }
        let mut chunk = [0; 1 << 16];
        match client.read(&mut chunk) {
            Ok(n) if n > 0 => pending.extend(&chunk[..n]),
            _ => return None,
        }
    }
}

/// The length of the first request, if it is there whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head_end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let end = if head.contains("transfer-encoding: chunked") {
        chunks_end(bytes, head_end)?
    } else {
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
        head_end
            + length
                .and_then(|l| l.trim().parse::<usize>().ok())
                .unwrap_or(0)
    };
    (bytes.len() >= end).then_some(end)
}

fn chunks_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = bytes.get(at..)?.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at += line + 2 + size + 2;
        if size == 0 {
            return Some(at);
        }
    }
}
