//! A proxy between one processor and the engine that fails as networks, balancers and dying servers do: at the next
//! guarded insert, or at the next look at a ledger. What it is not told to spoil it passes on whole. It judges nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{sql, wait_until};

/// What a spoilt exchange looks like from the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The engine gets half of the insert, then both connections end.
    CutRequest,
    /// The insert is carried out; half of the answer's head comes back.
    CutAnswer,
    /// The insert arrives late.
    StallRequest(Duration),
    /// The answer arrives late.
    StallAnswer(Duration),
    /// The engine gets it twice, one after the other; the second answer comes back.
    Twice,
    /// It is carried out, and status 200 comes with an exception's code.
    ExceptionThoughStored,
    /// The same, and the engine never saw it.
    ExceptionAndNotStored,
    /// Status 200, and the engine never saw it.
    FalseOk,
    /// Status 500 without a word, though it is carried out.
    ErrorThoughStored,
    /// Status 500 without a word, and the engine never saw it.
    ErrorAndNotStored,
    /// This connection and the following ones end as soon as something is asked, ledgers too.
    Refuse,
    /// The engine gives this insert and the following ones too little memory.
    LittleMemory,
    /// The answer of a look at a ledger is cut in its middle.
    CutLedger,
}

/// Where a request is kept until the test has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    BeforeInsert,
    /// Half of it is with the engine.
    DuringInsert,
    /// It is carried out; the processor does not know.
    AfterInsert,
    /// The ledger is asked for.
    BeforeLedger,
    /// The ledger has answered; the processor neither knows nor has committed.
    AfterLedger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Fail(Fault),
    Hold(Hold),
}

/// Requests that `Refuse` turns away: a flush of one stream and more.
const REFUSALS: u32 = 6;

/// Enough of a request to tell what it is.
const HEAD: usize = 1 << 14;

/// A held request is given up when the test is over.
const HELD_AT_MOST: Duration = Duration::from_secs(300);

/// How the target of an insert begins, and what makes the engine refuse it with code 241.
const TARGET: &[u8] = b"POST /?";
const LITTLE_MEMORY: &[u8] = b"max_memory_usage=1000&";

/// Between two tries of a late insert while another one runs.
const BUSY: Duration = Duration::from_millis(20);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const ERROR: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const EXCEPTION: &str = "HTTP/1.1 200 OK\r\nX-ClickHouse-Exception-Code: 241\r\nContent-Length: 42\r\n\r\n\
    Code: 241. DB::Exception: a limit was hit\n";

#[derive(Default)]
struct State {
    armed: Option<(Act, u32)>,
    /// Requests spoilt since the latest `arm`.
    struck: u32,
    held: bool,
    /// What to do with the held request.
    decision: Option<Decision>,
    /// How the engine answered a held request that was let go.
    late_answer: Option<String>,
    /// Inserts that the guard refused.
    fenced: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    GoOn,
    Drop,
}

/// The proxy; its threads end with the process.
#[derive(Clone)]
pub struct FaultProxy {
    engine: String,
    state: Arc<(Mutex<State>, Condvar)>,
    address: String,
}

/// What the two sides' connections come to after a request.
enum Then {
    Answer(Vec<u8>),
    Close,
}

impl FaultProxy {
    /// Listens on a free port before the engine at this URL.
    pub fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let engine = url.strip_prefix("http://").expect("an http URL").to_owned();
        let proxy = Self {
            engine,
            state: Arc::default(),
            address,
        };
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let proxy = accepting.clone();
                std::thread::spawn(move || proxy.serve(client));
            }
        });
        proxy
    }

    pub fn url(&self) -> &str {
        &self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("nothing panics with it")
    }

    /// Spoils the next request that it fits.
    pub fn arm(&self, act: Act) {
        let n = match act {
            Act::Fail(Fault::Refuse | Fault::LittleMemory) => REFUSALS,
            _ => 1,
        };
        let mut state = self.state();
        state.armed = Some((act, n));
        state.struck = 0;
        state.late_answer = None;
        state.decision = None;
    }

    pub fn has_struck(&self) -> bool {
        let state = self.state();
        state.struck > 0 && state.armed.is_none()
    }

    pub fn is_holding(&self) -> bool {
        self.state().held
    }

    /// Inserts that the guard refused so far.
    pub fn fenced(&self) -> u64 {
        self.state().fenced
    }

    /// Throws the held request away, with its connections.
    pub fn drop_held(&self) {
        self.decide(Decision::Drop);
    }

    /// Lets the held request go on, and gives the engine's answer to it.
    pub fn release(&self) -> String {
        self.decide(Decision::GoOn);
        wait_until("the engine answers the late request", sql::ANSWER, || {
            self.state().late_answer.is_some()
        });
        self.state().late_answer.take().unwrap_or_default()
    }

    fn decide(&self, decision: Decision) {
        self.state().decision = Some(decision);
        self.state.1.notify_all();
        // the next `arm` must not take the decision away before it was seen
        wait_until("the held request is decided on", sql::ANSWER, || {
            !self.is_holding()
        });
    }

    /// Takes the armed act if it fits this request.
    fn act_for(&self, request: &[u8]) -> Option<Act> {
        let (is_insert, is_ledger) = kind_of(request);
        let mut state = self.state();
        let (act, n) = state.armed?;
        let fits = match act {
            Act::Fail(Fault::Refuse) => is_insert || is_ledger,
            Act::Fail(Fault::CutLedger) | Act::Hold(Hold::BeforeLedger | Hold::AfterLedger) => {
                is_ledger
            }
            _ => is_insert,
        };
        if !fits {
            return None;
        }
        state.armed = (n > 1).then_some((act, n - 1));
        state.struck += 1;
        Some(act)
    }

    /// Keeps the calling connection's request until the test has decided.
    fn hold(&self) -> Decision {
        let mut state = self.state();
        state.held = true;
        let (mut state, _) = self
            .state
            .1
            .wait_timeout_while(state, HELD_AT_MOST, |state| state.decision.is_none())
            .expect("nothing panics with it");
        state.held = false;
        state.decision.take().unwrap_or(Decision::Drop)
    }

    /// One client's connection: a whole request at a time, the engine asked anew for each.
    fn serve(&self, mut client: TcpStream) {
        let mut pending = Vec::new();
        while let Some(request) = next_message(&mut client, &mut pending) {
            let then = match self.act_for(&request) {
                None => self.pass(&request),
                Some(Act::Fail(fault)) => self.fail(fault, &request, &mut client),
                Some(Act::Hold(hold)) => self.hold_at(hold, &request),
            };
            match then {
                Then::Answer(answer) if client.write_all(&answer).is_ok() => {}
                _ => break,
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }

    fn pass(&self, request: &[u8]) -> Then {
        self.ask(request).map_or(Then::Close, Then::Answer)
    }

    fn fail(&self, fault: Fault, request: &[u8], client: &mut TcpStream) -> Then {
        let say = |text: &str| Then::Answer(text.as_bytes().to_vec());
        match fault {
            Fault::CutRequest => {
                self.send_half(request);
                Then::Close
            }
            Fault::CutAnswer | Fault::CutLedger => {
                if let Some(answer) = self.ask(request) {
                    let _ = client.write_all(&answer[..answer.len() / 2]);
                }
                Then::Close
            }
            Fault::StallRequest(time) => {
                std::thread::sleep(time);
                self.pass(request)
            }
            Fault::StallAnswer(time) => {
                let then = self.pass(request);
                std::thread::sleep(time);
                then
            }
            Fault::Twice => {
                let _ = self.ask(request);
                self.pass(request)
            }
            Fault::ExceptionThoughStored => {
                let _ = self.ask(request);
                say(EXCEPTION)
            }
            Fault::ErrorThoughStored => {
                let _ = self.ask(request);
                say(ERROR)
            }
            Fault::ExceptionAndNotStored => say(EXCEPTION),
            Fault::FalseOk => say(OK),
            Fault::ErrorAndNotStored => say(ERROR),
            Fault::LittleMemory => {
                let rest = request.strip_prefix(TARGET).expect("an insert's target");
                self.pass(&[TARGET, LITTLE_MEMORY, rest].concat())
            }
            Fault::Refuse => Then::Close,
        }
    }

    fn hold_at(&self, hold: Hold, request: &[u8]) -> Then {
        match hold {
            Hold::BeforeInsert | Hold::BeforeLedger => {
                if self.hold() == Decision::GoOn {
                    let answer = self.ask_until_taken(request);
                    self.state().late_answer = Some(answer);
                }
                Then::Close
            }
            Hold::DuringInsert => {
                let half = self.send_half(request);
                self.hold();
                drop(half);
                Then::Close
            }
            Hold::AfterInsert | Hold::AfterLedger => {
                let _ = self.ask(request);
                self.hold();
                Then::Close
            }
        }
    }

    fn send_half(&self, request: &[u8]) -> Option<TcpStream> {
        let mut engine = TcpStream::connect(&self.engine).ok()?;
        let head = head_end(request).unwrap_or(0);
        engine
            .write_all(&request[..head + (request.len() - head) / 2])
            .ok()?;
        Some(engine)
    }

    /// The engine's whole answer; none when it is down or goes down.
    fn ask(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut engine = TcpStream::connect(&self.engine).ok()?;
        engine.set_read_timeout(Some(sql::ANSWER)).ok()?;
        engine.write_all(request).ok()?;
        let answer = next_message(&mut engine, &mut Vec::new())?;
        let start = String::from_utf8_lossy(&answer[..answer.len().min(HEAD)]);
        if start.contains("fenced") {
            self.state().fenced += 1;
        }
        Some(answer)
    }

    /// 216 says that another insert into the table is running, so that the guard was not asked yet.
    fn ask_until_taken(&self, request: &[u8]) -> String {
        let started = Instant::now();
        loop {
            let answer = self.ask(request).unwrap_or_default();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            if !answer.contains("Code: 216.") || started.elapsed() > sql::ANSWER {
                return answer;
            }
            std::thread::sleep(BUSY);
        }
    }
}

/// Whether it is a guarded insert, and whether it asks for a ledger. Both stand in the target or at the body's beginning.
fn kind_of(request: &[u8]) -> (bool, bool) {
    let start = String::from_utf8_lossy(&request[..request.len().min(HEAD)]);
    let is_insert = start.contains("INSERT");
    (
        is_insert && start.contains("throwIf"),
        !is_insert && start.contains("ledger_to"),
    )
}

/// Reads until a whole request or answer is there; none when the other side has gone, whatever it left unfinished.
pub fn next_message(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = message_length(pending) {
            let rest = pending.split_off(length);
            return Some(std::mem::replace(pending, rest));
        }
        let mut chunk = [0; 1 << 16];
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => pending.extend(&chunk[..n]),
            _ => return None,
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4)
}

/// The length of the first message, if it is there whole.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head_end = head_end(bytes)?;
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
