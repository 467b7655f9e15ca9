//! What a writer relies on: the guarded insert, one insert per table at a time, an insert that outlives its client.

use std::time::{Duration, Instant};

use super::support::{Answer, Face, head};

const CREATE: &str = "CREATE TABLE requests_10s (ingested Date, deployment_id String, \
    window_start DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), kafka_partition UInt32, ledger LowCardinality(String), \
    requests SimpleAggregateFunction(sum, UInt64), \
    end_to_end AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64), \
    ledger_from SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615, \
    ledger_to SimpleAggregateFunction(max, UInt64), ledger_epoch SimpleAggregateFunction(max, Int32) DEFAULT -1, \
    CONSTRAINT ledger_or_data CHECK (deployment_id = '') = (ledger != ''), \
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND requests = 0)) \
    ENGINE = AggregatingMergeTree PARTITION BY ingested \
    ORDER BY (deployment_id, window_start, kafka_partition, ledger) TTL ingested + INTERVAL 3 DAY \
    SETTINGS ttl_only_drop_parts=1, fsync_after_insert=1, fsync_part_directory=1, min_rows_to_fsync_after_merge=1, \
    min_compressed_bytes_to_fsync_after_merge=1, old_parts_lifetime=480, max_suspicious_broken_parts=0, \
    max_suspicious_broken_parts_bytes=0, non_replicated_deduplication_window=0";

const COLUMNS: &str = "ingested, deployment_id, window_start, kafka_partition, ledger, requests, end_to_end, ledger_from, ledger_to, ledger_epoch";

const STRUCTURE: &str = "ingested Date, deployment_id String, window_start DateTime(\\'UTC\\'), kafka_partition UInt32, \
    ledger LowCardinality(String), requests UInt64, \
    end_to_end AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64), \
    ledger_from UInt64, ledger_to UInt64, ledger_epoch Int32";

const PINS: &str = "SETTINGS async_insert=0, max_insert_threads=1, max_threads=1, max_partitions_per_insert_block=1, \
    throw_on_max_partitions_per_insert_block=1, min_insert_block_size_rows=100000000, \
    min_insert_block_size_bytes=100000000000, max_insert_block_size=100000000, max_insert_block_size_bytes=0, \
    use_strict_insert_block_limits=0, input_format_parallel_parsing=0, input_format_allow_errors_num=0, \
    input_format_allow_errors_ratio=0, aggregate_functions_null_for_empty=0, limit=0, offset=0, max_execution_time=0, \
    timeout_overflow_mode='throw', max_rows_to_read=0, read_overflow_mode='throw', additional_table_filters={}, \
    optimize_on_insert=0, enable_parallel_replicas=0, insert_deduplicate=0";

const ID: &str = "modelmeter:default.requests_10s";

/// The guarded insert: both partitions' ledgers must stand at `expected`.
fn statement(expected: u64) -> String {
    format!(
        "INSERT INTO requests_10s ({COLUMNS}) SELECT {COLUMNS} FROM input('{STRUCTURE}') \
         WHERE throwIf(ifNull((SELECT maxIf(ledger_to, kafka_partition = 7) != {expected} OR maxIf(ledger_to, kafka_partition = 8) != 0 \
         FROM requests_10s WHERE deployment_id = '' AND ledger = 'TOPIC/ID' AND kafka_partition IN (7, 8)), 1), 'fenced') = 0 \
         {PINS} FORMAT Native"
    )
}

/// 2,000 windows of sketches and the ledger row, in one Native block, made by the engine itself.
fn block(face: &Face, from: u64, to: u64) -> Vec<u8> {
    let sql = format!(
        "SELECT today() AS ingested, if(n = 0, '', 'd' || toString(n)) AS deployment_id, \
         toDateTime(if(n = 0, 0, 1767225600), 'UTC') AS window_start, toUInt32(7) AS kafka_partition, \
         toLowCardinality(if(n = 0, 'TOPIC/ID', '')) AS ledger, toUInt64(if(n = 0, 0, 3)) AS requests, \
         quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)(toFloat64(v)) AS end_to_end, \
         toUInt64(if(n = 0, {from}, 18446744073709551615)) AS ledger_from, toUInt64(if(n = 0, {to}, 0)) AS ledger_to, \
         toInt32(-1) AS ledger_epoch \
         FROM (SELECT number % 2001 AS n, number + 1 AS v FROM numbers(6003)) GROUP BY n ORDER BY n FORMAT Native"
    );
    let answer = face.post(&[], sql.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body
}

fn guarded(face: &Face, expected: u64, body: &[u8]) -> Answer {
    let sql = statement(expected);
    let parameters = [
        ("query", sql.as_str()),
        ("query_id", ID),
        ("replace_running_query", "0"),
    ];
    face.post(&parameters, body)
}

#[test]
fn the_guard_lets_an_insert_pass_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql(CREATE);
    let body = block(&face, 0, 100);
    let fenced = guarded(&face, 100, &body);
    assert_eq!(
        (fenced.code(), fenced.status),
        (395, 500),
        "{}",
        fenced.text()
    );
    assert!(fenced.text().contains("fenced"));
    assert_eq!(face.sql("SELECT count() FROM requests_10s"), "0\n");

    let first = guarded(&face, 0, &body);
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("x-clickhouse-query-id"), Some(ID));
    assert_eq!(guarded(&face, 0, &body).code(), 395);
    assert_eq!(guarded(&face, 100, &block(&face, 100, 250)).status, 200);
    assert_eq!(guarded(&face, 250, &body[..body.len() - 1]).status, 500);

    // The two inserts' parts may have been merged meanwhile; what they sum to has not changed.
    let stored = face.sql("SELECT uniqExact(deployment_id), sum(requests), max(ledger_to), min(ledger_from) FROM requests_10s");
    assert_eq!(stored, "2001\t12000\t250\t0\n");
    // The first parameter is the accuracy, the second the median.
    let median = face.sql(
        "SELECT quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(end_to_end)[1] FROM requests_10s WHERE deployment_id != ''",
    );
    let median: f64 = median.trim_end().parse().expect("a number");
    assert!((median / 3002.0 - 1.0).abs() < 0.02, "{median}");
}

#[test]
fn one_insert_is_one_part() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql(CREATE);
    face.sql("SYSTEM STOP MERGES requests_10s");
    for at in 0..3_u64 {
        assert_eq!(
            guarded(&face, at * 10, &block(&face, at * 10, at * 10 + 10)).status,
            200
        );
    }
    assert_eq!(
        face.sql("SELECT uniqExact(_part), count() FROM requests_10s"),
        "3\t6003\n"
    );
}

/// An insert that takes a while: rows come one block at a time.
fn slow_insert(rows: u32) -> String {
    format!(
        "INSERT INTO t SELECT number FROM numbers({rows}) WHERE sleepEachRow(0.5) = 0 SETTINGS max_block_size = 1"
    )
}

fn begin(face: &Face, sql: &str, id: &str) -> std::net::TcpStream {
    face.send(&(head("POST", &[("query_id", id)], &[], Some(sql.len())) + sql))
}

#[test]
fn one_id_runs_once_and_one_table_has_one_insert() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let (id, rows) = ("modelmeter:default.t", 6);
    let running = begin(&face, &slow_insert(rows), id);
    face.wait_until_running("sleepEachRow", 1);

    let begun = Instant::now();
    let second = face.post(&[("query_id", id)], b"INSERT INTO t VALUES (100)");
    assert_eq!(second.code(), 216, "{}", second.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "216 waited");
    assert_eq!(face.post(&[("query_id", "else")], b"SELECT 1").status, 200);
    // Another insert waits for the table, however it names it, and its guard sees the first one's rows.
    let other = format!(
        "INSERT INTO default.\"t\" SELECT 200 WHERE throwIf((SELECT count() FROM t) != {rows}, 'overtaken') = 0"
    );
    let other = face.post(&[], other.as_bytes());
    assert_eq!(other.status, 200, "{}", other.text());
    assert_eq!(Answer::read(running).status, 200);
    assert_eq!(
        face.post(&[("query_id", id)], b"INSERT INTO t VALUES (300)")
            .status,
        200
    );
    assert_eq!(face.sql("SELECT count() FROM t"), "8\n");
}

#[test]
fn an_insert_goes_on_when_its_client_has_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let id = "modelmeter:default.t";
    let running = begin(&face, &slow_insert(5), id);
    face.wait_until_running("sleepEachRow", 1);
    drop(running);
    assert_eq!(
        face.post(&[("query_id", id)], b"INSERT INTO t VALUES (100)")
            .code(),
        216
    );
    face.wait_until("SELECT count() FROM t", "5");
    assert_eq!(
        face.post(&[("query_id", "q")], b"INSERT INTO t VALUES (100)")
            .status,
        200
    );
}
