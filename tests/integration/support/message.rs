//! What the tests say to the pipeline, as plain facts: the truth that the recount counts.
//! Independent of the product's own types on purpose, so that a mistake there is not repeated here.

/// One request, as a model server reports it. Durations are microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub finished_at_us: i64,
    pub end_to_end_us: i64,
    pub inference_us: Option<i64>,
    pub first_byte_us: Option<i64>,
    pub queue_us: Option<i64>,
    pub status: Option<i32>,
    pub outcome: &'static str,
    pub cold_start: bool,
    pub cold_start_us: Option<i64>,
    pub request_bytes: i64,
    pub response_bytes: i64,
    pub in_flight: i32,
}

/// Who speaks, and the how-many-eth message it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub deployment_id: String,
    pub replica_id: String,
    pub boot_id: [u8; 16],
    pub sequence: i64,
    pub producer: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub head: Head,
    pub events: Vec<Event>,
}

/// The deployment's facts, which a sample carries for the dropdowns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts {
    pub deployment_name: String,
    pub model_id: String,
    pub model_name: String,
    pub environment: String,
    pub kind: &'static str,
    pub instance_type: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
    pub utilization: Option<f64>,
    pub sm_activity: Option<f64>,
    pub memory_used_bytes: Option<i64>,
    pub memory_total_bytes: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub head: Head,
    pub sampled_at_us: i64,
    pub interval_us: i64,
    pub state: &'static str,
    pub facts: Facts,
    pub cpu_cores_used: Option<f64>,
    pub cpu_cores_limit: Option<f64>,
    pub memory_bytes: Option<i64>,
    pub memory_limit_bytes: Option<i64>,
    pub gpus: Vec<Gpu>,
    pub in_flight: Option<i32>,
    pub in_flight_mean: Option<f64>,
    pub oldest_in_flight_us: Option<i64>,
    pub restarts: i32,
    pub load_us: Option<i64>,
    pub dropped: Vec<(String, i64)>,
}

/// What a message means: facts to be counted, or rubbish to be refused whole and set aside.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Batch(Batch),
    Sample(Box<Sample>),
    /// The reasons under which it may be refused; where two things are wrong either may be named.
    Garbage(&'static [&'static str]),
}

impl Body {
    /// Who says it; nobody where it is rubbish.
    pub const fn head(&self) -> Option<&Head> {
        match self {
            Self::Batch(batch) => Some(&batch.head),
            Self::Sample(sample) => Some(&sample.head),
            Self::Garbage(_) => None,
        }
    }

    pub fn of(sample: Sample) -> Self {
        Self::Sample(Box::new(sample))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    Requests,
    Replicas,
}

/// A message before it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: Topic,
    pub key: String,
    pub payload: Vec<u8>,
    pub body: Body,
}

/// A message as the log holds it: what the recount starts from.
#[derive(Debug, Clone)]
pub struct Logged {
    pub message: Message,
    pub partition: i32,
    pub offset: i64,
    /// The broker's append time, against which late and early are judged.
    pub appended_at_us: i64,
}
