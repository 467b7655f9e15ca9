//! The command lines of the parts: which role, where its data is, where it listens, and whom it is
//! connected to. The roles themselves say what their flags may be.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::addresses::Addresses;
use super::supervise::{Answer, Name, Part};
use super::{ProcessorFlags, UpArgs};
use crate::config::TopicArgs;

/// Longer than any part's own deadline: the broker has 15 s, the engine and the
/// processor 20 s, the page 12 s. A
/// part that has to be killed had stopped making progress.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What the command lines are made from.
pub struct Commands {
    pub args: UpArgs,
    /// An absolute path.
    pub dir: std::path::PathBuf,
    pub addresses: Addresses,
}

impl Commands {
    pub fn kafka(&self) -> Part {
        let port = self.addresses.kafka;
        let arguments = Arguments::new(&["kafka"])
            .path("--dir", &self.dir.join("kafka"))
            .with("--port", port)
            .path("--parts", &self.args.parts.parts);
        Part {
            name: Name::Kafka,
            arguments: arguments.0,
            answer: Answer::Kafka { port },
            stop_patience: STOP_PATIENCE,
        }
    }

    pub fn clickhouse(&self) -> Part {
        let port = self.addresses.clickhouse;
        let arguments = Arguments::new(&["clickhouse"])
            .path("--dir", &self.dir.join("clickhouse"))
            .with("--port", port)
            .path("--parts", &self.args.parts.parts);
        let answer = Answer::Http {
            port,
            path: "/ping",
        };
        Part {
            name: Name::ClickHouse,
            arguments: arguments.0,
            answer,
            stop_patience: STOP_PATIENCE,
        }
    }

    pub fn processor(&self) -> Part {
        let port = self.addresses.processor;
        let ProcessorFlags {
            workers,
            flush_interval,
            coarse_flush_interval,
            schemas,
        } = &self.args.processor;
        let mut arguments = self
            .connected(&["processor"])
            .with("--listen", format!("127.0.0.1:{port}"))
            // the one processor of this broker: started again, it need not wait for its own session to end
            .with("--instance-id", "up");
        for (flag, value) in [
            ("--workers", workers),
            ("--flush-interval", flush_interval),
            ("--coarse-flush-interval", coarse_flush_interval),
        ] {
            if let Some(value) = value {
                arguments = arguments.with(flag, value);
            }
        }
        if let Some(schemas) = schemas {
            arguments = arguments.path("--schemas", schemas);
        }
        let answer = Answer::Http {
            port,
            path: "/readyz",
        };
        Part {
            name: Name::Processor,
            arguments: arguments.0,
            answer,
            stop_patience: STOP_PATIENCE,
        }
    }

    pub fn dashboard(&self) -> Part {
        let port = self.addresses.dashboard;
        let arguments = Arguments::new(&["dashboard"])
            .with("--clickhouse", self.clickhouse_url())
            .with("--listen", format!("127.0.0.1:{port}"));
        let answer = Answer::Http {
            port,
            path: "/readyz",
        };
        Part {
            name: Name::Dashboard,
            arguments: arguments.0,
            answer,
            stop_patience: STOP_PATIENCE,
        }
    }

    fn clickhouse_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.addresses.clickhouse)
    }

    /// Not a part: it runs to its end once Kafka and ClickHouse are up.
    pub fn migrate(&self) -> Vec<OsString> {
        let arguments = self.connected(&["migrate", "up"]);
        match self.args.partitions {
            Some(partitions) => arguments.with("--partitions", partitions).0,
            None => arguments.0,
        }
    }

    /// Not a part: it runs to its end each time the engine has started. Without Kafka, which may be down then.
    pub fn audit(&self) -> Vec<OsString> {
        let url = format!("http://127.0.0.1:{}", self.addresses.clickhouse);
        Arguments::new(&["audit"]).with("--clickhouse", url).0
    }

    /// A role that uses both Kafka and ClickHouse.
    fn connected(&self, role: &[&str]) -> Arguments {
        let TopicArgs {
            requests,
            replicas,
            dead_letters,
        } = &self.args.topics;
        Arguments::new(role)
            .with("--kafka", format!("127.0.0.1:{}", self.addresses.kafka))
            .with("--clickhouse", self.clickhouse_url())
            .with("--requests-topic", requests)
            .with("--replicas-topic", replicas)
            .with("--dead-letters-topic", dead_letters)
    }
}

/// A command line in the making.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn new(role: &[&str]) -> Self {
        Self(role.iter().map(Into::into).collect())
    }

    fn with(mut self, flag: &str, value: impl ToString) -> Self {
        self.0.extend([flag.into(), value.to_string().into()]);
        self
    }

    fn path(mut self, flag: &str, value: &Path) -> Self {
        self.0.extend([flag.into(), value.into()]);
        self
    }
}
