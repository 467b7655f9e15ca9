//! Which deployments of real servers there are: their names, and how each server is started.

use std::fs;
use std::io;
use std::path::Path;

use super::installed::Installed;

/// How long a request waits for a server that loads: longer than Python takes on a busy machine.
const HOLD: &str = "180s";

/// How long a server may take to end: MLServer takes seconds of CPU, which on a busy machine are many more.
const SHUTDOWN_DEADLINE: &str = "60s";

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// scikit-learn on MLServer.
    Iris,
    /// LitServe, a line for each token.
    Streamer,
    /// LitServe with whole answers, behind a live reloader.
    Reloaded,
}

#[derive(Debug)]
pub struct Deployment {
    pub id: &'static str,
    pub name: &'static str,
    pub model: &'static str,
    pub kind: Kind,
}

pub const IRIS: Deployment = Deployment {
    id: "iris-classifier",
    name: "Iris classifier (MLServer)",
    model: "iris-forest",
    kind: Kind::Iris,
};

pub const STREAMER: Deployment = Deployment {
    id: "token-streamer",
    name: "Token streamer (LitServe)",
    model: "word-counter",
    kind: Kind::Streamer,
};

pub const STREAMER_DEV: Deployment = Deployment {
    id: "token-streamer-dev",
    name: "Token streamer, live reload",
    model: "word-counter",
    kind: Kind::Reloaded,
};

pub const ALL: [Deployment; 3] = [IRIS, STREAMER, STREAMER_DEV];

/// The ports of one server.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    /// MLServer has two more.
    pub others: [u16; 2],
}

impl Deployment {
    pub const fn is_development(&self) -> bool {
        matches!(self.kind, Kind::Reloaded)
    }

    /// Where the server takes predictions.
    pub const fn path(&self) -> &'static str {
        match self.kind {
            Kind::Iris => "/v2/models/iris/infer",
            Kind::Streamer | Kind::Reloaded => "/predict",
        }
    }

    const fn ready_path(&self) -> &'static str {
        match self.kind {
            Kind::Iris => "/v2/models/iris/ready",
            Kind::Streamer | Kind::Reloaded => "/health",
        }
    }

    /// What the agent in front of it is told, without what all agents of the demo are.
    pub fn agent_flags(&self, ports: Ports) -> Vec<String> {
        let server = format!("http://127.0.0.1:{}", ports.http);
        let kind = if self.is_development() {
            "development"
        } else {
            "production"
        };
        let mut flags = vec![
            ("--deployment-id", self.id.to_owned()),
            ("--deployment-name", self.name.to_owned()),
            ("--model-id", self.model.to_owned()),
            ("--model-name", self.model.to_owned()),
            ("--environment", kind.to_owned()),
            ("--kind", kind.to_owned()),
            ("--ready-check", format!("{server}{}", self.ready_path())),
            ("--upstream", server),
            ("--hold-until-ready", HOLD.to_owned()),
            ("--restart", "on-failure".to_owned()),
            ("--gpus", "none".to_owned()),
            ("--shutdown-deadline", SHUTDOWN_DEADLINE.to_owned()),
        ];
        if self.kind == Kind::Streamer {
            // LitServe has one worker: what waits for it waits in the agent, where it is seen as a queue
            flags.push(("--max-concurrency", "1".to_owned()));
        }
        flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    /// The server's own command. A folder that is reloaded gets its code. Installed programs are given to the interpreter:
    /// their first lines name it where it was installed, and the folder may have been moved.
    ///
    /// # Errors
    /// When the code cannot be copied.
    pub fn command(
        &self,
        from: &Installed,
        folder: &Path,
        ports: Ports,
    ) -> io::Result<Vec<String>> {
        let (python, port) = (from.program("python"), ports.http.to_string());
        Ok(match self.kind {
            Kind::Iris => vec![
                python,
                from.program("mlserver"),
                "start".to_owned(),
                from.models.display().to_string(),
            ],
            Kind::Streamer => {
                let code = from.tokens.display().to_string();
                vec![python, code, "--port".to_owned(), port]
            }
            Kind::Reloaded => {
                let code = folder.join("code");
                fs::create_dir_all(&code)?;
                let file = code.join("tokens.py");
                fs::copy(&from.tokens, &file)?;
                let server = [&python, &file.display().to_string()].map(|word| quoted(word));
                vec![
                    python,
                    from.program("watchfiles"),
                    "--filter".to_owned(),
                    "python".to_owned(),
                    "--sigint-timeout".to_owned(),
                    "2".to_owned(),
                    format!("{} --port {port} --whole", server.join(" ")),
                    code.display().to_string(),
                ]
            }
        })
    }

    /// What the server reads from its environment.
    pub fn settings(&self, ports: Ports) -> Vec<(&'static str, String)> {
        match self.kind {
            Kind::Iris => vec![
                ("MLSERVER_HOST", "127.0.0.1".to_owned()),
                ("MLSERVER_HTTP_PORT", ports.http.to_string()),
                ("MLSERVER_GRPC_PORT", ports.others[0].to_string()),
                ("MLSERVER_METRICS_PORT", ports.others[1].to_string()),
                ("MLSERVER_PARALLEL_WORKERS", "0".to_owned()),
            ],
            Kind::Streamer | Kind::Reloaded => Vec::new(),
        }
    }
}

/// A word of a command line that the reloader splits as a shell would.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}
