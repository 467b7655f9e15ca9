//! The engine is killed at the n-th system call of an insert, for every n there is: between any two steps of making a part
//! durable. Needs `strace`, and runs with `make crash-test` alone.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::fault_proxy::{Act, FaultProxy, Hold};
use crate::support::parts::Parts;
use crate::support::random;
use crate::support::space::Space;
use crate::support::wait_until;

use super::load::Load;

/// What a part is made of on disk: files written, synced, and moved into their place.
const CALLS: [&str; 4] = [
    "write,pwrite64,writev",
    "fsync,fdatasync",
    "rename,renameat,renameat2",
    "mkdir,mkdirat,unlink,unlinkat,rmdir",
];

/// A thread of an insert makes fewer of each; without `CALLS` so many are tried.
const MOST: usize = 12;

const NEXT_INSERT: Duration = Duration::from_secs(60);
/// The kernel kills at once; memory takes a moment to be given back.
const GONE: Duration = Duration::from_secs(30);

/// Kills a process at the n-th of some system calls in any of its threads.
struct Killer(Child);

impl Killer {
    /// Gives it once it is attached.
    fn attach(pid: u32, calls: &str, n: usize) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-o", "/dev/null"])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:signal=KILL:when={n}")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is there: apt-get install strace");
        let said = child.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        let attached = lines.find(|line| line.contains("attached"));
        assert!(
            attached.is_some(),
            "strace may not attach to a process here"
        );
        // it says so for each thread; what it has more to say nobody waits for
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        // its tracees go on when it ends
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "some minutes, and strace: `make crash-test`"]
fn an_engine_that_dies_at_any_system_call_has_each_message_once() {
    let most = random::number("CALLS", MOST);
    let mut parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("system calls", &space);
    let proxy = FaultProxy::before(&space.clickhouse);
    let mut processor = space.processor_by(proxy.url(), &[]);
    load.publish(1);
    load.wait_until_right(&space, &mut [&mut processor]);
    let mut n_kills = 0;
    for calls in CALLS {
        let mut struck = Vec::new();
        for n in 1..=most {
            proxy.arm(Act::Hold(Hold::BeforeInsert));
            load.publish(1);
            wait_until("an insert is on its way", NEXT_INSERT, || {
                proxy.is_holding()
            });
            let killer = Killer::attach(parts.engine.pid(), calls, n);
            let answer = proxy.release();
            if answer.is_empty() {
                wait_until("the engine is killed", GONE, || !parts.engine.is_running());
            }
            drop(killer);
            let is_killed = !parts.engine.is_running();
            if is_killed {
                struck.push(n);
                parts.restart_engine();
            }
            load.wait_until_right(&space, &mut [&mut processor]);
            if !is_killed {
                // no thread makes so many of them for an insert
                break;
            }
        }
        println!("system calls: {calls}: killed at {struck:?}");
        n_kills += struck.len();
    }
    assert!(n_kills > CALLS.len(), "{n_kills} kills prove little");
}
