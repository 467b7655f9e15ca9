//! Requests through the agent to the SQL views: counted by class as their clients saw them; each timed between what the
//! server took and what its client waited for, and the percentiles those of these times.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crate::agent_proxy::support::{PATIENCE, connect, content_length, read_head};
use crate::support::agent::{Agent, DEPLOYMENT, Logged};
use crate::support::random::{self, Random};
use crate::support::space::{CATCH_UP, Space};
use crate::support::wait_for;

use super::load::{number_of, sizes_of};
use super::model::{CUT, HANG, Model, TOOK};

const CLIENTS: usize = 8;
const REQUESTS: usize = 250;
const TIMED: usize = 150;

/// One step of the views that all of a test lies in: it would have to run over one of the few moments since 1970 that
/// are multiples of this. No coarser tier divides it, so the views read the finest.
const STEP: u64 = 999_999_990;

/// The relative error that the sketches promise.
const ERROR: f64 = 0.01;

const QUANTILES: [(&str, f64); 4] = [("50", 0.5), ("90", 0.9), ("95", 0.95), ("99", 0.99)];

/// Requests by class, as the views count them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Volume {
    pub requests: u64,
    pub ok: u64,
    pub client_errors: u64,
    pub server_errors: u64,
    pub other: u64,
    pub client_gone: u64,
}

fn row(space: &Space, view: &str, columns: &str) -> Result<crate::support::sql::Record, String> {
    let now = modelmeter::clock::now_us() / 1_000_000;
    let query = format!(
        "SELECT {columns} FROM {view}(deployment = '{DEPLOYMENT}', start = {}, stop = {now}, step = {STEP})",
        now - 600
    );
    let mut rows = space.sql.try_rows(&query)?;
    rows.pop().ok_or_else(|| "no row".to_owned())
}

/// # Errors
/// When there are none yet.
pub fn volume(space: &Space) -> Result<Volume, String> {
    let of = |class: &str| format!("toUInt64(round(rps_{class} * seconds)) AS c{class}");
    let classes: Vec<_> = ["2xx", "4xx", "5xx", "other"].map(of).to_vec();
    let columns = format!("requests, client_gone, {}", classes.join(", "));
    let row = row(space, "inference_volume", &columns)?;
    let number = |name: &str| row[name].as_u64().expect("a number");
    Ok(Volume {
        requests: number("requests"),
        ok: number("c2xx"),
        client_errors: number("c4xx"),
        server_errors: number("c5xx"),
        other: number("cother"),
        client_gone: number("client_gone"),
    })
}

impl Volume {
    fn add(&mut self, status: u16) {
        self.requests += 1;
        self.client_gone += u64::from(status == 499);
        match status / 100 {
            2 => self.ok += 1,
            4 => self.client_errors += 1,
            5 => self.server_errors += 1,
            _ => self.other += 1,
        }
    }
}

fn agent(space: &Space, model: &Model, dir: &std::path::Path) -> Agent {
    let upstream = format!("http://{}", model.address);
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    Agent::start(space, &space.kafka, dir, &flags)
}

/// A client's connection, opened again where it ended.
struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
        }
    }

    /// The status as the events have it, and what the server says it took; 499 where the client went away by itself.
    fn ask(&mut self, path: &str, n_bytes: u64) -> (u16, Option<u64>) {
        let mut stream = self.stream.take().unwrap_or_else(|| connect(self.address));
        let body = "x".repeat(n_bytes as usize);
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: m\r\ncontent-length: {n_bytes}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("sent");
        if path.contains(HANG) {
            return (499, None);
        }
        let head = read_head(&mut stream).expect("an answer");
        let status = head[9..12].parse().expect("a status");
        let mut body = vec![0; content_length(&head)];
        if stream.read_exact(&mut body).is_ok() {
            self.stream = Some(stream);
        }
        let prefix = format!("{TOOK}: ");
        let took = head.lines().find_map(|line| line.strip_prefix(&prefix));
        (status, took.map(|us| us.parse().expect("a number")))
    }
}

#[test]
fn what_clients_saw_is_what_the_views_count() {
    let (space, mut model) = (Space::new(), Model::start());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let _processor = space.processor(&[]);
    let mut agent = agent(&space, &model, dir.path());
    let address = agent.requests.expect("it listens");
    let seen = Mutex::new(Volume::default());
    let kinds = [
        "200", "404", "200", CUT, "500", "204", "503", HANG, "302", "429",
    ];
    let all_ask = |n_each: usize| {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let seen = &seen;
                scope.spawn(move || {
                    let mut asking = Client::new(address);
                    for n in 0..n_each {
                        let kind = kinds[(n * 7 + client) % kinds.len()];
                        let (status, _) = asking.ask(&format!("/{kind}/0/0"), 2);
                        seen.lock().expect("no panic").add(status);
                    }
                });
            }
        });
    };
    all_ask(REQUESTS);
    // killed under way: those that it had begun to answer break off, and what comes then finds nobody
    thread::scope(|scope| {
        let under_way: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| Client::new(address).ask("/200/0/60000000", 2).0))
            .collect();
        wait_for("all are under way", PATIENCE, || {
            match agent.metric("in_flight") {
                Some(n) if n == CLIENTS as u64 => Ok(()),
                n => Err(format!("{n:?}")),
            }
        });
        model.kill();
        for client in under_way {
            let status = client.join().expect("an answer");
            assert_eq!(status, 502);
            seen.lock().expect("no panic").add(status);
        }
    });
    for _ in 0..CLIENTS {
        let (status, _) = Client::new(address).ask("/200/0/0", 2);
        assert_eq!(status, 502);
        seen.lock().expect("no panic").add(status);
    }
    model.come_back();
    all_ask(REQUESTS);
    let seen = seen.into_inner().expect("no panic");
    wait_for("the views say the same", CATCH_UP, || {
        match volume(&space)? {
            counted if counted == seen => Ok(()),
            counted => Err(format!("{counted:?}, and the clients saw {seen:?}")),
        }
    });
    assert!(agent.role.stop().success());
}

/// Of sorted times, in milliseconds, with one rank of play for how a quantile is named.
fn at(sorted: &[u64], quantile: f64, play: isize) -> f64 {
    let rank = (sorted.len() as f64 * quantile) as isize + play;
    let last = sorted.len() as isize - 1;
    sorted[rank.clamp(0, last) as usize] as f64 / 1000.0
}

/// What the server and the client of a request say of it, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    server: u64,
    client: u64,
}

/// Numbered requests of five to 150 milliseconds, each size as likely.
fn ask_timed(address: SocketAddr) -> BTreeMap<u64, Times> {
    let times = Mutex::new(BTreeMap::new());
    let random = Mutex::new(Random::new(random::seed("agent percentiles")));
    thread::scope(|scope| {
        for of_client in 0..CLIENTS {
            let (times, random) = (&times, &random);
            scope.spawn(move || {
                let mut client = Client::new(address);
                for n in 0..TIMED {
                    let number = (of_client * TIMED + n) as u64;
                    let (n_up, n_down) = sizes_of(number);
                    let unit = random.lock().expect("no panic").unit();
                    let wait_us = (5_000.0 * 30f64.powf(unit)) as u64;
                    let began = Instant::now();
                    let (status, took) = client.ask(&format!("/200/{n_down}/{wait_us}"), n_up);
                    let client = began.elapsed().as_micros() as u64;
                    assert_eq!(status, 200);
                    let server = took.expect("the server says it");
                    let mut times = times.lock().expect("no panic");
                    times.insert(number, Times { server, client });
                }
            });
        }
    });
    times.into_inner().expect("no panic")
}

#[test]
fn times_lie_between_the_servers_and_the_clients_and_percentiles_are_theirs() {
    let (space, model) = (Space::new(), Model::start());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let _processor = space.processor(&[]);
    let mut agent = agent(&space, &model, dir.path());
    let times = ask_timed(agent.requests.expect("it listens"));
    let n = times.len();
    let logged = Logged::wait(&space, n);
    assert_eq!(logged.events().count(), n);
    let mut told = [Vec::new(), Vec::new()];
    for event in logged.events() {
        let Times { server, client } = times[&number_of(event)];
        let (all, inference) = (event.end_to_end_us, event.inference_us().expect("sent"));
        let in_order = server <= inference && inference <= all && all <= client;
        assert!(in_order, "{server} <= {inference} <= {all} <= {client}");
        told[0].push(all);
        told[1].push(inference);
    }
    wait_for("all of it is in the views", CATCH_UP, || {
        match volume(&space)?.requests {
            seen if seen == n as u64 => Ok(()),
            seen => Err(format!("{seen} of {n}")),
        }
    });
    let mut clients: Vec<u64> = times.values().map(|times| times.client).collect();
    clients.sort_unstable();
    for (what, mut told) in ["end_to_end", "inference"].into_iter().zip(told) {
        told.sort_unstable();
        let columns = QUANTILES.map(|(name, _)| format!("{what}_p{name}_ms"));
        let row = row(&space, "response_time", &columns.join(", ")).expect("a row");
        for (name, quantile) in QUANTILES {
            let in_sql = row[&format!("{what}_p{name}_ms")].as_f64().expect("a time");
            let (low, high) = (at(&told, quantile, -1), at(&told, quantile, 1));
            let of_clients = at(&clients, quantile, 0);
            println!(
                "agent percentiles: {what} p{name} {in_sql:.2} ms, of events {low:.2}, of clients {of_clients:.2}"
            );
            assert!(
                (low * (1.0 - ERROR)..=high * (1.0 + ERROR)).contains(&in_sql),
                "{what} p{name}: {in_sql} is not between {low} and {high}"
            );
        }
    }
    assert!(agent.role.stop().success());
}
