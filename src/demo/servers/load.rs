//! The load on one deployment: a few clients that ask its replicas in turn, each when its last answer is over, and the count
//! of what they saw. That count is the truth that SQL is held against; it knows nothing of what the agents measured.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ask::{Answer, Ask, ask};
use super::fleet::Kind;

/// Clients of a deployment: one that is answered and one that waits.
const N_CLIENTS: usize = 2;

/// Tokens of an ordinary answer, of one that its client leaves, and of one that is killed under way.
const TOKENS: u32 = 20;
const TOKENS_LEFT: u32 = 100;
const TOKENS_KILLED: u32 = 2_000;

/// Between two tokens, usually and in a slow phase.
const PAUSE: Duration = Duration::from_millis(20);
const SLOW_PAUSE: Duration = Duration::from_millis(150);

/// What the clients of one replica saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Those under way, too.
    pub asked: u64,
    pub requests: u64,
    pub status_2xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    pub status_other: u64,
    pub client_gone: u64,
    pub completed: u64,
    pub timed_out: u64,
    pub aborted: u64,
    pub refused: u64,
    /// Without any answer: the first reason.
    pub unanswered: Option<String>,
}

impl Counted {
    pub fn add(&mut self, answer: &Answer) {
        self.requests += 1;
        match answer {
            Answer::Whole {
                status,
                is_by_agent,
            } => {
                self.add_status(*status);
                let outcome = match (is_by_agent, status) {
                    (false, _) => &mut self.completed,
                    (true, 502) => &mut self.aborted,
                    (true, 504) => &mut self.timed_out,
                    (true, _) => &mut self.refused,
                };
                *outcome += 1;
            }
            Answer::Broken { status } => {
                self.add_status(*status);
                self.aborted += 1;
            }
            Answer::Left => {
                self.status_4xx += 1;
                self.client_gone += 1;
            }
            Answer::None(why) => {
                self.unanswered.get_or_insert_with(|| why.clone());
            }
        }
    }

    const fn add_status(&mut self, status: u16) {
        *match status {
            200..=299 => &mut self.status_2xx,
            400..=499 => &mut self.status_4xx,
            500..=599 => &mut self.status_5xx,
            _ => &mut self.status_other,
        } += 1;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    replica: String,
    address: String,
}

#[derive(Debug, Default)]
struct State {
    targets: Vec<Target>,
    counted: BTreeMap<String, Counted>,
    /// Requests so far, which decides what the next is.
    n: u64,
    is_slow: bool,
    n_slow: u64,
    /// The longest that a whole answer had been asked to take.
    slowest: Duration,
}

/// The clients, once they are started, and what they have seen.
pub struct Load {
    kind: Kind,
    path: &'static str,
    state: Mutex<State>,
    stop: CancellationToken,
}

impl Load {
    pub fn new(kind: Kind, path: &'static str) -> Self {
        Self {
            kind,
            path,
            state: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Starts the clients; they end with [`Load::end`].
    pub fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for _ in 0..N_CLIENTS {
            let load = self.clone();
            clients.spawn(async move { load.client().await });
        }
        clients
    }

    /// Lets each client's last request end.
    ///
    /// # Errors
    /// When one of them died.
    pub async fn end(&self, clients: &mut JoinSet<()>) -> Result<(), JoinError> {
        self.stop.cancel();
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        Ok(())
    }

    pub fn add_replica(&self, replica: &str, address: &str) {
        self.state().targets.push(Target {
            replica: replica.to_owned(),
            address: address.to_owned(),
        });
    }

    /// No request goes there any more; those under way do.
    pub fn remove_replica(&self, replica: &str) {
        self.state()
            .targets
            .retain(|target| target.replica != replica);
    }

    pub fn set_slow(&self, is_slow: bool) {
        self.state().is_slow = is_slow;
    }

    pub fn n_slow(&self) -> u64 {
        self.state().n_slow
    }

    pub fn slowest(&self) -> Duration {
        self.state().slowest
    }

    pub fn counted(&self, replica: &str) -> Counted {
        self.state()
            .counted
            .get(replica)
            .cloned()
            .unwrap_or_default()
    }

    pub fn all(&self) -> BTreeMap<String, Counted> {
        self.state().counted.clone()
    }

    /// One more request, beside those of the clients: an answer so long that it will not end. `begun` is told when it begins.
    pub async fn ask_endless(&self, replica: &str, address: &str, begun: impl FnOnce()) -> Answer {
        let words = words(TOKENS_KILLED, SLOW_PAUSE);
        let question = Ask {
            path: self.path.to_owned(),
            body: words,
            leaves_early: false,
            at_least: Duration::ZERO,
        };
        self.count_asked(replica);
        let answer = ask(address, &question, begun).await;
        self.count(replica, &question, &answer);
        answer
    }

    async fn client(&self) {
        while !self.stop.is_cancelled() {
            if let Some((target, question)) = self.next() {
                let answer = ask(&target.address, &question, || ()).await;
                self.count(&target.replica, &question, &answer);
            }
            tokio::select! {
                () = sleep(self.pace()) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// What a client does between two requests.
    const fn pace(&self) -> Duration {
        Duration::from_millis(match self.kind {
            Kind::Iris => 100,
            Kind::Streamer => 250,
            Kind::Reloaded => 500,
        })
    }

    /// The next request, counted as asked; none without replicas.
    fn next(&self) -> Option<(Target, Ask)> {
        let (target, question) = {
            let mut state = self.state();
            state.n += 1;
            let n = usize::try_from(state.n).unwrap_or(0);
            let target = state.targets.get(n % state.targets.len().max(1))?.clone();
            (target, self.question(state.n, state.is_slow))
        };
        self.count_asked(&target.replica);
        Some((target, question))
    }

    /// Mostly what the model is for; here and there what goes wrong in life, by number so that each kind surely comes.
    fn question(&self, n: u64, is_slow: bool) -> Ask {
        let mut question = Ask {
            path: self.path.to_owned(),
            body: String::new(),
            leaves_early: false,
            at_least: Duration::ZERO,
        };
        let cut = |body: &str| body[..body.len() / 2].to_owned();
        match (self.kind, n) {
            (Kind::Iris, n) => {
                // a column too few is an exception in scikit-learn
                let n_columns = if n % 25 == 7 { 3 } else { 4 };
                question.body = flowers(n_columns);
                match n % 25 {
                    13 => question.body = cut(&question.body),
                    19 => question.path = "/nowhere".to_owned(),
                    23 => question.path = "/v2/models/none/infer".to_owned(),
                    _ => {}
                }
            }
            (Kind::Streamer, _) if is_slow => {
                question.body = words(TOKENS, SLOW_PAUSE);
                question.at_least = SLOW_PAUSE * TOKENS;
            }
            (Kind::Streamer, n) => {
                question.body = words(TOKENS, PAUSE);
                match n % 12 {
                    3 => {
                        question.body = words(TOKENS_LEFT, PAUSE);
                        question.leaves_early = true;
                    }
                    6 => question.body = r#"{"fail": true}"#.to_owned(),
                    8 => question.body = cut(&question.body),
                    10 => question.path = "/nowhere".to_owned(),
                    _ => {}
                }
            }
            (Kind::Reloaded, n) if n % 6 == 2 => question.body = r#"{"fail": true}"#.to_owned(),
            (Kind::Reloaded, _) => question.body = words(TOKENS / 4, PAUSE),
        }
        question
    }

    fn count_asked(&self, replica: &str) {
        let mut state = self.state();
        state.counted.entry(replica.to_owned()).or_default().asked += 1;
    }

    fn count(&self, replica: &str, question: &Ask, answer: &Answer) {
        let mut state = self.state();
        let counted = state.counted.entry(replica.to_owned()).or_default();
        counted.add(answer);
        let is_whole = matches!(answer, Answer::Whole { status: 200, .. });
        if is_whole && question.at_least > Duration::ZERO {
            state.n_slow += 1;
            state.slowest = state.slowest.max(question.at_least);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // counts, whole at any time
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a request for so many tokens.
fn words(tokens: u32, pause: Duration) -> String {
    format!(
        r#"{{"tokens": {tokens}, "pause_ms": {}}}"#,
        pause.as_millis()
    )
}

/// Two flowers, in the words of the V2 protocol.
fn flowers(n_columns: usize) -> String {
    let row = &["5.1", "3.5", "1.4", "0.2"][..n_columns];
    let data = [row, row].concat().join(", ");
    format!(
        r#"{{"inputs": [{{"name": "x", "shape": [2, {n_columns}], "datatype": "FP32", "data": [{data}]}}]}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_as_its_client_saw_it() {
        let whole = |status, is_by_agent| Answer::Whole {
            status,
            is_by_agent,
        };
        let mut counted = Counted::default();
        for answer in [
            whole(200, false),
            whole(404, false),
            whole(500, false),
            whole(502, true),
            whole(503, true),
            whole(504, true),
            Answer::Broken { status: 200 },
            Answer::Left,
        ] {
            counted.add(&answer);
        }
        let expected = Counted {
            asked: 0,
            requests: 8,
            status_2xx: 2,
            status_4xx: 2,
            status_5xx: 4,
            status_other: 0,
            client_gone: 1,
            completed: 3,
            timed_out: 1,
            aborted: 2,
            refused: 1,
            unanswered: None,
        };
        assert_eq!(counted, expected);
    }
}
