//! The publisher: one thread between the meter and Kafka. It looks by the clock, so that an event wakes nobody, and
//! nothing that a request meets waits for what it waits for: the disk and Kafka.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::batcher::Batcher;
use super::kafka::{Answer, Client};
use super::message::Name;
use super::outbox::{Backlog, Kept, Outbox};
use super::sampler::Sampler;
use crate::agent::identity::Identity;
use crate::agent::meter::Meter;
use crate::agent::status::AgentStatus;
use crate::clock::now_us;
use crate::core::event::RequestEvent;
use crate::core::table::Stream;

/// Between two looks at the meter's queue, which holds 160 ms of a replica's most. A look costs some microseconds.
pub const LOOK: Duration = Duration::from_millis(20);

/// The same where nothing came with the last look and no server posts, so that an idle replica costs little: the queue holds
/// what comes until then at any rate.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// After Kafka gave a message back: what is wrong, such as a missing topic, lasts for longer than this.
const RESEND_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks for what agents that have ended left in the spool's other folders: some system calls each.
const TAKE_OVER_PAUSE: Duration = Duration::from_secs(10);

/// Bodies of posted events that may wait for the next look; a further one is answered with 503.
pub const POSTED_QUEUE: usize = 16;

/// All that the thread works with.
pub struct Publisher {
    pub identity: Identity,
    pub meter: Arc<Meter>,
    /// Events that the server posted, whole bodies at a time.
    pub posted: Receiver<Vec<RequestEvent>>,
    pub batcher: Batcher,
    pub sampler: Sampler,
    pub outbox: Outbox,
    pub client: Client,
    pub status: Arc<AgentStatus>,
    /// How long what is left may take at the end.
    pub deadline: Duration,
    /// Servers may post, of whose bodies few may wait.
    pub takes_posts: bool,
}

/// Three steps of the end: the replica is stopping; nothing more will be recorded; the thread has ended.
#[derive(Debug, Clone)]
pub struct Ending {
    pub stopping: CancellationToken,
    pub finished: CancellationToken,
    pub over: CancellationToken,
}

/// What Kafka had not taken by the deadline.
pub type LeftOver = Backlog;

impl Publisher {
    /// Runs until [`Ending::finished`], then delivers what is left under the deadline.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self, ending: Ending) -> std::io::Result<JoinHandle<LeftOver>> {
        std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || {
                // told however it ends
                let _over = ending.over.clone().drop_guard();
                self.run(&ending)
            })
    }

    fn run(mut self, ending: &Ending) -> LeftOver {
        let mut is_disk_missed = false;
        let mut resend_at = Instant::now();
        let mut take_over_at = resend_at + TAKE_OVER_PAUSE;
        while !ending.finished.is_cancelled() {
            let now = Instant::now();
            let n_events = self.take_events(now, &mut is_disk_missed);
            let look = if n_events == 0 && !self.takes_posts {
                IDLE_LOOK
            } else {
                LOOK
            };
            if let Some(batch) = self.batcher.close_if_due(now, &self.identity) {
                self.keep_batch(batch, &mut is_disk_missed);
            }
            let is_stopping = ending.stopping.is_cancelled();
            if self.sampler.is_due(is_stopping, now) {
                self.keep_sample(is_stopping, now, &mut is_disk_missed);
            }
            if now >= take_over_at {
                take_over_at = now + TAKE_OVER_PAUSE;
                self.take_over();
            }
            self.exchange(now, look, &mut resend_at);
        }
        let now = Instant::now();
        self.take_events(now, &mut is_disk_missed);
        if let Some(batch) = self.batcher.close(&self.identity) {
            self.keep_batch(batch, &mut is_disk_missed);
        }
        if self.sampler.has_changed(true) {
            // it was told to end since the last look
            self.keep_sample(true, now, &mut is_disk_missed);
        }
        self.keep_sample(true, now, &mut is_disk_missed);
        while !self.outbox.is_empty() && now.elapsed() < self.deadline {
            self.exchange(Instant::now(), LOOK, &mut resend_at);
        }
        self.outbox.backlog()
    }

    fn take_over(&mut self) {
        let n_batches = self.outbox.take_over(self.meter.losses());
        if n_batches > 0 {
            tracing::info!(n_batches, "took over what an agent that ended had left");
        }
    }

    /// How many there were.
    fn take_events(&mut self, now: Instant, is_disk_missed: &mut bool) -> u64 {
        let mut n = 0;
        while let Some(event) = self.meter.take() {
            n += 1;
            self.add(event, now, is_disk_missed);
        }
        while let Ok(events) = self.posted.try_recv() {
            n += events.len() as u64;
            for event in events {
                self.add(event, now, is_disk_missed);
            }
        }
        self.status.tell_recorded(n);
        n
    }

    fn add(&mut self, event: RequestEvent, now: Instant, is_disk_missed: &mut bool) {
        if let Some(batch) = self.batcher.add(event, now, &self.identity) {
            self.keep_batch(batch, is_disk_missed);
        }
    }

    fn keep_batch(&mut self, batch: super::batcher::Batch, is_disk_missed: &mut bool) {
        let name = self.name(Stream::Requests, batch.sequence, batch.n_events);
        self.keep(name, batch.message, is_disk_missed);
    }

    fn keep_sample(&mut self, is_stopping: bool, now: Instant, is_disk_missed: &mut bool) {
        let sample = self
            .sampler
            .take(&self.identity, is_stopping, now, now_us());
        let name = self.name(Stream::Replicas, sample.sequence, 0);
        self.keep(name, sample.message, is_disk_missed);
    }

    fn name(&self, stream: Stream, sequence: i64, n_events: u32) -> Name {
        Name {
            created_us: now_us(),
            boot_id: self.identity.boot_id,
            stream,
            sequence,
            n_events,
        }
    }

    /// Told once when the disk begins to fail, and once when it takes messages again.
    fn keep(&mut self, name: Name, message: Vec<u8>, is_disk_missed: &mut bool) {
        match self.outbox.push(name, message, self.meter.losses()) {
            Kept::InMemory(Some(error)) if !*is_disk_missed => {
                *is_disk_missed = true;
                tracing::warn!(%error, "the spool cannot be written; batches are kept in memory");
            }
            Kept::OnDisk if *is_disk_missed => {
                *is_disk_missed = false;
                tracing::info!("the spool can be written again");
            }
            Kept::InMemory(_) | Kept::OnDisk => {}
        }
    }

    /// Gives the client what waits, lets it work until the next look, and hears what became of what it had.
    fn exchange(&mut self, now: Instant, look: Duration, resend_at: &mut Instant) {
        let losses = self.meter.losses();
        self.outbox.expire(now_us(), losses);
        while now >= *resend_at {
            let Some(next) = self.outbox.next(losses) else {
                break;
            };
            let key = &self.identity.deployment_id;
            match self.client.send(next.id, next.name, key, &next.message) {
                None => {}
                Some(Answer::Refused) => self.outbox.refused(next.id, losses),
                // full, or it has failed for good: neither is over at once
                Some(_) => {
                    self.outbox.returned(next.id);
                    *resend_at = now + LOOK;
                }
            }
        }
        for (id, answer) in self.client.poll(look) {
            match answer {
                Answer::Delivered => {
                    if let Some(name) = self.outbox.delivered(id) {
                        self.status.tell_delivered(name.n_events);
                    }
                }
                Answer::Refused => self.outbox.refused(id, losses),
                Answer::Returned => {
                    self.outbox.returned(id);
                    *resend_at = now + RESEND_PAUSE;
                }
            }
        }
        self.client.renew_if_fatal();
        self.status
            .tell_backlog(self.outbox.backlog(), self.client.n_errors());
    }
}
