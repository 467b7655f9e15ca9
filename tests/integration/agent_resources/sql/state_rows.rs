//! A server that loads for some seconds, crashes, is started again and is stopped, and what the view of replicas says of it.
//! The server itself writes down when it did what: that is the truth.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{Pipeline, number};
use crate::support::ports::Port;
use crate::support::process::Role;
use crate::support::space::CATCH_UP;
use crate::support::wait_for;

const DEPLOYMENT: &str = "states";

/// Says since when its process is there, loads for ten seconds, listens, and crashes or stops when it is told to, which takes it two more.
const SERVER: &str = r#"
import os, signal, socket, sys, time
log = open(sys.argv[1] + "/times", "a", buffering=1)
def note(what, ago=0): print(what, time.time() - ago, file=log)
def stop(*_):
    note("stop"); time.sleep(2); note("end"); os._exit(0)
signal.signal(signal.SIGTERM, stop)
uptime = float(open("/proc/uptime").read().split()[0])
ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
note("start", uptime - ticks / os.sysconf("SC_CLK_TCK"))
time.sleep(10)
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
note("ready")
listener.settimeout(0.02)
while not os.path.exists(sys.argv[1] + "/crash"):
    try: listener.accept()[0].close()
    except TimeoutError: pass
os.remove(sys.argv[1] + "/crash")
note("crash")
os._exit(1)
"#;

/// A check every tenth of a second and some turns of the agent, four changes of the state.
const TOLERANCE_S: f64 = 1.0;

pub struct States {
    agent: Role,
    folder: PathBuf,
    /// The server's, also between two of its starts.
    _port: Port,
}

pub fn begin(pipeline: &Pipeline) -> States {
    let folder = pipeline.folder().join("states-server");
    fs::create_dir(&folder).expect("a folder");
    let own = Port::take();
    let (path, port) = (folder.display().to_string(), own.number.to_string());
    let check = format!("tcp://{}", own.address());
    let flags = ["--ready-check", &check, "--ready-interval", "100ms"];
    let command = [
        "--gpus",
        "none",
        "--restart",
        "on-failure",
        "--",
        "python3",
        "-c",
        SERVER,
    ];
    let flags = [
        &flags[..],
        &command[..],
        &[path.as_str(), port.as_str()][..],
    ]
    .concat();
    States {
        agent: pipeline.agent(DEPLOYMENT, &flags),
        folder,
        _port: own,
    }
}

impl States {
    /// When it did this, each time, in seconds since 1970.
    fn times(&self, what: &str) -> Vec<f64> {
        let text = fs::read_to_string(self.folder.join("times")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix(what)?.trim().parse().ok())
            .collect()
    }

    fn wait(&self, what: &str, n: usize) {
        wait_for(what, CATCH_UP, || {
            let found = self.times(what).len();
            (found >= n).then_some(()).ok_or_else(|| self.agent.tail())
        });
    }
}

/// Seconds in each state so far, as SQL has them.
fn told(pipeline: &Pipeline) -> Result<BTreeMap<&'static str, f64>, String> {
    let rows = pipeline.rows("replicas", DEPLOYMENT)?;
    let states = ["waiting", "loading", "active", "stopping", "starting"];
    Ok(states
        .into_iter()
        .map(|state| {
            let seconds = rows.iter().map(|row| {
                number(row, state).expect("never NULL")
                    * number(row, "seconds").expect("never NULL")
            });
            (state, seconds.sum())
        })
        .collect())
}

pub fn check(pipeline: &Pipeline, mut states: States) {
    states.wait("ready", 1);
    wait_for("SQL says that it is active", CATCH_UP, || {
        let told = told(pipeline)?;
        (told["active"] > 1.0)
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    });
    fs::write(states.folder.join("crash"), "").expect("it is told to crash");
    states.wait("ready", 2);
    let before = told(pipeline).expect("rows");
    wait_for("SQL says that it is active again", CATCH_UP, || {
        let told = told(pipeline)?;
        let more = told["active"] > before["active"] + 1.0;
        more.then_some(()).ok_or_else(|| format!("{told:?}"))
    });
    assert!(states.agent.stop().success());
    states.wait("end", 1);

    let time = |what: &str, n: usize| states.times(what)[n];
    let truth = BTreeMap::from([
        (
            "loading",
            time("ready", 0) - time("start", 0) + time("ready", 1) - time("start", 1),
        ),
        ("waiting", time("start", 1) - time("crash", 0)),
        (
            "active",
            time("crash", 0) - time("ready", 0) + time("stop", 0) - time("ready", 1),
        ),
        ("stopping", time("end", 0) - time("stop", 0)),
    ]);
    let told = wait_for("SQL has all of its life", CATCH_UP, || {
        let told = told(pipeline)?;
        let is_all = told["stopping"] > truth["stopping"] - TOLERANCE_S / 2.0;
        is_all
            .then_some(told.clone())
            .ok_or_else(|| format!("{told:?}"))
    });
    for (state, seconds) in &truth {
        assert!(
            (told[state] - seconds).abs() < TOLERANCE_S,
            "{state}: {told:?}, in truth {truth:?}"
        );
    }
    assert!((told["starting"] - told["waiting"] - told["loading"]).abs() < 1e-6);
    assert_eq!(states.times("start").len(), 2, "started twice");
}
