//! What a modelled deployment is: its facts, its machine, how fast it serves, how it scales, and how its requests fail. Plain
//! numbers; nothing here changes while the model runs.

use crate::core::event::Kind;

/// A second in microseconds, the unit of all times of the model.
pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;

/// One deployment.
#[derive(Debug, Clone)]
pub struct Profile {
    pub id: String,
    pub name: String,
    pub model_id: String,
    pub model_name: String,
    pub environment: &'static str,
    pub kind: Kind,
    pub producer: &'static str,
    /// False for a producer that cannot tell a request's status.
    pub tells_status: bool,
    pub machine: Machine,
    pub serving: Serving,
    pub scaling: Scaling,
    pub failures: Failures,
}

/// What one replica has.
#[derive(Debug, Clone)]
pub struct Machine {
    pub instance_type: &'static str,
    pub cpu_cores: f64,
    pub memory_bytes: u64,
    pub n_gpus: usize,
    pub gpu_name: &'static str,
    pub gpu_memory_bytes: u64,
    /// False for a GPU that no driver reads: its readings are null.
    pub is_gpu_readable: bool,
    /// Cores that a replica with all its places taken uses, as a share of its limit.
    pub cpu_share_at_full_load: f64,
}

/// How long a request takes in a replica: `overhead + context × prefill + generated × decode × (1 + crowding × load)`,
/// where load is the share of the replica's places that are taken.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Requests that one replica serves at once.
    pub concurrency: usize,
    pub overhead_us: f64,
    pub prefill_us_per_token: f64,
    pub decode_us_per_token: f64,
    pub crowding: f64,
}

#[derive(Debug, Clone)]
pub struct Scaling {
    pub min: usize,
    pub max: usize,
    /// Replicas that are there, loaded, when the model begins.
    pub initial: usize,
    /// Without a request for so long, a deployment whose minimum is 0 is scaled to zero.
    pub idle_us: i64,
    /// Median time to find a machine.
    pub place_us: f64,
    /// Median time to load the model.
    pub load_us: f64,
}

#[derive(Debug, Clone)]
pub struct Failures {
    /// Requests that may wait for a place; a further one is refused.
    pub queue_limit: usize,
    /// Half of the clients wait longer than this for the whole answer, half leave earlier.
    pub patience_us: f64,
    pub timeout_us: i64,
    /// Shares of requests that the server rejects as wrong, and that fail inside the model's code.
    pub client_error_share: f64,
    pub server_error_share: f64,
    /// Mean time between two starts of a replica's model server: a crash, or a live reload under development.
    pub restart_every_us: f64,
}
