//! One replica of a modelled deployment: its state, what runs in it, what it uses, and what its producer says. What it uses
//! follows from how full it is, so that load and readings move together.

use super::profile::{Machine, Profile};
use super::random::Random;
use crate::bus::avro::NamedGpu;
use crate::core::event::{BatchHead, GpuReading, ReplicaSample, ReplicaState, RequestEvent};

/// What the model says: the messages of its producers, in the order in which each producer would send them.
pub trait Listener {
    fn batch(&mut self, head: &BatchHead<'_>, events: &[RequestEvent]);
    fn sample(&mut self, sample: &ReplicaSample<'_>, gpus: &[NamedGpu<'_>]);
}

/// A producer sends what ended within a second as one batch.
const BATCH_US: i64 = 1_000_000;

/// A batch of more is sent before its second is over; far below what a message may hold.
const MAX_BATCH: usize = 5_000;

#[derive(Debug)]
pub struct Replica {
    pub id: String,
    pub state: ReplicaState,
    /// When it became active; none until its model has loaded.
    pub active_since_us: Option<i64>,
    pub n_running: usize,
    /// Every start of its model server makes events of the one before void.
    pub boot: u32,
    load_us: Option<u64>,
    loading_since_us: i64,
    boot_id: [u8; 16],
    batch_sequence: i64,
    sample_sequence: i64,
    events: Vec<RequestEvent>,
    sampled_at_us: i64,
    /// Requests × time since the last sample, up to `integrated_to_us`.
    integral: f64,
    integrated_to_us: i64,
    gpu_uuids: Vec<String>,
}

impl Replica {
    pub fn new(profile: &Profile, random: &mut Random, now_us: i64) -> Self {
        let suffix = random.next_u64();
        let gpu_uuids = (0..profile.machine.n_gpus)
            .map(|_| format!("GPU-{:016x}", random.next_u64()))
            .collect();
        Self {
            id: format!("{}-{}", profile.id, pod_suffix(suffix)),
            state: ReplicaState::Waiting,
            active_since_us: None,
            n_running: 0,
            boot: 0,
            load_us: None,
            loading_since_us: now_us,
            boot_id: random.bytes(),
            batch_sequence: 0,
            sample_sequence: 0,
            events: Vec::new(),
            sampled_at_us: now_us,
            integral: 0.0,
            integrated_to_us: now_us,
            gpu_uuids,
        }
    }

    pub fn is_staying(&self) -> bool {
        self.state != ReplicaState::Stopping
    }

    pub fn begin_loading(&mut self, now_us: i64) {
        self.state = ReplicaState::Loading;
        self.loading_since_us = now_us;
        self.active_since_us = None;
        self.load_us = None;
    }

    pub fn begin_serving(&mut self, now_us: i64) {
        self.state = ReplicaState::Active;
        self.active_since_us = Some(now_us);
        self.load_us = Some((now_us - self.loading_since_us).unsigned_abs());
    }

    /// Serves from the beginning, having loaded before it.
    pub fn found_serving(&mut self, load_us: u64, now_us: i64) {
        self.state = ReplicaState::Active;
        self.active_since_us = Some(now_us);
        self.load_us = Some(load_us);
    }

    /// The model server is started again, and its producer with it: a new boot, whose messages count from 0.
    pub fn reboot(
        &mut self,
        deployment: &Profile,
        random: &mut Random,
        now_us: i64,
        out: &mut impl Listener,
    ) {
        self.send_batch(deployment, out);
        self.boot += 1;
        self.boot_id = random.bytes();
        self.batch_sequence = 0;
        self.sample_sequence = 0;
        self.begin_loading(now_us);
    }

    pub fn add_running(&mut self, change: isize, now_us: i64) {
        self.integrate(now_us);
        self.n_running = self
            .n_running
            .checked_add_signed(change)
            .expect("no more end than had begun");
    }

    fn integrate(&mut self, now_us: i64) {
        self.integral += self.n_running as f64 * (now_us - self.integrated_to_us) as f64;
        self.integrated_to_us = now_us;
    }

    /// Notes that a request has ended, and sends what ended in an earlier second.
    pub fn tell(&mut self, profile: &Profile, event: RequestEvent, out: &mut impl Listener) {
        self.send_ended_batch(profile, event.finished_at_us, out);
        self.events.push(event);
        if self.events.len() >= MAX_BATCH {
            self.send_batch(profile, out);
        }
    }

    /// Sends the batch if its second is over.
    pub fn send_ended_batch(&mut self, profile: &Profile, now_us: i64, out: &mut impl Listener) {
        let is_over = self.events.first().is_some_and(|first| {
            first.finished_at_us.div_euclid(BATCH_US) < now_us.div_euclid(BATCH_US)
        });
        if is_over {
            self.send_batch(profile, out);
        }
    }

    /// Sends what there is.
    pub fn send_batch(&mut self, profile: &Profile, out: &mut impl Listener) {
        if self.events.is_empty() {
            return;
        }
        let head = self.head(profile, self.batch_sequence);
        out.batch(&head, &self.events);
        self.batch_sequence += 1;
        self.events.clear();
    }

    fn head<'a>(&'a self, profile: &'a Profile, sequence: i64) -> BatchHead<'a> {
        BatchHead {
            deployment_id: &profile.id,
            replica_id: &self.id,
            boot_id: self.boot_id,
            sequence,
            producer: profile.producer,
        }
    }

    /// Says what it was and used since the last sample. `oldest_us` is how long its oldest request has been there.
    pub fn send_sample(
        &mut self,
        profile: &Profile,
        random: &mut Random,
        (now_us, oldest_us): (i64, Option<u64>),
        out: &mut impl Listener,
    ) {
        let interval_us = (now_us - self.sampled_at_us).unsigned_abs();
        if interval_us == 0 {
            return;
        }
        self.integrate(now_us);
        let mean = self.integral / interval_us as f64;
        let used = Used::by(profile, self.state, mean, random);
        let is_placed = self.state != ReplicaState::Waiting;
        let sample = ReplicaSample {
            head: self.head(profile, self.sample_sequence),
            sampled_at_us: now_us,
            interval_us,
            state: self.state,
            model_id: &profile.model_id,
            model_name: &profile.model_name,
            deployment_name: &profile.name,
            environment: profile.environment,
            kind: profile.kind,
            instance_type: profile.machine.instance_type,
            cpu_cores_used: is_placed.then_some(used.cpu_cores),
            cpu_cores_limit: Some(profile.machine.cpu_cores),
            memory_bytes: is_placed.then_some(used.memory_bytes),
            memory_limit_bytes: Some(profile.machine.memory_bytes),
            in_flight: Some(u32::try_from(self.n_running).expect("a replica's places are few")),
            in_flight_mean: Some(mean),
            oldest_in_flight_us: oldest_us,
            restarts: u64::from(self.boot),
            load_us: self.load_us,
            dropped: 0,
        };
        let n_gpus = if is_placed { self.gpu_uuids.len() } else { 0 };
        let gpus: Vec<NamedGpu<'_>> = self.gpu_uuids[..n_gpus]
            .iter()
            .map(|uuid| NamedGpu {
                uuid,
                name: profile.machine.gpu_name,
                reading: used.gpu,
            })
            .collect();
        out.sample(&sample, &gpus);
        self.sample_sequence += 1;
        self.sampled_at_us = now_us;
        self.integral = 0.0;
    }
}

/// Kubernetes' alphabet for the names of pods, which leaves out what could spell a word.
const POD_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn pod_suffix(mut number: u64) -> String {
    (0..7)
        .map(|_| {
            let letter = POD_ALPHABET[(number % 27) as usize];
            number /= 27;
            char::from(letter)
        })
        .collect()
}

/// What a replica uses.
struct Used {
    cpu_cores: f64,
    memory_bytes: u64,
    gpu: GpuReading,
}

/// Readings of a real machine are never smooth.
const NOISE: f64 = 0.03;

impl Used {
    /// From how full the replica was: the GPU is busy soon (one request alone keeps it half busy), memory grows with the
    /// requests' caches, and loading keeps the CPU and not the GPU at work.
    fn by(profile: &Profile, state: ReplicaState, running: f64, random: &mut Random) -> Self {
        let machine = &profile.machine;
        let load = (running / profile.serving.concurrency as f64).min(1.0);
        let is_loading = state == ReplicaState::Loading;
        let mut noisy = |value: f64| (value * (1.0 + NOISE * random.normal())).max(0.0);
        let cpu_share = if is_loading {
            0.55
        } else {
            0.03 + machine.cpu_share_at_full_load * load
        };
        let memory_share = if is_loading { 0.25 } else { 0.38 + 0.3 * load };
        let busy = 0.98 * (1.0 - (-4.0 * load).exp());
        let utilization = noisy(busy).min(1.0);
        let weights = if is_loading { 0.3 } else { 0.55 + 0.38 * load };
        Self {
            cpu_cores: noisy(machine.cpu_cores * cpu_share).min(machine.cpu_cores),
            memory_bytes: (noisy(machine.memory_bytes as f64 * memory_share) as u64)
                .min(machine.memory_bytes),
            gpu: Self::gpu(machine, utilization, noisy(weights).min(0.99)),
        }
    }

    fn gpu(machine: &Machine, utilization: f64, memory_share: f64) -> GpuReading {
        let readable = machine.is_gpu_readable;
        let used = (machine.gpu_memory_bytes as f64 * memory_share) as u64;
        GpuReading {
            utilization: readable.then_some(utilization),
            sm_activity: readable.then_some(utilization * 0.62),
            memory_used_bytes: readable.then_some(used),
            memory_total_bytes: readable.then_some(machine.gpu_memory_bytes),
        }
    }
}
