//! `modelmeter demo`: everything on one machine with real load on it, in one word. It starts `up` and `replay` as children, says
//! where to look, and ends them in order, with real model servers beside the replay where they are installed; with `--for` it then holds the tables against what the replay produced. It is no part
//! of the pipeline: it uses what anyone can use.

mod arguments;
mod check;
mod children;
mod counted;
mod folder;
mod servers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::arguments::{audit_arguments, replay_arguments, up_arguments};
use self::check::Check;
use self::children::{Child, Children};
use self::folder::Folder;
use self::servers::Servers;
use crate::clock;
use crate::config::parse_duration;
use crate::local::parts::PartsArgs;
use crate::replay::files::{self, Progress};
use crate::replay::parse_history;
use crate::replay::summary::Summary;

#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// The folder that keeps all data: a later demo on it fills only the gap since then. Without it a fresh one, removed at
    /// the end unless something went wrong.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Ends after so long of live load, and checks the tables against what was produced: exit 0 when they agree, else 1.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub run_for: Option<Duration>,
    /// So much of the past is filled first, at most 47h.
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = parse_history)]
    pub history: Duration,
    /// How much faster than it was recorded the load arrives.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Written as JSON once everything is up, and anew at every change.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Kafka's port, 9092 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub kafka_port: Option<u16>,
    /// ClickHouse's HTTP port, 8123 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub clickhouse_port: Option<u16>,
    /// The page's port, 8080 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub dashboard_port: Option<u16>,
    /// Replayed deployments alone, also where model servers are installed.
    #[arg(long)]
    pub without_servers: bool,
    #[command(flatten)]
    pub parts: PartsArgs,
}

/// Where everything is, as `up`'s ready file says. It has more in it that is of no concern here.
#[derive(Debug, Clone, Deserialize)]
struct Addresses {
    kafka: String,
    clickhouse: String,
    dashboard: Option<String>,
}

/// Between two looks at a file that another process writes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// From the start of the history to its last row in the tables. A busy machine may take ten times as long as an idle one.
const FILL_DEADLINE: Duration = Duration::from_secs(600);

/// From the last message to its last row: flushes on a busy machine.
const COUNT_DEADLINE: Duration = Duration::from_secs(180);

/// Runs the demo, until it is told to stop or its time is over.
///
/// # Errors
/// When something cannot be started, or ends by itself.
pub async fn run(args: DemoArgs, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(args.dir.as_deref())?;
    let outcome = run_in(folder.path(), args, &shutdown).await;
    let is_success = matches!(outcome, Ok(code) if code == ExitCode::SUCCESS);
    let closed = folder.close(is_success);
    first_reason(outcome, closed.map_err(Into::into))
}

/// What the demo came to, else why its end failed. The first reason is what a person needs; a later one is often its consequence
/// and goes to the log.
fn first_reason(
    outcome: anyhow::Result<ExitCode>,
    end: anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    match (outcome, end) {
        (Ok(_), Err(error)) => Err(error),
        (Err(reason), Err(error)) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the demo did not end in order"
            );
            Err(reason)
        }
        (outcome, Ok(())) => outcome,
    }
}

/// The demo in its folder, which outlives every process that uses it.
async fn run_in(
    folder: &Path,
    args: DemoArgs,
    shutdown: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let ready_file = match &args.ready_file {
        Some(path) => std::path::absolute(path).context("--ready-file")?,
        None => folder.join("ready.json"),
    };
    let children = Arc::new(Children::start(folder)?);
    // of a run before: it speaks of processes that are gone
    match std::fs::remove_file(&ready_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("{} cannot be removed", ready_file.display()));
        }
        _ => {}
    }
    let mut up = children
        .run("up", up_arguments(&args, folder, &ready_file))
        .await?;
    let demo = Demo {
        args,
        children,
        folder: folder.to_owned(),
        ready_file,
        began: Instant::now(),
        began_us: clock::now_us(),
    };
    let outcome = tokio::select! {
        outcome = demo.show(shutdown) => outcome,
        ended = up.ended() => Err(ended.into()),
    };
    println!("demo: stopping");
    first_reason(outcome, up.stop().await.map_err(Into::into))
}

struct Demo {
    args: DemoArgs,
    children: Arc<Children>,
    folder: PathBuf,
    ready_file: PathBuf,
    began: Instant,
    began_us: i64,
}

impl Demo {
    /// The demo itself, on an `up` that is starting. Told to stop it ends the replay and comes back.
    async fn show(&self, shutdown: &CancellationToken) -> anyhow::Result<ExitCode> {
        println!("demo: starting Kafka, ClickHouse and the processor");
        let addresses = tokio::select! {
            addresses = self.addresses() => addresses?,
            () = shutdown.cancelled() => return Ok(self.interrupted()),
        };
        let check = tokio::select! {
            check = self.begin_check(&addresses) => check?,
            () = shutdown.cancelled() => return Ok(self.interrupted()),
        };
        let mut servers = self.start_servers(&addresses);
        let outcome = self
            .show_on(&addresses, check, servers.as_mut(), shutdown)
            .await;
        if let Some(servers) = servers {
            servers.abandon().await;
        }
        outcome
    }

    fn start_servers(&self, addresses: &Addresses) -> Option<Servers> {
        if self.args.without_servers {
            return None;
        }
        let parts = &self.args.parts.parts;
        Servers::start(&self.children, parts, &self.folder, &addresses.kafka)
    }

    /// The replay, beside the servers, and what came of both.
    async fn show_on(
        &self,
        addresses: &Addresses,
        check: Check,
        servers: Option<&mut Servers>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        println!(
            "demo: filling the past ({} min at most)",
            self.args.history.as_secs_f64() / 60.0
        );
        let mut replay = self
            .children
            .run(
                "replay",
                replay_arguments(
                    &self.args,
                    addresses,
                    &self.progress_file(),
                    &self.summary_file(),
                ),
            )
            .await?;
        let shown = tokio::select! {
            shown = self.show_load(addresses, &check, &mut replay) => shown,
            () = shutdown.cancelled() => {
                replay.stop().await?;
                return Ok(self.interrupted());
            }
        };
        shown?;
        tokio::select! {
            verdict = self.verdict(addresses, check, servers) => verdict,
            () = shutdown.cancelled() => Ok(self.interrupted()),
        }
    }

    /// A demo without an end is ended by being interrupted; one that was to check has not.
    fn interrupted(&self) -> ExitCode {
        if self.args.run_for.is_some() {
            println!("demo: interrupted before it could check its numbers");
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    async fn addresses(&self) -> anyhow::Result<Addresses> {
        loop {
            if let Some(addresses) = files::read::<Addresses>(&self.ready_file)? {
                return Ok(addresses);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// What is in the tables before the replay: on a folder that was used before, all of it must have been counted first.
    async fn begin_check(&self, addresses: &Addresses) -> anyhow::Result<Check> {
        let check = Check::new(&addresses.kafka, &addresses.clickhouse, self.began_us)?;
        check.wait_until_counted(COUNT_DEADLINE).await?;
        Ok(check.with_baseline().await?)
    }

    fn progress_file(&self) -> PathBuf {
        self.folder.join("replay.json")
    }

    fn summary_file(&self) -> PathBuf {
        self.folder.join("summary.json")
    }

    /// Says when the charts are full, and waits until the replay has ended.
    async fn show_load(
        &self,
        addresses: &Addresses,
        check: &Check,
        replay: &mut Child,
    ) -> anyhow::Result<()> {
        let full = async {
            self.until_live().await?;
            check.wait_until_counted(FILL_DEADLINE).await?;
            self.print_addresses(addresses);
            anyhow::Ok(())
        };
        tokio::select! {
            full = full => full?,
            // a short one may be over before the charts are full
            ended = replay.succeeded() => return Ok(ended?),
        }
        Ok(replay.succeeded().await?)
    }

    async fn until_live(&self) -> anyhow::Result<()> {
        loop {
            let progress: Option<Progress> = files::read(&self.progress_file())?;
            let live_from = progress.and_then(|progress| progress.live_from_us);
            if live_from.is_some_and(|live_from| live_from >= self.began_us) {
                println!(
                    "demo: the past is filled after {:.0} s, counting it",
                    self.elapsed_s()
                );
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn print_addresses(&self, addresses: &Addresses) {
        println!(
            "demo: the charts are full after {:.0} s, and live",
            self.elapsed_s()
        );
        if let Some(page) = &addresses.dashboard {
            println!("  page        {page}");
        }
        println!(
            "  ClickHouse  {} (user default, no password)",
            addresses.clickhouse
        );
        println!("  Kafka       {}", addresses.kafka);
        println!("  data, logs  {}", self.folder.display());
        println!("Try:");
        println!(
            "  curl {}/ -d \"SELECT t, requests, rps_2xx, rps_4xx, rps_5xx FROM inference_volume(deployment='flash-sale-chat', \
             start=now()-3600, stop=now(), step=300) ORDER BY t FORMAT PrettyCompact\"",
            addresses.clickhouse
        );
        match self.args.run_for {
            Some(length) => println!("Ends by itself after {} s of live load.", length.as_secs()),
            None => println!("Ctrl-C stops all of it in order."),
        }
    }

    /// With everything counted, whether the tables say what was produced.
    async fn verdict(
        &self,
        addresses: &Addresses,
        check: Check,
        servers: Option<&mut Servers>,
    ) -> anyhow::Result<ExitCode> {
        let Some(summary) = files::read::<Summary>(&self.summary_file())? else {
            bail!("the replay left no summary");
        };
        let played = match servers {
            Some(servers) => {
                println!("demo: waiting until everything has happened to the model servers once");
                Some((servers.finish().await?, servers.began_s))
            }
            None => None,
        };
        println!("demo: waiting until everything is counted");
        check.wait_until_counted(COUNT_DEADLINE).await?;
        let mut differences = check.differences(&summary, &servers::IDS).await?;
        if let Some((played, began_s)) = &played {
            let found = servers::differences(check.client(), played, *began_s).await?;
            differences.extend(found);
        }
        let (n_shown, n) = (differences.len().min(20), differences.len());
        for difference in &differences[..n_shown] {
            println!("demo: WRONG: {difference}");
        }
        let mut audit = self
            .children
            .run("audit", audit_arguments(addresses))
            .await?;
        let audited = audit.succeeded().await.map_err(anyhow::Error::from);
        if let Err(error) = &audited {
            println!("demo: WRONG: {error:#}");
        }
        if n == 0 && audited.is_ok() {
            println!(
                "demo: checked: {} requests and {} samples of {} deployments are in every table as they were produced, and \
                 the audit finds nothing lost and nothing doubled",
                summary.n_requests(),
                summary.n_samples(),
                summary.deployments.len()
            );
            if let Some((played, _)) = &played {
                servers::tell(played);
            }
            return Ok(ExitCode::SUCCESS);
        }
        println!("demo: the tables are not what was produced: {n} numbers differ");
        Ok(ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn reason(outcome: anyhow::Result<ExitCode>, end: anyhow::Result<()>) -> Option<String> {
        first_reason(outcome, end)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn the_first_reason_is_the_one_that_is_given() {
        let (first, later) = (|| anyhow!("first"), || anyhow!("later"));
        let well = || Ok(ExitCode::SUCCESS);
        assert_eq!(reason(Err(first()), Err(later())).as_deref(), Some("first"));
        assert_eq!(reason(Err(first()), Ok(())).as_deref(), Some("first"));
        assert_eq!(reason(well(), Err(later())).as_deref(), Some("later"));
        assert_eq!(reason(well(), Ok(())), None);
    }
}
