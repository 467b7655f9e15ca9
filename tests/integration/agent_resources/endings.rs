//! How a wrapped server ends: when it is told, what it leaves behind, and whose dead the agent clears away. By the real
//! binary, since all of it is about processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::process::{modelmeter, signal, tail};
use crate::support::{wait_for, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A port where nothing listens: Kafka is of no concern here.
const NOWHERE: &str = "127.0.0.1:1";

/// An agent with a shell for a server; both are killed with the test.
struct Agent {
    folder: TempDir,
    child: Child,
}

impl Agent {
    /// `$F` in the script is a folder of the test's own.
    fn start(script: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = folder.path().join("spool").display().to_string();
        let mut arguments = vec!["agent", "--deployment-id", "d", "--kafka", NOWHERE];
        arguments.extend(["--spool", &spool, "--shutdown-deadline", "3s"]);
        arguments.extend(["--admin-listen", "127.0.0.1:0", "--gpus", "none"]);
        arguments.extend(flags);
        arguments.extend(["--", "sh", "-c", script]);
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = modelmeter(&arguments);
        command.env("F", folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        // SAFETY: prctl with these arguments is async-signal-safe and touches no memory. The agent becomes the parent of what
        // others leave behind, as it would be in a container.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().expect("the binary starts");
        Self { folder, child }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        tail(&self.file("log"))
    }

    fn signal(&self, number: i32) {
        signal(self.child.id(), number);
    }

    /// The number that the script wrote into a file of this name.
    fn pid_in(&self, name: &str) -> u32 {
        wait_for(name, SOON, || {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            text.strip_suffix('\n')
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| self.log())
        })
    }

    fn code(&mut self) -> Option<i32> {
        wait_for("the agent ends", SOON, || {
            match self.child.try_wait().expect("it can be asked") {
                Some(status) => Ok(status.code()),
                None => Err(tail(&self.folder.path().join("log"))),
            }
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Neither running nor dead and waited for by nobody.
fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn what_a_server_leaves_behind_is_ended() {
    for (worker, name) in [
        ("sleep 600", "one that can be told"),
        (
            "sh -c \"trap '' TERM; while :; do sleep 0.1; done\"",
            "one that cannot",
        ),
    ] {
        let script = format!(
            "{worker} & echo $! > $F/worker; while ! test -e $F/end; do sleep 0.05; done; kill -9 $$"
        );
        let mut agent = Agent::start(&script, &["--events-listen", "127.0.0.1:0"]);
        let worker = agent.pid_in("worker");
        assert!(!is_gone(worker), "{name}");
        fs::write(agent.file("end"), "").expect("it is told to end");
        assert_eq!(agent.code(), Some(137), "{name}");
        // before the agent, so that the next server finds its port free
        assert!(is_gone(worker), "{name}: {}", agent.log());
    }
}

#[test]
fn a_process_that_was_left_to_the_agent_is_cleared_away() {
    // the inner shell ends at once, and what it started has the agent for a parent then
    let script = "sh -c 'while ! test -e $F/end; do sleep 0.05; done & echo $! > $F/orphan'; \
                  while :; do sleep 0.05; done";
    let mut agent = Agent::start(script, &["--events-listen", "127.0.0.1:0"]);
    let orphan = agent.pid_in("orphan");
    let parent = || {
        let stat = fs::read_to_string(format!("/proc/{orphan}/stat")).unwrap_or_default();
        stat.split(' ').nth(3).and_then(|field| field.parse().ok())
    };
    wait_until("it is left to the agent", SOON, || {
        parent() == Some(agent.child.id())
    });
    fs::write(agent.file("end"), "").expect("it is told to end");
    wait_until("it is cleared away", SOON, || is_gone(orphan));
    agent.signal(libc::SIGTERM);
    assert_eq!(
        agent.code(),
        Some(143),
        "the server is waited for all the same"
    );
}

#[test]
fn a_signal_to_the_server_itself_is_a_failure() {
    let script = "test -e $F/first && exit 0; echo $$ > $F/first; while :; do sleep 0.05; done";
    let flags = ["--events-listen", "127.0.0.1:0", "--restart", "on-failure"];
    let mut agent = Agent::start(script, &flags);
    signal(agent.pid_in("first"), libc::SIGTERM);
    assert_eq!(agent.code(), Some(0), "of the second: {}", agent.log());
}

/// Says when it is told, and counts its turns: a signal is acted on between two of them.
const TOLD: &str = "trap 'echo told >> $F/order; exit 0' TERM; \
                    while :; do echo . >> $F/turns; sleep 0.02; done";

/// A request under way in an agent whose server is told to end.
struct UnderWay {
    agent: Agent,
    client: TcpStream,
    server: TcpStream,
}

impl UnderWay {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = format!("http://{}", listener.local_addr().expect("an address"));
        let ready = "--ready-interval 1h";
        let mut flags = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
        flags.extend(ready.split(' '));
        let agent = Agent::start(TOLD, &flags);
        let address = wait_for("the agent takes requests", SOON, || {
            let log = agent.log();
            let mut lines = log.lines();
            let address = lines.find_map(|line| line.strip_prefix("agent: requests on http://"));
            address.map(str::to_owned).ok_or_else(|| log.clone())
        });
        let mut client = TcpStream::connect(address).expect("it listens");
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request.as_bytes()).expect("it is asked");
        // the readiness check is a connection without a word
        let server = loop {
            let (mut server, _) = listener.accept().expect("a connection");
            server.set_read_timeout(Some(SOON)).expect("a deadline");
            if server.read(&mut [0; 1024]).expect("a request") > 0 {
                break server;
            }
        };
        client.set_read_timeout(Some(SOON)).expect("a deadline");
        Self {
            agent,
            client,
            server,
        }
    }

    fn n_turns(&self) -> usize {
        let turns = fs::read_to_string(self.agent.file("turns"));
        turns.unwrap_or_default().lines().count()
    }

    /// The agent has heard of its end, and the server has had the time to hear of its own.
    fn wait_until_heard(&self) {
        wait_until("the agent hears of its end", SOON, || {
            self.agent.log().contains("shutting down")
        });
        let before = self.n_turns();
        wait_until("the server goes on for some turns, or ends", SOON, || {
            self.n_turns() >= before + 10 || self.agent.file("order").exists()
        });
    }

    fn answer(&mut self) {
        let mut order = fs::File::options();
        let mut order = order
            .append(true)
            .create(true)
            .open(self.agent.file("order"))
            .expect("a file");
        writeln!(order, "answered").expect("it is noted");
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
        self.server.write_all(answer.as_bytes()).expect("answered");
        let mut answer = String::new();
        self.client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("whole"), "{answer}");
        assert_eq!(self.agent.code(), Some(0));
    }

    fn order(&self) -> String {
        fs::read_to_string(self.agent.file("order")).expect("it was told")
    }
}

#[test]
fn a_server_is_told_to_end_when_its_requests_have_ended() {
    let mut under_way = UnderWay::start();
    wait_until("it has set its trap", SOON, || under_way.n_turns() > 0);
    under_way.agent.signal(libc::SIGTERM);
    under_way.wait_until_heard();
    under_way.answer();
    assert_eq!(under_way.order(), "answered\ntold\n");
}

#[test]
fn a_second_signal_reaches_the_server_at_once() {
    let mut under_way = UnderWay::start();
    wait_until("it has set its trap", SOON, || under_way.n_turns() > 0);
    under_way.agent.signal(libc::SIGTERM);
    under_way.wait_until_heard();
    under_way.agent.signal(libc::SIGTERM);
    let told = under_way.agent.file("order");
    wait_until("the server is told", SOON, || told.exists());
    under_way.answer();
    assert_eq!(under_way.order(), "told\nanswered\n");
}
