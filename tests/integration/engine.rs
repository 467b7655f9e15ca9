//! One real engine and one real broker for all tests of the store, a database and topics for each.
//! They end with this process: each is started on a thread that lives as long, and dies with it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use clickhouse::Client;
use modelmeter::config::{KafkaArgs, StoreAddress, StoreArgs, TopicArgs};
use modelmeter::store::migrate::apply;
use serde_json::{Map, Value};

pub type Record = Map<String, Value>;

/// Starts a role of this program that serves until the tests end, and tells where it listens.
fn serve(role: &'static str, says: &'static str) -> String {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelmeter"));
        command
            .args([role, "--port", "0", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::piped());
        // SAFETY: prctl is async-signal-safe and takes no pointer.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in lines.map_while(Result::ok) {
            if let Some(address) = line.strip_prefix(says) {
                tell.send(address.trim().to_owned())
                    .expect("somebody waits");
            }
        }
        panic!("{role} ended: {:?}", child.wait());
    });
    told.recv().expect("it serves")
}

fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| serve("clickhouse", "clickhouse: listening on "))
}

/// A real broker, and topics that nobody has made yet.
pub fn new_topics() -> KafkaArgs {
    static BOOTSTRAP: OnceLock<String> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    KafkaArgs {
        bootstrap: BOOTSTRAP
            .get_or_init(|| serve("kafka", "kafka: listening on "))
            .clone(),
        topics: TopicArgs {
            requests: format!("topics{n}.requests"),
            replicas: format!("topics{n}.replicas"),
            dead_letters: format!("topics{n}.dead-letters"),
        },
        options: Vec::new(),
    }
}

/// The address of a database that nobody has made yet.
pub fn new_database() -> StoreAddress {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let store = StoreArgs {
        url: url().to_owned(),
        database: Some(format!("store_{}", NEXT.fetch_add(1, Ordering::Relaxed))),
        user: "default".to_owned(),
        password: String::new(),
    };
    store.address().expect("an address")
}

/// A migrated database.
pub async fn migrated() -> Client {
    let address = new_database();
    apply::up(&address).await.expect("migrations apply");
    address.client()
}

pub async fn execute(client: &Client, sql: &str) {
    if let Err(error) = try_execute(client, sql).await {
        panic!("{error}\n{}", &sql[..sql.len().min(2000)]);
    }
}

pub async fn try_execute(client: &Client, sql: &str) -> Result<(), String> {
    client.query(sql).execute().await.map_err(|e| e.to_string())
}

/// The rows of a query, by column. What is no number is quoted, lest it pass for NULL.
pub async fn try_rows(client: &Client, sql: &str) -> Result<Vec<Record>, String> {
    let mut cursor = client
        .query(sql)
        .with_setting("output_format_json_quote_denormals", "1")
        .fetch_bytes("JSONEachRow")
        .map_err(|e| e.to_string())?;
    let bytes = cursor.collect().await.map_err(|e| e.to_string())?;
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|l| {
            serde_json::from_slice(l).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(l)))
        })
        .collect()
}

pub async fn rows(client: &Client, sql: &str) -> Vec<Record> {
    match try_rows(client, sql).await {
        Ok(rows) => rows,
        Err(error) => panic!("{error}\n{sql}"),
    }
}

/// A whole number, quoted or not.
pub fn whole(record: &Record, column: &str) -> u64 {
    match &record[column] {
        Value::String(text) => text.parse().expect("a whole number"),
        value => value
            .as_u64()
            .unwrap_or_else(|| panic!("{column} is {value}")),
    }
}

/// A number, or none where the database says NULL.
pub fn number(record: &Record, column: &str) -> Option<f64> {
    match &record[column] {
        Value::Null => None,
        value => Some(
            value
                .as_f64()
                .unwrap_or_else(|| panic!("{column} is {value}")),
        ),
    }
}
