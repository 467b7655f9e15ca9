//! Where partitions begin: asked of Kafka and of the ledgers, and handed to the workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Engine, Trial};
use crate::bus::broker::BrokerError;
use crate::core::ledger::Ledger;
use crate::core::marks::Mark;
use crate::core::recovery::{Log, Recovery, Stopped, recover};
use crate::core::table::{Source, Stream, Table};
use crate::processor::protocol::{Assignment, Command};
use crate::store::marks::Marked;

/// How long ledgers and logs are asked for after an assignment before the process ends and leaves it to another.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const RECOVERY_RETRY: Duration = Duration::from_millis(500);

/// A partition of which everything is known that its worker needs.
struct Recovered {
    source: Source,
    recovery: Recovery,
    marks: Vec<Mark>,
    log_end: u64,
}

/// How long a flush waits for Kafka to name a topic's id. While Kafka is away nothing new is read either, so that what was
/// read before is stored without the answer: a last flush must not be lost for it.
const ID_PATIENCE: Duration = Duration::from_secs(1);

/// How often a partition whose first ledger rows were fenced is tried anew: each time somebody else had just written.
const MAX_RECOVERIES: u32 = 5;

impl Engine {
    /// Looks up where each partition begins, begins the ledgers that are missing, and hands them to the workers.
    pub(super) async fn assign(&mut self, sources: Vec<Source>) -> anyhow::Result<()> {
        let mut to_recover = sources;
        for _ in 0..MAX_RECOVERIES {
            let recovered = self.recover(&to_recover).await?;
            let recoveries: Vec<(Source, Recovery)> = recovered
                .iter()
                .map(|it| (it.source, it.recovery.clone()))
                .collect();
            let fenced = self.writer.begin_ledgers(&recoveries).await?;
            self.hand_out(
                recovered
                    .into_iter()
                    .filter(|it| !fenced.contains(&it.source))
                    .collect(),
            )?;
            if fenced.is_empty() {
                return Ok(());
            }
            to_recover = fenced;
        }
        for source in to_recover {
            self.stop(
                source,
                "another process keeps writing this partition".to_owned(),
            );
        }
        Ok(())
    }

    fn hand_out(&mut self, recovered: Vec<Recovered>) -> anyhow::Result<()> {
        let mut by_worker: BTreeMap<usize, Vec<Assignment>> = BTreeMap::new();
        for it in recovered {
            let Recovered {
                source,
                recovery,
                marks,
                log_end,
            } = it;
            if recovery.n_started_late > 0 {
                let (tables, at) = (recovery.n_started_late, recovery.start);
                tracing::warn!(
                    ?source,
                    tables,
                    at,
                    "tables without a ledger begin at another's"
                );
                self.status.tell_started_late(tables);
            }
            self.generation += 1;
            self.owned.insert(source, self.generation);
            let was_stopped = self.stopped.remove(&source).is_some();
            match self.on_trial.get_mut(&source) {
                Some(trial) => {
                    let start = recovery.start;
                    *trial = Trial { start, log_end };
                }
                None if was_stopped => self.go_on(source),
                None => {}
            }
            let number = self.number_of_worker(source);
            let ledger = self.writer.ledger(source.stream);
            by_worker.entry(number).or_default().push(Assignment {
                source,
                generation: self.generation,
                recovery,
                marks,
                ledger,
                log_end,
            });
        }
        for (number, assignments) in by_worker {
            if !self.workers[number].send(Command::Assign(assignments)) {
                return Err(anyhow!("a worker takes no commands any more"));
            }
        }
        Ok(())
    }

    /// Asks Kafka and ClickHouse, until both have answered or patience ends. Partitions that cannot go on are stopped.
    async fn recover(&mut self, sources: &[Source]) -> anyhow::Result<Vec<Recovered>> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        loop {
            let error = match timeout_at(deadline, self.try_recover(sources)).await {
                Ok(Ok(recovered)) => return Ok(recovered),
                Ok(Err(error)) => error,
                Err(_) => anyhow!("no answer"),
            };
            if Instant::now() >= deadline {
                return Err(error.context(format!(
                    "the ledgers could not be read for {} s",
                    RECOVERY_PATIENCE.as_secs()
                )));
            }
            tracing::warn!(
                error = format!("{error:#}"),
                "an assignment cannot be looked up yet; trying again"
            );
            tokio::time::sleep(RECOVERY_RETRY).await;
        }
    }

    async fn try_recover(&mut self, sources: &[Source]) -> anyhow::Result<Vec<Recovered>> {
        let mut recovered = Vec::with_capacity(sources.len());
        for stream in Stream::ALL {
            let partitions: Vec<i32> = sources
                .iter()
                .filter(|source| source.stream == stream)
                .map(|source| source.partition)
                .collect();
            if partitions.is_empty() {
                continue;
            }
            let (ledger, logs) = self.ask_broker(stream, &partitions).await?;
            self.writer.set_ledger(stream, Arc::from(ledger));
            let ledgers = self.writer.read_ledgers(stream, &partitions).await?;
            let mut found = Vec::with_capacity(partitions.len());
            for (partition, log) in partitions.into_iter().zip(logs) {
                let source = Source { stream, partition };
                let of_partition: Vec<(Table, Option<Ledger>)> = ledgers
                    .iter()
                    .map(|(table, by_partition)| (*table, by_partition.get(&partition).copied()))
                    .collect();
                match self.decide(source, &of_partition, log).await? {
                    Ok(recovery) => found.push((source, recovery, log)),
                    Err(stopped) => self.stop(source, stopped.to_string()),
                }
            }
            // below the ledgers that were just read: what is written meanwhile lies above
            let starts: Vec<(i32, u64)> = found
                .iter()
                .map(|(source, recovery, _)| (source.partition, recovery.start))
                .collect();
            let mut marked = self.writer.read_marks(stream, &starts).await?;
            for (source, mut recovery, log) in found {
                let marks = match marked.remove(&source.partition) {
                    Some(Marked { boundary, marks }) => {
                        recovery.begin_at(boundary, log);
                        marks
                    }
                    None => Vec::new(),
                };
                self.writer.adopt(source, &recovery);
                recovered.push(Recovered {
                    source,
                    recovery,
                    marks,
                    log_end: log.end,
                });
            }
        }
        Ok(recovered)
    }

    /// The log was asked before the ledgers, so that no commit is younger than they are. They may have moved past the end
    /// that the log had then, which loses nothing: it is asked again.
    async fn decide(
        &self,
        source: Source,
        ledgers: &[(Table, Option<Ledger>)],
        log: Log,
    ) -> anyhow::Result<Result<Recovery, Stopped>> {
        let decided = recover(ledgers, log);
        let Err(Stopped::LogLost { .. }) = decided else {
            return Ok(decided);
        };
        let (_, logs) = self.ask_broker(source.stream, &[source.partition]).await?;
        let end = logs.first().map_or(log.end, |now| now.end);
        Ok(recover(ledgers, Log { end, ..log }))
    }

    /// The topic's ledger, `<topic>/<topic id>`, and what the log of each partition has.
    async fn ask_broker(
        &self,
        stream: Stream,
        partitions: &[i32],
    ) -> anyhow::Result<(String, Vec<Log>)> {
        let broker = self.broker.clone();
        let partitions = partitions.to_vec();
        let asked = tokio::task::spawn_blocking(move || {
            let ledger = broker.ledger(stream)?;
            let logs = partitions
                .into_iter()
                .map(|partition| broker.log(Source { stream, partition }, &ledger))
                .collect::<Result<Vec<_>, _>>()?;
            Ok::<_, BrokerError>((ledger, logs))
        });
        Ok(asked.await??)
    }

    /// Our partitions of a topic that was deleted and made again under its name since the assignment: its offsets mean
    /// other messages now, and librdkafka reads on at the old ones where the new log has them.
    pub(super) async fn of_topics_made_anew(&self) -> Vec<Source> {
        let [one, other] = Stream::ALL.map(|stream| self.ours_if_made_anew(stream));
        let (mut sources, more) = tokio::join!(one, other);
        sources.extend(more);
        sources
    }

    async fn ours_if_made_anew(&self, stream: Stream) -> Vec<Source> {
        let ours = self.owned.keys().filter(|source| source.stream == stream);
        let ours: Vec<Source> = ours.copied().collect();
        if ours.is_empty() {
            return ours;
        }
        match timeout(ID_PATIENCE, self.ask_broker(stream, &[])).await {
            Ok(Ok((ledger, _))) if *self.writer.ledger(stream) != ledger => {
                tracing::warn!(ledger, "the topic was made anew; its partitions begin anew");
                return ours;
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(
                error = format!("{error:#}"),
                "a topic's id cannot be asked now"
            ),
            Err(_) => tracing::debug!("a topic's id cannot be asked now: no answer"),
        }
        Vec::new()
    }

    /// Partitions that had stopped, and of which Kafka answers: their ledgers are looked at again. The others stay
    /// stopped: an assignment would wait for them, and end the process.
    pub(super) async fn answering(&self) -> Vec<Source> {
        let mut answering = Vec::new();
        for &source in self.stopped.keys() {
            match self.ask_broker(source.stream, &[source.partition]).await {
                Ok(_) => answering.push(source),
                Err(error) => {
                    tracing::debug!(?source, error = format!("{error:#}"), "still stopped");
                }
            }
        }
        answering
    }

    /// A topic that was deleted is no partition's business any more once the group has noticed: the alarm stays here.
    pub(super) async fn look_for_topics(&self) {
        for stream in Stream::ALL {
            let asked = self.ask_broker(stream, &[]).await;
            let is_missing = matches!(
                asked.as_ref().map_err(|error| error.downcast_ref()),
                Err(Some(BrokerError::NoTopic { .. }))
            );
            // no answer says nothing about the topic
            if asked.is_ok() || is_missing {
                self.status.tell_topic(stream, !is_missing);
            }
        }
    }
}
