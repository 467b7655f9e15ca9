//! Whether the model server is ready, asked as a load balancer would, and what state the replica is in by that.
//!
//! Loading until the first success; active from then on; loading again when checks fail in a row (a server that was
//! ready and is not takes no requests, whatever the reason); waiting while there is no server process; stopping once
//! the agent or the server was told to end. [`tracker`] decides, [`check`] asks.

mod check;
mod grpc;
mod tracker;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::child::ChildStatus;
use super::condition::Condition;
use crate::config::parse_duration;
pub use check::{Check, Outcome};
use tracker::{Thresholds, Tracker};

/// How the server is asked, how often, and how often it must say so.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadinessArgs {
    /// http://HOST:PORT/PATH (2xx or 3xx is ready), tcp://HOST:PORT, or grpc://HOST:PORT[/SERVICE] (grpc.health.v1).
    /// Without it, whether the server's port takes a connection.
    #[arg(
        long = "ready-check",
        env = "MODELMETER_READY_CHECK",
        value_name = "URL"
    )]
    pub check: Option<Check>,
    /// Between two checks.
    #[arg(long = "ready-interval", default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    pub interval: Duration,
    /// A check without an answer for this long has failed.
    #[arg(long = "ready-timeout", default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
    /// Successes in a row that make it active.
    #[arg(long = "ready-successes", default_value = "1", value_name = "N")]
    pub successes: NonZeroU32,
    /// Failures in a row that make an active one loading again.
    #[arg(long = "ready-failures", default_value = "3", value_name = "N")]
    pub failures: NonZeroU32,
}

/// Checks until `stop` is cancelled, and says stopping from then on. `server` is asked by a connection where no check
/// was given. `child` is the server that the agent started, if it did. Must be called inside a tokio runtime; the task
/// ends when nobody listens any more.
pub fn watch(
    args: &ReadinessArgs,
    server: std::net::SocketAddr,
    child: Option<watch::Receiver<ChildStatus>>,
    stop: CancellationToken,
) -> watch::Receiver<Condition> {
    let (told, condition) = watch::channel(Condition::UNSEEN);
    let watcher = Watcher {
        check: args
            .check
            .clone()
            .unwrap_or_else(|| Check::Tcp(server.to_string())),
        timeout: args.timeout,
        interval: args.interval,
        child,
        tracker: Tracker::new(
            Thresholds {
                successes: args.successes.get(),
                failures: args.failures.get(),
            },
            Instant::now(),
        ),
        told,
    };
    tokio::spawn(watcher.run(stop));
    condition
}

struct Watcher {
    check: Check,
    timeout: Duration,
    interval: Duration,
    child: Option<watch::Receiver<ChildStatus>>,
    tracker: Tracker,
    told: watch::Sender<Condition>,
}

impl Watcher {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut child = self.child.clone();
        loop {
            self.look_at_child();
            self.tell();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.told.closed() => return,
                () = changed(&mut child) => {}
                _ = ticks.tick() => {
                    if self.child.is_none() || self.tracker.has_process() {
                        // A server that ends meanwhile answers nothing that counts.
                        let before = self.started();
                        let outcome = self.check.ask(self.timeout).await;
                        if self.started() == before {
                            self.tracker.checked(outcome, Instant::now());
                        }
                    }
                }
            }
        }
        self.tracker.stopping();
        self.tell();
    }

    fn started(&self) -> Option<(Option<u32>, Instant)> {
        let child = self.child.as_ref()?.borrow();
        Some((child.pid, child.started))
    }

    fn look_at_child(&mut self) {
        if let Some(child) = &self.child {
            let status = *child.borrow();
            self.tracker.child(&status);
        }
    }

    fn tell(&self) {
        let condition = self.tracker.condition();
        self.told.send_if_modified(|told| {
            let is_new = *told != condition;
            if is_new {
                tracing::info!(
                    state = condition.state.symbol(),
                    restarts = condition.restarts,
                    load_us = condition.load_us,
                    "the replica's condition"
                );
                *told = condition;
            }
            is_new
        });
    }
}

/// Ends when the child's status changes; never where there is no child, or no longer one.
async fn changed(child: &mut Option<watch::Receiver<ChildStatus>>) {
    match child {
        Some(status) => {
            if status.changed().await.is_err() {
                *child = None;
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
