//! What one look at a container, a process tree or a machine finds: counters as they stand, not yet averages.

/// Counters and levels at one moment. What could not be read is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time so far, in seconds.
    pub cpu_seconds: Option<f64>,
    /// None without a limit.
    pub cpu_limit_cores: Option<f64>,
    /// The working set.
    pub memory_bytes: Option<u64>,
    /// None without a limit.
    pub memory_limit_bytes: Option<u64>,
    pub throttling: Option<Throttling>,
}

/// How often and for how long the CPU quota held the container back, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    pub n_periods: u64,
    pub n_throttled: u64,
    pub throttled_us: u64,
}
