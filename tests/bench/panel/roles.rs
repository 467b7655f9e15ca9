//! The engine and the dashboard as they are run in earnest: the release binary's own roles, as children that end with
//! the bench. What they use is read from /proc by pid.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use modelmeter::local::process::{Launch, Process, Spawner};
use tokio::process::Command;

/// The engine answers in a second; a busy machine takes longer.
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);

pub struct Roles {
    dir: PathBuf,
    spawner: Spawner,
    engine: Option<Process>,
    dashboard: Option<Process>,
}

impl Roles {
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            spawner: Spawner::start()?,
            engine: None,
            dashboard: None,
        })
    }

    /// Starts the engine and gives its address.
    pub async fn start_engine(&mut self) -> anyhow::Result<String> {
        let data = self.dir.join("clickhouse").display().to_string();
        let (process, url) = self
            .start("clickhouse", &["--dir", &data, "--port", "0"])
            .await?;
        self.engine = Some(process);
        Ok(url)
    }

    pub async fn start_dashboard(&mut self, url: &str) -> anyhow::Result<String> {
        let (process, page) = self
            .start(
                "dashboard",
                &["--clickhouse", url, "--listen", "127.0.0.1:0"],
            )
            .await?;
        self.dashboard = Some(process);
        Ok(page)
    }

    pub fn engine_pid(&self) -> u32 {
        self.engine.as_ref().expect("the engine was started").pid()
    }

    pub async fn migrate(&self, url: &str) -> anyhow::Result<()> {
        let output = program()
            .args(["migrate", "up", "--clickhouse", url])
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "migrate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        for process in [self.dashboard, self.engine].into_iter().flatten() {
            process.stop(STOP_PATIENCE).await?;
        }
        Ok(())
    }

    async fn start(&self, role: &str, arguments: &[&str]) -> anyhow::Result<(Process, String)> {
        let log = |end: &str| self.dir.join(format!("{role}.{end}"));
        let mut command = program();
        command
            .arg(role)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(log("out"))?)
            .stderr(File::create(log("log"))?);
        let mut process = self.spawner.spawn(Launch::new(command)).await?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let said = std::fs::read_to_string(log("out"))?;
            if let Some((_, rest)) = said.split_once(&format!("{role}: listening on "))
                && let Some((address, _)) = rest.split_once('\n')
            {
                return Ok((process, address.to_owned()));
            }
            let patience = Duration::from_millis(20);
            if tokio::time::timeout(patience, process.wait()).await.is_ok()
                || Instant::now() > deadline
            {
                let log = std::fs::read_to_string(log("log")).unwrap_or_default();
                bail!("{role} does not answer: {log}");
            }
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelmeter"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// CPU that a process has used so far, user and system, in ms.
pub fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // the name in parentheses may hold blanks; utime and stime are the 12th and 13th fields behind it
    let (_, fields) = stat.rsplit_once(") ").context("a name in /proc stat")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap_or(0))
        .sum();
    // SAFETY: sysconf reads no memory of ours.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 * 1000.0 / ticks_a_second as f64)
}
