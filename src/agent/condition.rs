//! What a replica is just now, as told by whoever watches its server.

use crate::core::event::ReplicaState;

/// The replica's state, and what led to it. Handed on by a `tokio::sync::watch` channel: only the latest matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub state: ReplicaState,
    /// How often the server was started again after it had ended by itself.
    pub restarts: u64,
    /// How long the model took to load; none until it has.
    pub load_us: Option<u64>,
}

impl Condition {
    /// Before the first check.
    pub const UNSEEN: Self = Self {
        state: ReplicaState::Loading,
        restarts: 0,
        load_us: None,
    };
}
