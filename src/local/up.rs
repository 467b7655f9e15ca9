//! `modelmeter up`: all of it on one machine. It owns the folder, the order in which parts begin and
//! end, and the ready file. Every part is this same program started again, so that it can be killed
//! and looked at by itself. It is no way to run production: one broker, one engine, one machine.
//!
//! ```text
//! DIR/up.lock        held by `up`: one at a time
//! DIR/children.lock  held by every process below it: free when all are gone
//! DIR/ports.json     the ports of last time
//! DIR/kafka/  DIR/clickhouse/  DIR/logs/
//! ```

mod addresses;
mod backoff;
mod commands;
mod journal;
mod ready_file;
mod supervise;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::addresses::{Addresses, Wanted};
use self::backoff::Backoff;
use self::commands::Commands;
use self::ready_file::ReadyFile;
use self::supervise::{Host, Name, Part, State, States, Supervised};
use super::lock::{FolderLock, LockError};
use super::parts::PartsArgs;
use super::process::Spawner;
use crate::config::TopicArgs;

#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// The folder that keeps all data; `up` on the same folder goes on where it stopped.
    #[arg(long, default_value = "modelmeter-data", value_name = "DIR")]
    pub dir: PathBuf,
    /// Kafka's port, 9092 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub kafka_port: Option<u16>,
    /// ClickHouse's HTTP port, 8123 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub clickhouse_port: Option<u16>,
    /// The page's port, 8080 unless it is taken; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub dashboard_port: Option<u16>,
    /// Written as JSON once everything is up, and anew at every change.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub parts: PartsArgs,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// Partitions of new topics.
    #[arg(long)]
    pub partitions: Option<u32>,
    #[command(flatten)]
    pub processor: ProcessorFlags,
}

/// Handed to the processor as they are; it says what they may be.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessorFlags {
    /// Workers of the processor.
    #[arg(long)]
    pub workers: Option<String>,
    /// How often the processor writes the 10 s tables.
    #[arg(long, value_name = "DURATION")]
    pub flush_interval: Option<String>,
    /// How often the processor writes the 1 m and 1 h tables.
    #[arg(long, value_name = "DURATION")]
    pub coarse_flush_interval: Option<String>,
    /// A folder with further Avro schemas that producers write.
    #[arg(long, value_name = "DIR")]
    pub schemas: Option<PathBuf>,
}

/// Processes of an `up` that was killed are killed by the kernel; this is how long they may take to go.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(15);

/// The migrations' tries, each on parts that have just answered: more than chance needs.
const MIGRATE_ATTEMPTS: u32 = 3;

/// After all parts have been waited for, what they had started themselves dies by the kernel's hand.
const LAST_PROCESS_PATIENCE: Duration = Duration::from_secs(10);

/// Runs everything until it is told to stop.
///
/// # Errors
/// When the folder is in use, or a part cannot be started in the first place.
pub async fn run(args: UpArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let dir = std::path::absolute(&args.dir).context("--dir")?;
    let logs = dir.join("logs");
    fs::create_dir_all(&logs)
        .with_context(|| format!("the folder {} cannot be made", logs.display()))?;
    let _alone = FolderLock::acquire(&dir.join("up.lock")).map_err(|error| in_use(error, &dir))?;
    let children = dir.join("children.lock");
    let lock = FolderLock::acquire_within(&children, PREDECESSOR_PATIENCE)
        .await
        .map_err(|error| in_use(error, &dir))?;
    let ready_file = args.ready_file.as_deref().map(ReadyFile::new).transpose()?;

    let wanted = Wanted {
        kafka: args.kafka_port,
        clickhouse: args.clickhouse_port,
        dashboard: args.dashboard_port,
    };
    let ports_file = dir.join("ports.json");
    let (addresses, notes) = Addresses::choose(wanted, Addresses::last(&ports_file))?;
    addresses.remember(&ports_file)?;
    for note in notes {
        println!("{note}");
    }

    let program = std::env::current_exe().context("this program's own file")?;
    let host = Arc::new(Host {
        program,
        spawner: Spawner::start()?,
        lock,
        logs,
    });
    let whole = Whole {
        commands: Commands {
            args,
            dir,
            addresses,
        },
        host,
        states: Arc::new(watch::Sender::default()),
        ready_file,
    };
    let mut running = Running::default();
    let outcome = whole.run(&mut running, &shutdown).await;
    if let Some(file) = &whole.ready_file {
        file.remove()?;
    }
    running.stop().await;
    drop(whole);
    FolderLock::acquire_within(&children, LAST_PROCESS_PATIENCE)
        .await
        .context("a process was left behind")?;
    if outcome.is_ok() {
        println!("modelmeter has stopped; `up` on the same folder goes on from here");
    }
    outcome
}

fn in_use(error: LockError, dir: &Path) -> anyhow::Error {
    match error {
        LockError::Held { .. } => anyhow::Error::new(error).context(format!(
            "another `modelmeter up` uses the folder {}",
            dir.display()
        )),
        LockError::Io { .. } => error.into(),
    }
}

/// What runs now, in the order of its start.
#[derive(Default)]
struct Running {
    kafka: Option<Supervised>,
    clickhouse: Option<Supervised>,
    processor: Option<Supervised>,
    dashboard: Option<Supervised>,
}

impl Running {
    /// Ends the parts, those first that use others.
    async fn stop(self) {
        for part in [self.dashboard, self.processor, self.clickhouse, self.kafka]
            .into_iter()
            .flatten()
        {
            part.stop().await;
        }
    }
}

struct Whole {
    commands: Commands,
    host: Arc<Host>,
    states: Arc<watch::Sender<States>>,
    ready_file: Option<ReadyFile>,
}

impl Whole {
    /// Starts everything in order, then keeps the ready file true until the word to stop.
    async fn run(&self, running: &mut Running, shutdown: &CancellationToken) -> anyhow::Result<()> {
        println!("starting Kafka and ClickHouse");
        running.kafka = Some(self.supervise(self.commands.kafka()));
        running.clickhouse = Some(self.supervise(self.commands.clickhouse()));
        let started = async {
            self.until_up(Name::Kafka).await?;
            self.until_up(Name::ClickHouse).await?;
            self.migrate().await?;
            running.processor = Some(self.supervise(self.commands.processor()));
            running.dashboard = Some(self.supervise(self.commands.dashboard()));
            self.until_up(Name::Processor).await?;
            self.until_up(Name::Dashboard).await
        };
        tokio::select! {
            started = started => started?,
            () = shutdown.cancelled() => return Ok(()),
        }
        self.write_ready_file(&self.states.borrow().clone())?;
        self.print_addresses();
        tokio::select! {
            failed = self.keep_ready_file() => failed,
            () = shutdown.cancelled() => {
                println!("stopping: page, processor, ClickHouse, Kafka");
                Ok(())
            }
        }
    }

    fn supervise(&self, part: Part) -> Supervised {
        self.host.supervise(part, Arc::clone(&self.states))
    }

    async fn until_up(&self, name: Name) -> anyhow::Result<()> {
        let mut watch = self.states.subscribe();
        let states = watch
            .wait_for(|states| *states.of(name) != State::Down)
            .await?;
        match states.of(name) {
            State::GivenUp { reason } => Err(anyhow::anyhow!(
                "{role} never answered ({reason}); its log is {logs}/{role}.log",
                role = name.role(),
                logs = self.host.logs.display(),
            )),
            State::Up { .. } | State::Down => Ok(()),
        }
    }

    /// The migrations, each try on parts that have answered. Cancelled between two of their
    /// statements they are gone on with by the next start.
    async fn migrate(&self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self
                .host
                .run_once(&self.commands.migrate(), "migrate")
                .await
            else {
                return Ok(());
            };
            let wait = backoff.after_failure(Duration::ZERO);
            if backoff.n_failures() == MIGRATE_ATTEMPTS {
                return Err(anyhow::Error::new(error).context("`modelmeter migrate up`"));
            }
            tracing::warn!(%error, "migrations failed, trying them again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Writes the ready file at every change, and audits the tables at every start of the engine; ends only when the file
    /// cannot be written.
    async fn keep_ready_file(&self) -> anyhow::Result<()> {
        let mut watch = self.states.subscribe();
        let mut audited = None;
        loop {
            let states = watch.borrow_and_update().clone();
            self.write_ready_file(&states)?;
            if let State::Up { pid } = states.of(Name::ClickHouse)
                && audited.replace(*pid) != Some(*pid)
            {
                self.audit().await;
            }
            watch.changed().await?;
        }
    }

    /// What the engine has after a start is what it had before, or it is said.
    async fn audit(&self) {
        match self.host.run_once(&self.commands.audit(), "audit").await {
            Ok(()) => tracing::info!("the audit found nothing lost and nothing doubled"),
            Err(error) => tracing::error!(%error, "the audit found faults, or could not run"),
        }
    }

    fn write_ready_file(&self, states: &States) -> anyhow::Result<()> {
        if let Some(file) = &self.ready_file {
            file.write(&self.commands.addresses, states)?;
        }
        Ok(())
    }

    fn print_addresses(&self) {
        let Addresses {
            kafka,
            clickhouse,
            processor,
            dashboard,
        } = self.commands.addresses;
        println!(
            "modelmeter is up, its data in {}",
            self.commands.dir.display()
        );
        println!("  page        http://127.0.0.1:{dashboard}");
        println!("  Kafka       127.0.0.1:{kafka}");
        println!("  ClickHouse  http://127.0.0.1:{clickhouse} (user default, no password)");
        println!("  processor   http://127.0.0.1:{processor}/metrics");
        println!("  logs        {}", self.host.logs.display());
        println!("Ctrl-C stops all of it in order.");
    }
}
