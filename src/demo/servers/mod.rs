//! Real model servers in the demo: MLServer with a scikit-learn model and LitServe with a token streamer, each started by an
//! agent in front of it, under a load that knows what it sent. They stand beside the replayed deployments.
//!
//! [`installed`] finds the servers, [`fleet`] says which deployments there are, [`replica`] is one agent with its server,
//! [`ask`] is one request and what came of it, [`load`] sends them and counts, [`play`] is what happens to each deployment,
//! [`verdict`] holds what was counted against SQL. Where the servers are not installed there are none, and the demo goes on.

mod ask;
mod fleet;
mod installed;
mod load;
mod play;
mod replica;
mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::children::{ChildError, Children};
use crate::clock;
use installed::Installed;
use play::{Played, Stage, StageError};
pub use verdict::{differences, tell};

/// The deployments' ids, whose numbers are no replay's.
pub const IDS: [&str; 3] = [fleet::IRIS.id, fleet::STREAMER.id, fleet::STREAMER_DEV.id];

/// From the end of the replay to the end of the play, which never ends before everything has happened once. Python servers
/// load three times in it, one after another; on a machine with twenty processes to a core each may take minutes.
const FINISH_DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    #[error("the deployment {id}")]
    Stage {
        id: &'static str,
        #[source]
        source: StageError,
    },
    #[error("an agent does not end")]
    Stop(#[from] ChildError),
    #[error("what happens to the model servers was not over within {} s", FINISH_DEADLINE.as_secs())]
    Unfinished,
    #[error("a task died")]
    Task(#[from] tokio::task::JoinError),
}

/// The running servers. [`Servers::finish`] or [`Servers::abandon`] ends them in order; dropped, they are killed.
pub struct Servers {
    plays: JoinSet<Result<Played, ServersError>>,
    /// Enough has been shown.
    enough: CancellationToken,
    /// Nothing more is to be shown.
    abandoned: CancellationToken,
    /// When the first of them was started, in whole seconds since 1970.
    pub began_s: i64,
}

impl Servers {
    /// Starts them, where they are installed. Returns at once: each deployment is played by a task of its own.
    pub fn start(
        children: &Arc<Children>,
        parts: &Path,
        folder: &Path,
        kafka: &str,
    ) -> Option<Self> {
        let Some(installed) = Installed::find(parts) else {
            println!(
                "demo: there are no model servers in {} (`make model-servers` installs them): only replayed deployments",
                parts.display()
            );
            return None;
        };
        let installed = Arc::new(installed);
        let (enough, abandoned) = (CancellationToken::new(), CancellationToken::new());
        let began_us = clock::now_us();
        let mut plays = JoinSet::new();
        for deployment in &fleet::ALL {
            let stage = Stage::new(play::Setting {
                deployment,
                installed: installed.clone(),
                children: children.clone(),
                folder: folder.join("servers"),
                kafka: kafka.to_owned(),
                boot: format!("{:x}", began_us / 1_000_000),
                enough: enough.clone(),
            });
            plays.spawn(run(stage, abandoned.clone()));
        }
        println!("demo: starting model servers: {}", IDS.join(", "));
        Some(Self {
            plays,
            enough,
            abandoned,
            began_s: began_us.div_euclid(1_000_000),
        })
    }

    /// Lets what happens come to its end, ends all of them, and says what was seen from outside.
    ///
    /// # Errors
    /// When one of them did not do what it was meant to.
    pub async fn finish(&mut self) -> Result<Vec<Played>, ServersError> {
        self.enough.cancel();
        let ended = tokio::time::timeout(FINISH_DEADLINE, self.all()).await;
        ended.unwrap_or(Err(ServersError::Unfinished))
    }

    /// Ends them in order, whatever is under way.
    pub async fn abandon(mut self) {
        self.abandoned.cancel();
        if let Err(error) = self.finish().await {
            tracing::warn!(%error, "the model servers did not end in order");
        }
    }

    async fn all(&mut self) -> Result<Vec<Played>, ServersError> {
        let mut all = Vec::new();
        while let Some(played) = self.plays.join_next().await {
            all.push(played??);
        }
        Ok(all)
    }
}

/// One deployment from its first start to its last end.
async fn run(stage: Stage, abandoned: CancellationToken) -> Result<Played, ServersError> {
    let id = stage.setting.deployment.id;
    let outcome = tokio::select! {
        outcome = play::play(&stage) => outcome,
        () = abandoned.cancelled() => Ok(()),
    };
    if let Err(error) = &outcome {
        println!("demo: {id}: {error}");
    }
    let is_whole = outcome.is_ok() && !abandoned.is_cancelled();
    // what goes on is ended in order also after a failure
    let played = stage.end(is_whole).await?;
    outcome.map_err(|source| ServersError::Stage { id, source })?;
    Ok(played)
}
