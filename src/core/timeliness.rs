//! The time rule: which events and samples are counted, by how far they lie from the broker's append time.
//!
//! It asks no clock of this machine, so that every replay decides alike.

/// How far before the broker's append time an event may lie.
pub const ACCEPT_BACK_US: i64 = 48 * 3600 * 1_000_000;

/// How far after the broker's append time an event may lie: what a clock without NTP is off by.
pub const ACCEPT_AHEAD_US: i64 = 5 * 60 * 1_000_000;

/// What the time rule says of an event or a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeliness {
    Accepted,
    /// Too long before the broker's append time.
    Late,
    /// Too far ahead of it.
    Early,
}

/// The indexes of a message's events that the time rule refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Untimely {
    pub late: Vec<u32>,
    pub early: Vec<u32>,
}

impl Untimely {
    pub fn clear(&mut self) {
        self.late.clear();
        self.early.clear();
    }
}

/// The time rule. Both are µs since 1970.
pub const fn judge(append_us: i64, event_us: i64) -> Timeliness {
    if event_us <= 0 || event_us < append_us - ACCEPT_BACK_US {
        Timeliness::Late
    } else if event_us > append_us + ACCEPT_AHEAD_US {
        Timeliness::Early
    } else {
        Timeliness::Accepted
    }
}
