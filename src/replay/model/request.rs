//! One request in a modelled deployment: what will become of it, where it is, and the event that tells of its end.

use super::profile::{Failures, Serving};
use super::random::Random;
use crate::core::event::{OptionalMicros, Outcome, RequestEvent, Status};
use crate::replay::traces::Tokens;

/// Bytes of text that a token stands for.
const BYTES_A_TOKEN: u64 = 4;

/// A refusal costs the front door this much.
const REFUSAL_US: i64 = 700;

/// What was decided about a request when it arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Good,
    /// The server rejects it with this status after a look at it.
    Rejected(u16),
    /// The model's code fails after this share of the work.
    Failing(f64),
}

impl Fate {
    pub fn draw(failures: &Failures, random: &mut Random) -> Self {
        let drawn = random.unit();
        if drawn < failures.client_error_share {
            Self::Rejected([400, 404, 413, 422, 429][random.index(5)])
        } else if drawn < failures.client_error_share + failures.server_error_share {
            Self::Failing(random.unit())
        } else {
            Self::Good
        }
    }

    /// How the request ends unless something comes between.
    pub fn end(self) -> End {
        match self {
            Self::Good => End::Served(200),
            Self::Rejected(status) => End::Served(status),
            Self::Failing(_) => End::Served(500),
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Served(u16),
    ClientGone,
    TimedOut,
    /// The model server ended with the request in it.
    Aborted,
    Refused,
}

impl End {
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Served(_) => Outcome::Completed,
            Self::ClientGone => Outcome::ClientGone,
            Self::TimedOut => Outcome::TimedOut,
            Self::Aborted => Outcome::Aborted,
            Self::Refused => Outcome::Refused,
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::Served(status) => status,
            Self::ClientGone => 499,
            Self::TimedOut => 504,
            Self::Aborted => 502,
            Self::Refused => 503,
        }
    }
}

#[derive(Debug)]
pub enum Place {
    Waiting,
    Running {
        replica: u32,
        started_us: i64,
        active_since_us: i64,
        prefill_us: i64,
        service_us: i64,
        /// Requests in the replica when this one came into it, itself included.
        n_running: usize,
    },
}

#[derive(Debug)]
pub struct Request {
    pub arrived_us: i64,
    pub tokens: Tokens,
    pub fate: Fate,
    pub patience_us: i64,
    pub timeout_us: i64,
    /// When it arrived no replica was ready to serve.
    pub met_loading: bool,
    pub place: Place,
}

/// How long a request will take.
pub struct Work {
    pub prefill_us: i64,
    pub service_us: i64,
}

impl Request {
    pub fn is_in(&self, number: u32) -> bool {
        matches!(self.place, Place::Running { replica, .. } if replica == number)
    }

    /// Why it ends before it is done.
    pub fn cut_short(&self) -> End {
        if self.patience_us < self.timeout_us {
            End::ClientGone
        } else {
            End::TimedOut
        }
    }

    /// The work of this request in a replica of which this share of the places is taken.
    pub fn begin(&self, serving: &Serving, load: f64, random: &mut Random) -> Work {
        let jitter = random.log_normal(1.0, 0.08);
        let prefill = serving.overhead_us
            + f64::from(self.tokens.context) * serving.prefill_us_per_token * jitter;
        let decode = f64::from(self.tokens.generated)
            * serving.decode_us_per_token
            * (1.0 + serving.crowding * load)
            * jitter;
        let service = match self.fate {
            Fate::Good => prefill + decode,
            // the server has looked at the request and no more
            Fate::Rejected(_) => serving.overhead_us * jitter,
            Fate::Failing(share) => prefill + decode * share,
        };
        Work {
            prefill_us: (prefill as i64).max(1),
            service_us: (service as i64).max(1),
        }
    }
}

/// What the producer tells of a request that has ended.
pub fn event(request: &Request, end: End, now: i64, tells_status: bool) -> RequestEvent {
    let since_arrival = |at: i64| (at - request.arrived_us).max(0).unsigned_abs();
    let status = if tells_status {
        Status::from_code(i64::from(end.status()))
    } else {
        Status::NONE
    };
    // a refusal takes a moment, which has no place in the model's time
    let end_to_end_us = match end {
        End::Refused => REFUSAL_US.unsigned_abs(),
        _ => since_arrival(now).max(1),
    };
    let mut event = RequestEvent {
        finished_at_us: now,
        end_to_end_us,
        inference_us: OptionalMicros::NONE,
        first_byte_us: OptionalMicros::NONE,
        queue_us: OptionalMicros::NONE,
        cold_start_us: OptionalMicros::NONE,
        request_bytes: u64::from(request.tokens.context) * BYTES_A_TOKEN,
        response_bytes: 0,
        in_flight: 0,
        status,
        outcome: end.outcome(),
        cold_start: false,
    };
    if let Place::Running {
        started_us,
        active_since_us,
        prefill_us,
        service_us,
        n_running,
        ..
    } = request.place
    {
        let ready_us = active_since_us.clamp(request.arrived_us, started_us);
        event.cold_start = request.met_loading;
        if request.met_loading {
            event.cold_start_us = OptionalMicros::some(since_arrival(ready_us));
        }
        let queued_from = if request.met_loading {
            ready_us
        } else {
            request.arrived_us
        };
        event.queue_us = OptionalMicros::some((started_us - queued_from).unsigned_abs());
        event.inference_us = OptionalMicros::some((now - started_us).max(1).unsigned_abs());
        event.in_flight = u32::try_from(n_running).expect("a replica's places are few");
        let first_at = started_us + prefill_us.min(service_us);
        if now >= first_at {
            event.first_byte_us = OptionalMicros::some(since_arrival(first_at).max(1));
            let share = (now - started_us) as f64 / service_us as f64;
            let whole = u64::from(request.tokens.generated) * BYTES_A_TOKEN;
            event.response_bytes = (whole as f64 * share.min(1.0)) as u64;
        }
    }
    event
}
