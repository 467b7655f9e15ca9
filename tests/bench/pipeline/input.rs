//! The fixed inputs: seeded messages in two shapes, the same in every run and on every machine. It knows the wire only
//! through the product's own encoder; what the messages mean is checked elsewhere.

use modelmeter::bus::avro::encode_batch;
use modelmeter::core::event::{BatchHead, OptionalMicros, Outcome, RequestEvent, Status};
use modelmeter::replay::model::random::Random;

/// Chosen once; another one would be another benchmark.
const SEED: u64 = 20_231;

/// A large installation's deployments.
const DEPLOYMENTS: usize = 10_000;

/// Half of a deployment's requests take less than its median, which lies between these.
const MEDIAN_US: (f64, f64) = (20_000.0, 2_000_000.0);

/// Spread of a latency's logarithm.
const SIGMA: f64 = 0.6;

/// One request in a hundred takes a hundred times as long.
const TAIL_SHARE: f64 = 0.01;
const TAIL_FACTOR: f64 = 100.0;

/// One event in fifty comes up to 20 s late, as from a producer that was held up.
const LATE_SHARE: f64 = 0.02;
const LATEST_US: f64 = 20_000_000.0;

/// What a replica's batch covers.
const BATCH_SPAN_US: i64 = 5_000_000;

/// How producers publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// One event a message: a producer that does not batch.
    Single,
    /// 200 events of one replica a message, give or take a half.
    Batch,
}

impl Shape {
    pub const ALL: [Self; 2] = [Self::Single, Self::Batch];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
        }
    }

    const fn events_per_message(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Batch => 200,
        }
    }

    /// How densely the events lie in time, which decides how many share a window.
    const fn events_per_second(self) -> f64 {
        match self {
            Self::Single => 3_000.0,
            Self::Batch => 20_000.0,
        }
    }
}

struct Deployment {
    id: String,
    median_us: f64,
    /// Replica ids with their boots and next sequences.
    replicas: Vec<(String, [u8; 16], i64)>,
}

/// Makes messages one after another.
pub struct Source {
    shape: Shape,
    random: Random,
    deployments: Vec<Deployment>,
    /// Zipf's distribution of exponent 1, summed up.
    popularity: Vec<f64>,
    start_us: i64,
    n_events: usize,
    events: Vec<RequestEvent>,
}

impl Source {
    /// Events that complete from `start_us` on, µs since 1970.
    pub fn new(shape: Shape, start_us: i64) -> Self {
        let mut random = Random::of(SEED, shape.name(), 0);
        let deployments = (0..DEPLOYMENTS)
            .map(|number| Deployment::new(number, &mut random))
            .collect();
        let mut sum = 0.0;
        let popularity = (1..=DEPLOYMENTS)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self {
            shape,
            random,
            deployments,
            popularity,
            start_us,
            n_events: 0,
            events: Vec::new(),
        }
    }

    /// Appends one framed message of at most `most` events to `out`; gives its deployment and how many events it has.
    pub fn next(&mut self, most: usize, out: &mut Vec<u8>) -> (&str, usize) {
        let usual = self.shape.events_per_message();
        let n = match self.shape {
            Shape::Single => 1,
            Shape::Batch => usual / 2 + self.random.index(usual + 1),
        };
        let n = n.min(most);
        let drawn = self.random.unit() * self.popularity[DEPLOYMENTS - 1];
        let chosen = self.popularity.partition_point(|&sum| sum < drawn);
        let elapsed_us = self.n_events as f64 * 1e6 / self.shape.events_per_second();
        let at_us = self.start_us + elapsed_us as i64;
        self.n_events += n;

        let deployment = &mut self.deployments[chosen.min(DEPLOYMENTS - 1)];
        self.events.clear();
        for index in 1..=n as i64 {
            let at_us = match self.shape {
                Shape::Single => at_us,
                Shape::Batch => at_us - BATCH_SPAN_US + BATCH_SPAN_US * index / n as i64,
            };
            self.events
                .push(event(at_us, deployment.median_us, &mut self.random));
        }
        let replica = self.random.index(deployment.replicas.len());
        let (replica_id, boot_id, sequence) = &mut deployment.replicas[replica];
        let head = BatchHead {
            deployment_id: &deployment.id,
            replica_id,
            boot_id: *boot_id,
            sequence: *sequence,
            producer: "modelmeter-bench/1",
        };
        encode_batch(&head, &self.events, out);
        *sequence += 1;
        (&deployment.id, n)
    }
}

impl Deployment {
    fn new(number: usize, random: &mut Random) -> Self {
        let id = format!("dep-{number:06}");
        // the much-asked have up to 16 replicas
        let n_replicas = 1 + (200 / (number + 1)).min(15);
        let replicas = (0..n_replicas)
            .map(|replica| {
                let suffix = random.index(1 << 20);
                (format!("{id}-{suffix:05x}-{replica}"), random.bytes(), 0)
            })
            .collect();
        let (low, high) = MEDIAN_US;
        Self {
            id,
            median_us: low * (high / low).powf(random.unit()),
            replicas,
        }
    }
}

fn event(at_us: i64, median_us: f64, random: &mut Random) -> RequestEvent {
    let late_us = if random.is_hit(LATE_SHARE) {
        random.between(0.0, LATEST_US) as i64
    } else {
        0
    };
    let tail = if random.is_hit(TAIL_SHARE) {
        TAIL_FACTOR
    } else {
        1.0
    };
    let end_to_end_us = (random.log_normal(median_us, SIGMA) * tail).max(1.0) as u64;
    let queue_us = (end_to_end_us as f64 * random.between(0.0, 0.1)) as u64;
    // 97, 2 and 1 in a hundred; a refused request came to no inference, and only a good one to a first byte
    let (status, outcome) = match random.index(100) {
        0..=96 => (200, Outcome::Completed),
        97 | 98 => ([400, 404, 429, 499][random.index(4)], Outcome::Refused),
        _ => ([500, 503][random.index(2)], Outcome::Aborted),
    };
    let met_model = outcome != Outcome::Refused;
    let when = |is_so: bool, us: u64| OptionalMicros::from(is_so.then_some(us));
    RequestEvent {
        finished_at_us: at_us - late_us,
        end_to_end_us,
        inference_us: when(met_model, end_to_end_us - queue_us),
        first_byte_us: when(outcome == Outcome::Completed, end_to_end_us / 3 + 1),
        queue_us: when(met_model, queue_us),
        cold_start_us: OptionalMicros::NONE,
        request_bytes: 200 + random.index(4_000) as u64,
        response_bytes: 100 + random.index(20_000) as u64,
        in_flight: 1 + random.index(64) as u32,
        status: Status::from_code(status),
        outcome,
        cold_start: random.is_hit(0.001),
    }
}

/// Messages held in memory, one behind another.
pub struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub n_events: usize,
}

impl Messages {
    pub fn new(shape: Shape, start_us: i64, n_events: usize) -> Self {
        let mut source = Source::new(shape, start_us);
        let (mut bytes, mut ends, mut made) = (Vec::new(), Vec::new(), 0);
        while made < n_events {
            made += source.next(n_events - made, &mut bytes).1;
            ends.push(bytes.len());
        }
        Self {
            bytes,
            ends,
            n_events,
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[index]]
    }
}
