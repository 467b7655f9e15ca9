//! An independent producer: the Python example that a model server's author would copy, with libraries
//! that share nothing with this crate, run as it stands; its requests must appear in the views.

use std::process::{Command, Stdio};

use serde_json::Value as Json;

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
    let told = said
        .lines()
        .find_map(|line| serde_json::from_str::<Json>(line).ok());
    let told = told.unwrap_or_else(|| panic!("the producer does not say what it sent:\n{said}"));
    let deployment = told["deployment"].as_str().expect("a deployment");
    let now = modelmeter::clock::now_us() / 1_000_000;
    let of = |view: &str, sums: &str| {
        let range = format!("start = {}, stop = {}, step = 10", now - 3600, now + 600);
        let query = format!("SELECT {sums} FROM {view}(deployment = '{deployment}', {range})");
        space
            .sql
            .try_rows(&query)
            .map(|rows| Json::from(rows[0].clone()))
    };
    wait_for(
        "all that the producer told of is in the views",
        CATCH_UP,
        || {
            assert!(
                processor.is_running(),
                "the processor ended:\n{}",
                processor.tail()
            );
            let classes = "sum(requests) AS n, round(sum(rps_2xx * seconds)) AS ok, round(sum(rps_5xx * seconds)) AS failed";
            let volume = of("inference_volume", classes)?;
            let replicas = of("replicas", "round(sum(active * seconds)) AS active")?;
            let expected =
                [&told["requests"], &told["status_2xx"], &told["status_5xx"]].map(Json::as_f64);
            let got = [&volume["n"], &volume["ok"], &volume["failed"]].map(Json::as_f64);
            // One sample of an active replica, which speaks for five seconds.
            if got == expected && replicas["active"].as_f64() == Some(5.0) {
                Ok(())
            } else {
                Err(format!("{volume} and {replicas}; the producer said {told}"))
            }
        },
    );
    let inference =
        of("response_time", "max(inference_p50_ms) AS p50").expect("the engine answers");
    assert!(
        inference["p50"].as_f64().is_some_and(|p50| p50 > 0.0),
        "{inference}"
    );
}
