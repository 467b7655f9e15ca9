//! What a replica used during an interval, before it becomes a sample. What cannot be read is none, never 0.

use crate::core::event::GpuReading;

/// Averages over the interval since the reading before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    pub cpu_cores_used: Option<f64>,
    /// None without a limit.
    pub cpu_cores_limit: Option<f64>,
    /// The working set: usage less inactive file cache.
    pub memory_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub gpus: Vec<NamedGpu>,
}

/// One GPU that the replica can see.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedGpu {
    pub uuid: String,
    pub name: String,
    pub reading: GpuReading,
}
