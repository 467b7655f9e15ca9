"""clickhouse-connect against `modelmeter clickhouse`, with its defaults. Arguments: host, port, database."""

import datetime
import gzip
import sys
import uuid
import zlib

import clickhouse_connect
import lz4.frame
import urllib3
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

host, port, database = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def connect(**options):
    return clickhouse_connect.get_client(host=host, port=port, database=database, **options)


def check_types(client):
    client.command(
        "CREATE TABLE face (id UInt64, name LowCardinality(String), at DateTime64(6, 'UTC'), day Date, score Nullable(Float64),"
        " tags Array(String), counts Map(String, UInt32), u UUID, flag Bool, pair Tuple(a Int8, b String),"
        " kind Enum8('x' = 1, 'y' = 2), price Decimal(18, 4)) ENGINE = MergeTree ORDER BY id"
    )
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    row = [
        7, "näme", at, datetime.date(2026, 1, 2), None, ["a", "b"], {"k": 1},
        uuid.UUID(int=5), True, {"a": -1, "b": "z"}, "y", 12,
    ]
    summary = client.insert("face", [row, [8] + row[1:]])
    assert summary.written_rows == 2, summary.summary
    read = client.query("SELECT * FROM face ORDER BY id").result_rows
    assert len(read) == 2 and read[0][1] == "näme" and read[0][4] is None and read[0][6] == {"k": 1}, read
    assert read[0][2].replace(tzinfo=None) == at and read[1][0] == 8, read


def check_parameters_and_commands(client):
    hostile = "x' OR 1=1 -- \\ \n {a:String} `"
    assert client.query("SELECT {v:String} AS v", parameters={"v": hostile}).result_rows == [(hostile,)]
    assert client.command("SELECT {n:UInt32} + 1", parameters={"n": 41}) == 42
    long_list = list(range(20000))
    total = client.query("SELECT length({l:Array(UInt32)})", parameters={"l": long_list}).result_rows
    assert total == [(20000,)], total
    assert client.query("SELECT number FROM numbers(0)").result_rows == []
    assert client.server_tz is not None and client.command("SELECT timezone()").endswith("UTC")
    assert client.ping()
    try:
        client.query("SELECT * FROM nothing_here")
        raise AssertionError("an unknown table was read")
    except DatabaseError as error:
        assert "UNKNOWN_TABLE" in str(error), error


def check_streams(client):
    n, total = 0, 0
    with client.query_row_block_stream("SELECT number FROM numbers(3000000)") as stream:
        for block in stream:
            n += len(block)
            total += sum(row[0] for row in block)
    assert (n, total) == (3000000, 3000000 * 2999999 // 2)
    try:
        with client.query_row_block_stream("SELECT throwIf(number = 2500000) FROM numbers(3000000)") as stream:
            for _ in stream:
                pass
        raise AssertionError("an error in the middle went unseen")
    except Exception as error:  # its class depends on where the stream was cut
        assert "throwIf" in str(error), repr(error)
    rows = ((i, str(i)) for i in range(300000))
    client.command("CREATE TABLE large (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
    client.insert("large", list(rows), column_names=["a", "s"])
    assert client.query("SELECT count(), sum(a) FROM large").result_rows == [(300000, 300000 * 299999 // 2)]
    client.raw_insert("large", ["a", "s"], b"1\tx\n2\ty\n", fmt="TabSeparated")
    assert client.raw_query("SELECT s FROM large WHERE a = 2 ORDER BY s", fmt="CSV") == b'"2"\n"y"\n'


def check_sessions(client):
    client.command("CREATE TEMPORARY TABLE mine (a UInt8) ENGINE = Memory")
    client.insert("mine", [[1], [2]], column_names=["a"])
    assert client.query("SELECT count() FROM mine", settings={"max_threads": 1}).result_rows == [(2,)]
    client.command("SET max_block_size = 777")
    assert client.command("SELECT getSetting('max_block_size')") == 777
    other = connect()
    assert other.command("SELECT getSetting('max_block_size')") != 777
    try:
        other.query("SELECT * FROM mine")
        raise AssertionError("another session's temporary table was read")
    except DatabaseError as error:
        assert "UNKNOWN_TABLE" in str(error), error


def check_external_tables(client):
    external = ExternalData(file_name="ext.tsv", fmt="TSV", structure="a UInt8, s String", data=b"1\tone\n2\ttwo\n")
    assert client.query("SELECT s FROM ext WHERE a = 2", external_data=external).result_rows == [("two",)]


def check_encodings():
    http = urllib3.PoolManager()
    url = f"http://{host}:{port}/?database={database}"
    plain = b"".join(b"%d\tv\n" % i for i in range(5000))
    encodings = {
        "gzip": (gzip.compress, gzip.decompress),
        "deflate": (zlib.compress, zlib.decompress),
        "zstd": (zstd.compress, zstd.decompress),
        "lz4": (lz4.frame.compress, lz4.frame.decompress),
    }
    for name, (pack, unpack) in encodings.items():
        http.request("POST", url, body=f"CREATE TABLE enc_{name} (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
        insert = f"{url}&query=INSERT+INTO+enc_{name}+FORMAT+TSV"
        answer = http.request("POST", insert, body=pack(plain), headers={"Content-Encoding": name})
        assert answer.status == 200, (name, answer.data)
        cut = http.request("POST", insert, body=pack(plain)[:-20], headers={"Content-Encoding": name})
        assert cut.status == 400, (name, cut.status, cut.data)
        select = f"SELECT a, s FROM enc_{name} ORDER BY a FORMAT TSV"
        read = http.request(
            "POST", f"{url}&enable_http_compression=1", body=select,
            headers={"Accept-Encoding": name}, decode_content=False, preload_content=True,
        )
        assert read.headers["Content-Encoding"] == name, read.headers
        assert unpack(read.data) == plain, name


for compress in (True, "zstd", "gzip", False):
    check_parameters_and_commands(connect(compress=compress))
    client = connect(compress=compress)
    check_streams(client)
    client.command("DROP TABLE large")
check_types(connect())
check_sessions(connect())
check_external_tables(connect())
check_encodings()
print("all well")
