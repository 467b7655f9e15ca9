//! The broker's folder: its cluster id, its configuration, and its log folder, formatted once.
//!
//! ```text
//! DIR/cluster-id          chosen at the first start, kept
//! DIR/data/               the broker's log, formatted by Kafka's own tool
//! DIR/server.properties   written anew at every start
//! DIR/log4j2.properties   likewise
//! DIR/tmp/                native libraries that the broker unpacks for itself; emptied at every start
//! DIR/lock                held while a broker of this folder runs
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use super::java::Java;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{path} cannot be read or written", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} cannot be the broker's folder: a comma, a backslash or a line break in it cannot stand in Kafka's configuration", path = .path.display())]
    Name { path: PathBuf },
    #[error("Kafka's tool refused to format {path}:\n{printed}", path = .path.display())]
    Format { path: PathBuf, printed: String },
}

/// The folder of one broker.
#[derive(Debug)]
pub struct Storage {
    dir: PathBuf,
    pub cluster_id: String,
}

/// The ports that the broker listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub clients: u16,
    pub controller: u16,
}

impl Storage {
    /// Opens the folder, making it and its cluster id where they are missing.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let dir = std::path::absolute(dir).map_err(|source| io_error(dir, source))?;
        if dir
            .to_str()
            .is_none_or(|name| name.contains([',', '\\', '\n', '\r']))
        {
            return Err(StorageError::Name { path: dir });
        }
        fs::create_dir_all(&dir).map_err(|source| io_error(&dir, source))?;
        let cluster_id = cluster_id(&dir.join("cluster-id"))?;
        Ok(Self { dir, cluster_id })
    }

    pub fn lock_path(dir: &Path) -> PathBuf {
        dir.join("lock")
    }

    pub fn server_properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    pub fn log_properties(&self) -> PathBuf {
        self.dir.join("log4j2.properties")
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// The JVM's option that keeps what the broker unpacks out of the shared temporary folder, where a killed one leaves it.
    pub fn temporary_option(&self) -> String {
        format!("-Djava.io.tmpdir={}", self.temporary().display())
    }

    /// Writes the configuration for these ports, and empties the temporary folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_configuration(&self, ports: Ports) -> Result<(), StorageError> {
        let temporary = self.temporary();
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|source| io_error(&temporary, source))?;
        }
        fs::create_dir(&temporary).map_err(|source| io_error(&temporary, source))?;
        write(&self.log_properties(), LOG_PROPERTIES)?;
        write(
            &self.server_properties(),
            &server_properties(&self.dir.join("data"), ports),
        )
    }

    /// What formats the log folder; None when it is formatted. Kafka's tool works on a folder of
    /// another name, which gets its own in [`Self::formatted`]: an interrupted format is begun anew.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn format_command(
        &self,
        java: &Java,
        class_path: &str,
    ) -> Result<Option<Command>, StorageError> {
        if self.dir.join("data").exists() {
            return Ok(None);
        }
        let unfinished = self.dir.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|source| io_error(&unfinished, source))?;
        }
        let settings = self.dir.join("format.properties");
        // No port is opened while formatting; the tool only wants to see some.
        write(
            &settings,
            &server_properties(
                &unfinished,
                Ports {
                    clients: 9092,
                    controller: 9093,
                },
            ),
        )?;
        let path = self.format_log();
        let log = File::create(&path).map_err(|source| io_error(&path, source))?;
        let also = log.try_clone().map_err(|source| io_error(&path, source))?;
        let mut command = java.command(
            [log_option(&self.log_properties()).into()],
            class_path,
            "kafka.tools.StorageTool",
        );
        command
            .args(["format", "-t", &self.cluster_id, "-c"])
            .arg(&settings);
        command.stdin(Stdio::null()).stdout(log).stderr(also);
        Ok(Some(command))
    }

    /// Takes what the format command made, if it ended well.
    ///
    /// # Errors
    /// When it did not; what it printed is in the error.
    pub fn formatted(&self, ended: ExitStatus) -> Result<(), StorageError> {
        let data = self.dir.join("data");
        if !ended.success() {
            let printed = fs::read_to_string(self.format_log()).unwrap_or_default();
            return Err(StorageError::Format {
                path: data,
                printed,
            });
        }
        fs::rename(self.dir.join("data.unfinished"), &data)
            .map_err(|source| io_error(&data, source))
    }

    fn format_log(&self) -> PathBuf {
        self.dir.join("format.log")
    }
}

/// The JVM's option that names the log's configuration.
pub fn log_option(path: &Path) -> String {
    format!("-Dlog4j2.configurationFile={}", path.display())
}

fn io_error(path: &Path, source: io::Error) -> StorageError {
    StorageError::Io {
        path: path.to_owned(),
        source,
    }
}

fn write(path: &Path, text: &str) -> Result<(), StorageError> {
    fs::write(path, text).map_err(|source| io_error(path, source))
}

/// The id in the file, or a new one, which appears there whole or not at all.
fn cluster_id(path: &Path) -> Result<String, StorageError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_cluster_id().map_err(|source| io_error(Path::new(RANDOM), source))?;
            let unfinished = path.with_extension("unfinished");
            write(&unfinished, &format!("{id}\n"))?;
            fs::rename(&unfinished, path).map_err(|source| io_error(path, source))?;
            Ok(id)
        }
        Err(source) => Err(io_error(path, source)),
    }
}

const RANDOM: &str = "/dev/urandom";

/// Kafka's form of a UUID: 16 bytes in 22 characters of base64url without padding.
fn new_cluster_id() -> io::Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 16];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    // An id that began with a dash would be read as an option by Kafka's tools.
    bytes[0] &= 0x7f;
    let number = u128::from_be_bytes(bytes);
    // 21 characters of 6 bits from the top; the last two bits stand in the high bits of the 22nd.
    let head = (0..21).map(|i| (number >> (122 - 6 * i)) & 63);
    let indexes = head.chain([(number & 3) << 4]);
    Ok(indexes
        .map(|index| char::from(ALPHABET[index as usize]))
        .collect())
}

/// Warnings and errors, on standard error; without two that every start and stop writes.
const LOG_PROPERTIES: &str = "\
status=error
appender.stderr.type=Console
appender.stderr.name=stderr
appender.stderr.target=SYSTEM_ERR
appender.stderr.layout.type=PatternLayout
appender.stderr.layout.pattern=%d{ISO8601} %p %c: %m%n
logger.activation.name=org.apache.kafka.controller.QuorumController
logger.activation.level=error
logger.client.name=org.apache.kafka.clients.NetworkClient
logger.client.level=error
rootLogger.level=warn
rootLogger.appenderRef.stderr.ref=stderr
";

/// One node that is broker and controller at once, for one machine: few threads, internal topics of
/// few partitions, one replica of everything, no topic by accident, no wait for late group members.
fn server_properties(data: &Path, ports: Ports) -> String {
    let Ports {
        clients,
        controller,
    } = ports;
    let mut text = String::new();
    let settings: [(&str, &dyn std::fmt::Display); 26] = [
        ("process.roles", &"broker,controller"),
        ("node.id", &1),
        (
            "controller.quorum.voters",
            &format_args!("1@127.0.0.1:{controller}"),
        ),
        ("controller.listener.names", &"CONTROLLER"),
        (
            "listeners",
            &format_args!("PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}"),
        ),
        (
            "advertised.listeners",
            &format_args!("PLAINTEXT://127.0.0.1:{clients}"),
        ),
        (
            "listener.security.protocol.map",
            &"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        ),
        ("inter.broker.listener.name", &"PLAINTEXT"),
        ("log.dirs", &data.display()),
        ("auto.create.topics.enable", &false),
        ("group.initial.rebalance.delay.ms", &0),
        ("default.replication.factor", &1),
        ("offsets.topic.num.partitions", &4),
        ("offsets.topic.replication.factor", &1),
        ("transaction.state.log.num.partitions", &1),
        ("transaction.state.log.replication.factor", &1),
        ("transaction.state.log.min.isr", &1),
        ("share.coordinator.state.topic.num.partitions", &1),
        ("share.coordinator.state.topic.replication.factor", &1),
        ("share.coordinator.state.topic.min.isr", &1),
        // A killed broker is not let in again before its session has run out: 6 s instead of 9, and
        // still longer than a busy machine holds a JVM up.
        ("broker.session.timeout.ms", &6000),
        ("broker.heartbeat.interval.ms", &500),
        ("num.network.threads", &2),
        ("num.io.threads", &4),
        ("log.cleaner.threads", &1),
        // Held on the heap from the start; the default is a quarter of what this broker has.
        ("log.cleaner.dedupe.buffer.size", &(16 << 20)),
    ];
    for (key, value) in settings {
        writeln!(text, "{key}={value}").expect("a String takes all that is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_is_a_uuid_that_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Storage::open(dir.path()).expect("a new folder").cluster_id;
        let again = Storage::open(dir.path())
            .expect("the same folder")
            .cluster_id;
        assert_eq!(first, again);
        assert_eq!(first.len(), 22);
        assert!(!first.starts_with(['-', '_']));
        let other = tempfile::tempdir().expect("a temporary folder");
        assert_ne!(
            Storage::open(other.path())
                .expect("another folder")
                .cluster_id,
            first
        );
    }

    #[test]
    fn a_folder_that_kafka_could_not_name_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let named = dir.path().join("a,b");
        assert!(matches!(
            Storage::open(&named),
            Err(StorageError::Name { .. })
        ));
        assert!(!named.exists());
    }
}
