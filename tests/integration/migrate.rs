//! `modelmeter migrate` against the real engine: applied once, refused where it must be, and printed
//! as SQL that the engine takes.

use std::process::Command;

use modelmeter::config::StoreAddress;
use modelmeter::store::migrate::apply::{self, MigrateError};
use modelmeter::store::migrate::files::{
    BOOKKEEPING, MIGRATIONS, TABLE_SETTINGS, Target, created_objects,
};

use crate::engine::{execute, new_database, rows, whole};

fn modelmeter(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_modelmeter"))
        .args(args)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(text).expect("text"),
    )
}

/// Every object with its definition, and what is remembered.
async fn everything(address: &StoreAddress) -> Vec<String> {
    let sql = format!(
        "SELECT name, create_table_query AS sql FROM system.tables WHERE database = '{}' ORDER BY name",
        address.database
    );
    let objects = rows(&address.client(), &sql).await;
    objects
        .iter()
        .map(|o| format!("{} {}", o["name"], o["sql"]))
        .collect()
}

#[tokio::test]
async fn up_applies_once_and_then_nothing() {
    let address = new_database();
    let first = apply::up(&address).await.expect("applies");
    assert!(first.database_created);
    assert_eq!(
        (first.applied_before, first.applied_now.len()),
        (0, MIGRATIONS.len())
    );
    assert_eq!(first.settings_left_out, [""; 0]);
    let made = everything(&address).await;
    let again = apply::up(&address).await.expect("applies");
    assert!(!again.database_created);
    assert_eq!(
        (again.applied_before, again.applied_now.len()),
        (MIGRATIONS.len(), 0)
    );
    assert_eq!(everything(&address).await, made);
    apply::check(&address.client()).await.expect("is current");
}

#[tokio::test]
async fn tables_have_every_setting_that_exactness_needs() {
    let address = new_database();
    apply::up(&address).await.expect("applies");
    let made = everything(&address).await;
    let tables: Vec<&String> = made
        .iter()
        .filter(|o| o.contains("AggregatingMergeTree"))
        .collect();
    assert_eq!(tables.len(), 12);
    for table in tables {
        for (name, value) in TABLE_SETTINGS {
            let quoted = value.replace('\'', "\\'");
            let there = [value, &quoted]
                .iter()
                .any(|v| table.contains(&format!("{name} = {v}")));
            assert!(there, "{name} is missing in {table}");
        }
        // a row with sketches is long to pass over
        let has_sketches = ["10s", "1m", "1h"]
            .iter()
            .any(|tier| table.contains(&format!(".requests_{tier} (")));
        let rows = if has_sketches { 256 } else { 1024 };
        let granules = format!("index_granularity = {rows}");
        assert!(table.contains(&granules), "not {granules} in {table}");
    }
}

#[tokio::test]
async fn two_at_once_leave_each_migration_once() {
    let address = new_database();
    let (one, other) = tokio::join!(apply::up(&address), apply::up(&address));
    one.expect("applies");
    other.expect("applies");
    let remembered = apply::applied(&address.client()).await.expect("is read");
    assert_eq!(
        remembered.iter().map(|a| a.version).collect::<Vec<_>>(),
        (1..=MIGRATIONS.len() as u32).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn what_was_cut_short_is_finished() {
    let address = new_database();
    apply::up(&address).await.expect("applies");
    let client = address.client();
    // As a process would leave it that dies between two statements of the first file.
    execute(&client, "DROP TABLE requests_1h").await;
    execute(&client, "TRUNCATE TABLE modelmeter_migrations").await;
    apply::check(&client).await.expect_err("is behind");
    let report = apply::up(&address).await.expect("applies");
    assert_eq!(report.applied_now.len(), MIGRATIONS.len());
    let n = rows(&client, "SELECT count() AS n FROM requests_1h").await;
    assert_eq!(whole(&n[0], "n"), 0);
}

#[tokio::test]
async fn a_database_of_a_newer_build_is_refused_and_left_alone() {
    let address = new_database();
    apply::up(&address).await.expect("applies");
    let sql =
        "INSERT INTO modelmeter_migrations (version, name, checksum) VALUES (999, 'later', 'x')";
    execute(&address.client(), sql).await;
    let before = everything(&address).await;
    for result in [
        apply::up(&address).await.map(|_| ()),
        apply::check(&address.client()).await,
    ] {
        let error = result.expect_err("is refused");
        assert!(
            matches!(error, MigrateError::DatabaseNewer { found: 999, .. }),
            "{error}"
        );
    }
    assert_eq!(everything(&address).await, before);
}

#[tokio::test]
async fn an_applied_migration_that_changed_is_refused() {
    let address = new_database();
    apply::up(&address).await.expect("applies");
    let client = address.client();
    execute(&client, "TRUNCATE TABLE modelmeter_migrations").await;
    let sql = "INSERT INTO modelmeter_migrations (version, name, checksum) VALUES (1, 'requests', 'other')";
    execute(&client, sql).await;
    let error = apply::up(&address).await.expect_err("is refused");
    assert!(
        matches!(&error, MigrateError::Changed { label, .. } if label == "0001_requests"),
        "{error}"
    );
}

#[tokio::test]
async fn somebody_elses_tables_are_left_alone() {
    for object in ["cpu", "requests_10s"] {
        let address = new_database();
        let client = address.client();
        execute(
            &client.clone().with_database("default"),
            &format!("CREATE DATABASE {}", address.database),
        )
        .await;
        execute(
            &client,
            &format!("CREATE TABLE {object} (x UInt8) ENGINE = MergeTree ORDER BY x"),
        )
        .await;
        execute(&client, &format!("INSERT INTO {object} VALUES (7)")).await;
        let error = apply::up(&address).await.expect_err("is refused");
        assert!(
            matches!(&error, MigrateError::Engine { name, .. } if name == object),
            "{error}"
        );
        assert_eq!(everything(&address).await.len(), 1);
        assert_eq!(
            whole(
                &rows(&client, &format!("SELECT x FROM {object}")).await[0],
                "x"
            ),
            7
        );
    }
}

#[tokio::test]
async fn the_constraints_keep_ledger_and_data_apart() {
    let address = new_database();
    apply::up(&address).await.expect("applies");
    let client = address.client();
    let tables = rows(&client, "SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '^re.*_(10s|1m|1h)$')").await;
    assert_eq!(tables.len(), 8);
    for table in tables.iter().map(|t| t["name"].as_str().expect("a name")) {
        let counted = if table.starts_with("replicas") {
            "samples"
        } else {
            "requests"
        };
        for (deployment, window, ledger, count) in [
            ("", 0, "", 0),
            ("d", 0, "t/1", 0),
            ("", 10, "t/1", 0),
            ("", 0, "t/1", 1),
        ] {
            let sql = format!(
                "INSERT INTO {table} (ingested, deployment_id, window_start, kafka_partition, ledger, {counted}) \
                 VALUES (today(), '{deployment}', {window}, 0, '{ledger}', {count})"
            );
            let error = crate::engine::try_execute(&client, &sql)
                .await
                .expect_err(&sql);
            assert!(error.contains("VIOLATED_CONSTRAINT"), "{error}");
        }
    }
}

#[tokio::test]
async fn the_clusters_sql_is_sql() {
    let client = crate::engine::migrated().await;
    let cluster = Target::Cluster("prod".parse().expect("a name"));
    for migration in [BOOKKEEPING].iter().chain(&MIGRATIONS) {
        for statement in migration.statements(&cluster) {
            let text: String = client
                .query("SELECT formatQuery(?)")
                .bind(&statement)
                .fetch_one()
                .await
                .expect(&statement);
            assert!(text.contains("ON CLUSTER"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_command_says_what_it_did_and_prints_what_it_would() {
    let address = new_database();
    let store = [
        "--clickhouse",
        &address.origin,
        "--database",
        &address.database,
    ];
    let (ok, text) = modelmeter(&[&["migrate", "status"], &store[..]].concat());
    assert!(ok && text.contains("0001_requests: pending"), "{text}");
    let (ok, text) = modelmeter(&[&["migrate", "up"], &store[..]].concat());
    assert!(
        ok && text.contains("12 of 12 migrations applied, 12 of them now"),
        "{text}"
    );
    let (ok, text) = modelmeter(&[&["migrate", "status"], &store[..]].concat());
    assert!(
        ok && text.contains("0 pending") && text.contains("0009_gpu: applied"),
        "{text}"
    );
    let (ok, text) = modelmeter(&["migrate", "print", "--docs"]);
    assert!(ok && text.contains("| end_to_end_p99_ms | ms | "), "{text}");
    let (ok, text) = modelmeter(&["migrate", "print", "--cluster", "a'b"]);
    assert!(!ok && text.contains("cluster's name"), "{text}");
}

#[tokio::test]
async fn what_is_printed_makes_what_up_makes() {
    let by_up = new_database();
    apply::up(&by_up).await.expect("applies");
    let by_hand = new_database();
    let client = by_hand.client();
    execute(
        &client.clone().with_database("default"),
        &format!("CREATE DATABASE {}", by_hand.database),
    )
    .await;
    let (ok, sql) = modelmeter(&["migrate", "print"]);
    assert!(ok, "{sql}");
    for statement in sql.split(";\n\n").map(str::trim).filter(|s| !s.is_empty()) {
        execute(&client, statement).await;
    }
    apply::check(&client).await.expect("is current");
    let printed: Vec<String> = everything(&by_hand)
        .await
        .iter()
        .map(|o| o.replace(&by_hand.database, &by_up.database))
        .collect();
    assert_eq!(printed, everything(&by_up).await);
    assert_eq!(created_objects().len() + 1, printed.len());
}
