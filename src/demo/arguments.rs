//! What the demo's children are told, in the words of this program's own command line. Nothing is decided here.

use std::path::Path;
use std::time::Duration;

use super::{Addresses, DemoArgs};

/// How often the coarse tables are written, which hold the past that the charts show: oftener than the processor would by itself,
/// so that a demo need not wait a minute for them.
const COARSE_FLUSH_INTERVAL: &str = "15s";

/// What `up` is told; the demo's own flags are the same words.
pub fn up_arguments(args: &DemoArgs, dir: &Path, ready_file: &Path) -> Vec<String> {
    let mut arguments = vec!["up".to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("--dir", dir.display().to_string());
    add("--ready-file", ready_file.display().to_string());
    add("--parts", args.parts.parts.display().to_string());
    add("--coarse-flush-interval", COARSE_FLUSH_INTERVAL.to_owned());
    for (flag, port) in [
        ("--kafka-port", args.kafka_port),
        ("--clickhouse-port", args.clickhouse_port),
        ("--dashboard-port", args.dashboard_port),
    ] {
        if let Some(port) = port {
            add(flag, port.to_string());
        }
    }
    arguments
}

/// What `replay` is told: it goes on from what the progress file says and leaves a summary.
pub fn replay_arguments(
    args: &DemoArgs,
    addresses: &Addresses,
    progress: &Path,
    summary: &Path,
) -> Vec<String> {
    let mut arguments = vec!["replay".to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("--kafka", addresses.kafka.clone());
    add("--history", in_seconds(args.history));
    add("--speed", args.speed.to_string());
    add("--seed", args.seed.to_string());
    add("--resume", progress.display().to_string());
    add("--summary", summary.display().to_string());
    if let Some(length) = args.run_for {
        add("--for", in_seconds(length));
    }
    arguments
}

pub fn audit_arguments(addresses: &Addresses) -> Vec<String> {
    [
        "audit",
        "--kafka",
        &addresses.kafka,
        "--clickhouse",
        &addresses.clickhouse,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A duration in the words of a command line.
fn in_seconds(length: Duration) -> String {
    format!("{}s", length.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_duration;

    #[test]
    fn durations_are_read_back_as_they_were() {
        for length in [Duration::from_micros(100), Duration::from_secs(6 * 3600)] {
            assert_eq!(parse_duration(&in_seconds(length)), Ok(length));
        }
    }
}
