//! The program: one subcommand a role. Parses, starts the log, turns signals into one shutdown token, and runs the role.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use modelmeter::{agent, dashboard, demo, local, processor, replay, store};
use tokio_util::sync::CancellationToken;

/// Metrics for served machine-learning models: from the replica to the chart, each request counted exactly once.
#[derive(Parser)]
#[command(
    version,
    about,
    arg_required_else_help = true,
    args_override_self = true
)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Everything on one machine: Kafka, ClickHouse, the migrations, the processor and the page.
    Up(local::up::UpArgs),
    /// Folds what producers publish into rollups and writes them to ClickHouse, exactly once.
    Processor(processor::ProcessorArgs),
    /// In front of a model server or beside it: measures its requests and publishes them, with samples of the replica.
    Agent(Box<agent::AgentArgs>),
    /// The page, and its JSON API.
    Dashboard(dashboard::DashboardArgs),
    /// Creates the tables, views and topics, or says what is missing.
    Migrate(store::migrate::MigrateArgs),
    /// Checks that every message was counted exactly once, a line a table and partition.
    Audit(store::audit::AuditArgs),
    /// Counts messages that are gone as lost, so that their partition goes on; only shows what it would do without --write.
    Gap(store::gap::GapArgs),
    /// All of it with real load on it, to look at: `up` and `replay` in one.
    Demo(demo::DemoArgs),
    /// Real traces as live load: what some eighty deployments' producers would say.
    Replay(replay::ReplayArgs),
    /// A Kafka broker for one machine.
    Kafka(local::kafka::BrokerArgs),
    /// ClickHouse for one machine: the real engine behind ClickHouse's HTTP interface.
    Clickhouse(local::clickhouse::ClickhouseArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    modelmeter::telemetry::start();
    match run(cli.role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("modelmeter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<ExitCode> {
    let n_workers = match role {
        // it shares a machine with the model, and two idle workers wake each other
        Role::Agent(_) => 1,
        _ => 2,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(n_workers)
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(modelmeter::telemetry::cancel_on_signal(shutdown.clone())?);
        match role {
            Role::Up(args) => local::up::run(args, shutdown).await?,
            Role::Processor(args) => processor::run(args, shutdown).await?,
            Role::Agent(args) => return agent::run(*args, shutdown).await,
            Role::Dashboard(args) => dashboard::run(args, shutdown).await?,
            Role::Migrate(args) => store::migrate::run(args).await?,
            Role::Audit(args) => return store::audit::run(args).await,
            Role::Gap(args) => return store::gap::run(args).await,
            Role::Demo(args) => return demo::run(args, shutdown).await,
            Role::Replay(args) => replay::run(args, shutdown).await?,
            Role::Kafka(args) => local::kafka::run(args, shutdown).await?,
            Role::Clickhouse(args) => local::clickhouse::run(args, shutdown).await?,
        }
        Ok(ExitCode::SUCCESS)
    });
    // a blocking call that hangs must not keep a finished role alive
    runtime.shutdown_background();
    code
}
