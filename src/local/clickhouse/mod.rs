//! `modelmeter clickhouse`: the real ClickHouse engine inside this process, behind ClickHouse's HTTP interface, so that
//! clients of a server talk to it unchanged. It is a face for one machine, not a server: one user, loopback unless told
//! otherwise, no cluster, no TLS, no access to files or the network from SQL. A real server is used by its URL.
//!
//! The path of a request: `http` reads it whole, `request` parses URL and headers, `plan` finds statement and data
//! (`lexer`, `statement`, `form`, `compression`, `spool`), `dispatch` gives it an id, a table's turn and a thread
//! (`running`, `session`), `execute` runs it on a connection of `engine`, and `answer` packs what goes back.
//! What a client may do is `access`, given to the engine as its configuration, and `reach`, where the engine has no grant.
//!
//! Invariants: no body that ended early is executed; no two inserts into one table overlap; an insert that has begun
//! runs to its end; no request leaves a setting, a database or a parameter behind for the next.

mod access;
mod answer;
mod compression;
mod dispatch;
mod engine;
mod exception;
mod execute;
mod form;
pub mod front;
mod http;
mod lexer;
mod outbox;
mod plan;
mod reach;
mod request;
mod running;
mod session;
mod spool;
mod statement;

use std::fs::{File, TryLockError};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use dispatch::Dispatcher;
use engine::Engine;
use spool::SpoolFolder;

/// How long inserts under way may take to end once asked to stop; a flush takes well under a second, and a process that
/// is not gone by then is killed, which loses nothing either.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// The ClickHouse engine on one machine.
#[derive(Debug, Clone, clap::Args)]
pub struct ClickhouseArgs {
    /// Where the data is kept; made when missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The port of the HTTP interface; 0 is any free one.
    #[arg(long, default_value_t = 8123)]
    pub port: u16,
    /// The folder with libchdb.so.
    #[arg(long, value_name = "DIR", default_value = "deploy/local/parts")]
    pub parts: PathBuf,
    /// The address to listen on. There is no password: leave it on loopback.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Start although parts of a table are broken (a disk's fault, say): they are set aside in the table's `detached`
    /// folder, and what they held is lost. Without it the engine does not start on them. Run `modelmeter audit` then.
    #[arg(long)]
    pub accept_broken_parts: bool,
}

/// Why the engine's directory cannot be used.
#[derive(Debug, thiserror::Error)]
enum DirectoryError {
    #[error("another process has the directory {0} open; one engine serves a directory")]
    InUse(PathBuf),
    #[error("the directory {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the path {0} is not UTF-8 or holds a character that XML cannot; choose another directory"
    )]
    Name(PathBuf),
}

/// Serves until `shutdown`, then lets inserts end and closes the engine.
///
/// # Errors
/// When the library, the directory or the port cannot be had.
pub async fn run(args: ClickhouseArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.listen, args.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let address = listener
        .local_addr()
        .context("the listening socket has no address")?;
    let directory = tokio::task::spawn_blocking(move || Directory::open(&args));
    let directory = directory
        .await
        .context("opening the engine was interrupted")??;
    let Directory { dispatcher, lock } = directory;
    let dispatcher = Arc::new(dispatcher);
    let mut stdout = std::io::stdout();
    writeln!(stdout, "clickhouse: listening on http://{address}")
        .and_then(|()| stdout.flush())
        .context("stdout is closed")?;

    let serving = http::serve(listener, Arc::clone(&dispatcher), shutdown.clone());
    let cancelling = async {
        shutdown.cancelled().await;
        dispatcher.cancel_reads().await;
    };
    let drained = async {
        tokio::join!(serving, cancelling);
        dispatcher.drain().await;
    };
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        () = drained => {}
        // The engine is left as a crash would leave it, which it recovers from.
        () = deadline => anyhow::bail!("queries still ran {} s after the end was asked for", DRAIN_DEADLINE.as_secs()),
    }
    tokio::task::spawn_blocking(move || dispatcher.close())
        .await
        .context("closing the engine was interrupted")?;
    drop(lock);
    Ok(())
}

/// The engine's directory, open and locked.
struct Directory {
    dispatcher: Dispatcher,
    /// Held while the engine is open: the system drops it with the process, however that ends.
    lock: File,
}

impl Directory {
    fn open(args: &ClickhouseArgs) -> anyhow::Result<Self> {
        let io = |source| DirectoryError::Io {
            path: args.dir.clone(),
            source,
        };
        std::fs::create_dir_all(&args.dir).map_err(io)?;
        let dir = args.dir.canonicalize().map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse(dir).into()),
            Err(TryLockError::Error(source)) => return Err(io(source).into()),
        }
        let users = dir.join("users.xml");
        let users_text = users
            .to_str()
            .filter(|path| !path.contains(['<', '&', '>']))
            .ok_or_else(|| DirectoryError::Name(dir.clone()))?;
        std::fs::write(&users, access::users_config()).map_err(io)?;
        let config = dir.join("config.xml");
        std::fs::write(&config, access::server_config(users_text)).map_err(io)?;
        let folder = SpoolFolder::create(&dir.join("spool")).map_err(io)?;
        let data = dir.join("data");
        // The engine's own switch. It is there for this start alone.
        let switch = data.join("flags/force_restore_data");
        if args.accept_broken_parts {
            std::fs::create_dir_all(data.join("flags")).map_err(io)?;
            File::create(&switch).map_err(io)?;
        }
        let engine = Engine::open(&args.parts.join("libchdb.so"), &data, &config);
        match std::fs::remove_file(&switch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(error).into());
            }
            _ => {}
        }
        let engine = engine?;
        Ok(Self {
            dispatcher: Dispatcher::new(engine, folder),
            lock,
        })
    }
}
