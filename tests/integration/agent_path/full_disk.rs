//! A spool's disk that stops taking files, because it is full or because its folder is none any more, and takes them again
//! later: no request fails, what the agent keeps instead is bounded, and each event is in the topic once or counted.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::agent::{assert_accepted, post};
use crate::support::agent::{Agent, Logged, spool_of, spooled};
use crate::support::space::CATCH_UP;
use crate::support::wait_for;

use super::load::Load;
use super::outage::{Bench, SOME};

/// What the agent keeps in memory, and a batch of posted events, at least.
const MEMORY_BYTES: u64 = 16 << 20;
const POSTED: u64 = 8_000;

/// The small disk: room for what comes before it is filled, and for what comes after.
const DISK: &str = "size=32m";

/// A small file system in memory; gone with the test.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// None where this user may mount nothing.
    fn mount(folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).expect("a folder");
        let target = c_path(folder);
        // SAFETY: all are strings that end with a zero and live until the call returns, which keeps none of them.
        let mounted = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                CString::new(DISK).expect("no zero in it").as_ptr().cast(),
            )
        };
        (mounted == 0).then(|| Self {
            folder: folder.to_owned(),
        })
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// To the last byte.
    fn fill(&self) {
        let mut file = File::create(self.filler()).expect("it takes a file");
        let refused = loop {
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let target = c_path(&self.folder);
        // SAFETY: a string that ends with a zero and lives until the call returns. Detached, it goes with its last user.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero in a path")
}

/// Kafka is away, and the disk breaks and is mended.
fn play(bench: &mut Bench, breaks: impl FnOnce(&Path), mends: impl FnOnce(&Path)) {
    // in order, since a topic that was made a moment before a kill may be gone after it
    assert!(bench.parts.broker.stop().success());
    let mut agent = bench.agent();
    let load = Load::start();
    load.aim(agent.requests);
    load.wait_for_more(SOME);
    let folder = spool_of(bench.dir());
    breaks(&folder);
    let (n_posted, lost_then) = fill_memory(&agent);
    // the disk comes back; what it had from before is still there
    mends(&folder);
    let dir = bench.dir().to_owned();
    let names = || spooled(&dir).into_iter().collect::<BTreeSet<_>>();
    let before = names();
    assert!(!before.is_empty(), "of the time before it was full");
    load.wait_for_more(SOME);
    wait_for("the disk is used again", CATCH_UP, || {
        let n_new = names().difference(&before).count();
        (n_new > 0)
            .then_some(())
            .ok_or_else(|| format!("{n_new} new"))
    });
    let known = load.stop();
    assert_eq!(known.uncertain, [0; 0], "requests failed");
    bench.parts.restart_broker();
    let all = known.completed.len() as u64 + n_posted;
    let delivered = wait_for("each is delivered or counted", CATCH_UP, || {
        let losses = ["memory_full", "queue_full", "spool_damaged", "spool_full"];
        let lost = losses.map(|reason| agent.lost(reason));
        let n_lost: Option<u64> = lost.iter().copied().sum();
        match (n_lost, agent.metric("events_delivered_total")) {
            (Some(n_lost), Some(delivered)) if n_lost + delivered == all => {
                assert_eq!(lost[2], Some(0), "no file is half there");
                Ok(delivered)
            }
            seen => Err(format!("{seen:?} of {all}; {lost_then} when it was full")),
        }
    });
    wait_for("what was kept is gone", CATCH_UP, || {
        let left = names().intersection(&before).count();
        (left == 0).then_some(()).ok_or_else(|| left.to_string())
    });
    assert!(agent.role.stop().success());
    // a running agent may have a sample there at any moment
    assert_eq!(spooled(bench.dir()), [], "nothing is left on the disk");
    let logged = Logged::read(&bench.space);
    assert_eq!(logged.repeated, BTreeSet::new());
    assert_eq!(logged.events().count() as u64, delivered);
    println!("agent disk: {all} events, {delivered} in the topic, {lost_then} lost at the full");
    assert!(delivered < all && delivered + lost_then <= all);
    assert!(!logged.gaps().is_empty(), "what went had numbers");
}

/// Posts until something had to go; gives how many were taken, and how many went.
fn fill_memory(agent: &Agent) -> (u64, u64) {
    let in_memory = || agent.metric("spooled_memory_bytes").expect("a gauge");
    wait_for("batches are kept in memory", CATCH_UP, || {
        match in_memory() {
            0 => Err("0".to_owned()),
            _ => Ok(()),
        }
    });
    let mut n_posted = 0;
    let lost = wait_for("the memory is full", CATCH_UP, || {
        let answer = post(&agent.events, n_posted..n_posted + POSTED);
        if !answer.starts_with("HTTP/1.1 503") {
            assert_accepted(&answer);
            n_posted += POSTED;
        }
        let (bytes, lost) = (in_memory(), agent.lost("memory_full"));
        assert!(bytes <= MEMORY_BYTES, "{bytes}");
        lost.filter(|&lost| lost > 0)
            .ok_or_else(|| format!("{bytes} bytes, {lost:?} lost"))
    });
    (n_posted, lost)
}

#[test]
fn a_folder_that_stops_taking_files_costs_no_request_and_what_goes_is_counted() {
    let mut bench = Bench::new();
    let aside = bench.dir().join("aside");
    // a file where the folder was: nobody can write there, not even root
    let breaks = |folder: &Path| {
        fs::rename(folder, &aside).expect("moved away");
        fs::write(folder, b"").expect("written");
    };
    let mends = |folder: &Path| {
        fs::remove_file(folder).expect("the file");
        fs::rename(&aside, folder).expect("moved back");
    };
    play(&mut bench, breaks, mends);
}

#[test]
fn a_full_disk_costs_no_request_and_what_goes_is_counted() {
    let mut bench = Bench::new();
    let Some(disk) = Disk::mount(&bench.dir().join("spool")) else {
        eprintln!("skipped: this user may mount no disk (root may)");
        return;
    };
    let breaks = |_: &Path| disk.fill();
    let mends = |_: &Path| fs::remove_file(disk.filler()).expect("the filler");
    play(&mut bench, breaks, mends);
}
