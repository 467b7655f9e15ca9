//! Inside the guest: `cgroup2 read` says what the agent's own reader makes of a control group, and `cgroup2 work` is what
//! is read. Judges nothing: `run.py` holds the readings against what the guest's kernel says of itself.

// The very files of the agent.
#[path = "../../../src/agent/resources"]
mod resources {
    pub mod cgroup;
    #[expect(dead_code, reason = "the agent alone goes from one process to another")]
    pub mod counter;
    pub mod usage;
}

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::time::Instant;

use resources::cgroup::Cgroup;
use resources::counter::Counter;

/// What the worker holds for itself.
const HELD: usize = 100 << 20;
/// What it reads of a block device and needs no more: page cache, which is no working set.
const CACHED: u64 = 48 << 20;
const PAGE: usize = 4096;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["read", "pid", pid] => read(&Cgroup::of_process(pid)?),
        ["read", "group", path] => read(&Cgroup::named(Path::new(path))?),
        ["work", device, ready] => work(device, ready),
        _ => Err(io::Error::other(
            "read pid PID | read group PATH | work DEVICE READY",
        )),
    }
}

/// A reading for each line that comes in, in the way of the agent's sampler.
fn read(group: &Cgroup) -> io::Result<()> {
    println!("group folder={group} one_thing={}", group.is_one_thing());
    let (began, mut cpu) = (Instant::now(), Counter::default());
    for line in io::stdin().lock().lines() {
        let name = line?;
        match group.read() {
            Err(error) => println!("reading {name} error={:?}", error.kind()),
            Ok(usage) => println!(
                "reading {name} cores={} cores_limit={} memory={} memory_limit={} throttled={} unread={}",
                told(cpu.rate(began.elapsed(), usage.cpu_seconds)),
                told(usage.cpu_limit_cores),
                told(usage.memory_bytes),
                told(usage.memory_limit_bytes),
                told(usage.throttling.map(|throttling| format!(
                    "{}/{}/{}",
                    throttling.n_periods, throttling.n_throttled, throttling.throttled_us
                ))),
                usage.unread_limits.cpu || usage.unread_limits.memory
            ),
        }
    }
    Ok(())
}

fn told<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// Holds memory, fills the page cache, says so by a file, and spins until it is killed.
fn work(device: &str, ready: &str) -> io::Result<()> {
    let mut held = vec![0_u8; HELD];
    for page in held.chunks_mut(PAGE) {
        page[0] = 1;
    }
    // A block device's pages leave the cache with the last who has it open.
    let device = File::open(device)?;
    let cached = io::copy(&mut (&device).take(CACHED), &mut io::sink())?;
    if cached < CACHED {
        return Err(io::Error::other("the device is too small"));
    }
    File::create(ready)?;
    loop {
        std::hint::black_box(&mut held);
    }
}
