//! The agent: sits in front of a model server or beside it, learns of each request, and publishes what it saw.
//!
//! ```text
//!  client ──► proxy ──► server
//!               └──────► meter ──────────────►┐
//!  server ──POST /v1/events──► events_api ───►┴─ out: publisher ──► Kafka
//!  condition, readings ─────────────────────────► a sample every 5 s
//! ```
//!
//! The path: [`proxy`] passes requests on and measures them; [`meter`] is where a finished request is left without waiting; [`events_api`] takes what the server measured
//! itself; [`out`] is the way to Kafka; [`loss`] counts what had to go. What the replica is and uses stands beside it:
//! [`condition`] and [`readings`]. [`identity`] is who speaks, [`status`] what the agent says of itself.
//!
//! It never delays, changes or fails a request because of a metric: nothing that a request meets waits for a disk, for
//! Kafka or for a lock that such a wait could hold.

pub mod arguments;
mod check;
pub mod child;
pub mod condition;
pub mod events_api;
pub mod gpu;
pub mod identity;
pub mod loss;
pub mod meter;
mod orphans;
pub mod out;
mod pages;
pub mod proxy;
pub mod readiness;
pub mod readings;
pub mod resources;
pub mod status;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::arguments::AgentArgs;
use self::arguments::AgentConfig;
use self::child::{ChildStatus, Wrapped};
use self::condition::Condition;
use self::events_api::{EventsListener, Intake};
use self::meter::Meter;
use self::orphans::Orphans;
use self::out::batcher::Batcher;
use self::out::kafka::Client;
use self::out::outbox::{Backlog, Outbox};
use self::out::publisher::{Ending, POSTED_QUEUE, Publisher, wake_for_changes};
use self::out::sampler::{ReadResources, Sampler, SamplerParts};
use self::out::spool::Spool;
use self::proxy::{Proxy, Upstream};
use self::resources::ResourceSampler;
use self::status::AgentStatus;
use crate::core::event::{ReplicaState, RequestEvent};
use crate::probes;

/// In the place of a server's address where a check was given, which names its own.
const UNASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs the agent until it is told to stop, or checks and leaves.
///
/// # Errors
/// When a flag is wrong, an address cannot be taken, or the publisher dies.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let random = identity::random_bytes().context("the kernel gives no random bytes")?;
    let config = args.check(random)?;
    if args.check {
        let is_right = check::run(&args, &config).await;
        return Ok(if is_right {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    tracing::info!(?args, replica = config.identity.replica_id, "starting");
    let meter = Arc::new(Meter::new(Instant::now()));
    let status = Arc::new(AgentStatus::new(meter.clone(), shutdown.clone()));
    let (posted, from_server) = sync_channel(POSTED_QUEUE);

    let admin = TcpListener::bind(args.admin_listen)
        .await
        .with_context(|| format!("--admin-listen {}", args.admin_listen))?;
    println!("agent: admin on http://{}", admin.local_addr()?);
    let admin = tokio::spawn(probes::serve(admin, status.clone()));
    let events = serve_events(&args, &meter, posted).await?;
    let drained = CancellationToken::new();
    let server = match args.child.command.is_empty() {
        true => {
            tokio::spawn(clear_away(Orphans::new()?));
            None
        }
        false => Some(child::spawn(&args.child, drained.clone()).await?),
    };
    let child = server.as_ref().map(|server| server.status.clone());
    let mut resources = ResourceSampler::new(&args.resources, child.clone());
    let condition = condition(&args, child, &shutdown).await?;
    let proxy = start_proxy(&args, &meter, &condition, &shutdown)?;
    let ending = Ending {
        stopping: shutdown.clone(),
        finished: CancellationToken::new(),
        over: CancellationToken::new(),
    };
    let changes = wake_for_changes(meter.clone(), condition.clone(), ending.clone());
    tokio::spawn(changes);
    let surroundings = Surroundings {
        meter,
        status,
        condition,
        resources: Box::new(move || resources.read()),
        sees_requests: proxy.is_some(),
        posted: from_server,
    };
    let publisher = publisher(&args, &config, surroundings)?.start(ending.clone())?;
    tokio::spawn(pages::let_go_after_start());
    let drain = async {
        shutdown.cancelled().await;
        if let Some(proxy) = &proxy {
            proxy.over.cancelled().await;
        }
        drained.cancel();
    };
    let code = tokio::select! {
        // its end is the agent's, and SIGTERM reaches it by itself
        code = server_ended(server, drain, &shutdown, args.shutdown_deadline) => code,
        () = publisher_missed(&ending.over, proxy.is_some(), &shutdown) => Ok(ExitCode::FAILURE),
    };
    shutdown.cancel();
    if let Some(proxy) = proxy {
        // requests in flight end first: their events go with the last batch
        proxy.over.cancelled().await;
    }
    if let Some(events) = events {
        events.abort();
        // its listener and the socket's file go with it
        let _ = events.await;
    }
    ending.finished.cancel();
    ending.over.cancelled().await;
    admin.abort();
    let left = publisher
        .join()
        .map_err(|_| anyhow::anyhow!("the publisher died"))?;
    tell_left(left);
    code
}

/// For as long as the agent lives; what starts a server does it beside that.
async fn clear_away(mut orphans: Orphans) {
    loop {
        orphans.next().await;
        Orphans::reap(None);
    }
}

/// Resolves when there is nothing left to run for without the publisher. Requests that pass through the agent do not
/// fail for a metric: they go on, unmeasured, until the agent is told to end.
async fn publisher_missed(
    publisher_is_over: &CancellationToken,
    has_proxy: bool,
    shutdown: &CancellationToken,
) {
    publisher_is_over.cancelled().await;
    if has_proxy && !shutdown.is_cancelled() {
        tracing::error!("the publisher died; requests go on, and are not measured any more");
        shutdown.cancelled().await;
    }
}

async fn serve_events(
    args: &AgentArgs,
    meter: &Arc<Meter>,
    posted: SyncSender<Vec<RequestEvent>>,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(address) = &args.events_listen else {
        return Ok(None);
    };
    let listener = EventsListener::bind(address)
        .await
        .with_context(|| format!("--events-listen {address}"))?;
    println!("agent: listening on {}", listener.address()?);
    let intake = Arc::new(Intake {
        meter: meter.clone(),
        posted,
    });
    Ok(Some(tokio::spawn(events_api::serve(listener, intake))))
}

/// A server behind the proxy is asked whether it is ready, by a connection where no other check was given. Without either,
/// a server that only posts counts as active: that it posts says so.
async fn condition(
    args: &AgentArgs,
    child: Option<watch::Receiver<ChildStatus>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<watch::Receiver<Condition>> {
    let server = match (&args.readiness.check, &args.proxy.upstream) {
        (Some(_), _) => Some(UNASKED),
        (None, Some(upstream)) => Some(address_of(upstream).await?),
        (None, None) => None,
    };
    if let Some(server) = server {
        return Ok(readiness::watch(
            &args.readiness,
            server,
            child,
            shutdown.clone(),
        ));
    }
    let (_, condition) = watch::channel(Condition {
        state: ReplicaState::Active,
        ..Condition::UNSEEN
    });
    Ok(condition)
}

async fn address_of(upstream: &Upstream) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(&upstream.authority)
        .await
        .with_context(|| format!("--upstream {}", upstream.authority))?;
    found
        .next()
        .with_context(|| format!("--upstream {}: no such host", upstream.authority))
}

/// A running proxy.
struct ProxyThread {
    /// Cancelled when it has ended, however it did.
    over: CancellationToken,
}

/// Starts the proxy's thread, which nothing else runs on.
fn start_proxy(
    args: &AgentArgs,
    meter: &Arc<Meter>,
    condition: &watch::Receiver<Condition>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<ProxyThread>> {
    let bound = args.proxy.bind(meter.clone(), condition.clone())?;
    let Some(proxy): Option<Proxy> = bound else {
        return Ok(None);
    };
    println!(
        "agent: requests on {}://{}",
        proxy.scheme(),
        proxy.local_addr()?
    );
    let shutdown = shutdown.clone();
    let thread = std::thread::Builder::new().name("proxy".to_owned());
    let over = CancellationToken::new();
    let is_over = over.clone().drop_guard();
    thread.spawn(move || {
        // however it ends, the agent must not stay as one that measures nothing
        let _ending = (shutdown.clone().drop_guard(), is_over);
        if let Err(error) = proxy.run(&shutdown) {
            tracing::error!(%error, "the proxy ended");
        }
    })?;
    Ok(Some(ProxyThread { over }))
}

/// Resolves when the agent shall end: at once with the server that it started, else when it is told to. The server is told
/// when `drain` is over; one that does not go by the deadline from then on is killed.
async fn server_ended(
    server: Option<Wrapped>,
    drain: impl Future<Output = ()>,
    shutdown: &CancellationToken,
    deadline: Duration,
) -> anyhow::Result<ExitCode> {
    let Some(Wrapped { mut ended, .. }) = server else {
        shutdown.cancelled().await;
        return Ok(ExitCode::SUCCESS);
    };
    let code = tokio::select! {
        code = &mut ended => code,
        () = drain => match tokio::time::timeout(deadline, &mut ended).await {
            Ok(code) => code,
            Err(_) => {
                ended.abort();
                anyhow::bail!("the server did not end within {} s", deadline.as_secs())
            }
        },
    };
    Ok(ExitCode::from(code.context("the server's keeper died")??))
}

/// What the publisher is given by the rest of the agent.
struct Surroundings {
    meter: Arc<Meter>,
    status: Arc<AgentStatus>,
    condition: watch::Receiver<Condition>,
    resources: ReadResources,
    sees_requests: bool,
    posted: Receiver<Vec<RequestEvent>>,
}

fn publisher(
    args: &AgentArgs,
    config: &AgentConfig,
    surroundings: Surroundings,
) -> anyhow::Result<Publisher> {
    let Surroundings {
        meter,
        status,
        condition,
        resources,
        sees_requests,
        posted,
    } = surroundings;
    let client = Client::new(&config.kafka)?;
    let spool = match Spool::open(&args.spool, &config.identity.deployment_id) {
        Ok((spool, leftovers)) => {
            let n_events: u64 = leftovers.iter().map(|l| u64::from(l.name.n_events)).sum();
            tracing::info!(n_batches = leftovers.len(), n_events, "the spool is open");
            Some((spool, leftovers))
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "there is no spool; batches are kept in memory");
            None
        }
    };
    let parts = SamplerParts {
        meter: meter.clone(),
        condition,
        resources,
        sees_requests,
        interval: args.sample_interval,
    };
    Ok(Publisher {
        identity: config.identity.clone(),
        meter,
        posted,
        batcher: Batcher::new(args.batch_interval),
        sampler: Sampler::new(parts, Instant::now()),
        outbox: Outbox::new(spool, config.room),
        client,
        status,
        deadline: args.shutdown_deadline,
    })
}

fn tell_left(left: Backlog) {
    let n_lost = left.n_events_in_memory;
    println!(
        "agent: {} batches with {} events stay in the spool, {n_lost} events in memory are lost",
        left.n_messages,
        left.n_events - n_lost,
    );
}
