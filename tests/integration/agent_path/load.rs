//! A load that knows the truth: requests that can be told apart by their sizes, sent by a few clients until it is stopped,
//! and for each whether its answer came whole.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use modelmeter::core::event::RequestEvent;

use crate::agent_proxy::support::{PATIENCE, content_length, read_head};

/// Clients, each with a connection of its own and one request at a time.
pub const CLIENTS: usize = 4;

/// The bytes of a request's body are its number modulo this, those of its answer the rest of the number.
const BASE: u64 = 1_000;

/// How long the model takes over each: some 1,500 requests a second in all.
const MODEL_US: u64 = 2_000;

/// Between two looks whether there is a target.
const PAUSE: Duration = Duration::from_millis(5);

/// The bytes of a numbered request's body and of its answer's.
pub const fn sizes_of(number: u64) -> (u64, u64) {
    (number % BASE, number / BASE)
}

/// The number of the request that an event is of.
pub const fn number_of(event: &RequestEvent) -> u64 {
    event.response_bytes * BASE + event.request_bytes
}

/// What the clients know.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// Answered whole, and when.
    pub completed: Vec<(u64, Instant)>,
    /// Broken off: the agent may have measured it or not.
    pub uncertain: Vec<u64>,
}

#[derive(Default)]
struct Shared {
    /// Where to send to; none: wait. Read for as long as a request takes.
    target: RwLock<Option<SocketAddr>>,
    next: AtomicU64,
    known: Mutex<Known>,
    is_over: AtomicBool,
}

/// Ends with this value.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// It waits for a target.
    pub fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let clients = (0..CLIENTS).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run())
        });
        Self {
            clients: clients.collect(),
            shared,
        }
    }

    /// Returns when no client is at the old target any more: what was begun there has ended.
    pub fn aim(&self, target: Option<SocketAddr>) {
        *self.shared.target.write().expect("no panic") = target;
    }

    pub fn n_completed(&self) -> usize {
        self.shared.known.lock().expect("no panic").completed.len()
    }

    pub fn known(&self) -> Known {
        self.shared.known.lock().expect("no panic").clone()
    }

    /// Waits until so many more have completed.
    pub fn wait_for_more(&self, n: usize) {
        let enough = self.n_completed() + n;
        crate::support::wait_for("the load goes on", PATIENCE, || match self.n_completed() {
            seen if seen >= enough => Ok(()),
            seen => Err(format!("{seen} of {enough}")),
        });
    }

    /// Each client ends what it has begun.
    pub fn stop(mut self) -> Known {
        self.end();
        self.known()
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            // a client that failed has said so by its panic
            let ended = client.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client failed");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self) {
        let mut connection: Option<(SocketAddr, TcpStream)> = None;
        while !self.is_over.load(Ordering::SeqCst) {
            let target = self.target.read().expect("no panic");
            let Some(address) = *target else {
                drop(target);
                std::thread::sleep(PAUSE);
                continue;
            };
            let kept = connection.take().filter(|(to, _)| *to == address);
            let Some((_, mut stream)) = kept.or_else(|| open(address)) else {
                continue;
            };
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let is_whole = ask(&mut stream, number);
            let mut known = self.known.lock().expect("no panic");
            if is_whole {
                known.completed.push((number, Instant::now()));
                connection = Some((address, stream));
            } else {
                known.uncertain.push(number);
            }
        }
    }
}

fn open(address: SocketAddr) -> Option<(SocketAddr, TcpStream)> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some((address, stream))
}

/// Whether the answer came whole, and is the model's.
fn ask(stream: &mut TcpStream, number: u64) -> bool {
    let (n_up, n_down) = sizes_of(number);
    let head = format!(
        "POST /200/{n_down}/{MODEL_US} HTTP/1.1\r\nhost: m\r\ncontent-length: {n_up}\r\n\r\n"
    );
    let body = vec![b'x'; n_up as usize];
    if stream
        .write_all(&[head.as_bytes(), &body].concat())
        .is_err()
    {
        return false;
    }
    let Some(head) = read_head(stream) else {
        return false;
    };
    let mut body = vec![0; content_length(&head)];
    head.starts_with("HTTP/1.1 200") && stream.read_exact(&mut body).is_ok()
}
