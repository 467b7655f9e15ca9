//! The page and its JSON API: what the views say of one deployment, drawn. It computes no metric of its own, writes
//! nothing, and builds no query text from a parameter.
//!
//! A request's way: [`http`] takes it where [`host`] knows the name it calls, [`query_string`] and [`range`] turn its
//! parameters into typed values, [`asking`] and [`deployments`] ask ClickHouse with the statements of [`views`] (the public
//! views' numbers, read a stream at a time), and [`panel`] makes the [`charts`] of what came: [`latency`] chooses how long
//! the steps of the time charts are, [`coverage`] tells no data from zero, and [`strip`] sums up the last minutes.

mod asking;
mod charts;
mod coverage;
mod deployments;
pub mod error;
mod files;
mod host;
mod http;
mod latency;
mod panel;
pub mod query_string;
pub mod range;
mod strip;
pub mod views;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::StoreArgs;

#[derive(Debug, Clone, clap::Args)]
pub struct DashboardArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where the page, /api/v1, /livez and /readyz are served; port 0 is any free one. There is no password: leave it
    /// on loopback.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// A host that requests may name besides localhost and the address itself, such as the name of a proxy in front; may
    /// be given more than once. On loopback other names get 403.
    #[arg(long = "allow-host", value_name = "HOST")]
    pub allowed_hosts: Vec<host::AllowedHost>,
}

/// Serves the page until it is told to stop. It starts without ClickHouse too: the page says what is missing.
///
/// # Errors
/// When the address of ClickHouse is none, or the one to listen on cannot be taken.
pub async fn run(args: DashboardArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(?args, "starting");
    let store = Arc::new(http::Store::new(args.store.address()?.client()));
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("--listen {}: the address cannot be taken", args.listen))?;
    let address = listener.local_addr()?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "dashboard: listening on http://{address}")
        .and_then(|()| stdout.flush())
        .context("stdout is closed")?;
    let hosts = Arc::new(host::Hosts::new(address, args.allowed_hosts));
    http::serve(listener, store, hosts, shutdown).await;
    Ok(())
}
