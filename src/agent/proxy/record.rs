//! What one request is measured by: its times, its bytes, how it ended. It is left in the meter when it is dropped, so
//! that no way out of the proxy forgets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::flow::Flow;
use crate::agent::meter::{Meter, Ticket};
use crate::clock;
use crate::core::event::{OptionalMicros, Outcome, RequestEvent, Status};

/// What nginx writes for a client that went away before its answer.
const CLIENT_GONE: i64 = 499;

/// What is written for a request that the agent's own end cut off before its answer had begun.
const CUT_OFF: i64 = 503;

/// Where records go.
pub struct Records {
    pub meter: Arc<Meter>,
    /// The drain's time is over: what is dropped now, the agent cut off, and no client went away.
    pub is_cutting: AtomicBool,
}

/// One request under way.
pub struct Record {
    records: Arc<Records>,
    ticket: Option<Ticket>,
    /// When the agent had read its head.
    accepted: Instant,
    /// How much earlier it had arrived at the front door.
    before: Duration,
    cold: Option<Duration>,
    is_cold: bool,
    handed_over: Option<Instant>,
    first_byte: Option<Instant>,
    flow: Arc<Flow>,
    response_bytes: u64,
    status: Option<i64>,
    outcome: Option<Outcome>,
    /// The place among those that run at once, given back with the record.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Record {
    pub fn new(records: Arc<Records>, before: Duration) -> Self {
        let accepted = Instant::now();
        let ticket = Some(records.meter.begin(accepted));
        Self {
            records,
            ticket,
            accepted,
            before,
            cold: None,
            is_cold: false,
            handed_over: None,
            first_byte: None,
            flow: Arc::default(),
            response_bytes: 0,
            status: None,
            outcome: None,
            permit: None,
        }
    }

    /// It met a replica that was still loading, and waited for it if it did.
    pub fn met_cold_start(&mut self, waited: Option<Duration>) {
        self.is_cold = true;
        self.cold = waited;
    }

    /// It is given to the model server now.
    pub fn hand_over(&mut self) {
        self.handed_over = Some(Instant::now());
    }

    /// The server has begun to answer.
    pub fn answer_begins(&mut self, status: u16) {
        self.first_byte.get_or_insert_with(Instant::now);
        self.status = Some(i64::from(status));
    }

    /// What gRPC says in its headers or trailers goes before the status line, which is always 200.
    pub fn set_status(&mut self, status: u16) {
        self.status = Some(i64::from(status));
    }

    /// What is known of the request's body.
    pub const fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    pub const fn add_response_bytes(&mut self, n: u64) {
        self.response_bytes += n;
    }

    /// How it ended; without this the client went away.
    pub const fn end(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// The agent itself answers.
    pub fn answered_here(&mut self, status: u16, outcome: Outcome) {
        self.set_status(status);
        self.end(outcome);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let (status, outcome) = match self.outcome {
            Some(outcome) => (self.status, outcome),
            None if self.records.is_cutting.load(Ordering::Relaxed) => {
                (self.status.or(Some(CUT_OFF)), Outcome::Aborted)
            }
            None => (Some(CLIENT_GONE), Outcome::ClientGone),
        };
        let meter = &self.records.meter;
        let cold = self.cold.unwrap_or_default();
        let queue = self
            .handed_over
            .map(|at| (self.before + (at - self.accepted)).saturating_sub(cold));
        let micros = |duration: Option<Duration>| OptionalMicros::from(duration.map(micros_of));
        let ticket = self.ticket.take();
        meter.record(RequestEvent {
            finished_at_us: clock::now_us(),
            end_to_end_us: micros_of(self.before + (now - self.accepted)),
            inference_us: micros(self.handed_over.map(|at| now - at)),
            first_byte_us: micros(self.first_byte.map(|at| self.before + (at - self.accepted))),
            queue_us: micros(queue),
            cold_start_us: micros(self.cold),
            request_bytes: self.flow.n_bytes(),
            response_bytes: self.response_bytes,
            in_flight: ticket.as_ref().map_or(0, |ticket| ticket.in_flight),
            status: status.map_or(Status::NONE, Status::from_code),
            outcome,
            cold_start: self.is_cold,
        });
        if let Some(ticket) = ticket {
            meter.end(ticket, now);
        }
    }
}

fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
