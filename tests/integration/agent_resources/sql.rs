//! From what is true to what SQL answers: agents that read real control groups, a stand-in for GPUs and a real server's life,
//! a real broker, processor and engine, and the public views beside the truth. One pipeline serves all of it.

mod gpu_rows;
mod group_rows;
mod server_rows;
mod state_rows;

use std::path::Path;

use crate::support::process::Role;
use crate::support::space::Space;
use crate::support::sql::Record;

/// The step of every query: the finest.
const STEP_S: i64 = 10;

/// The pipeline, and the agents' folders in it.
struct Pipeline {
    space: Space,
    _processor: Role,
    folder: tempfile::TempDir,
}

impl Pipeline {
    fn start() -> Self {
        let space = Space::new();
        let processor = space.processor(&[]);
        Self {
            space,
            _processor: processor,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// An agent that speaks for one replica of this deployment, with a sample a second.
    fn agent(&self, deployment: &str, flags: &[&str]) -> Role {
        let spool = self.folder.path().join("spool").display().to_string();
        let mut arguments = vec!["agent", "--deployment-id", deployment, "--replica-id", "r"];
        arguments.extend(["--kafka", &self.space.kafka, "--spool", &spool]);
        arguments.extend(["--requests-topic", &self.space.topics.requests]);
        arguments.extend(["--replicas-topic", &self.space.topics.replicas]);
        arguments.extend([
            "--events-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        arguments.extend(["--sample-interval", "1s"]);
        arguments.extend(flags);
        let log = self.folder.path().join(format!("{deployment}.log"));
        let mut role = Role::start("agent", &arguments, &log);
        role.address();
        role
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All rows that a view has of a deployment.
    fn rows(&self, view: &str, deployment: &str) -> Result<Vec<Record>, String> {
        let now_s = modelmeter::clock::now_us() / 1_000_000;
        self.space.sql.try_rows(&format!(
            "SELECT *, toUnixTimestamp(t) AS at FROM {view}(deployment = '{deployment}', start = {}, stop = {}, step = {STEP_S})",
            now_s - 3_000,
            now_s + 3_000
        ))
    }
}

/// A number of a row; None where it is NULL.
fn number(row: &Record, column: &str) -> Option<f64> {
    row.get(column)
        .unwrap_or_else(|| panic!("{column} is in {row:?}"))
        .as_f64()
}

#[test]
fn what_an_agent_reads_is_what_sql_says() {
    let pipeline = Pipeline::start();
    let states = state_rows::begin(&pipeline);
    let gpus = gpu_rows::begin(&pipeline);
    group_rows::check(&pipeline);
    gpu_rows::check(&pipeline, gpus);
    state_rows::check(&pipeline, states);
    // last: the start of a real server takes the machine's time, and the states above are held against the clock
    server_rows::check(&pipeline);
}
