//! One replica: an agent of this program with a real server as its child, in a folder of its own.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fleet::{Deployment, Ports};
use super::installed::Installed;
use crate::demo::children::{Child, ChildError, Children, Job};
use crate::local::ports::claim_any;

/// The agent itself loads nothing.
const AGENT_DEADLINE: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the agent says once it takes requests.
const TAKES_REQUESTS: &str = "agent: requests on http://";

#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("its folder {path} cannot be made", path = .path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("there is no free port")]
    Port(#[source] io::Error),
    #[error(transparent)]
    Agent(#[from] ChildError),
    #[error("its agent takes no requests within {} s", AGENT_DEADLINE.as_secs())]
    Silent,
    #[error("its server is not there to be killed")]
    NoServer,
    #[error("its code cannot be changed")]
    Change(#[source] io::Error),
}

pub struct Replica {
    pub id: String,
    /// Where its requests go.
    pub address: String,
    agent: Child,
    folder: PathBuf,
}

impl Replica {
    /// Starts the agent, and waits until it takes requests; its server loads meanwhile.
    ///
    /// # Errors
    /// When there is no such agent in time.
    pub async fn start(
        id: String,
        deployment: &Deployment,
        installed: &Installed,
        children: &Children,
        folders: &std::path::Path,
        kafka: &str,
    ) -> Result<Self, ReplicaError> {
        let folder = folders.join(&id);
        let in_folder = |source| ReplicaError::Folder {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(in_folder)?;
        let ports = free_ports().map_err(ReplicaError::Port)?;
        let mut arguments: Vec<String> = ["agent", "--replica-id", &id, "--kafka", kafka]
            .map(str::to_owned)
            .to_vec();
        let spool = folder.join("spool").display().to_string();
        let own = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        arguments.extend(own.map(str::to_owned));
        arguments.extend(["--spool".to_owned(), spool]);
        arguments.extend(deployment.agent_flags(ports));
        arguments.push("--".to_owned());
        let command = deployment.command(installed, &folder, ports);
        arguments.extend(command.map_err(in_folder)?);
        let mut agent = children
            .start_job(Job {
                name: format!("agent {id}"),
                arguments,
                settings: deployment.settings(ports),
                folder: Some(folder.clone()),
            })
            .await?;
        let log = agent.log().to_owned();
        let address = tokio::select! {
            address = address_of(&log) => address?,
            ended = agent.ended() => return Err(ended.into()),
        };
        Ok(Self {
            id,
            address,
            agent,
            folder,
        })
    }

    /// The server's process, which the agent started.
    pub fn server(&self) -> Option<u32> {
        child_of(self.agent.pid())
    }

    /// What the live reloader runs just now.
    pub fn reloaded(&self) -> Option<u32> {
        child_of(self.server()?)
    }

    /// Kills its server, as a lack of memory would.
    ///
    /// # Errors
    /// When there is none.
    pub fn crash(&self) -> Result<(), ReplicaError> {
        let server = self
            .server()
            .and_then(|pid| libc::pid_t::try_from(pid).ok());
        let server = server.ok_or(ReplicaError::NoServer)?;
        // SAFETY: kill(2) reads no memory of ours. The number was a child's of an agent that only this demo ends, a moment ago.
        unsafe { libc::kill(server, libc::SIGKILL) };
        Ok(())
    }

    /// Changes the code that its live reloader watches.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change_code(&self) -> Result<(), ReplicaError> {
        let file = self.folder.join("code/tokens.py");
        let changed = fs::read_to_string(&file).and_then(|mut code| {
            code.push_str("# changed\n");
            fs::write(&file, code)
        });
        changed.map_err(ReplicaError::Change)
    }

    /// Ends the agent, which ends its server and delivers what it has left.
    ///
    /// # Errors
    /// When it cannot be told or waited for.
    pub async fn stop(self) -> Result<(), ChildError> {
        self.agent.stop().await
    }
}

/// Free just now; all are held until all are known, so that no two are the same.
fn free_ports() -> io::Result<Ports> {
    let held = [claim_any()?, claim_any()?, claim_any()?];
    let [http, grpc, metrics] = held.each_ref().map(|port| port.number);
    Ok(Ports {
        http,
        others: [grpc, metrics],
    })
}

async fn address_of(log: &std::path::Path) -> Result<String, ReplicaError> {
    let deadline = Instant::now() + AGENT_DEADLINE;
    while Instant::now() < deadline {
        let said = fs::read_to_string(log).unwrap_or_default();
        // a line that is whole
        let lines = said
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        if let Some(address) = lines
            .filter_map(|line| line.strip_prefix(TAKES_REQUESTS))
            .next()
        {
            return Ok(address.to_owned());
        }
        sleep(LOOK_AGAIN).await;
    }
    Err(ReplicaError::Silent)
}

/// The first process whose parent this is, of those that live.
fn child_of(parent: u32) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut children = pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // proc(5): the state and the parent follow the name's last bracket
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace();
        let (state, found) = (fields.next(), fields.next());
        state.is_some_and(|state| state != "Z") && found == Some(&parent.to_string())
    });
    children.next()
}
