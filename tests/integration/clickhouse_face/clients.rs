//! The clients that people use, with their defaults.

use std::process::Command;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::support::Face;

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Usual {
    id: u64,
    small: i8,
    name: String,
    maybe: Option<f64>,
    tags: Vec<String>,
    flag: bool,
    at: u32,
    pair: (u16, String),
    counts: Vec<(String, u64)>,
}

fn usual(id: u64) -> Usual {
    Usual {
        id,
        small: -3,
        name: format!("näme\n{id}"),
        maybe: id.is_multiple_of(2).then_some(0.5),
        tags: vec!["a".to_owned(), String::new()],
        flag: true,
        at: 1_700_000_000,
        pair: (9, "z".to_owned()),
        counts: vec![("k".to_owned(), 2)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clickhouse_crate_works_with_its_defaults() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let client = face.client();
    client
        .query(
            "CREATE TABLE usual (id UInt64, small Int8, name LowCardinality(String), maybe Nullable(Float64), tags Array(String), \
             flag Bool, at DateTime('UTC'), pair Tuple(UInt16, String), counts Map(String, UInt64)) \
             ENGINE = MergeTree ORDER BY id",
        )
        .execute()
        .await
        .expect("a table");

    const N: u64 = 50_000;
    let mut insert = client.insert::<Usual>("usual").await.expect("an insert");
    for id in 0..N {
        insert.write(&usual(id)).await.expect("written");
    }
    insert.end().await.expect("stored");
    let empty = client.insert::<Usual>("usual").await.expect("an insert");
    empty.end().await.expect("nothing stored");

    let rows = client
        .query("SELECT ?fields FROM usual ORDER BY id")
        .fetch_all::<Usual>()
        .await
        .expect("rows");
    assert_eq!(rows.len() as u64, N);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(id, row)| *row == usual(id as u64))
    );
    let none = client
        .query("SELECT ?fields FROM usual WHERE id > ?")
        .bind(N)
        .fetch_all::<Usual>()
        .await
        .expect("no rows");
    assert_eq!(none, []);

    let hostile = "x' OR 1 = 1 -- \\ {a:String}";
    let bound = client
        .query("SELECT {v:String}")
        .param("v", hostile)
        .fetch_one::<String>()
        .await
        .expect("a row");
    assert_eq!(bound, hostile);

    let error = client
        .query("SELECT * FROM nowhere")
        .execute()
        .await
        .expect_err("no such table")
        .to_string();
    assert!(
        error.contains("Code: 60") && error.contains("UNKNOWN_TABLE"),
        "{error}"
    );
    let late = "SELECT throwIf(number = 2500000, 'in the middle') AS x FROM numbers(3000000)";
    let error = client
        .query(late)
        .fetch_all::<u8>()
        .await
        .expect_err("an error behind rows")
        .to_string();
    assert!(error.contains("in the middle"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_queries_at_once_have_twenty_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let tasks: Vec<_> = (0..20_u64)
        .map(|i| {
            let client = face.client();
            tokio::spawn(async move {
                client
                    .query("SELECT toUInt64(sum(number) + ?) FROM numbers(200000)")
                    .bind(i)
                    .fetch_one::<u64>()
                    .await
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        let sum = task.await.expect("no panic").expect("an answer");
        assert_eq!(sum, 200_000 * 199_999 / 2 + i as u64);
    }
}

#[test]
fn clickhouse_connect_works_with_its_defaults() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/python");
    let dir = tempfile::tempdir().expect("a folder");
    let venv = dir.path().join("venv");
    let run = |command: &mut Command| {
        let output = command.output().expect("it starts");
        assert!(
            output.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let requirements = python.join("requirements.txt");
    run(Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "--require-virtualenv", "-r"])
        .arg(requirements));

    let face = Face::start(&dir.path().join("engine"));
    face.sql("CREATE DATABASE face");
    let (host, port) = face.authority.rsplit_once(':').expect("host and port");
    let script = python.join("clickhouse_face.py");
    let output = run(Command::new(venv.join("bin/python"))
        .arg(script)
        .args([host, port, "face"]));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim_end(),
        "all well"
    );
}
