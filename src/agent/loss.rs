//! Events that had to go, counted by reason: what the samples and `/metrics` say is missing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why an event was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Loss {
    /// More requests ended than were taken out of the queue.
    QueueFull,
    /// Kafka was away for so long that the spool reached its bytes.
    SpoolFull,
    /// Kafka was away for longer than the spool keeps a batch.
    SpoolExpired,
    /// The disk took nothing, and the memory that stands in for it was full.
    MemoryFull,
    /// Kafka refused the message for good.
    Refused,
    /// A batch in the spool could not be read back.
    SpoolDamaged,
    /// An event posted by the server was not valid.
    Invalid,
}

impl Loss {
    pub const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::SpoolFull,
        Self::SpoolExpired,
        Self::MemoryFull,
        Self::Refused,
        Self::SpoolDamaged,
        Self::Invalid,
    ];

    /// The reason in a sample and as a label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SpoolFull => "spool_full",
            Self::SpoolExpired => "spool_expired",
            Self::MemoryFull => "memory_full",
            Self::Refused => "refused",
            Self::SpoolDamaged => "spool_damaged",
            Self::Invalid => "invalid",
        }
    }
}

/// Events lost so far in this boot, by reason.
#[derive(Debug, Default)]
pub struct Losses {
    counts: [AtomicU64; Loss::ALL.len()],
}

impl Losses {
    pub fn add(&self, loss: Loss, n_events: u64) {
        self.counts[loss as usize].fetch_add(n_events, Ordering::Relaxed);
    }

    pub fn get(&self, loss: Loss) -> u64 {
        self.counts[loss as usize].load(Ordering::Relaxed)
    }
}
