//! `modelmeter migrate`: brings a database and its topics to what this build expects. Forward only;
//! alters no topic and no table that somebody else made.

pub mod apply;
pub mod docs;
pub mod files;

use anyhow::Context;

use crate::bus::topics::{self, DEFAULT_PARTITIONS, TopicPlan, TopicReport};
use crate::config::{KafkaArgs, KafkaOption, StoreArgs, TopicArgs};
use apply::UpReport;
use files::{BOOKKEEPING, ClusterName, MIGRATIONS, Target};

/// Creates and checks tables, views and topics.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(subcommand)]
    pub command: MigrateCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum MigrateCommand {
    /// Apply what the database lacks; with --kafka also create the missing topics and check the others.
    Up(UpArgs),
    /// Say which migrations are applied and which are pending.
    Status(StatusArgs),
    /// Print the SQL of all migrations, or what the views' columns mean.
    Print(PrintArgs),
}

#[derive(Debug, clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Bootstrap servers; without them topics are left alone.
    #[arg(long = "kafka", env = "MODELMETER_KAFKA", value_name = "HOST:PORT")]
    pub bootstrap: Option<String>,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// A librdkafka option, passed through; may be given more than once.
    #[arg(short = 'X', long = "kafka-option", value_name = "KEY=VALUE")]
    pub kafka_options: Vec<KafkaOption>,
    /// Partitions of a topic that is created.
    #[arg(long, default_value_t = DEFAULT_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Replicas of a topic that is created; without it 1 on one broker, else up to 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub replication_factor: Option<i32>,
}

impl UpArgs {
    /// The flags of [`KafkaArgs`], which requires the bootstrap servers that are optional here.
    fn kafka(&self) -> Option<KafkaArgs> {
        Some(KafkaArgs {
            bootstrap: self.bootstrap.clone()?,
            topics: self.topics.clone(),
            options: self.kafka_options.clone(),
        })
    }
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct PrintArgs {
    /// Print replicated tables ON CLUSTER NAME.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Print what each view's columns mean, as Markdown.
    #[arg(long, conflicts_with = "cluster")]
    pub docs: bool,
}

/// Runs one `migrate` command; what it did is told on stdout.
///
/// # Errors
/// When the database or a topic is refused, or cannot be reached.
pub async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    match args.command {
        MigrateCommand::Up(up) => run_up(up).await,
        MigrateCommand::Status(status) => run_status(&status).await,
        MigrateCommand::Print(print) => {
            let text = if print.docs {
                docs::markdown()
            } else {
                print_sql(print.cluster)
            };
            print!("{text}");
            Ok(())
        }
    }
}

async fn run_up(args: UpArgs) -> anyhow::Result<()> {
    let address = args.store.address()?;
    let report = apply::up(&address)
        .await
        .with_context(|| format!("{}, database {}", address.origin, address.database))?;
    tell_database(&address.database, &report);
    if let Some(kafka) = args.kafka() {
        let plan = TopicPlan {
            partitions: args.partitions,
            replication_factor: args.replication_factor,
        };
        topics::ensure(&kafka, plan)
            .await?
            .iter()
            .for_each(tell_topic);
    }
    Ok(())
}

fn tell_database(database: &str, report: &UpReport) {
    if report.database_created {
        println!("database {database}: created");
    }
    for setting in &report.settings_left_out {
        println!("table setting {setting}: left out, the server does not know it");
    }
    for label in &report.applied_now {
        println!("migration {label}: applied");
    }
    println!(
        "database {database}: {} of {} migrations applied, {} of them now",
        report.applied_before + report.applied_now.len(),
        MIGRATIONS.len(),
        report.applied_now.len()
    );
}

fn tell_topic(report: &TopicReport) {
    let done = if report.created { "created" } else { "checked" };
    println!(
        "topic {}: {done}, {} partitions",
        report.topic, report.partitions
    );
    for remark in &report.remarks {
        println!("topic {}: kept as it is with {remark}", report.topic);
    }
}

async fn run_status(args: &StatusArgs) -> anyhow::Result<()> {
    let address = args.store.address()?;
    let applied = apply::status(&address)
        .await
        .with_context(|| format!("{}, database {}", address.origin, address.database))?;
    for migration in &MIGRATIONS {
        let row = applied.iter().find(|a| a.version == migration.version);
        let state = row.map_or("pending".to_owned(), |a| {
            format!("applied {} UTC", a.applied_at)
        });
        println!("{}: {state}", migration.label());
    }
    let pending = apply::pending(&applied)?;
    println!("database {}: {} pending", address.database, pending.len());
    Ok(())
}

/// All files with their holes filled, and the lines that let `up` and `status` know of them.
fn print_sql(cluster: Option<ClusterName>) -> String {
    let target = cluster.map_or_else(Target::single_with_all_settings, Target::Cluster);
    let mut text = String::new();
    for migration in [BOOKKEEPING].iter().chain(&MIGRATIONS) {
        text += &format!("-- {}.sql\n", migration.label());
        for statement in migration.statements(&target) {
            text += &format!("{statement};\n\n");
        }
        if migration.version != BOOKKEEPING.version {
            text += &format!("{};\n\n", apply::record_statement(migration));
        }
    }
    text
}
