//! The local parts as processes: the broker by itself, and all of it under `up`. What they hold
//! survives, what they listen on stays, and no process outlives its parent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use super::support::ports::Port;
use super::support::process::{Role, run, signal};
use super::support::{wait_for, wait_until};

/// All parts start within a few seconds on a machine of one's own; CI's is shared.
const UP: Duration = Duration::from_secs(180);

/// The kernel kills at once; memory of a JVM takes a moment to be given back.
const GONE: Duration = Duration::from_secs(30);

const MESSAGES: i64 = 500;

fn start_broker(dir: &Path, port: &str) -> (Role, String) {
    let data = dir.join("kafka").display().to_string();
    let log = dir.join("kafka.log");
    let mut role = Role::start("kafka", &["kafka", "--dir", &data, "--port", port], &log);
    let address = role.address();
    (role, address)
}

/// Processes with this folder in their command line, zombies apart.
fn processes_of(dir: &Path) -> Vec<u32> {
    let needle = dir.display().to_string();
    let of_process = |entry: fs::DirEntry| -> Option<u32> {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command)
            .contains(&needle)
            .then_some(pid)
    };
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries
        .filter_map(Result::ok)
        .filter_map(of_process)
        .collect()
}

/// A zombie has ended: it only waits to be counted by its parent.
fn is_running(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

fn make_topic(address: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .expect("a client");
    let wanted = [NewTopic::new(topic, 1, TopicReplication::Fixed(1))];
    let made = admin.create_topics(&wanted, &AdminOptions::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(made).expect("an answer")[0]
        .as_ref()
        .expect("the topic is made");
}

fn publish(address: &str, topic: &str) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .expect("a producer");
    for n in 0..MESSAGES {
        let value = n.to_string();
        producer
            .send(BaseRecord::<str, str>::to(topic).payload(&value))
            .map_err(|(error, _)| error)
            .expect("queued");
    }
    producer.flush(UP).expect("all are acknowledged");
}

/// All that the topic holds, in order.
fn read_back(address: &str, topic: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let (low, high) = consumer
        .fetch_watermarks(topic, 0, UP)
        .expect("the topic's ends");
    let mut partitions = TopicPartitionList::new();
    partitions
        .add_partition_offset(topic, 0, Offset::Beginning)
        .expect("an offset");
    consumer.assign(&partitions).expect("assigned");
    (low..high)
        .map(|_| {
            let message = consumer.poll(UP).expect("a message").expect("no error");
            let value = message.payload().expect("a value");
            String::from_utf8(value.to_vec()).expect("text")
        })
        .collect()
}

fn expected() -> Vec<String> {
    (0..MESSAGES).map(|n| n.to_string()).collect()
}

#[test]
fn broker_keeps_its_data_and_port_over_stops_and_kills() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let own = Port::take();
    let port = own.number.to_string();
    let (mut broker, address) = start_broker(dir.path(), &port);
    assert_eq!(address, own.address().to_string());
    make_topic(&address, "kept");
    publish(&address, "kept");
    assert!(broker.stop().success(), "SIGTERM is an orderly end");
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());

    let (mut broker, again) = start_broker(dir.path(), &port);
    assert_eq!(again, address);
    assert_eq!(read_back(&address, "kept"), expected());
    assert_eq!(processes_of(dir.path()).len(), 2, "the role and its JVM");

    // Killed, its JVM goes with it, and a successor may come at once.
    broker.kill();
    let (mut broker, again) = start_broker(dir.path(), &port);
    assert_eq!(again, address);
    assert_eq!(
        processes_of(dir.path()).len(),
        2,
        "the role and its JVM, none of before"
    );
    assert_eq!(read_back(&address, "kept"), expected());

    broker.kill();
    wait_until("the JVM dies with its parent", GONE, || {
        processes_of(dir.path()).is_empty()
    });
}

#[test]
fn broker_makes_no_topic_by_accident() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_broker, address) = start_broker(dir.path(), "0");
    // A producer asks for the topic that it writes to, and brokers make it unless told otherwise.
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("message.timeout.ms", "3000")
        .create()
        .expect("a producer");
    producer
        .send(BaseRecord::<str, str>::to("misspelt").payload("lost"))
        .map_err(|(error, _)| error)
        .expect("queued");
    producer.flush(UP).expect("given up in time");
    let all = producer
        .client()
        .fetch_metadata(None, UP)
        .expect("an answer");
    let names: Vec<_> = all.topics().iter().map(|topic| topic.name()).collect();
    assert_eq!(names, Vec::<&str>::new());
}

#[test]
fn broker_says_what_it_lacks() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let cases = [
        (
            vec!["--port", &port],
            format!("port {port} on 127.0.0.1 cannot be taken"),
        ),
        (
            vec!["--port", "0", "--parts", &data],
            "run `make local-parts`".to_owned(),
        ),
        (
            vec!["--port", "0", "--java-home", &data],
            "Kafka needs a Java 17 or newer".to_owned(),
        ),
    ];
    for (flags, message) in cases {
        let (ended, printed) = run(&[&["kafka", "--dir", &data], &flags[..]].concat());
        assert!(!ended.success(), "{flags:?}");
        assert!(printed.contains(&message), "{flags:?}: {printed}");
    }
}

/// `up` on its folder, and what its ready file says.
struct Up {
    role: Role,
    ready_file: std::path::PathBuf,
}

const PARTS: [&str; 4] = ["kafka", "clickhouse", "processor", "dashboard"];

impl Up {
    fn start(dir: &Path) -> Self {
        let data = dir.join("data").display().to_string();
        let ready_file = dir.join("ready.json");
        let ready = ready_file.display().to_string();
        let ports = [
            "--kafka-port",
            "0",
            "--clickhouse-port",
            "0",
            "--dashboard-port",
            "0",
        ];
        let arguments = [&["up", "--dir", &data, "--ready-file", &ready], &ports[..]].concat();
        let role = Role::start("up", &arguments, &dir.join("up.log"));
        Self { role, ready_file }
    }

    fn ready(&self) -> Option<Value> {
        Some(
            serde_json::from_slice(&fs::read(&self.ready_file).ok()?)
                .expect("it is never half written"),
        )
    }

    /// What the file says once this holds of it.
    fn ready_when(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, UP, || {
            assert!(
                self.role.is_running(),
                "up has ended:\n{}",
                self.role.tail()
            );
            match self.ready() {
                Some(ready) if holds(&ready) => Ok(ready),
                _ => Err(self.role.tail()),
            }
        })
    }

    fn ready_whole(&mut self) -> Value {
        self.ready_when("all parts are up", |ready| {
            PARTS.iter().all(|part| pid(ready, part).is_some())
        })
    }
}

fn pid(ready: &Value, part: &str) -> Option<u32> {
    ready["pids"][part]
        .as_u64()
        .map(|pid| u32::try_from(pid).expect("a pid"))
}

fn pids(ready: &Value) -> Vec<u32> {
    PARTS.iter().filter_map(|part| pid(ready, part)).collect()
}

/// The ports of an earlier time, which no other test takes while a part is down.
fn remember(dir: &Path, ports: &[Port; 4]) {
    let numbers = PARTS.into_iter().zip(ports.iter().map(|port| port.number));
    let file = serde_json::json!(numbers.collect::<std::collections::BTreeMap<_, _>>());
    fs::create_dir(dir.join("data")).expect("the folder is new");
    fs::write(dir.join("data/ports.json"), file.to_string()).expect("it can be written");
}

fn addresses(ready: &Value) -> [Value; 4] {
    PARTS.map(|part| ready[part].clone())
}

#[test]
fn up_brings_back_what_dies_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let own = PARTS.map(|_| Port::take());
    remember(dir.path(), &own);
    let mut up = Up::start(dir.path());
    let first = up.ready_whole();
    for (address, port) in addresses(&first).iter().zip(&own) {
        let is_own = |address: &str| address.ends_with(&format!(":{}", port.number));
        assert!(address.as_str().is_some_and(is_own), "{address} {port:?}");
    }
    for part in ["clickhouse", "dashboard"] {
        assert!(
            first[part]
                .as_str()
                .is_some_and(|url| url.starts_with("http://127.0.0.1:")),
            "{first}"
        );
    }
    let kafka = first["kafka"].as_str().expect("an address").to_owned();
    make_topic(&kafka, "kept");
    publish(&kafka, "kept");

    let mut before = first.clone();
    for part in PARTS {
        let killed = pid(&before, part).expect("it is up");
        signal(killed, libc::SIGKILL);
        up.ready_when("the file says that it is down", |ready| {
            pid(ready, part).is_none()
        });
        let after = up.ready_whole();
        assert_ne!(pid(&after, part), Some(killed));
        assert_eq!(
            addresses(&after),
            addresses(&first),
            "{part} came back where it was"
        );
        before = after;
    }
    assert_eq!(read_back(&kafka, "kept"), expected());

    let data = dir.path().join("data").display().to_string();
    let (ended, printed) = run(&["up", "--dir", &data]);
    assert!(
        !ended.success() && printed.contains("another `modelmeter up` uses the folder"),
        "{printed}"
    );

    assert!(up.role.stop().success(), "an orderly end");
    assert_eq!(up.ready(), None, "nothing is ready any more");
    assert_eq!(
        pids(&before)
            .into_iter()
            .filter(|&pid| is_running(pid))
            .count(),
        0
    );
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());

    let mut up = Up::start(dir.path());
    let again = up.ready_whole();
    assert_eq!(
        addresses(&again),
        addresses(&first),
        "the ports of last time"
    );
    assert_eq!(read_back(&kafka, "kept"), expected());

    up.role.kill();
    wait_until("everything dies with up", GONE, || {
        processes_of(dir.path()).is_empty() && !pids(&again).into_iter().any(is_running)
    });
}

#[test]
fn up_takes_another_port_where_one_is_taken_and_stops_while_it_starts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let data = dir.path().join("data").display().to_string();
    let log = dir.path().join("up.log");
    let mut up = Role::start(
        "up",
        &[
            "up",
            "--dir",
            &data,
            "--kafka-port",
            &port,
            "--clickhouse-port",
            "0",
            "--dashboard-port",
            "0",
        ],
        &log,
    );
    let note = format!("port {port} is taken: Kafka gets ");
    wait_until("it says so", UP, || up.tail().contains(&note));
    wait_until("parts are starting", UP, || {
        processes_of(dir.path()).len() > 1
    });
    assert!(up.stop().success(), "an orderly end");
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());
}
