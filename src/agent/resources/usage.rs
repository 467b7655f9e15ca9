//! What one look at a container, a process tree or a machine finds: counters as they stand, not yet averages.

/// Counters and levels at one moment. What could not be read is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time so far, in seconds.
    pub cpu_seconds: Option<f64>,
    /// None without a limit, and where it could not be read.
    pub cpu_limit_cores: Option<f64>,
    /// The working set.
    pub memory_bytes: Option<u64>,
    /// Likewise.
    pub memory_limit_bytes: Option<u64>,
    pub throttling: Option<Throttling>,
    pub unread_limits: UnreadLimits,
}

/// Limits that are none above because they could not be read, and not because none is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnreadLimits {
    pub cpu: bool,
    pub memory: bool,
}

/// How often and for how long the CPU quota held the container back, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    pub n_periods: u64,
    pub n_throttled: u64,
    pub throttled_us: u64,
}
