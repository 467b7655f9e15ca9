//! The deployments of the replay: 73 from ServeGen's clients, two from the Azure traces, and six that show what a page must
//! tell apart. Which trace drives which, on which machines; how they behave is the model's.

use std::sync::Arc;

use super::model::arrivals::{Arrivals, ClientPlayback, Part, Playback, Tempo, Wave};
use super::model::deployment::Deployment;
use super::model::profile::{Failures, MINUTE, Machine, Profile, SECOND, Scaling, Serving};
use super::model::replica::Listener;
use super::traces::{ClientWindow, Recording, Traces};
use crate::core::event::Kind;

/// What these deployments' producers call themselves.
const PRODUCER: &str = concat!("modelmeter-replay/", env!("CARGO_PKG_VERSION"));

/// The one that has to be upgraded: it sends no status.
const OLD_PRODUCER: &str = "legacy-sidecar/0.3";

const GIB: u64 = 1 << 30;

/// A client that asks in less than this share of its day lets its deployment go between times.
const RARELY: f64 = 0.2;

/// However fast a trace is played, a deployment grows no further: what a large one has.
const MOST_REPLICAS: usize = 200;

/// What the fleet is made from.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    pub seed: u64,
    pub start_us: i64,
    /// When the past ends and the present begins.
    pub live_from_us: i64,
    pub speed: f64,
    /// True where a run before this one has told the past: what was asked early in it is not asked again.
    pub is_continued: bool,
}

/// All deployments, each by itself: none knows of another.
#[derive(Debug)]
pub struct Fleet {
    deployments: Vec<Deployment>,
}

impl Fleet {
    pub fn new(traces: &Traces, beginning: Beginning) -> Self {
        let builder = Builder {
            traces,
            beginning,
            tempo: Tempo::new(beginning.start_us, beginning.speed),
        };
        let mut deployments = builder.azure();
        deployments.extend(builder.special());
        for (number, windows) in traces.clients.iter().enumerate() {
            deployments.push(builder.client(number, windows));
        }
        Self { deployments }
    }

    /// Lets everything happen that happens before `end_us`.
    pub fn advance(&mut self, end_us: i64, out: &mut impl Listener) {
        for deployment in &mut self.deployments {
            deployment.advance(end_us, out);
        }
    }

    /// Tells what has ended, though its second is not over.
    pub fn tell_all(&mut self, out: &mut impl Listener) {
        for deployment in &mut self.deployments {
            deployment.tell_all(out);
        }
    }

    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
    }
}

struct Builder<'a> {
    traces: &'a Traces,
    beginning: Beginning,
    tempo: Tempo,
}

impl Builder<'_> {
    fn build(&self, mut profile: Profile, arrivals: Arrivals) -> Deployment {
        let Beginning {
            seed,
            start_us,
            speed,
            ..
        } = self.beginning;
        let max = (profile.scaling.max as f64 * speed).ceil() as usize;
        profile.scaling.max = max.clamp(profile.scaling.max, MOST_REPLICAS);
        Deployment::new(profile, seed, arrivals, i64::MAX, start_us)
    }

    /// So many copies of a recording, evenly apart.
    fn recorded(
        &self,
        recording: &Arc<Recording>,
        n_copies: i64,
        share: f64,
        phase_us: i64,
        wave: Option<Wave>,
    ) -> Arrivals {
        let Beginning { seed, start_us, .. } = self.beginning;
        let copies = (0..n_copies).map(|copy| {
            let part = Part {
                phase_us: phase_us + copy * recording.length_us / n_copies,
                share,
                wave,
            };
            let seed = seed.wrapping_add(copy.unsigned_abs() + phase_us.unsigned_abs());
            Playback::new(Arc::clone(recording), self.tempo, part, seed, start_us)
        });
        Arrivals::Recorded(copies.collect())
    }

    fn client(&self, number: usize, windows: &Arc<[ClientWindow]>) -> Deployment {
        let Beginning { seed, start_us, .. } = self.beginning;
        let busy = windows
            .iter()
            .filter(|window| window.n_requests > 0)
            .count();
        let peak = windows.iter().map(|w| w.n_requests).max().unwrap_or(0);
        let size = match peak {
            3_000.. => Size::Large,
            300.. => Size::Medium,
            _ => Size::Small,
        };
        let mut profile = size.profile(&client_id(number), &client_name(number));
        if (busy as f64) < RARELY * windows.len() as f64 {
            profile.scaling.min = 0;
        }
        if number % 10 == 7 {
            profile.environment = "staging";
        }
        let seed = seed.wrapping_add(1_000 + number as u64);
        let playback = ClientPlayback::new(
            windows,
            Arc::clone(&self.traces.conversation),
            self.tempo,
            seed,
            start_us,
        );
        self.build(profile, Arrivals::Client(Box::new(playback)))
    }

    fn azure(&self) -> Vec<Deployment> {
        let Traces {
            code, conversation, ..
        } = self.traces;
        let mut assistant = Size::Medium.profile("chat-assistant", "Chat assistant");
        assistant.scaling.initial = 3;
        let mut completion = Size::Medium.profile("code-completion", "Code completion");
        completion.serving.prefill_us_per_token = 90.0;
        vec![
            self.build(assistant, self.recorded(conversation, 1, 1.0, 0, None)),
            self.build(completion, self.recorded(code, 1, 1.0, 0, None)),
        ]
    }

    fn special(&self) -> Vec<Deployment> {
        let Traces {
            code, conversation, ..
        } = self.traces;
        let recorded = |recording, n_copies, share, phase_minutes| {
            self.recorded(recording, n_copies, share, phase_minutes * MINUTE, None)
        };
        let old = Profile {
            producer: OLD_PRODUCER,
            tells_status: false,
            ..Size::Small.profile("legacy-summaries", "Summaries (old sidecar)")
        };
        let mut unreadable = Size::Small.profile("rerank-mig", "Reranker on a MIG slice");
        unreadable.machine.gpu_name = "NVIDIA A100-SXM4-40GB MIG 2g.10gb";
        unreadable.machine.instance_type = "p4d.24xlarge";
        unreadable.machine.is_gpu_readable = false;
        let wave = Wave {
            period_us: 24 * MINUTE,
            low: 0.15,
        };
        let waves = self.recorded(conversation, 4, 1.0, 7 * MINUTE, Some(wave));
        vec![
            self.build(development(), recorded(code, 1, 0.04, 11)),
            self.scaled_to_zero(),
            self.build(cpu_only(), recorded(code, 3, 1.0, 5)),
            self.build(old, recorded(conversation, 1, 0.2, 23)),
            self.build(unreadable, recorded(code, 1, 0.5, 31)),
            self.build(overloaded(), waves),
        ]
    }

    /// Asked in the first quarter of the past and then no more; its replica goes, and nothing is left but what it was. A run
    /// that goes on has one replica too, as the clients' have: the run before ended with it running or not, and only a
    /// replica that says that it stops tells a deployment at zero from producers that went silent.
    fn scaled_to_zero(&self) -> Deployment {
        let Beginning {
            seed,
            start_us,
            live_from_us,
            is_continued,
            ..
        } = self.beginning;
        let mut profile = Size::Medium.profile("batch-labelling", "Labelling, nightly");
        profile.scaling.min = 0;
        profile.scaling.idle_us = MINUTE / 2;
        let silent_from = if is_continued {
            start_us
        } else {
            start_us + (live_from_us - start_us) / 4
        };
        let arrivals = self.recorded(&self.traces.conversation, 1, 0.5, 41 * MINUTE, None);
        Deployment::new(profile, seed, arrivals, silent_from, start_us)
    }
}

/// A model under development, reloaded every few minutes.
fn development() -> Profile {
    let mut profile = Size::Small.profile("chat-assistant-dev", "Chat assistant, next version");
    profile.kind = Kind::Development;
    profile.environment = "development";
    profile.scaling.max = 1;
    profile.scaling.load_us = 12.0 * SECOND as f64;
    profile.failures.server_error_share = 0.06;
    profile.failures.restart_every_us = 8.0 * MINUTE as f64;
    profile
}

/// Embeddings need no GPU; a request generates no text, so only its context counts.
fn cpu_only() -> Profile {
    let mut profile = Size::Small.profile("text-embeddings-cpu", "Text embeddings on CPU");
    profile.model_id = "bge-small-en-v1.5".to_owned();
    profile.model_name = "bge-small-en v1.5".to_owned();
    profile.machine = Machine {
        instance_type: "c7i.2xlarge",
        cpu_cores: 8.0,
        memory_bytes: 16 * GIB,
        n_gpus: 0,
        gpu_name: "",
        gpu_memory_bytes: 0,
        is_gpu_readable: false,
        cpu_share_at_full_load: 0.95,
    };
    profile.serving = Serving {
        concurrency: 8,
        overhead_us: 1_500.0,
        prefill_us_per_token: 55.0,
        decode_us_per_token: 0.0,
        crowding: 0.0,
    };
    profile.scaling.load_us = 4.0 * SECOND as f64;
    profile.failures.patience_us = 20.0 * SECOND as f64;
    profile
}

/// It may not grow as far as its waves rise: requests wait, clients leave, and the queue overflows.
fn overloaded() -> Profile {
    let mut profile = Size::Medium.profile("flash-sale-chat", "Flash sale chat");
    profile.scaling.max = 4;
    profile.scaling.min = 2;
    profile.scaling.initial = 2;
    profile.failures.queue_limit = 120;
    profile.failures.patience_us = 45.0 * SECOND as f64;
    profile
}

/// Three sizes of machine and model.
#[derive(Debug, Clone, Copy)]
enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    fn profile(self, id: &str, name: &str) -> Profile {
        let (model, load_s) = match self {
            Self::Small => ("DeepSeek-R1-Distill-Qwen-7B", 25.0),
            Self::Medium => ("DeepSeek-R1-Distill-Qwen-14B", 45.0),
            Self::Large => ("DeepSeek-R1-Distill-Llama-70B", 90.0),
        };
        Profile {
            id: id.to_owned(),
            name: name.to_owned(),
            model_id: model.to_lowercase(),
            model_name: model.to_owned(),
            environment: "production",
            kind: Kind::Production,
            producer: PRODUCER,
            tells_status: true,
            machine: self.machine(),
            serving: self.serving(),
            scaling: Scaling {
                min: 1,
                max: 6,
                initial: 1,
                idle_us: 10 * MINUTE,
                place_us: 8.0 * SECOND as f64,
                load_us: load_s * SECOND as f64,
            },
            failures: Failures {
                queue_limit: 200,
                patience_us: 90.0 * SECOND as f64,
                timeout_us: 120 * SECOND,
                client_error_share: 0.012,
                server_error_share: 0.002,
                restart_every_us: 40.0 * 60.0 * MINUTE as f64,
            },
        }
    }

    fn machine(self) -> Machine {
        let (instance_type, cpu_cores, memory_gib, n_gpus, gpu_name, gpu_gib) = match self {
            Self::Small => ("g6.2xlarge", 8.0, 32, 1, "NVIDIA L4", 24),
            Self::Medium => ("g6e.4xlarge", 16.0, 128, 1, "NVIDIA L40S", 48),
            Self::Large => ("a3-highgpu-2g", 52.0, 468, 2, "NVIDIA H100 80GB HBM3", 80),
        };
        Machine {
            instance_type,
            cpu_cores,
            memory_bytes: memory_gib * GIB,
            n_gpus,
            gpu_name,
            gpu_memory_bytes: gpu_gib * GIB,
            is_gpu_readable: true,
            cpu_share_at_full_load: 0.4,
        }
    }

    fn serving(self) -> Serving {
        let (concurrency, prefill, decode) = match self {
            Self::Small => (12, 120.0, 12_000.0),
            Self::Medium => (16, 150.0, 16_000.0),
            Self::Large => (32, 180.0, 20_000.0),
        };
        Serving {
            concurrency,
            overhead_us: 4_000.0,
            prefill_us_per_token: prefill,
            decode_us_per_token: decode,
            crowding: 0.8,
        }
    }
}

/// What the clients' deployments are for: the trace does not say, so that these are inventions.
const USES: [&str; 25] = [
    "support-chat",
    "code-review",
    "search-answers",
    "meeting-notes",
    "translation",
    "sql-copilot",
    "contract-extract",
    "ticket-triage",
    "tutor",
    "claims-intake",
    "mail-drafts",
    "product-copy",
    "incident-summary",
    "resume-match",
    "moderation",
    "faq-bot",
    "voice-intents",
    "report-writer",
    "log-explain",
    "spec-check",
    "travel-planner",
    "recipe-helper",
    "patent-search",
    "test-writer",
    "news-digest",
];

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

fn client_id(number: usize) -> String {
    format!(
        "{}-{}",
        USES[number % USES.len()],
        REGIONS[number / USES.len() % REGIONS.len()]
    )
}

fn client_name(number: usize) -> String {
    let words = USES[number % USES.len()].replace('-', " ");
    let (first, rest) = words.split_at(1);
    let region = REGIONS[number / USES.len() % REGIONS.len()].to_uppercase();
    format!("{}{rest}, {region}", first.to_uppercase())
}
