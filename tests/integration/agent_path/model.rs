//! A model server whose answers are told by the path: `/STATUS/BYTES/MICROSECONDS`. It says how long it took, and it can be
//! killed and come back. It knows nothing of who asks.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent_proxy::support::{read_body, read_head};
use crate::support::ports::Port;

/// The header that says how many microseconds the server had the request.
pub const TOOK: &str = "x-took-us";

/// Statuses that are none: the answer breaks off, or there is none until the client has gone.
pub const CUT: &str = "cut";
pub const HANG: &str = "hang";

pub struct Model {
    pub address: SocketAddr,
    /// Its own while it is killed, too.
    _port: Port,
    running: Option<Running>,
}

struct Running {
    is_over: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    listening: JoinHandle<()>,
}

impl Model {
    pub fn start() -> Self {
        let port = Port::take();
        let listener = TcpListener::bind(port.address()).expect("a free port");
        Self {
            address: port.address(),
            _port: port,
            running: Some(Running::start(listener)),
        }
    }

    /// As the kernel does for a process that is killed: every connection ends where it is, and nobody listens.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.is_over.store(true, Ordering::SeqCst);
        // wakes the listener, which then closes
        drop(TcpStream::connect(self.address));
        running.listening.join().expect("the listener ends");
        for connection in running.connections.lock().expect("no panic").iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Where it was before.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).expect("its own port");
        self.running = Some(Running::start(listener));
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    fn start(listener: TcpListener) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (over, all) = (is_over.clone(), connections.clone());
        let listening = thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let other = stream.try_clone().expect("a second handle");
                all.lock().expect("no panic").push(other);
                thread::spawn(move || {
                    serve(&mut stream);
                    // the other handle would keep it open
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self {
            is_over,
            connections,
            listening,
        }
    }
}

/// Answers until the connection ends, however it does.
fn serve(stream: &mut TcpStream) {
    while let Some(head) = read_head(stream) {
        let began = Instant::now();
        if read_body(stream, &head).is_none() {
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut words = path.trim_start_matches('/').split('/');
        let status = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (n_bytes, wait_us) = (number().unwrap_or(0), number().unwrap_or(0));
        let until = began + Duration::from_micros(wait_us);
        // what takes so long is the model
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        if status == HANG {
            let _ = read_head(stream);
            return;
        }
        let is_cut = status == CUT;
        let code = if is_cut { "200" } else { status };
        let body = vec![b'x'; n_bytes as usize];
        let told_bytes = body.len() + usize::from(is_cut);
        let took = began.elapsed().as_micros();
        let head = format!(
            "HTTP/1.1 {code} Told\r\ncontent-length: {told_bytes}\r\n{TOOK}: {took}\r\n\r\n"
        );
        let sent = stream.write_all(&[head.as_bytes(), &body].concat());
        if sent.is_err() || is_cut {
            return;
        }
    }
}
