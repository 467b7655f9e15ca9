//! `--check`: says whether what is configured is there, a line each, without measuring or sending anything.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::arguments::{AgentArgs, AgentConfig};
use super::out::spool::Spool;
use crate::bus::topics;

/// How long Kafka may take about one topic.
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);

/// The model server is beside the agent.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(5);

/// Prints what it found; true when all of it is right.
pub async fn run(args: &AgentArgs, config: &AgentConfig) -> bool {
    let identity = &config.identity;
    println!(
        "configuration: ok: deployment {}, replica {}",
        identity.deployment_id, identity.replica_id
    );
    let mut is_right = true;
    let mut say = |what: String, found: Result<String, String>| match found {
        Ok(text) => println!("{what}: ok: {text}"),
        Err(text) => {
            is_right = false;
            println!("{what}: {text}");
        }
    };
    let spool = Spool::open(&args.spool, &identity.deployment_id);
    say(
        format!("spool {}", args.spool.display()),
        match spool {
            Ok((_, left)) => Ok(format!("{} batches from before", left.len())),
            Err(error) => Err(chain(&error)),
        },
    );
    if let Some(upstream) = &args.proxy.upstream {
        let reached = timeout(UPSTREAM_DEADLINE, TcpStream::connect(&upstream.authority)).await;
        say(
            format!("upstream {}", upstream.authority),
            match reached {
                Ok(Ok(_)) => Ok("it takes connections".to_owned()),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_) => Err(format!(
                    "no answer within {} s",
                    UPSTREAM_DEADLINE.as_secs()
                )),
            },
        );
    }
    let kafka = &config.kafka;
    for topic in [&kafka.topics.requests, &kafka.topics.replicas] {
        let what = format!("kafka {}, topic {topic}", kafka.bootstrap);
        let found = match timeout(KAFKA_DEADLINE, topics::check(kafka, topic)).await {
            Ok(Ok(report)) => {
                let remarks: String = report.remarks.iter().map(|r| format!("; {r}")).collect();
                Ok(format!("{} partitions{remarks}", report.partitions))
            }
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} s", KAFKA_DEADLINE.as_secs())),
        };
        say(what, found);
    }
    is_right
}

/// An error and what led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
