//! The stream processor: from two topics into eight tables, each message once.
//!
//! ```text
//!  member ──assigned, revoked──► conductor ◄──flush wanted── worker × N ◄── its own consumer
//!                                    │ flush            ──deltas──►│
//!                                    └── writer ──guarded insert, ledger──► ClickHouse
//! ```
//!
//! [`worker`]s read on threads of their own and share nothing; their [`intake`] decodes and folds. The [`conductor`] is
//! the one task that decides: it answers the group and asks for flushes; its [`engine`] carries that out, with the one
//! [`writer`], whose decisions are [`delivery`] and [`heads`]. [`status`] is what all of them say of themselves,
//! [`probes`](crate::probes) where it is asked; [`cores`] is where a worker runs, [`memory`] how the heap is kept.
pub mod backoff;
pub mod conductor;
pub mod cores;
pub mod delivery;
pub mod engine;
pub mod heads;
pub mod intake;
pub mod memory;
pub mod protocol;
pub mod share;
#[cfg(test)]
mod simulation;
pub mod status;
pub mod worker;
pub mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bus::avro::SchemaRegistry;
use crate::bus::member::MemberIdentity;
use crate::bus::topics::{self, TopicError};
use crate::config::{InstanceId, KafkaArgs, StoreArgs, parse_duration};
use crate::core::ids::{DEFAULT_MAX_DEPLOYMENTS, DEFAULT_MAX_REPLICAS, IdLimits};
use crate::probes;
use crate::store::migrate::apply::{self, MigrateError};
use conductor::Conductor;
use status::Status;

/// Open windows of a process and the rows that a flush makes of them, in bytes: past it the processor flushes early, and
/// reads no further until that is stored. With it the process stays below 512 MiB, whatever ids are made up.
pub const DEFAULT_WINDOW_MEMORY: usize = 192 << 20;

/// How long a broker, a database or tables that are not there yet are waited for at the start.
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct ProcessorArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The consumer group; processes of one group share the partitions.
    #[arg(long, default_value = "modelmeter-processor")]
    pub group: String,
    /// This process's own name in the group, the same at each start and no other's, such as the pod's in a StatefulSet:
    /// started again it has its partitions back, and need not wait until the session of the one that died has ended. A stop
    /// then does not leave the group, which waits for the next start as long as a session lasts.
    #[arg(long, env = "MODELMETER_INSTANCE_ID", value_name = "NAME")]
    pub instance_id: Option<InstanceId>,
    /// Threads that fold, one consumer each; as many as there are cores without it.
    #[arg(long)]
    pub workers: Option<usize>,
    /// Let the scheduler place the workers instead of pinning each to a core with its librdkafka threads.
    #[arg(long)]
    pub no_pin: bool,
    /// How often the 10 s tables are written. Above 8 processes a group, use 0.4 s × processes.
    #[arg(long, default_value = "3s", value_parser = parse_duration, value_name = "DURATION")]
    pub flush_interval: Duration,
    /// How often the 1 m and 1 h tables are written.
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    pub coarse_flush_interval: Duration,
    /// A folder with further Avro schemas that producers write with.
    #[arg(long, value_name = "DIR")]
    pub schemas: Option<PathBuf>,
    /// Where /livez, /readyz and /metrics are; port 0 is any free one.
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Bytes of open windows, and of the rows that a flush makes of them, at which one is forced.
    #[arg(long, default_value_t = DEFAULT_WINDOW_MEMORY, value_name = "BYTES")]
    pub window_memory: usize,
    /// Deployments kept apart between two coarse flushes; more are counted as __other__.
    #[arg(long, default_value_t = DEFAULT_MAX_DEPLOYMENTS)]
    pub max_deployments: u32,
    /// Replicas of a deployment kept apart likewise.
    #[arg(long, default_value_t = DEFAULT_MAX_REPLICAS)]
    pub max_replicas: u32,
    /// How long SIGTERM may take: flush what is folded, then end the membership.
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub shutdown_deadline: Duration,
}

impl ProcessorArgs {
    fn n_workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.workers.unwrap_or(cores).max(1)
    }

    fn identity(&self, topics: &[(String, usize)]) -> MemberIdentity {
        let instance_id = self.instance_id.as_ref();
        MemberIdentity {
            group: self.group.clone(),
            instance_id: instance_id.map(|id| id.reading(topics)),
        }
    }

    fn id_limits(&self) -> IdLimits {
        IdLimits::new(self.max_deployments, self.max_replicas)
    }
}

/// Runs the processor until it is told to stop.
///
/// # Errors
/// When its configuration, the topics or the tables are not fit, when a worker dies, or when ledgers could not be read
/// for a minute.
pub async fn run(args: ProcessorArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(?args, "starting");
    memory::keep_what_was_used();
    let address = args.store.address()?;
    let registry = match &args.schemas {
        Some(directory) => SchemaRegistry::with_directory(directory)?,
        None => SchemaRegistry::built_in(),
    };
    let status = Arc::new(Status::new(&args.kafka.topics));
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("--listen {}: the address cannot be taken", args.listen))?;
    println!("processor: listening on http://{}", listener.local_addr()?);
    let server = tokio::spawn(probes::serve(listener, status.clone()));
    let started = tokio::select! {
        result = check_surroundings(&args) => result.map(Some),
        () = shutdown.cancelled() => Ok(None),
    };
    let result = match started {
        Ok(Some(topics)) => {
            let identity = args.identity(&topics);
            Conductor::start(args, &identity, address, Arc::new(registry), status)
                .await?
                .run(shutdown)
                .await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    server.abort();
    result
}

/// The topics and the tables are there and fit to be used. What is only late is waited for. Gives what there is to read:
/// topics and their partitions.
async fn check_surroundings(args: &ProcessorArgs) -> anyhow::Result<Vec<(String, usize)>> {
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    loop {
        let error = match surroundings(args).await {
            Ok(topics) => return Ok(topics),
            Err(error) => error,
        };
        if is_for_good(&error) || tokio::time::Instant::now() >= deadline {
            return Err(error);
        }
        tracing::warn!(
            error = format!("{error:#}"),
            "not everything is there yet; trying again"
        );
        tokio::time::sleep(START_RETRY).await;
    }
}

/// Waiting does not mend it.
fn is_for_good(error: &anyhow::Error) -> bool {
    let topic = error.downcast_ref::<TopicError>();
    let tables = error.downcast_ref::<MigrateError>();
    matches!(
        topic,
        Some(TopicError::Options(_) | TopicError::Unfit { .. })
    ) || matches!(
        tables,
        Some(
            MigrateError::ServerTooOld { .. }
                | MigrateError::DatabaseNewer { .. }
                | MigrateError::Changed { .. }
                | MigrateError::Engine { .. }
        )
    )
}

async fn surroundings(args: &ProcessorArgs) -> anyhow::Result<Vec<(String, usize)>> {
    let names = &args.kafka.topics;
    topics::check(&args.kafka, &names.dead_letters).await?;
    let mut read = Vec::new();
    for topic in [&names.requests, &names.replicas] {
        let found = topics::check(&args.kafka, topic).await?;
        read.push((found.topic, found.partitions));
    }
    apply::check(&args.store.address()?.client()).await?;
    Ok(read)
}
