//! The publisher: one thread between the meter and Kafka. While there is something to do it looks by the clock, so that an
//! event wakes nobody; idle, it sleeps until it is woken. Nothing that a request meets waits for what it waits for: the disk
//! and Kafka.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::batcher::Batcher;
use super::kafka::{Answer, Client};
use super::message::Name;
use super::outbox::{Backlog, Kept, Outbox};
use super::sampler::Sampler;
use crate::agent::condition::Condition;
use crate::agent::identity::Identity;
use crate::agent::meter::Meter;
use crate::agent::status::AgentStatus;
use crate::clock::now_us;
use crate::core::event::RequestEvent;
use crate::core::table::Stream;

/// Between two looks at the meter's queue, which holds 160 ms of a replica's most. A look costs some microseconds.
pub const LOOK: Duration = Duration::from_millis(20);

/// The same where no event came with the last look, and something waits for its time or for Kafka. An event wakes the thread.
const QUIET_LOOK: Duration = Duration::from_millis(100);

/// The longest sleep of an idle publisher: the errors of the client that the admin page counts are never older. A look costs
/// some 40 us of CPU where the thread's memory has left the caches.
const IDLE_LOOK: Duration = Duration::from_secs(5);

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
        thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || {
                // told however it ends
                let _over = ending.over.clone().drop_guard();
                self.meter.wake_for_events(thread::current());
                self.run(&ending)
            })
    }

    fn run(mut self, ending: &Ending) -> LeftOver {
        let mut is_disk_missed = false;
        let begun = Instant::now();
        let mut resend_at = [begun; Stream::ALL.len()];
        let mut take_over_at = begun + TAKE_OVER_PAUSE;
        // what an earlier start left is known from the beginning
        self.status
            .tell_backlog(self.outbox.backlog(), self.client.n_errors());
        while !ending.finished.is_cancelled() {
            let now = Instant::now();
            let n_events = self.take_events(now, &mut is_disk_missed);
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
            self.send(now, &mut resend_at);
            self.rest(n_events, now);
            self.hear(now, &mut resend_at);
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
            let now = Instant::now();
            self.send(now, &mut resend_at);
            thread::sleep(LOOK);
            self.hear(now, &mut resend_at);
        }
        self.outbox.backlog()
    }

    /// Until the next look. (The Kafka client could wait as well, but rdkafka 0.39 spins through the last millisecond.)
    fn rest(&self, n_events: u64, now: Instant) {
        if n_events > 0 {
            // at most so often, however many come
            thread::sleep(LOOK);
        } else if self.batcher.is_empty() && self.outbox.is_empty() {
            thread::park_timeout(self.sampler.due_in(now).min(IDLE_LOOK));
        } else {
            thread::park_timeout(QUIET_LOOK);
        }
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

    /// Gives the client the next lot of each stream. A lot is read first, so that nothing of it waits for the disk while the
    /// rest is under way; a stream whose lot the client does not take keeps no other one waiting.
    fn send(&mut self, now: Instant, resend_at: &mut [Instant]) {
        let losses = self.meter.losses();
        self.outbox.expire(now_us(), losses);
        for stream in Stream::ALL {
            if now >= resend_at[stream as usize] {
                self.outbox.open_lot(stream);
            }
        }
        let lots: Vec<_> = std::iter::from_fn(|| self.outbox.next(losses)).collect();
        for next in lots {
            let resend_at = &mut resend_at[next.name.stream as usize];
            if *resend_at > now {
                self.outbox.returned(next.id);
                continue;
            }
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
    }

    /// What became of what the client had.
    fn hear(&mut self, now: Instant, resend_at: &mut [Instant]) {
        let losses = self.meter.losses();
        for (id, answer) in self.client.answers() {
            match answer {
                Answer::Delivered => {
                    if let Some(name) = self.outbox.delivered(id) {
                        self.status.tell_delivered(name.n_events);
                    }
                }
                Answer::Refused => self.outbox.refused(id, losses),
                Answer::Returned => {
                    if let Some(stream) = self.outbox.returned(id) {
                        resend_at[stream as usize] = now + RESEND_PAUSE;
                    }
                }
            }
        }
        self.client.renew_if_fatal();
        self.status
            .tell_backlog(self.outbox.backlog(), self.client.n_errors());
    }
}

/// Wakes the publisher for what no request brings: another state of the replica, and the steps of the end.
pub async fn wake_for_changes(
    meter: Arc<Meter>,
    mut condition: watch::Receiver<Condition>,
    ending: Ending,
) {
    let changes = async {
        while condition.changed().await.is_ok() {
            meter.wake();
        }
        // nobody changes it any more
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = changes => {}
        () = ending.stopping.cancelled() => {}
    }
    meter.wake();
    ending.finished.cancelled().await;
    meter.wake();
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::agent::out::fixtures::event;
    use crate::core::event::ReplicaState;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Wakes that are told of and not looked at yet.
    const WAKES: usize = 1;

    #[tokio::test]
    async fn an_idle_publisher_is_woken_by_whatever_concerns_it() {
        let meter = Arc::new(Meter::new(Instant::now()));
        let (woken, mut wakes) = mpsc::channel(WAKES);
        let sleeper = thread::spawn({
            let meter = meter.clone();
            move || {
                meter.wake_for_events(thread::current());
                while woken.blocking_send(()).is_ok() {
                    thread::park();
                }
            }
        });
        let mut is_woken = async || timeout(PATIENCE, wakes.recv()).await == Ok(Some(()));
        assert!(is_woken().await, "it has begun");
        let (told, condition) = watch::channel(Condition::UNSEEN);
        let ending = Ending {
            stopping: CancellationToken::new(),
            finished: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        let changes = tokio::spawn(wake_for_changes(meter.clone(), condition, ending.clone()));

        meter.record(event(1));
        assert!(is_woken().await, "by an event");
        told.send_modify(|condition| condition.state = ReplicaState::Active);
        assert!(is_woken().await, "by another state");
        ending.stopping.cancel();
        assert!(is_woken().await, "by the beginning of the end");
        ending.finished.cancel();
        assert!(is_woken().await, "by the end");

        changes.await.expect("it ends");
        drop(wakes);
        meter.wake();
        sleeper.join().expect("it ends");
    }
}
