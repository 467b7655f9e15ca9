//! The real broker and the real engine, started once for all tests, or anew for a test that kills them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::ports::Port;
use super::process::Role;
use super::sql::Sql;

/// A killed broker gives its memory back before its port.
const GONE: std::time::Duration = std::time::Duration::from_secs(30);

/// A broker and an engine in a directory of their own.
pub struct Parts {
    pub broker: Role,
    pub engine: Role,
    /// `HOST:PORT`
    pub kafka: String,
    /// `http://HOST:PORT`
    pub clickhouse: String,
    /// Kept while either is down, too.
    broker_port: Port,
    engine_port: Port,
    /// Last, so that it goes after those who write into it.
    dir: tempfile::TempDir,
}

/// What tests need of the shared parts, which nobody may stop.
pub struct Addresses {
    pub kafka: String,
    pub clickhouse: String,
    pub logs: PathBuf,
}

static SHARED: OnceLock<Addresses> = OnceLock::new();
/// Held for the process's life and taken down by `at_exit`.
static RUNNING: Mutex<Option<Parts>> = Mutex::new(None);

/// The parts that all tests share.
pub fn shared() -> &'static Addresses {
    SHARED.get_or_init(|| {
        let parts = Parts::start();
        let addresses = parts.addresses();
        *RUNNING.lock().expect("nothing panics with it") = Some(parts);
        // SAFETY: the function is a plain one of the right type, and lives as long as the process.
        assert_eq!(
            unsafe { libc::atexit(at_exit) },
            0,
            "atexit takes the function"
        );
        addresses
    })
}

/// Statics are never dropped, so the parts and their directory are ended here.
extern "C" fn at_exit() {
    if let Ok(mut running) = RUNNING.lock() {
        drop(running.take());
    }
}

impl Parts {
    pub fn start() -> Self {
        for part in ["libchdb.so", "kafka"] {
            let path = super::root().join("deploy/local/parts").join(part);
            assert!(
                path.exists(),
                "{} is missing: run `make local-parts` first",
                path.display()
            );
        }
        let dir = tempfile::Builder::new()
            .prefix("modelmeter-")
            .tempdir()
            .expect("a temporary directory");
        let (broker_port, engine_port) = (Port::take(), Port::take());
        let mut broker = start_broker(dir.path(), &broker_port);
        let mut engine = start_engine(dir.path(), &engine_port);
        let kafka = broker.address();
        let clickhouse = engine.address();
        Self {
            broker,
            engine,
            kafka,
            clickhouse,
            broker_port,
            engine_port,
            dir,
        }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses {
            kafka: self.kafka.clone(),
            clickhouse: self.clickhouse.clone(),
            logs: self.dir.path().to_owned(),
        }
    }

    /// Where the engine keeps its data.
    pub fn engine_dir(&self) -> PathBuf {
        self.dir.path().join("clickhouse")
    }

    /// Where the broker keeps the log of one partition.
    pub fn log_dir(&self, topic: &str, partition: i32) -> PathBuf {
        let data = self.dir.path().join("kafka/data");
        data.join(format!("{topic}-{partition}"))
    }

    /// A place for a copy of either.
    pub fn copy_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the broker again where it was, after a kill.
    pub fn restart_broker(&mut self) {
        // the broker itself is a child of what was killed, and takes a moment to go
        super::wait_until("the broker's port is free", GONE, || {
            std::net::TcpListener::bind(&self.kafka).is_ok()
        });
        self.broker = start_broker(self.dir.path(), &self.broker_port);
        assert_eq!(self.broker.address(), self.kafka, "the same port again");
    }

    /// Starts the engine again where it was, after a kill.
    pub fn restart_engine(&mut self) {
        self.engine = start_engine(self.dir.path(), &self.engine_port);
        let address = self.engine.address();
        assert_eq!(address, self.clickhouse, "the same port again");
        Sql::new(&self.clickhouse, "default").execute("SELECT 1");
    }
}

/// Makes `to` what `from` is. Nobody may have either open.
pub fn replace_dir(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).expect("the old folder can be removed");
    }
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .expect("cp runs");
    assert!(status.success(), "{} is copied", from.display());
}

fn start_broker(dir: &Path, port: &Port) -> Role {
    let data = dir.join("kafka").display().to_string();
    let port = port.number.to_string();
    Role::start(
        "kafka",
        &["kafka", "--dir", &data, "--port", &port],
        &dir.join("kafka.log"),
    )
}

fn start_engine(dir: &Path, port: &Port) -> Role {
    let data = dir.join("clickhouse").display().to_string();
    let port = port.number.to_string();
    Role::start(
        "clickhouse",
        &["clickhouse", "--dir", &data, "--port", &port],
        &dir.join("clickhouse.log"),
    )
}
