//! Made-up traffic of one large deployment and some neighbours, a minute at a time; the same in every run. It knows the
//! shape of what producers say and neither partitions nor tables.

use modelmeter::core::event::{
    BatchHead, GpuReading, Kind, OptionalMicros, Outcome, ReplicaSample, ReplicaState,
    RequestEvent, Status,
};

/// The deployment that is measured, and its replicas.
pub const DEPLOYMENT: &str = "panel-bench";
const N_REPLICAS: usize = 50;

/// Neighbours on both sides of it in the tables' order, so that the primary key has something to skip.
const NEIGHBOURS: [&str; 4] = [
    "audio-small",
    "chat-large",
    "search-embed",
    "vision-classify",
];
const N_NEIGHBOUR_REPLICAS: usize = 3;

/// Requests of a replica in a minute: some 17 a second over the deployment, hundreds of values in a sketch.
const N_REQUESTS_MIN: u64 = 12;
const N_REQUESTS_SPREAD: u64 = 17;

/// Two samples fall into each 10 s window of a replica, one of them in part.
const SAMPLE_S: u32 = 10;

struct Replica {
    deployment: &'static str,
    id: String,
}

pub struct Traffic {
    replicas: Vec<Replica>,
    random: u64,
    events: Vec<RequestEvent>,
}

impl Traffic {
    pub fn new() -> Self {
        let large = (0..N_REPLICAS).map(|i| (DEPLOYMENT, i));
        let others = NEIGHBOURS
            .into_iter()
            .flat_map(|deployment| (0..N_NEIGHBOUR_REPLICAS).map(move |i| (deployment, i)));
        let replicas = large.chain(others).map(|(deployment, i)| Replica {
            deployment,
            // as long as a pod's name
            id: format!("{deployment}-5f7d8c9b6d-{i:05}"),
        });
        Self {
            replicas: replicas.collect(),
            random: 0x9E37_79B9_7F4A_7C15,
            events: Vec::new(),
        }
    }

    /// One batch a replica of the requests that ended in the minute from `start`.
    pub fn requests(&mut self, start: u32, mut each: impl FnMut(&BatchHead<'_>, &[RequestEvent])) {
        for index in 0..self.replicas.len() {
            let n = N_REQUESTS_MIN + self.below(N_REQUESTS_SPREAD);
            self.events.clear();
            for _ in 0..n {
                let event = self.request(start);
                self.events.push(event);
            }
            each(&head(&self.replicas[index]), &self.events);
        }
    }

    /// Every replica's samples of the minute from `start`.
    pub fn samples(&mut self, start: u32, mut each: impl FnMut(&ReplicaSample<'_>, &[GpuReading])) {
        for second in (start..start + 60).step_by(SAMPLE_S as usize) {
            for index in 0..self.replicas.len() {
                let load = self.unit();
                let used = 20e9 + 50e9 * load;
                let gpu = GpuReading {
                    utilization: Some(load),
                    sm_activity: Some(load * 0.7),
                    memory_used_bytes: Some(used as u64),
                    memory_total_bytes: Some(80_000_000_000),
                };
                // replicas sample out of step with each other and with the windows
                let phase_us = 100_000 * index as i64;
                let at_us = i64::from(second) * 1_000_000 + phase_us % 10_000_000;
                each(&sample(&self.replicas[index], at_us, load), &[gpu]);
            }
        }
    }

    fn request(&mut self, start: u32) -> RequestEvent {
        let offset_us = self.below(60_000_000) as i64;
        // log-normal enough: the sum of four uniform numbers for the exponent
        let spread = (0..4).map(|_| self.unit()).sum::<f64>() - 2.0;
        let inference_us = (250_000.0 * spread.mul_add(1.4, 0.0).exp()) as u64;
        let queue_us = self.below(20_000);
        let (code, outcome) = match self.below(1000) {
            0..5 => (500, Outcome::Completed),
            5..10 => (499, Outcome::ClientGone),
            10..30 => (429, Outcome::Refused),
            _ => (200, Outcome::Completed),
        };
        RequestEvent {
            finished_at_us: i64::from(start) * 1_000_000 + offset_us,
            end_to_end_us: inference_us + queue_us,
            inference_us: OptionalMicros::some(inference_us),
            first_byte_us: OptionalMicros::some(inference_us / 5 + queue_us),
            queue_us: OptionalMicros::some(queue_us),
            cold_start_us: OptionalMicros::NONE,
            request_bytes: 2_000,
            response_bytes: 4_000,
            in_flight: 4,
            status: Status::from_code(code),
            outcome,
            cold_start: false,
        }
    }

    /// Marsaglia's xorshift: quick, and the same in every run.
    const fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    const fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 24) as f64 / f64::from(1 << 24)
    }
}

fn head(replica: &Replica) -> BatchHead<'_> {
    BatchHead {
        deployment_id: replica.deployment,
        replica_id: &replica.id,
        boot_id: [7; 16],
        sequence: 0,
        producer: "panel-bench/1",
    }
}

fn sample(replica: &Replica, sampled_at_us: i64, load: f64) -> ReplicaSample<'_> {
    ReplicaSample {
        head: head(replica),
        sampled_at_us,
        interval_us: u64::from(SAMPLE_S) * 1_000_000,
        state: ReplicaState::Active,
        model_id: "model",
        model_name: "Model",
        deployment_name: replica.deployment,
        environment: "prod",
        kind: Kind::Production,
        instance_type: "gpu-80",
        cpu_cores_used: Some(load * 8.0),
        cpu_cores_limit: Some(8.0),
        memory_bytes: Some((load * 30e9) as u64),
        memory_limit_bytes: Some(32_000_000_000),
        in_flight: Some(4),
        in_flight_mean: Some(load * 8.0),
        oldest_in_flight_us: Some(900_000),
        restarts: 0,
        load_us: Some(40_000_000),
        dropped: 0,
    }
}
