//! The process: one per directory, clear words when it cannot start, and what ends and kills do.

use std::time::Instant;

use super::support::{Answer, DEADLINE, Face, command, head, parts};

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let second = command(dir.path(), &parts()).output().expect("it starts");
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        words.contains("another process has the directory"),
        "{words}"
    );
    assert_eq!(face.sql("SELECT 1"), "1\n");
}

#[test]
fn a_missing_engine_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = command(&dir.path().join("data"), dir.path())
        .output()
        .expect("it starts");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let path = dir.path().join("libchdb.so");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(
        words.contains("make local-parts") && words.contains(path.to_str().expect("UTF-8")),
        "{words}"
    );
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut n_stored = 0_u64;
    for round in 0..4_u64 {
        let mut face = Face::start(dir.path());
        if round == 0 {
            face.sql(
                "CREATE TABLE t (batch UInt64, n UInt32) ENGINE = MergeTree ORDER BY batch \
                 SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, max_suspicious_broken_parts = 0",
            );
        }
        // Every batch that was answered is whole; the one the kill fell into is whole or not there.
        let batches = face
            .sql("SELECT count() FROM (SELECT batch FROM t GROUP BY batch HAVING count() = 1000)");
        let all = face.sql("SELECT uniqExact(batch) FROM t");
        assert_eq!(batches, all, "a batch is there in part");
        let n: u64 = batches.trim_end().parse().expect("a number");
        assert!(
            n == n_stored || n == n_stored + 1,
            "{n} batches of {n_stored}"
        );
        let mut next = n;
        for _ in 0..10 + round {
            let sql = format!("INSERT INTO t SELECT {next}, number FROM numbers(1000)");
            assert_eq!(face.post(&[], sql.as_bytes()).status, 200);
            next += 1;
        }
        n_stored = next;
        let sql = format!("INSERT INTO t SELECT {next}, number FROM numbers(1000)");
        let _in_the_middle = face.send(&(head("POST", &[], &[], Some(sql.len())) + &sql));
        face.child.kill().expect("killed");
        face.child.wait().expect("ended");
    }
    assert!(n_stored >= 46);
}

#[test]
fn asked_to_end_it_lets_an_insert_end_first() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let sql = "INSERT INTO t SELECT number FROM numbers(4) WHERE sleepEachRow(0.5) = 0 SETTINGS max_block_size = 1";
    let running = face.send(&(head("POST", &[], &[], Some(sql.len())) + sql));
    let endless = "SELECT count() FROM numbers(1000000000000000) WHERE number % 7 = 8";
    let reading = face.send(&(head("POST", &[], &[], Some(endless.len())) + endless));
    face.wait_until_running("sleepEachRow", 1);
    face.wait_until_running("1000000000000000", 1);
    let _idle = face.send("");
    // SAFETY: a signal to the child this test started and has not waited for.
    let sent = unsafe {
        libc::kill(
            libc::pid_t::try_from(face.child.id()).expect("a pid"),
            libc::SIGTERM,
        )
    };
    assert_eq!(sent, 0);
    assert_eq!(Answer::read(reading).code(), 394);
    assert_eq!(Answer::read(running).status, 200);
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        match face.child.try_wait().expect("its state") {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "it does not end"),
        }
        std::thread::yield_now();
    };
    assert!(status.success(), "{status}");
    drop(face);
    assert_eq!(Face::start(dir.path()).sql("SELECT count() FROM t"), "4\n");
}
