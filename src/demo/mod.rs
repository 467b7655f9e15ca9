//! `modelmeter demo`: everything on one machine with real load on it, in one word. It starts `up` and `replay` as children, says
//! where to look, and ends them in order; with `--for` it then holds the tables against what the replay produced. It is no part
//! of the pipeline: it uses what anyone can use.

mod check;
mod children;
mod counted;
mod folder;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::check::Check;
use self::children::{Child, Children};
use self::folder::Folder;
use crate::clock;
use crate::config::parse_duration;
use crate::local::parts::PartsArgs;
use crate::replay::files::{self, Progress};
use crate::replay::summary::Summary;

#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// The folder that keeps all data: a later demo on it fills only the gap since then. Without it a fresh one, removed at
    /// the end.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Ends after so long of live load, and checks the tables against what was produced: exit 0 when they agree, else 1.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub run_for: Option<Duration>,
    /// So much of the past is filled first.
    #[arg(long, value_name = "DURATION", default_value = "6h")]
    pub history: String,
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

/// How often the coarse tables are written, which hold the past that the charts show: oftener than the processor would by itself,
/// so that a demo need not wait a minute for them.
const COARSE_FLUSH_INTERVAL: &str = "15s";

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
    let ready_file = match &args.ready_file {
        Some(path) => std::path::absolute(path).context("--ready-file")?,
        None => folder.path().join("ready.json"),
    };
    let children = Children::start(folder.path())?;
    // of a run before: it speaks of processes that are gone
    match std::fs::remove_file(&ready_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("{} cannot be removed", ready_file.display()));
        }
        _ => {}
    }
    let mut up = children
        .run("up", up_arguments(&args, folder.path(), &ready_file))
        .await?;
    let demo = Demo {
        args,
        children,
        folder,
        ready_file,
        began: Instant::now(),
        began_us: clock::now_us(),
    };
    let outcome = tokio::select! {
        outcome = demo.show(&shutdown) => outcome,
        ended = up.ended() => Err(ended),
    };
    println!("demo: stopping");
    up.stop().await?;
    demo.folder.close()?;
    outcome
}

/// What `up` is told; the demo's own flags are the same words.
fn up_arguments(args: &DemoArgs, dir: &Path, ready_file: &Path) -> Vec<String> {
    let mut arguments = vec!["up".to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("--dir", dir.display().to_string());
    add("--ready-file", ready_file.display().to_string());
    add("--parts", args.parts.parts.display().to_string());
    add("--coarse-flush-interval", COARSE_FLUSH_INTERVAL.to_owned());
    for (flag, port) in [
        ("--kafka-port", args.kafka_port),
        ("--clickhouse-port", args.clickhouse_port),
        ("--dashboard-port", args.dashboard_port),
    ] {
        if let Some(port) = port {
            add(flag, port.to_string());
        }
    }
    arguments
}

struct Demo {
    args: DemoArgs,
    children: Children,
    folder: Folder,
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
        println!("demo: filling the past ({} at most)", self.args.history);
        let mut replay = self
            .children
            .run("replay", self.replay_arguments(&addresses))
            .await?;
        let shown = tokio::select! {
            shown = self.show_load(&addresses, &check, &mut replay) => shown,
            () = shutdown.cancelled() => {
                replay.stop().await?;
                return Ok(self.interrupted());
            }
        };
        shown?;
        tokio::select! {
            verdict = self.verdict(&addresses, check) => verdict,
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
        check.with_baseline().await
    }

    fn replay_arguments(&self, addresses: &Addresses) -> Vec<String> {
        let mut arguments = vec!["replay".to_owned()];
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("--kafka", addresses.kafka.clone());
        add("--history", self.args.history.clone());
        add("--speed", self.args.speed.to_string());
        add("--seed", self.args.seed.to_string());
        add("--resume", self.progress_file().display().to_string());
        add("--summary", self.summary_file().display().to_string());
        if let Some(length) = self.args.run_for {
            add("--for", format!("{}ms", length.as_millis()));
        }
        arguments
    }

    fn progress_file(&self) -> PathBuf {
        self.folder.path().join("replay.json")
    }

    fn summary_file(&self) -> PathBuf {
        self.folder.path().join("summary.json")
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
            ended = replay.succeeded() => return ended,
        }
        replay.succeeded().await
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
        println!("  data, logs  {}", self.folder.path().display());
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
    async fn verdict(&self, addresses: &Addresses, check: Check) -> anyhow::Result<ExitCode> {
        let Some(summary) = files::read::<Summary>(&self.summary_file())? else {
            bail!("the replay left no summary");
        };
        println!("demo: waiting until everything is counted");
        check.wait_until_counted(COUNT_DEADLINE).await?;
        let differences = check.differences(&summary).await?;
        let (n_shown, n) = (differences.len().min(20), differences.len());
        for difference in &differences[..n_shown] {
            println!("demo: WRONG: {difference}");
        }
        let mut audit = self
            .children
            .run("audit", audit_arguments(addresses))
            .await?;
        let audited = audit.succeeded().await;
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
            return Ok(ExitCode::SUCCESS);
        }
        println!("demo: the tables are not what was produced: {n} numbers differ");
        Ok(ExitCode::FAILURE)
    }
}

fn audit_arguments(addresses: &Addresses) -> Vec<String> {
    [
        "audit",
        "--kafka",
        &addresses.kafka,
        "--clickhouse",
        &addresses.clickhouse,
    ]
    .map(str::to_owned)
    .to_vec()
}
