//! What SQL may not reach, and the ways around that do not lead around.

use super::support::Face;

const REFUSED: &[&str] = &[
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file/* x */ -- y\n ('/etc/passwd', 'LineAsString')",
    "SELECT * FROM `file`('/etc/passwd', 'LineAsString')",
    "SELECT * FROM \"fil\\x65\"('/etc/passwd', 'LineAsString')",
    "SELECT * FROM “file”('/etc/passwd', 'LineAsString')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM `/etc/passwd`",
    "SELECT file('/etc/passwd')",
    "SELECT 1 /* /* */ ' */, file('/etc/passwd') -- '",
    "SELECT 1 --'\n, file('/etc/passwd') --'",
    "SELECT 1 //'\n, file('/etc/passwd') --'",
    "SELECT $$'$$, file('/etc/passwd') --'",
    "SELECT '\\'', file('/etc/passwd') --'",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
    "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
    "SELECT arrayMap({f:Identifier}, ['/etc/passwd']) SETTINGS param_f = 'file'",
    "CREATE VIEW v AS SELECT arrayMap({f:Identifier}, ['/etc/passwd'])",
    "CREATE TABLE x AS file('/etc/passwd', 'LineAsString')",
    "CREATE VIEW v AS SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "EXPLAIN SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "DESCRIBE TABLE file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM view(SELECT * FROM file('/etc/passwd', 'LineAsString'))",
    "INSERT INTO FUNCTION file('DIR/out', 'CSV') SELECT 1",
    "INSERT INTO t VALUES (file('/etc/passwd'))",
    "INSERT INTO t FORMAT Values (file('/etc/passwd'))",
    "INSERT INTO t SELECT s FROM input('s String, x String DEFAULT file(\\'/etc/passwd\\')') FORMAT TSV\nx\n",
    "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
    "SELECT 1 INTO OUTFILE 'DIR/out'",
    "SELECT 1 INTO /* x */ OUTFILE 'DIR/out' FORMAT CSV",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'CSV')",
    "SELECT * FROM remote('127.0.0.1:1', 'system', 'one')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('DIR/db', 'a')",
    "SELECT * FROM executable('id', 'CSV', 'a String')",
    "SELECT * FROM filesystem('/etc')",
    "CREATE TABLE x (a String) ENGINE = File(CSV)",
    "CREATE TABLE x (a String) ENGINE = URL('http://127.0.0.1:1/', 'CSV')",
    "CREATE TABLE x (a String) ENGINE = Executable('id', 'CSV')",
    "CREATE TABLE x (query String) ENGINE = QueryRunner",
    "CREATE TABLE x (a String, b String) ENGINE = EmbeddedRocksDB(0, 'DIR/rocks') PRIMARY KEY a",
    "SELECT * FROM eval('SELECT file(\\'/etc/passwd\\')') SETTINGS allow_experimental_eval_table_function = 1",
    "CREATE TABLE x (a String) ENGINE = Kafka('127.0.0.1:1', 'a', 'b', 'CSV')",
    "CREATE TABLE x (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = object_storage, \
     object_storage_type = local, metadata_type = local, path = 'DIR/disk/')",
    "CREATE DATABASE x ENGINE = Atomic SETTINGS disk = disk(type = object_storage, object_storage_type = local, \
     metadata_type = local, path = 'DIR/disk/')",
    "CREATE DATABASE x ENGINE = Filesystem('/etc')",
    "CREATE DATABASE x ENGINE = SQLite('DIR/db')",
    "CREATE DICTIONARY x (a UInt64, b String) PRIMARY KEY a SOURCE(EXECUTABLE(COMMAND 'id' FORMAT 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE FUNCTION x AS (p) -> file(p)",
    "CREATE NAMED COLLECTION x AS a = 1",
    "CREATE USER x",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE t TO File('DIR/backup')",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "SET format_schema = '/etc/passwd'",
    "SELECT 1 FROM t SETTINGS additional_table_filters = {'t': 'file(\\'/etc/passwd\\') = 1'}",
    "SYSTEM SHUTDOWN",
    "ATTACH TABLE x FROM '/etc' (a String) ENGINE = File(CSV)",
];

#[test]
fn sql_does_not_reach_the_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s");
    let folder = outside.path().to_str().expect("UTF-8");
    for sql in REFUSED {
        let answer = face.post(&[], sql.replace("DIR", folder).as_bytes());
        assert!(answer.code() != 0, "{sql} gave {}", answer.text());
        assert!(!answer.text().contains("root:"), "{sql} read the file");
        let written: Vec<_> = std::fs::read_dir(outside.path()).expect("listed").collect();
        assert!(written.is_empty(), "{sql} wrote {written:?}");
    }
    let by_parameter = face.post(
        &[("param_f", "file")],
        b"SELECT arrayMap({f:Identifier}, ['/etc/passwd'])",
    );
    assert_eq!(by_parameter.code(), 497);
    let by_setting = face.post(
        &[("format_template_row", "/etc/passwd")],
        b"SELECT 1 FORMAT Template",
    );
    assert_eq!(by_setting.code(), 452);
    assert_eq!(face.sql("SELECT count() FROM t"), "0\n");
}

#[test]
fn the_words_themselves_are_no_crime() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    face.sql("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s");
    face.sql("INSERT INTO t VALUES ('file('), ('INTO OUTFILE')");
    face.sql("INSERT INTO t FORMAT LineAsString\nSELECT file('/etc/passwd')");
    assert_eq!(
        face.sql("SELECT count() FROM t WHERE s LIKE '%file(%' -- file("),
        "2\n"
    );
    assert_eq!(face.sql("SELECT q.file FROM (SELECT 1 AS filed, 'file' AS f, 2 AS x) AS p, (SELECT 3 AS `a`, 4 AS files) AS q \
         WHERE 0 = 1 SETTINGS max_threads = 1".replace("q.file ", "q.files ").as_str()), "");
    for engine in [
        "Memory",
        "Null",
        "Log",
        "ReplacingMergeTree ORDER BY s",
        "SummingMergeTree ORDER BY s",
    ] {
        face.sql(&format!("CREATE TABLE e (s String) ENGINE = {engine}"));
        face.sql("DROP TABLE e");
    }
    face.sql("CREATE MATERIALIZED VIEW mv ENGINE = MergeTree ORDER BY s AS SELECT s FROM t");
    face.sql("OPTIMIZE TABLE t FINAL");
    face.sql("SELECT * FROM merge('default', '^t$')");
}

#[test]
fn memory_has_a_cap() {
    let dir = tempfile::tempdir().expect("a folder");
    let face = Face::start(dir.path());
    assert_eq!(
        face.sql("SELECT getServerSetting('max_server_memory_usage')"),
        "4294967296\n"
    );
    let answer = face.post(
        &[],
        b"SELECT length(groupArray(number)) FROM numbers(1000000000)",
    );
    assert_eq!(answer.code(), 241, "{}", answer.text());
    assert_eq!(face.sql("SELECT 1"), "1\n");
}
