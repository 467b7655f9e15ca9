//! What happens to each deployment, again and again until enough was shown: a second replica joins and its server crashes,
//! answers become slow, a server is killed in the middle of one, code changes and is reloaded. Each step waits for what it
//! is about, never for a time alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ServersError;
use super::ask::Answer;
use super::fleet::{Deployment, Kind};
use super::installed::Installed;
use super::load::{Counted, Load};
use super::replica::{Replica, ReplicaError};
use crate::demo::children::{ChildError, Children};

/// For one step. A server's start takes most of it: on a machine with forty processes to a core MLServer took 227 s.
const STEP_DEADLINE: Duration = Duration::from_secs(480);

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a state is shown before the next change, unless enough was shown already.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// Good answers that show that a replica works.
const N_WORKS: u64 = 10;
const N_SLOW: u64 = 6;

#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error("{what}: not within {} s", STEP_DEADLINE.as_secs())]
    Step { what: &'static str },
    #[error("an answer that was to be cut off came whole: {0:?}")]
    NotCut(Answer),
}

/// What a stage is made from.
pub struct Setting {
    pub deployment: &'static Deployment,
    pub installed: Arc<Installed>,
    pub children: Arc<Children>,
    pub folder: PathBuf,
    pub kafka: String,
    /// In the replicas' names, so that another run's are others.
    pub boot: String,
    pub enough: CancellationToken,
}

/// One deployment: its load and its replicas.
pub struct Stage {
    pub setting: Setting,
    load: Arc<Load>,
    clients: Mutex<JoinSet<()>>,
    running: Mutex<Vec<Replica>>,
    /// By replica, how often its server was killed.
    crashes: std::sync::Mutex<BTreeMap<String, u64>>,
}

/// What was seen of a deployment from outside.
#[derive(Debug)]
pub struct Played {
    pub deployment: &'static Deployment,
    /// By replica.
    pub counted: BTreeMap<String, Counted>,
    pub crashes: BTreeMap<String, u64>,
    pub slowest: Duration,
    /// It ran to its end.
    pub is_whole: bool,
}

impl Stage {
    pub fn new(setting: Setting) -> Self {
        let load = Arc::new(Load::new(
            setting.deployment.kind,
            setting.deployment.path(),
        ));
        Self {
            clients: Mutex::new(load.start()),
            load,
            setting,
            running: Mutex::default(),
            crashes: std::sync::Mutex::default(),
        }
    }

    /// Ends the clients, then the replicas.
    ///
    /// # Errors
    /// When they do not end.
    pub async fn end(self, is_whole: bool) -> Result<Played, ServersError> {
        let clients = &mut *self.clients.lock().await;
        if is_whole {
            self.load.end(clients).await?;
        } else {
            clients.shutdown().await;
        }
        let replicas = std::mem::take(&mut *self.running.lock().await);
        stop_all(replicas).await?;
        let crashes = self.crashes.lock().map(|crashes| crashes.clone());
        Ok(Played {
            deployment: self.setting.deployment,
            counted: self.load.all(),
            crashes: crashes.unwrap_or_default(),
            slowest: self.load.slowest(),
            is_whole,
        })
    }

    /// Starts one more replica, which gets requests from then on.
    async fn join(&self, number: u32) -> Result<(String, String), StageError> {
        let setting = &self.setting;
        let id = format!("{}-{}-{number}", setting.deployment.id, setting.boot);
        let replica = Replica::start(
            id.clone(),
            setting.deployment,
            &setting.installed,
            &setting.children,
            &setting.folder,
            &setting.kafka,
        )
        .await?;
        let address = replica.address.clone();
        self.load.add_replica(&id, &address);
        self.running.lock().await.push(replica);
        Ok((id, address))
    }

    /// Ends a replica once nothing is under way there.
    async fn leave(&self, id: &str) -> Result<(), StageError> {
        self.load.remove_replica(id);
        until("its last requests end", || {
            let counted = self.load.counted(id);
            counted.asked == counted.requests
        })
        .await?;
        let mut running = self.running.lock().await;
        let at = running.iter().position(|replica| replica.id == id);
        if let Some(replica) = at.map(|at| running.swap_remove(at)) {
            replica.stop().await.map_err(ReplicaError::from)?;
        }
        Ok(())
    }

    /// So many more good answers.
    async fn works(&self, id: &str, what: &'static str) -> Result<(), StageError> {
        let before = self.load.counted(id).status_2xx;
        until(what, || {
            self.load.counted(id).status_2xx >= before + N_WORKS
        })
        .await
    }

    async fn crash(&self, id: &str) -> Result<(), StageError> {
        let running = self.running.lock().await;
        let replica = running.iter().find(|replica| replica.id == id);
        replica.ok_or(ReplicaError::NoServer)?.crash()?;
        if let Ok(mut crashes) = self.crashes.lock() {
            *crashes.entry(id.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// True where the next change is to be shown.
    async fn goes_on(&self) -> bool {
        tokio::select! {
            () = sleep(SHOWN_FOR) => true,
            () = self.setting.enough.cancelled() => false,
        }
    }

    async fn shown(&self) {
        self.goes_on().await;
    }
}

/// Plays until enough was shown, and everything at least once.
///
/// # Errors
/// When something does not come about.
pub async fn play(stage: &Stage) -> Result<(), StageError> {
    match stage.setting.deployment.kind {
        Kind::Iris => play_scaling(stage).await,
        Kind::Streamer => play_streaming(stage).await,
        Kind::Reloaded => play_reloading(stage).await,
    }
}

async fn play_scaling(stage: &Stage) -> Result<(), StageError> {
    let (first, _) = stage.join(1).await?;
    stage.works(&first, "the first replica answers").await?;
    for number in 2.. {
        let (more, _) = stage.join(number).await?;
        stage.works(&more, "another replica answers").await?;
        stage.crash(&more).await?;
        stage.works(&more, "it answers after a crash").await?;
        if !stage.goes_on().await {
            break;
        }
        stage.leave(&more).await?;
        stage.shown().await;
    }
    Ok(())
}

async fn play_streaming(stage: &Stage) -> Result<(), StageError> {
    let (id, address) = stage.join(1).await?;
    let load = &stage.load;
    stage.works(&id, "it streams").await?;
    loop {
        let n_slow = load.n_slow();
        load.set_slow(true);
        until("answers are slow", || load.n_slow() >= n_slow + N_SLOW).await?;
        load.set_slow(false);
        stage.works(&id, "answers are quick again").await?;
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let endless = load.ask_endless(&id, &address, move || {
            let _ = begun.send(());
        });
        let killed = async {
            // an answer that never begins ends all the same, and is told by what it was
            if has_begun.await.is_ok() {
                stage.crash(&id).await?;
            }
            Ok::<_, StageError>(())
        };
        let (answer, killed) = tokio::join!(endless, killed);
        killed?;
        if !matches!(answer, Answer::Broken { .. }) {
            return Err(StageError::NotCut(answer));
        }
        stage.works(&id, "it streams after a crash").await?;
        if !stage.goes_on().await {
            return Ok(());
        }
    }
}

async fn play_reloading(stage: &Stage) -> Result<(), StageError> {
    let (id, _) = stage.join(1).await?;
    stage.works(&id, "the development server answers").await?;
    loop {
        let running = stage.running.lock().await;
        let replica = running.iter().find(|replica| replica.id == id);
        let replica = replica.ok_or(ReplicaError::NoServer)?;
        let before = replica.reloaded();
        replica.change_code()?;
        until("its code is reloaded", || {
            let now = replica.reloaded();
            now.is_some() && now != before
        })
        .await?;
        drop(running);
        stage.works(&id, "it answers after a reload").await?;
        if !stage.goes_on().await {
            return Ok(());
        }
    }
}

async fn until(what: &'static str, condition: impl Fn() -> bool) -> Result<(), StageError> {
    let deadline = Instant::now() + STEP_DEADLINE;
    while !condition() {
        if Instant::now() > deadline {
            return Err(StageError::Step { what });
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn stop_all(replicas: Vec<Replica>) -> Result<(), ServersError> {
    let mut stopping = JoinSet::new();
    for replica in replicas {
        stopping.spawn(replica.stop());
    }
    let mut outcome: Result<(), ChildError> = Ok(());
    while let Some(stopped) = stopping.join_next().await {
        // all of them are waited for, whatever became of the first
        outcome = outcome.and(stopped?);
    }
    Ok(outcome?)
}
