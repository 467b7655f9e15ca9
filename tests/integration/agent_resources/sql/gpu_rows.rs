//! GPUs that are well, in parts, lost, and behind a driver that hangs. What cannot be read is NULL.

use super::{Pipeline, number};
use crate::agent_resources::stand_in::StandIn;
use crate::support::process::Role;
use crate::support::space::CATCH_UP;
use crate::support::sql::Record;
use crate::support::wait_for;

const WELL: &str = "count 2\n0.util 20\n0.odd 60\n0.used 3000\n0.total 8000\n0.sm 25\n\
                    1.util 100\n1.used 500\n1.total 9000\n1.sm 75\n";
const ONE: &str = "count 1\n0.util 50\n0.used 30\n0.total 80\n";

pub struct Gpus {
    lost: StandIn,
    hung: StandIn,
    _others: [StandIn; 2],
    _agents: Vec<Role>,
}

/// Starts the agents, which need some seconds until there is anything to be seen.
pub fn begin(pipeline: &Pipeline) -> Gpus {
    let [well, parts, lost, hung] = [
        WELL,
        "count 1\n0.mig 2\n0.util 50\n0.used 5\n0.total 10\n",
        ONE,
        ONE,
    ]
    .map(StandIn::new);
    let agent = |deployment: &str, stand_in: &StandIn| {
        let library = stand_in.library().display().to_string();
        pipeline.agent(deployment, &["--gpus", "all", "--nvml-library", &library])
    };
    let agents = vec![
        agent("gpu-well", &well),
        agent("gpu-parts", &parts),
        agent("gpu-lost", &lost),
        agent("gpu-hung", &hung),
    ];
    Gpus {
        lost,
        hung,
        _others: [well, parts],
        _agents: agents,
    }
}

/// The latest step of a deployment of which this holds.
fn step(pipeline: &Pipeline, deployment: &str, holds: impl Fn(&Record) -> bool) -> Record {
    wait_for(&format!("a step of {deployment}"), CATCH_UP, || {
        let rows = pipeline.rows("gpu", deployment)?;
        let found = rows.iter().rev().find(|row| holds(row));
        found.cloned().ok_or_else(|| format!("{rows:?}"))
    })
}

/// A mean over time, whose sums round.
fn assert_close(row: &Record, column: &str, value: f64) {
    let found = number(row, column).unwrap_or_else(|| panic!("{column}: {row:?}"));
    let error = (found - value).abs() / value;
    assert!(error < 1e-9, "{column}, in truth {value}: {row:?}");
}

fn assert_null(row: &Record, columns: &[&str]) {
    for column in columns {
        assert_eq!(number(row, column), None, "{column}: {row:?}");
    }
}

pub fn check(pipeline: &Pipeline, gpus: Gpus) {
    let is_read = |row: &Record| number(row, "usage_ratio_avg").is_some();
    for deployment in ["gpu-lost", "gpu-hung"] {
        let row = step(pipeline, deployment, is_read);
        assert_close(&row, "usage_ratio_avg", 0.5);
        assert_close(&row, "memory_ratio_avg", 30.0 / 80.0);
    }
    gpus.lost.set(&format!("{ONE}0.lost 1\n"));
    gpus.hung.set(&format!("{ONE}0.hang 1\n"));

    let row = step(pipeline, "gpu-well", |row| {
        is_read(row) && number(row, "sm_activity_avg").is_some()
    });
    // Samples of 20 and 60 in turn on one, 100 on the other: one more of either moves the mean by a hundredth.
    let used = number(&row, "usage_ratio_avg").expect("read");
    assert!((used - 0.7).abs() < 0.03, "{row:?}");
    assert_eq!(number(&row, "usage_ratio_max"), Some(1.0));
    for (column, value) in [
        ("gpus", 2.0),
        ("memory_used_bytes_avg", 1750.0),
        ("memory_used_bytes_max", 3000.0),
        ("memory_total_bytes_avg", 8500.0),
        ("sm_activity_avg", 0.5),
    ] {
        assert_close(&row, column, value);
    }

    let row = step(pipeline, "gpu-parts", |row| {
        number(row, "memory_used_bytes_avg").is_some()
    });
    assert_eq!(number(&row, "gpus"), Some(2.0));
    assert_close(&row, "memory_used_bytes_avg", 5.0);
    assert_null(&row, &["usage_ratio_avg", "usage_ratio_max"]);

    for deployment in ["gpu-lost", "gpu-hung"] {
        // a step of nothing but samples without a reading: the one GPU is still there. An agent's first sample has no usage
        // yet, but its memory.
        let row = step(pipeline, deployment, |row| {
            !is_read(row) && number(row, "memory_used_bytes_avg").is_none()
        });
        assert_eq!(number(&row, "gpus"), Some(1.0), "{row:?}");
        assert_null(
            &row,
            &[
                "usage_ratio_avg",
                "usage_ratio_max",
                "memory_total_bytes_avg",
                "memory_ratio_avg",
                "sm_activity_avg",
            ],
        );
    }
    gpus.lost.set(ONE);
    gpus.hung.set(ONE);
}
