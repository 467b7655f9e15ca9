//! How long a panel takes over 6 h, 24 h and 30 d of a deployment with 50 replicas, on thirty days of rows that the
//! product's own fold and guarded insert have written into the real engine. Prints a table and writes
//! `target/bench/panel.json`. It measures and judges nothing: the aims stand beside what was measured.
//!
//! `cargo bench --bench panel [-- --requests 200] [--why] [--dir DIR]`; `--why` adds rows that say where the time goes.

#[path = "panel/filler.rs"]
mod filler;
#[path = "panel/measure.rs"]
mod measure;
#[path = "panel/report.rs"]
mod report;
#[path = "panel/roles.rs"]
mod roles;
#[path = "panel/traffic.rs"]
mod traffic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use modelmeter::clock;
use modelmeter::config::{StoreAddress, StoreArgs};
use modelmeter::core::table::Stream;

use filler::Filler;
use measure::{Bench, RANGES};
use report::Report;
use roles::Roles;

/// As long as the 1 m tables keep their windows.
const HISTORY_S: u32 = 30 * 86_400;

/// The engine merges on by itself after the last insert; how long it is waited for.
const MERGE_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Args {
    /// Timed requests of each statement and range, after ten that are not.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..))]
    requests: u32,
    /// Also measure planning alone.
    #[arg(long)]
    why: bool,
    /// Keep the data here; without it a temporary directory is used and removed.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(Args::parse()))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(dir)?;
    let mut roles = Roles::new(dir)?;
    let url = roles.start_engine().await?;
    let address = store_address(&url)?;
    roles.migrate(&url).await?;
    let page = roles.start_dashboard(&url).await?;

    let begun = Instant::now();
    let start = now() / 60 * 60 - HISTORY_S;
    let mut fillers = [
        Filler::new(Stream::Requests, &address, start).await?,
        Filler::new(Stream::Replicas, &address, start).await?,
    ];
    fill(&mut fillers).await?;
    let fill_s = begun.elapsed().as_secs_f64();
    let idle = wait_for_merges(&address.client()).await?;
    for filler in &fillers {
        filler.check().await?;
    }

    let mut report = Report::new(&address.client(), fill_s, idle).await?;
    report.print_tables();
    let bench = Bench::new(&address, &page, roles.engine_pid(), args.requests);
    for range in RANGES {
        // the charts end now: what has passed meanwhile is written first, as a processor would have
        fill(&mut fillers).await?;
        let measured = bench.measure(range, args.why).await?;
        report.add(measured);
    }
    report.write()?;
    roles.stop().await
}

/// Both streams at once, up to the last whole minute.
async fn fill(fillers: &mut [Filler; 2]) -> anyhow::Result<()> {
    let [requests, replicas] = fillers;
    // each folds on a thread of the runtime's; the engine has the other
    tokio::try_join!(requests.fill_to(now()), replicas.fill_to(now()))?;
    Ok(())
}

/// Whether the engine came to rest.
async fn wait_for_merges(client: &clickhouse::Client) -> anyhow::Result<bool> {
    let deadline = Instant::now() + MERGE_PATIENCE;
    let mut n_quiet = 0;
    while Instant::now() < deadline {
        let merging: u64 = client
            .query("SELECT count() FROM system.merges")
            .fetch_one()
            .await
            .context("asking for merges")?;
        n_quiet = if merging == 0 { n_quiet + 1 } else { 0 };
        // a merge that is chosen between two looks would be missed by one
        if n_quiet == 10 {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}

fn store_address(url: &str) -> anyhow::Result<StoreAddress> {
    let args = StoreArgs {
        url: url.to_owned(),
        database: None,
        user: "default".to_owned(),
        password: String::new(),
    };
    Ok(args.address()?)
}

fn now() -> u32 {
    u32::try_from(clock::now_us() / 1_000_000).unwrap_or(u32::MAX)
}
