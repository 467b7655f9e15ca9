//! After an upgrade: bytes of another protocol, copied both ways and counted, until either end is done.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::Record;
use crate::core::event::Outcome;

/// On their way in each direction; then the sender waits for the receiver.
const BUFFER_BYTES: usize = 16 * 1024;

/// Copies until both ends have closed, or one broke; the request ends with it.
pub async fn run(client: OnUpgrade, server: OnUpgrade, mut record: Record) {
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
        return record.end(Outcome::Aborted);
    };
    let mut client = Counting::new(client);
    let mut server = Counting::new(server);
    // also when this is dropped half-way, the bytes so far are in the record
    let mut ending = Ending {
        record,
        n_up: client.n_read.clone(),
        n_down: server.n_read.clone(),
    };
    let copied = tokio::io::copy_bidirectional_with_sizes(
        &mut client,
        &mut server,
        BUFFER_BYTES,
        BUFFER_BYTES,
    )
    .await;
    match copied {
        Ok(_) => ending.record.end(Outcome::Completed),
        // without a word the client went away
        Err(_) if client.is_broken => {}
        Err(_) => ending.record.end(Outcome::Aborted),
    }
}

struct Ending {
    record: Record,
    n_up: Arc<AtomicU64>,
    n_down: Arc<AtomicU64>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let n_up = self.n_up.load(Ordering::Relaxed);
        self.record.flow().add_bytes(n_up);
        self.record
            .add_response_bytes(self.n_down.load(Ordering::Relaxed));
    }
}

/// One end, with what was read from it, and whether it broke.
struct Counting {
    stream: TokioIo<Upgraded>,
    n_read: Arc<AtomicU64>,
    is_broken: bool,
}

impl Counting {
    fn new(upgraded: Upgraded) -> Self {
        Self {
            stream: TokioIo::new(upgraded),
            n_read: Arc::default(),
            is_broken: false,
        }
    }

    fn noted<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &polled {
            self.is_broken = true;
        }
        polled
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let n = (buffer.filled().len() - before) as u64;
        self.n_read.fetch_add(n, Ordering::Relaxed);
        self.noted(polled)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
