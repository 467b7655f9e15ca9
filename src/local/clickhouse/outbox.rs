//! What a query's thread hands to its client: an answer held back until the query has ended, or, once it is large, passed
//! on block by block. It refuses answers past a cap where a format or the client wants them whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::engine::Counts;
use super::exception::{Exception, code};
use super::execute::Sink;
use super::plan::Plan;

/// An answer up to this is held back until the query has ended, so that an error has a status of its own.
const HELD_BACK_BYTES: usize = 4 << 20;
/// Blocks between the engine and the socket of a long answer, each some 100 KiB; a slow client stops the engine here.
const BLOCKS_IN_FLIGHT: usize = 4;
/// An answer that must be held back whole may not be larger: it is in memory twice, the engine's and this.
const MAX_HELD_BYTES: usize = 1 << 30;

/// The beginning of an answer, or all of it.
#[derive(Debug)]
pub struct Reply {
    pub head: Vec<u8>,
    /// The rest, where the answer was too large to be held back.
    pub rest: Option<mpsc::Receiver<Result<Bytes, Exception>>>,
    pub counts: Counts,
    /// The format of the answer; `None` for an insert.
    pub format: Option<String>,
}

pub type ReplySender = oneshot::Sender<Result<Reply, Exception>>;

/// Holds an answer back, then passes it on block by block.
pub struct Outbox {
    reply: Option<ReplySender>,
    held_back: Vec<u8>,
    rest: Option<mpsc::Sender<Result<Bytes, Exception>>>,
    hold_all: bool,
    format: Option<String>,
    is_gone: Arc<AtomicBool>,
}

impl Outbox {
    pub fn new(reply: ReplySender, plan: &Plan, is_gone: Arc<AtomicBool>) -> Self {
        Self {
            reply: Some(reply),
            held_back: Vec::new(),
            rest: None,
            hold_all: plan.request.wait_end_of_query || !plan.is_streamed,
            format: (!plan.is_insert()).then(|| plan.format.clone()),
            is_gone,
        }
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    pub fn finish(mut self, result: Result<Counts, Exception>) {
        match (self.reply.take(), result) {
            (Some(reply), Ok(counts)) => {
                let answer = Reply {
                    head: self.held_back,
                    rest: None,
                    counts,
                    format: self.format,
                };
                // Nobody waits any more: nobody to tell.
                drop(reply.send(Ok(answer)));
            }
            (Some(reply), Err(error)) => drop(reply.send(Err(error))),
            (None, Ok(_)) => {}
            (None, Err(error)) => {
                if let Some(rest) = &self.rest {
                    drop(rest.blocking_send(Err(error)));
                }
            }
        }
    }
}

impl Sink for Outbox {
    fn take(&mut self, block: &[u8]) -> Result<(), Exception> {
        let gone = || Exception::new(code::QUERY_WAS_CANCELLED, "the client is gone");
        if self.is_gone() {
            return Err(gone());
        }
        if let Some(rest) = &self.rest {
            return rest
                .blocking_send(Ok(Bytes::copy_from_slice(block)))
                .map_err(|_| gone());
        }
        if self.held_back.len() + block.len() > MAX_HELD_BYTES {
            let message = format!(
                "the answer is larger than {MAX_HELD_BYTES} bytes and is not streamed in this format"
            );
            return Err(Exception::new(code::TOO_MANY_ROWS_OR_BYTES, message));
        }
        self.held_back.extend_from_slice(block);
        if self.hold_all || self.held_back.len() < HELD_BACK_BYTES {
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(BLOCKS_IN_FLIGHT);
        let answer = Reply {
            head: std::mem::take(&mut self.held_back),
            rest: Some(receiver),
            counts: Counts::default(),
            format: self.format.take(),
        };
        self.rest = Some(sender);
        self.reply
            .take()
            .and_then(|reply| reply.send(Ok(answer)).ok())
            .ok_or_else(gone)
    }
}
