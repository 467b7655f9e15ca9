//! An independent producer: the Python example that a model server's author would copy, with libraries
//! that share nothing with this crate, run as it stands; its requests must appear in the views.

use std::process::{Command, Stdio};

use crate::support::space::{CATCH_UP, Space};
use crate::support::{root, wait_for};

#[test]
fn requests_of_the_python_example_appear_in_the_views() {
    let python = root().join("deploy/local/parts/venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make local-parts` first",
        python.display()
    );
    let space = Space::new();
    let mut processor = space.processor(&[]);
    let output = Command::new(python)
        .current_dir(root())
        .args(["schemas/examples/producer.py", "--kafka", &space.kafka])
        .args([
            "--requests-topic",
            &space.topics.requests,
            "--replicas-topic",
            &space.topics.replicas,
        ])
        .stdin(Stdio::null())
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "the producer failed:\n{said}");
    let now = modelmeter::clock::now_us() / 1_000_000;
    wait_for("the producer's requests are in the views", CATCH_UP, || {
        assert!(
            processor.is_running(),
            "the processor ended:\n{}",
            processor.tail()
        );
        let deployments = space
            .sql
            .try_rows("SELECT DISTINCT deployment_id AS id FROM deployments")?;
        let Some(deployment) = deployments.first().and_then(|row| row["id"].as_str()) else {
            return Err(format!("no deployment; the producer said:\n{said}"));
        };
        let sum = |column: &str, view: &str| {
            let range = format!("start = {}, stop = {}, step = 10", now - 3600, now + 600);
            let query = format!(
                "SELECT sum({column}) AS n FROM {view}(deployment = '{deployment}', {range})"
            );
            space
                .sql
                .try_rows(&query)
                .map(|rows| rows[0]["n"].as_f64().unwrap_or(0.0))
        };
        let (requests, active) = (
            sum("requests", "inference_volume")?,
            sum("active", "replicas")?,
        );
        if requests > 0.0 && active > 0.0 {
            Ok(())
        } else {
            Err(format!("{requests} requests, {active} active"))
        }
    });
}
