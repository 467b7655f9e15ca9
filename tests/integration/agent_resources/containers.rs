//! CPU and memory of real control groups and processes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelmeter::agent::gpu::GpuArgs;
use modelmeter::agent::readings::Readings;
use modelmeter::agent::resources::{ResourceArgs, ResourceSampler};

use crate::support::wait_for;

const SOON: Duration = Duration::from_secs(60);
pub const HELD: u64 = 100 << 20;
/// Holds 100 MiB and spins.
pub const HOLD_AND_SPIN: &str =
    "b = bytearray(100 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nwhile True: pass";

const NO_GPUS: &str = "none";

fn sampler(cgroup: Option<PathBuf>, pid: Option<u32>) -> ResourceSampler {
    let args = ResourceArgs {
        cgroup,
        pid,
        gpu: GpuArgs {
            gpus: Some(NO_GPUS.to_owned()),
            ..GpuArgs::default()
        },
    };
    ResourceSampler::new(&args, None)
}

/// A shell and all that it started, killed with the test.
pub struct Spinning(Child);

impl Spinning {
    pub fn start(shell: &str) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", shell])
            .stdin(Stdio::null())
            .process_group(0);
        Self(command.spawn().expect("a shell starts"))
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        let group = libc::pid_t::try_from(self.0.id()).expect("a pid");
        // SAFETY: kill takes plain numbers; the shell was not reaped yet, so the group's number is its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// A group of version 1 in each of three hierarchies, with limits; removed with the test.
pub struct Group {
    folders: [PathBuf; 3],
}

impl Group {
    /// None where this machine lets no such group be made.
    pub fn new(name: &str) -> Option<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let name = format!("modelmeter-{name}-{}", std::process::id());
        let folders =
            ["cpu", "cpuacct", "memory"].map(|controller| top.join(controller).join(&name));
        let group = Self { folders };
        group
            .folders
            .iter()
            .all(|folder| fs::create_dir_all(folder).is_ok() && folder.join("tasks").exists())
            .then_some(group)
    }

    pub fn set(&self, controller: usize, file: &str, value: &str) {
        fs::write(self.folders[controller].join(file), value).expect("a limit is set");
    }

    pub fn folder(&self, controller: usize) -> &Path {
        &self.folders[controller]
    }

    /// What a shell says to move into it.
    pub fn joins(&self) -> String {
        let join = |folder: &PathBuf| format!("echo $$ > {}/tasks; ", folder.display());
        self.folders.iter().map(join).collect()
    }

    pub fn number(&self, controller: usize, file: &str) -> u64 {
        let text = fs::read_to_string(self.folders[controller].join(file)).expect("a file");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // A task that was killed leaves in its own time.
            let began = Instant::now();
            while folder.exists() && fs::remove_dir(folder).is_err() && began.elapsed() < SOON {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_group_with_half_a_core_and_a_limit_is_read_as_it_is() {
    let Some(group) = Group::new("half") else {
        eprintln!("skipped: no control group of version 1 can be made here");
        return;
    };
    group.set(0, "cpu.cfs_quota_us", "50000");
    group.set(2, "memory.limit_in_bytes", &(256_u64 << 20).to_string());
    let child = Spinning::start(&format!(
        "{} exec python3 -c '{HOLD_AND_SPIN}'",
        group.joins()
    ));
    let mut by_process = sampler(None, Some(child.0.id()));
    let mut sampler = sampler(Some(group.folders[2].clone()), None);
    wait_for("it holds its memory", SOON, || {
        let memory = sampler.read().memory_bytes;
        (memory >= Some(HELD))
            .then_some(())
            .ok_or_else(|| format!("{memory:?}"))
    });
    // From here on the interval is of spinning alone, and measured beside the sampler.
    let throttled = || n_throttled(&group);
    let (began, used, held_back) = (
        Instant::now(),
        group.number(1, "cpuacct.usage"),
        throttled(),
    );
    sampler.read();
    wait_for("it was held back often", SOON, || {
        (throttled() >= held_back + 20)
            .then_some(())
            .ok_or_else(String::new)
    });
    let readings = sampler.read();
    let truth =
        (group.number(1, "cpuacct.usage") - used) as f64 / began.elapsed().as_nanos() as f64;
    let cores = readings.cpu_cores_used.expect("cores");
    assert!(
        (cores - truth).abs() < 0.05,
        "{cores}, and in truth {truth}"
    );
    assert!(cores < 0.6, "the quota holds: {cores}");
    assert_eq!(readings.cpu_cores_limit, Some(0.5));
    let memory = readings.memory_bytes.expect("memory");
    assert!((HELD..HELD + (64 << 20)).contains(&memory), "{memory}");
    assert_eq!(readings.memory_limit_bytes, Some(256 << 20));
    let throttling = sampler.throttling().expect("told");
    assert!(throttling.n_throttled >= held_back + 20 && throttling.throttled_us > 0);
    let limits = |readings: Readings| (readings.cpu_cores_limit, readings.memory_limit_bytes);
    let bounds = limits(by_process.read());
    assert_eq!(bounds, (Some(0.5), Some(256 << 20)), "its group's");
    group.set(0, "cpu.cfs_quota_us", "75000");
    group.set(2, "memory.limit_in_bytes", &(300_u64 << 20).to_string());
    for changed in [sampler.read(), by_process.read()] {
        assert_eq!(limits(changed), (Some(0.75), Some(300 << 20)));
    }

    drop(child);
    drop(group);
    assert_eq!(sampler.read().memory_bytes, None, "the group vanished");
    assert_eq!(sampler.read().cpu_cores_used, None);
}

fn n_throttled(group: &Group) -> u64 {
    let stat = fs::read_to_string(group.folders[0].join("cpu.stat")).expect("a file");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("nr_throttled "));
    line.expect("a line").parse().expect("a number")
}

#[test]
fn a_process_is_read_with_all_that_descend_from_it() {
    // The shell itself does nothing: what is read is its child's.
    let child = Spinning::start(&format!(
        "python3 -c '{HOLD_AND_SPIN}' & trap \"kill $!\" TERM; wait; wait"
    ));
    let pid = child.0.id();
    let mut sampler = sampler(None, Some(pid));
    wait_for("it holds its memory and spins", SOON, || {
        let readings = sampler.read();
        let holds = readings.memory_bytes >= Some(HELD) && readings.cpu_cores_used > Some(0.05);
        holds.then_some(()).ok_or_else(|| format!("{readings:?}"))
    });
    crate::support::process::signal(pid, libc::SIGTERM);
    wait_for("it is gone", SOON, || {
        let readings = sampler.read();
        let gone = readings.memory_bytes.unwrap_or(0) < HELD;
        gone.then_some(()).ok_or_else(|| format!("{readings:?}"))
    });
}
