//! ClickHouse that takes nothing for a while: away, with too many parts, with too little memory, with a full disk. Each
//! time the status says why, nothing more is read than memory allows, and afterwards every table is right.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::fault_proxy::{Act, Fault, FaultProxy};
use crate::support::parts::Parts;
use crate::support::probe::{get, metric, metric_of, wait_for_alarm, wait_until_ready};
use crate::support::space::{CATCH_UP, Space};
use crate::support::{wait_for, wait_until};

use super::load::Load;

/// A third of what this load's windows and their rows take.
const WINDOW_MEMORY: f64 = 1_500_000.0;

#[test]
fn a_store_that_is_away_pauses_the_reading_and_is_caught_up_with() {
    let mut parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("away", &space);
    let memory = WINDOW_MEMORY.to_string();
    let mut processor = space.processor(&["--window-memory", &memory, "--workers", "1"]);
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    parts.engine.kill();
    load.publish(100);
    let said = wait_for("reading has paused", CATCH_UP, || {
        let (_, text) = get(&address, "/metrics").ok_or("no metrics")?;
        let bytes = metric(&text, "modelmeter_processor_open_windows_bytes", &[]);
        let behind = metric(&text, "modelmeter_processor_lag_messages", &[]);
        assert!(bytes < WINDOW_MEMORY, "{bytes} bytes of windows");
        match get(&address, "/readyz") {
            Some((503, said)) if behind > 0.0 && bytes > 0.0 => Ok(said),
            other => Err(format!("{behind} behind, {bytes} bytes: {other:?}")),
        }
    });
    assert!(
        said.contains("requests_") || said.contains("deployments"),
        "{said}"
    );
    parts.restart_engine();
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
}

#[test]
fn too_many_parts_are_waited_for() {
    let space = Space::new();
    let mut load = Load::new("parts", &space);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    let limit = |setting: &str| {
        space
            .sql
            .execute(&format!("ALTER TABLE requests_1m {setting}"));
    };
    limit(
        "MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1, max_delay_to_insert = 0",
    );
    load.publish(3);
    wait_for_alarm(&address, "Too many parts");
    limit("RESET SETTING parts_to_throw_insert, parts_to_delay_insert, max_delay_to_insert");
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
    let fenced = metric_of(&address, "modelmeter_processor_fenced_writes_total", &[]);
    assert_eq!(fenced, 0.0);
}

#[test]
fn too_little_memory_is_waited_for() {
    let space = Space::new();
    let mut load = Load::new("memory of the store", &space);
    let proxy = FaultProxy::before(&space.clickhouse);
    let mut processor = space.processor_by(proxy.url(), &[]);
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    proxy.arm(Act::Fail(Fault::LittleMemory));
    load.publish(3);
    wait_for_alarm(&address, "Code: 241");
    wait_until("memory has been scarce often", CATCH_UP, || {
        proxy.has_struck()
    });
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
}

/// A file system of its own, so that it can be full. Only root may mount one.
struct Disk(PathBuf);

impl Disk {
    const SIZE: &str = "size=512m";

    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", Self::SIZE, "tmpfs"])
            .arg(at)
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }

    fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        // to the last page
        while file.write(&[0; 4096]).is_ok_and(|n| n > 0) {}
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // lazily: what still has a file open there may take a moment
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let mut parts = Parts::start();
    parts.engine.kill();
    let Some(disk) = Disk::mount(&parts.copy_dir("clickhouse")) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    parts.restart_engine();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("full disk", &space);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    disk.fill();
    load.publish(3);
    let said = wait_for_alarm(&address, "space");
    println!("full disk: {said}");
    // room for it all, as after an operator's clean-up; an engine that ended is started again, as a supervisor does
    std::fs::remove_file(disk.filler()).expect("room is made");
    if !parts.engine.is_running() {
        println!("full disk: the engine ended:\n{}", parts.engine.tail());
        parts.restart_engine();
    }
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
    // before the file system is taken away
    processor.kill();
    parts.engine.kill();
}
