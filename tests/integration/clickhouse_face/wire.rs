//! The HTTP interface as curl sees it.

use super::support::{Answer, Face, cut, head};

#[test]
fn queries_arrive_in_the_url_the_body_or_both() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let get = |parameters: &[(&str, &str)]| face.request("GET", parameters, &[], b"");
    assert_eq!(get(&[]).text(), "Ok.\n");
    assert_eq!(
        Answer::read(face.send("GET /ping HTTP/1.0\r\n\r\n")).text(),
        "Ok.\n"
    );
    assert_eq!(
        Answer::read(face.send("GET /nothing HTTP/1.0\r\n\r\n")).status,
        404
    );
    assert_eq!(get(&[("query", "SELECT 1 + 1")]).text(), "2\n");
    assert_eq!(
        face.post(&[("query", "SELECT 1 +")], b" 2 -- three").text(),
        "3\n"
    );

    face.sql("CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a");
    let insert = |query, body: &[u8]| {
        let answer = face.post(&[("query", query)], body);
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        assert!(
            answer
                .header("x-clickhouse-summary")
                .expect("a summary")
                .contains("written_rows")
        );
    };
    insert(
        "INSERT INTO t FORMAT JSONEachRow",
        b"{\"a\":1,\"s\":\"x\\ny\"}",
    );
    insert("INSERT INTO t (s, a) FORMAT TSV", b"two\t2\n");
    insert(
        "INSERT INTO t VALUES (3, 'in the URL'),",
        b"(4, concat('in the', ' body'))",
    );
    insert(
        "INSERT INTO default.`t` SETTINGS max_threads = 1 FORMAT RowBinary",
        b"\x05\0\0\0\x03a\nb",
    );
    insert("INSERT INTO t SELECT 6, 'six'", b"");
    insert("", b"INSERT INTO t FORMAT CSV\n7,\"sev\nen\"\n");
    insert("", b"INSERT INTO t FORMAT TSV\n");
    assert_eq!(
        face.sql("SELECT a, s FROM t ORDER BY a FORMAT TSV"),
        "1\tx\\ny\n2\ttwo\n3\tin the URL\n4\tin the body\n5\ta\\nb\n6\tsix\n7\tsev\\nen\n"
    );
}

#[test]
fn answers_carry_format_headers_and_statuses() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let answer = face.post(
        &[("default_format", "JSONCompact"), ("query_id", "my-id")],
        b"SELECT 1 AS x",
    );
    assert!(answer.text().contains("\"data\"") && answer.status == 200);
    for (name, value) in [
        ("x-clickhouse-format", "JSONCompact"),
        ("x-clickhouse-query-id", "my-id"),
        ("x-clickhouse-timezone", "UTC"),
        ("content-type", "application/json; charset=UTF-8"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let other = face.post(&[], b"SELECT timezone(), toDateTime(0) FORMAT CSV");
    assert_eq!(
        (other.text().as_str(), other.header("x-clickhouse-format")),
        ("\"UTC\",\"1970-01-01 00:00:00\"\n", Some("CSV"))
    );
    assert!(
        other
            .header("x-clickhouse-query-id")
            .is_some_and(|id| !id.is_empty())
    );

    for (parameters, sql, code, status) in [
        (vec![], "SELECT * FROM nowhere", 60, 404),
        (vec![], "SELECT 1 FROM no_base.t", 81, 404),
        (vec![("database", "no_base")], "SELECT 1", 81, 404),
        (vec![("no_setting", "1")], "SELECT 1", 115, 404),
        (vec![], "SELECT FROM WHERE", 62, 400),
        (vec![], "", 62, 400),
        (vec![], "SELECT 1; SELECT 2", 62, 400),
        (vec![], "SELECT throwIf(1, 'fenced')", 395, 500),
        (vec![], "SELECT no_such_function(1)", 46, 404),
        (vec![("user", "someone")], "SELECT 1", 516, 403),
        (vec![("password", "x")], "SELECT 1", 516, 403),
        (
            vec![("readonly", "1")],
            "CREATE TABLE x (a UInt8) ENGINE = Memory",
            164,
            500,
        ),
        (vec![], "SELECT {missing:String}", 456, 500),
    ] {
        let answer = face.post(&parameters, sql.as_bytes());
        assert_eq!(
            (answer.code(), answer.status),
            (code, status),
            "{parameters:?} {sql}: {}",
            answer.text()
        );
        assert!(
            answer
                .text()
                .starts_with(&format!("Code: {code}. DB::Exception: ")),
            "{}",
            answer.text()
        );
    }
    let get = face.request(
        "GET",
        &[("query", "CREATE TABLE x (a UInt8) ENGINE = Memory")],
        &[],
        b"",
    );
    assert_eq!(get.code(), 164);
    let key = face.request("POST", &[], &["X-ClickHouse-Key: secret"], b"SELECT 1");
    assert_eq!((key.code(), key.status), (516, 403));
    let unframed = Answer::read(face.send(&head("POST", &[], &[], None)));
    assert_eq!((unframed.code(), unframed.status), (381, 411));
}

#[test]
fn nothing_of_a_request_stays_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let state = "SELECT currentDatabase(), getSetting('max_block_size')";
    let fresh = face.sql(state);
    let with = [
        ("database", "system"),
        ("max_block_size", "77"),
        ("param_x", "1"),
    ];
    assert_eq!(face.post(&with, state.as_bytes()).text(), "system\t77\n");
    assert_eq!(face.sql(state), fresh);
    assert_eq!(face.post(&[], b"SELECT {x:String}").code(), 456);

    let session = |more: &[(&'static str, &'static str)], sql: &str| {
        face.post(&[&[("session_id", "s")], more].concat(), sql.as_bytes())
    };
    assert_eq!(session(&[("session_check", "1")], "SELECT 1").code(), 372);
    session(&[], "SET max_block_size = 88");
    session(&[], "CREATE TEMPORARY TABLE mine (a UInt8)");
    assert_eq!(session(&with, state).text(), "system\t77\n");
    assert_eq!(session(&with, "INSERT INTO mine VALUES (1)").code(), 0);
    assert_eq!(
        session(&[("session_check", "1")], state).text(),
        "default\t88\n"
    );
    assert_eq!(session(&[], "SELECT * FROM mine").text(), "1\n");
    assert_eq!(face.post(&[], b"SELECT * FROM mine").code(), 60);
    session(&[], "USE system");
    assert_eq!(session(&[], "SELECT currentDatabase()").text(), "system\n");
}

#[test]
fn parameters_never_become_sql() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let hostile = "'; DROP TABLE t -- \\' \\n {x:String} `";
    let answer = face.post(&[("param_x", hostile)], b"SELECT {x:String} FORMAT RawBLOB");
    // A parameter is written as a TSV value is: `\'` is a quote and `\n` a newline there, as in a server.
    assert_eq!(answer.text(), "'; DROP TABLE t -- ' \n {x:String} `");
    assert_eq!(
        face.post(&[("param_n", "1 OR 1")], b"SELECT {n:UInt32}")
            .code(),
        457
    );
    face.sql("CREATE TABLE t (a String, n UInt32) ENGINE = MergeTree ORDER BY a");
    face.sql("INSERT INTO t VALUES ('x', 1), ('y', 2)");
    face.sql("CREATE VIEW v AS SELECT n FROM t WHERE a = {a:String}");
    assert_eq!(face.sql("SELECT * FROM v(a = 'y')"), "2\n");
    assert_eq!(
        face.post(&[("param_q", "x")], b"SELECT * FROM v(a = {q:String})")
            .text(),
        "1\n"
    );
    let table = [
        ("param_t", "t"),
        ("query", "INSERT INTO {t:Identifier} VALUES"),
    ];
    assert_eq!(face.post(&table, b"('z', 3)").status, 200);
    assert_eq!(face.sql("SELECT count() FROM t"), "3\n");
}

#[test]
fn large_answers_stream_and_small_ones_wait() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let n = 2_000_000_usize;
    for (format, n_bytes) in [
        ("RowBinaryWithNamesAndTypes", 8 * n + 10),
        ("RowBinaryWithNames", 8 * n + 3),
        ("RowBinary", 8 * n),
    ] {
        let sql = format!("SELECT number AS n FROM numbers({n}) FORMAT {format}");
        assert_eq!(
            face.post(&[], sql.as_bytes()).body.len(),
            n_bytes,
            "{format}"
        );
    }
    let json = face.sql(&format!("SELECT number AS n FROM numbers({n}) FORMAT JSON"));
    assert!(json.contains(&format!("\"rows\": {n}")));
    let totals = face.sql("SELECT number % 2 AS k, count() FROM numbers(10) GROUP BY k WITH TOTALS ORDER BY k FORMAT TSV");
    assert_eq!(totals, "0\t5\n1\t5\n\n0\t10\n");
    let failing = "SELECT throwIf(number = 1900000, 'late') FROM numbers(2000000) FORMAT TSV";
    let late = face.post(&[("wait_end_of_query", "1")], failing.as_bytes());
    assert_eq!((late.status, late.code()), (500, 395));
}

#[test]
fn clickhouses_own_blocks_go_both_ways() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a");
    let packed = face.post(
        &[("compress", "1")],
        b"SELECT number AS a, toString(number) AS s FROM numbers(300000) FORMAT Native",
    );
    assert_eq!(packed.body[16], 0x82);
    let insert = |body: &[u8]| {
        face.post(
            &[
                ("decompress", "1"),
                ("query", "INSERT INTO t FORMAT Native"),
            ],
            body,
        )
    };
    let mut broken = packed.body.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    assert_eq!(insert(&broken).status, 400);
    assert_eq!(insert(&packed.body[..packed.body.len() - 1]).status, 400);
    assert_eq!(face.sql("SELECT count() FROM t"), "0\n");
    assert_eq!(insert(&packed.body).status, 200);
    assert_eq!(
        face.sql("SELECT count(), sum(a) FROM t"),
        "300000\t44999850000\n"
    );
}

#[test]
fn a_body_that_ends_early_is_not_executed() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a");
    let query = [("query", "INSERT INTO t FORMAT RowBinary")];
    // Both end at a row's edge, so that only the length tells.
    let by_length = head("POST", &query, &[], Some(12)) + "\x01\0\0\0\x02\0\0\0";
    let chunked = head("POST", &query, &["Transfer-Encoding: chunked"], None)
        .replace("HTTP/1.0", "HTTP/1.1")
        + "4\r\n\x03\0\0\0\r\n";
    let in_body = head("POST", &[], &[], Some(100)) + "INSERT INTO t VALUES (4)";
    for request in [by_length, chunked, in_body] {
        let answer = cut(face.send(&request));
        assert!(!answer.starts_with(b"HTTP/1.1 200") && !answer.starts_with(b"HTTP/1.0 200"));
    }
    assert_eq!(face.sql("SELECT count() FROM t"), "0\n");
    let whole = head("POST", &query, &[], Some(8)) + "\x01\0\0\0\x02\0\0\0";
    assert_eq!(Answer::read(face.send(&whole)).status, 200);
    assert_eq!(face.sql("SELECT count() FROM t"), "2\n");
}

#[test]
fn a_body_larger_than_memory_allows_goes_by_way_of_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let n = 5_000_000_u64;
    let body: Vec<u8> = (0..n).flat_map(u64::to_le_bytes).collect();
    assert_eq!(
        face.post(&[("query", "INSERT INTO t FORMAT RowBinary")], &body)
            .status,
        200
    );
    let input = "INSERT INTO t SELECT a FROM input('a UInt64') FORMAT RowBinary\n";
    let body = [input.as_bytes(), &body].concat();
    assert_eq!(face.post(&[], &body).status, 200);
    assert_eq!(
        face.sql("SELECT count(), sum(a) FROM t"),
        format!("{}\t{}\n", 2 * n, n * (n - 1))
    );
}

#[test]
fn a_reader_that_goes_away_ends_its_query() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    let endless = "SELECT count() FROM numbers(1000000000000000) WHERE number % 7 = 8";
    let socket = face.send(&(head("POST", &[], &[], Some(endless.len())) + endless));
    face.wait_until_running("1000000000000000", 1);
    drop(socket);
    face.wait_until_running("1000000000000000", 0);

    let streaming = "SELECT number FROM numbers(100000000000001) FORMAT TSV";
    let socket = face.send(&(head("POST", &[], &[], Some(streaming.len())) + streaming));
    face.wait_until_running("100000000000001", 1);
    drop(socket);
    face.wait_until_running("100000000000001", 0);
}
