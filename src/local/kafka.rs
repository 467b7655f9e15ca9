//! `modelmeter kafka`: a real Apache Kafka broker on one machine, in the foreground. It owns the
//! broker's folder, configuration and JVM, and ends the JVM in order. It is for one machine: it
//! listens on the loopback interface only and keeps one replica; a cluster is used by its address.

mod java;
mod storage;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::java::Java;
use self::storage::{Ports, Storage};
use super::lock::{FolderLock, LockError};
use super::parts::PartsArgs;
use super::process::{Launch, Process, Spawner, Stopped, ending};
use super::{ports, probe};

#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// The folder that keeps the broker's data.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The port for clients, on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 9092)]
    pub port: u16,
    #[command(flatten)]
    pub parts: PartsArgs,
    /// The Java to run the broker with; without it the `java` on the path.
    #[arg(long, env = "JAVA_HOME", value_name = "DIR")]
    pub java_home: Option<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum BrokerError {
    #[error("another broker runs on {dir}", dir = .dir.display())]
    FolderInUse { dir: PathBuf, source: LockError },
    #[error(
        "port {port} on 127.0.0.1 cannot be taken (another broker? --port 0 takes any free one)"
    )]
    Port { port: u16, source: io::Error },
    #[error("the broker ended while it was starting, with {ending}; its own words stand above")]
    EndedAtStart { ending: String },
    #[error("the broker did not answer within {} s", START_DEADLINE.as_secs())]
    Silent,
    #[error("the broker ended by itself, with {ending}; its own words stand above")]
    Ended { ending: String },
}

/// From the JVM's start to its first answer: 2 s when all is well; a long log that was not closed is
/// read again first. Past this something is wrong that waiting does not mend.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Where the broker chose a port and lost it to another program before it listened. Each attempt
/// chooses anew, so that two in a row are chance and three are a machine without ports.
const START_ATTEMPTS: u32 = 3;

/// A broker that was killed with its parent may take this long to leave its folder and ports.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);

/// A broker closes its log in 1 to 3 s. Killed, it loses nothing that it had acknowledged to this
/// machine's page cache, but reads its log again at the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Runs the broker until it is told to stop.
///
/// # Errors
/// When it cannot be started, or ends by itself.
pub async fn run(args: BrokerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let class_path = args.parts.kafka_class_path()?;
    // Set and empty is not set, for a variable that other programs share.
    let java_home = args.java_home.as_deref().filter(|home| !home.is_empty());
    let java = Java::find(java_home.map(Path::new)).await?;
    let storage = Storage::open(&args.dir)?;
    let lock = lock_folder(&args.dir).await?;
    let spawner = Spawner::start()?;
    let host = Host {
        storage,
        java,
        class_path,
        lock,
        spawner,
    };

    let Some((broker, ports)) = host.start(args.port, &shutdown).await? else {
        return Ok(());
    };
    println!("kafka: listening on 127.0.0.1:{}", ports.clients);
    attend(broker, &shutdown).await
}

async fn lock_folder(dir: &Path) -> Result<FolderLock, BrokerError> {
    FolderLock::acquire_within(&Storage::lock_path(dir), PREDECESSOR_PATIENCE)
        .await
        .map_err(|source| BrokerError::FolderInUse {
            dir: dir.to_owned(),
            source,
        })
}

/// Waits for the first of both: the broker's end, which is a failure, or the word to stop.
async fn attend(mut broker: Process, shutdown: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        ended = broker.wait() => Err(BrokerError::Ended { ending: ending(ended?) }.into()),
        () = shutdown.cancelled() => {
            if broker.stop(STOP_PATIENCE).await? == Stopped::Killed {
                eprintln!("kafka: not closed within {} s, killed", STOP_PATIENCE.as_secs());
            }
            Ok(())
        }
    }
}

/// All that a start needs, kept as long as the broker runs: the lock and the spawner are its lifelines.
struct Host {
    storage: Storage,
    java: Java,
    class_path: String,
    lock: FolderLock,
    spawner: Spawner,
}

impl Host {
    /// Starts the broker and waits until it answers; None when it was told to stop before that.
    async fn start(
        &self,
        port: u16,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<(Process, Ports)>> {
        let mut attempt = 1;
        loop {
            let ports = choose_ports(port)?;
            self.storage.write_configuration(ports)?;
            if !self.format(shutdown).await? {
                return Ok(None);
            }
            let mut broker = self.spawner.spawn(self.launch()).await?;
            let error = tokio::select! {
                answered = self.answer(&mut broker, ports) => match answered {
                    Ok(()) => return Ok(Some((broker, ports))),
                    Err(error) => error,
                },
                () = shutdown.cancelled() => {
                    broker.stop(STOP_PATIENCE).await?;
                    return Ok(None);
                }
            };
            // Only where a port was lost does another attempt make sense.
            let lost =
                ports::claim(ports.clients).is_err() || ports::claim(ports.controller).is_err();
            if !lost || attempt == START_ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Formats the folder where that is still to be done; false when it was told to stop meanwhile.
    async fn format(&self, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        let Some(command) = self.storage.format_command(&self.java, &self.class_path)? else {
            return Ok(true);
        };
        let mut tool = self
            .spawner
            .spawn(Launch::new(command).with_lock(&self.lock))
            .await?;
        tokio::select! {
            ended = tool.wait() => self.storage.formatted(ended?)?,
            // Dropping the tool kills it; the next start formats anew.
            () = shutdown.cancelled() => return Ok(false),
        }
        Ok(true)
    }

    fn launch(&self) -> Launch {
        let options = [
            "-Xmx512m",
            // One collector thread and the fast compiler alone: a start of 2 s instead of 4.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            // A broker without memory must end, so that it is started again, rather than linger.
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            &storage::log_option(&self.storage.log_properties()),
            &self.storage.temporary_option(),
        ]
        .map(Into::into);
        let mut command = self.java.command(options, &self.class_path, "kafka.Kafka");
        command
            .arg(self.storage.server_properties())
            .stdin(Stdio::null())
            // This process's own output is one line; the broker's belongs to the log.
            .stdout(io::stderr());
        Launch::new(command).with_lock(&self.lock)
    }

    /// Waits until this very broker answers a client, by the cluster id that only it has.
    async fn answer(&self, broker: &mut Process, ports: Ports) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        let answered = async {
            while Instant::now() < deadline {
                if probe::kafka_cluster_id(ports.clients).await.as_ref()
                    == Some(&self.storage.cluster_id)
                {
                    return Ok(());
                }
                sleep(probe::PROBE_INTERVAL).await;
            }
            Err(BrokerError::Silent)
        };
        tokio::select! {
            ended = broker.wait() => Err(BrokerError::EndedAtStart { ending: ending(ended?) }.into()),
            answered = answered => Ok(answered?),
        }
    }
}

fn choose_ports(wanted: u16) -> Result<Ports, BrokerError> {
    let clients = ports::claim(wanted).map_err(|source| BrokerError::Port {
        port: wanted,
        source,
    })?;
    let controller = ports::claim_any().map_err(|source| BrokerError::Port { port: 0, source })?;
    Ok(Ports {
        clients: clients.number,
        controller: controller.number,
    })
}
