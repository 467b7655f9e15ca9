//! The one task that decides: answers the group, asks for flushes, hands them to the writer.
//!
//! Whatever it does can be interrupted by a revocation or a shutdown, and then has until a deadline to end well; what
//! has not ended by then is dropped, with all windows, and replayed by the next owner.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ProcessorArgs;
use super::engine::{Engine, Work};
use super::protocol::Report;
use super::status::Status;
use crate::bus::avro::SchemaRegistry;
use crate::bus::member::{MemberIdentity, Membership, REVOKE_DEADLINE};
use crate::config::StoreAddress;

/// Decisions of the group that may wait: it sends one and waits for its answer.
const DECISION_QUEUE: usize = 4;

/// Reports of all workers that may wait. Each has at most one of each kind for a partition, and Kafka's largest groups
/// have some thousand partitions a process.
const REPORT_QUEUE: usize = 4096;

pub struct Conductor {
    engine: Engine,
    decisions: mpsc::Receiver<Membership>,
    reports: mpsc::Receiver<Report>,
    flush_interval: Duration,
    shutdown_deadline: Duration,
}

/// What ends a wait.
enum Event {
    Shutdown,
    /// And when it came.
    Decision(Membership, Instant),
    Report(Report),
    Tick,
}

/// What came while work was under way.
enum Interruption {
    None,
    /// And when it came.
    Decision(Membership, Instant),
    Shutdown,
}

impl Conductor {
    /// Starts the workers and joins the group.
    ///
    /// # Errors
    /// When a client of Kafka or ClickHouse cannot be made.
    pub async fn start(
        args: ProcessorArgs,
        identity: &MemberIdentity,
        address: StoreAddress,
        registry: Arc<SchemaRegistry>,
        status: Arc<Status>,
    ) -> anyhow::Result<Self> {
        let (decide, decisions) = mpsc::channel(DECISION_QUEUE);
        let (report, reports) = mpsc::channel(REPORT_QUEUE);
        let engine =
            Engine::start(&args, identity, address, registry, status, decide, report).await?;
        Ok(Self {
            engine,
            decisions,
            reports,
            flush_interval: args.flush_interval,
            shutdown_deadline: args.shutdown_deadline,
        })
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// When a worker dies, on a defect, when an assignment could not be looked up for a minute, or when the group has
    /// ended this process's membership.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = interval(self.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = None;
        loop {
            let event = match pending.take() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Event::Shutdown,
                    Some(decision) = self.decisions.recv() => Event::Decision(decision, Instant::now()),
                    Some(report) = self.reports.recv() => Event::Report(report),
                    _ = ticks.tick() => Event::Tick,
                },
            };
            let work = match event {
                Event::Shutdown => {
                    let deadline = Instant::now() + self.shutdown_deadline;
                    return self.leave(deadline).await;
                }
                Event::Decision(Membership::Assigned(sources), _) => Some(Work::Assign(sources)),
                Event::Decision(Membership::Revoked(done), since) => {
                    self.give_up(since + REVOKE_DEADLINE, Some(done)).await?;
                    None
                }
                Event::Decision(Membership::Ended(reason), _) => {
                    bail!(
                        "Kafka has put this process out of its group ({reason}); --instance-id is to be one process's alone"
                    )
                }
                Event::Report(report) => self.engine.on_report(report)?,
                Event::Tick => Some(Work::Flush(self.engine.kind_of_tick())),
            };
            let Some(work) = work else { continue };
            match self.perform(work, &shutdown).await? {
                Interruption::None => {}
                // the work had one half of the time
                Interruption::Shutdown => {
                    let deadline = Instant::now() + self.shutdown_deadline / 2;
                    return self.leave(deadline).await;
                }
                Interruption::Decision(decision, since) => {
                    pending = Some(Event::Decision(decision, since))
                }
            }
        }
    }

    /// Performs work. When something comes up meanwhile, the work has half of that thing's time to end well.
    async fn perform(
        &mut self,
        work: Work,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Interruption> {
        let (interruption, ended) = {
            let work = self.engine.perform(work);
            tokio::pin!(work);
            let (interruption, patience) = tokio::select! {
                biased;
                result = &mut work => return result.map(|()| Interruption::None),
                () = shutdown.cancelled() => (Interruption::Shutdown, self.shutdown_deadline),
                Some(decision) = self.decisions.recv() => (Interruption::Decision(decision, Instant::now()), REVOKE_DEADLINE),
            };
            (interruption, timeout(patience / 2, work).await)
        };
        match ended {
            Ok(result) => result?,
            Err(_) => {
                tracing::warn!(
                    "a flush did not end in time; its windows are dropped and will be read again"
                );
                self.engine.drop_all()?;
            }
        }
        Ok(interruption)
    }

    /// One last flush, then everything is dropped. False when the flush did not end in time.
    async fn give_up(
        &mut self,
        deadline: Instant,
        done: Option<SyncSender<()>>,
    ) -> anyhow::Result<bool> {
        let ended = timeout_at(deadline, self.engine.flush_last()).await;
        self.engine.drop_all()?;
        if let Some(done) = done {
            // the group's member may have stopped waiting; it then gives the partitions up all the same
            let _ = done.send(());
        }
        match ended {
            Ok(result) => result.map(|()| true),
            Err(_) => {
                tracing::warn!(
                    "the last flush did not end in time; the next owner reads its messages again"
                );
                Ok(false)
            }
        }
    }

    async fn leave(mut self, deadline: Instant) -> anyhow::Result<()> {
        let is_stored = self.give_up(deadline, None).await?;
        // a broker that is gone must not hold the process
        if timeout_at(deadline, self.engine.leave()).await.is_err() {
            tracing::warn!("the group could not be left in time; it will notice by itself");
        }
        if is_stored {
            tracing::info!("everything folded is stored; the member has ended");
        }
        Ok(())
    }
}
