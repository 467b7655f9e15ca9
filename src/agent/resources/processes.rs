//! A process and all that descend from it: CPU time and memory out of `/proc`.
//!
//! CPU time counts that of children that ended and were waited for, so a short-lived worker is not lost; one whose
//! parent ended first is. Memory is what is not a file's: anonymous pages and shared memory, each page once for every
//! process that has it, so a fork's shared pages count twice. (The proportional set would tell them apart, and take
//! the memory map's lock of a large server for hundreds of milliseconds.)

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use super::usage::Usage;

/// Processes of one tree that are looked at; a server with more has a control group of its own. Those beyond are left
/// out, and the readings are then none rather than too small.
const MOST_PROCESSES: usize = 4096;

/// Clock ticks a second in `/proc`: fixed by the kernel's interface on every architecture of Linux that matters here.
const TICKS: f64 = 100.0;

const KIBI: u64 = 1024;

/// What `/proc/PID/stat` says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own time, and that of the children that it waited for.
    ticks: u64,
    /// When it began, in ticks since boot: with the pid, its identity.
    started: u64,
}

/// What a tree uses, and which process it is: another `root_started` is another process under the same number.
#[derive(Debug)]
pub struct Tree {
    pub root_started: u64,
    pub usage: Usage,
}

/// Readings between two that look at every process of the machine. The others look at the tree and at what is new: a process
/// that is no descendant does not become one, but its number may be given to one later.
const READINGS_A_ROUND: u32 = 12;

/// Reads one tree again and again. On a machine with hundreds of processes most of what a reading costs is to look at those that
/// are not of the tree, so they are remembered.
#[derive(Debug, Default)]
pub struct Processes {
    outsiders: HashSet<u32>,
    n_readings: u32,
}

impl Processes {
    /// # Errors
    /// When there is no such process, or there are too many.
    pub fn read(&mut self, root: u32) -> io::Result<Tree> {
        if self.n_readings.is_multiple_of(READINGS_A_ROUND) {
            self.outsiders.clear();
        }
        self.n_readings = self.n_readings.wrapping_add(1);
        self.outsiders.remove(&root);
        let stats = all_but(&self.outsiders)?;
        let members = descendants(root, &stats);
        let tree = of_members(root, &members, &stats)?;
        let members: HashSet<u32> = members.into_iter().collect();
        let others = stats.keys().filter(|pid| !members.contains(pid));
        self.outsiders.extend(others);
        Ok(tree)
    }
}

fn of_members(root: u32, members: &[u32], stats: &HashMap<u32, Stat>) -> io::Result<Tree> {
    let own = *stats.get(&root).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no process {root}"),
        )
    })?;
    if members.len() > MOST_PROCESSES {
        return Err(io::Error::other(format!(
            "process {root} has more than {MOST_PROCESSES} descendants; name its control group instead"
        )));
    }
    let ticks: u64 = members.iter().map(|pid| stats[pid].ticks).sum();
    let memory = members.iter().filter_map(|pid| memory_bytes(*pid)).sum();
    Ok(Tree {
        root_started: own.started,
        usage: Usage {
            cpu_seconds: Some(ticks as f64 / TICKS),
            memory_bytes: Some(memory),
            ..Usage::default()
        },
    })
}

fn all_but(outsiders: &HashSet<u32>) -> io::Result<HashMap<u32, Stat>> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| !outsiders.contains(pid)) else {
            continue;
        };
        // One that ended meanwhile is no error.
        if let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|line| parse_stat(&line))
        {
            stats.insert(pid, stat);
        }
    }
    Ok(stats)
}

/// proc(5): the name stands in brackets and may hold any character, so what follows counts from the last bracket.
fn parse_stat(line: &str) -> Option<Stat> {
    let after_name = &line[line.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks,
        started: number(19)?,
    })
}

fn descendants(root: u32, stats: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&pid, stat) in stats {
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut members = vec![root];
    let mut next = 0;
    while let Some(pid) = members.get(next) {
        members.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    members
}

fn memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) * KIBI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_is_read_past() {
        let line = "42 (py ) 7 (x)) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 9 0 4711 1 2";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 7,
                ticks: 124,
                started: 4711
            })
        );
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (short) S 7"), None);
    }

    #[test]
    fn a_process_that_comes_later_is_found_and_one_that_is_known_is_not_looked_at() {
        let mut processes = Processes::default();
        let own = std::process::id();
        let child = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("600").spawn().expect("it starts")
        };
        let mut first = child();
        let root = first.id();
        let before = processes.read(root).expect("it runs");
        assert!(processes.outsiders.contains(&own), "no descendant of it");
        assert!(!processes.outsiders.contains(&root));
        let again = processes.read(root).expect("it runs");
        assert_eq!(again.root_started, before.root_started);
        let mut second = child();
        // known before it is another's root: its number was given anew
        processes.outsiders.insert(second.id());
        assert!(processes.read(second.id()).is_ok());
        for one in [&mut first, &mut second] {
            one.kill().expect("killed");
            one.wait().expect("waited for");
        }
        assert!(processes.read(root).is_err(), "it is gone");
    }

    #[test]
    fn a_tree_is_all_that_descend() {
        let stat = |parent| Stat {
            parent,
            ticks: 1,
            started: 1,
        };
        let stats = HashMap::from([
            (1, stat(0)),
            (5, stat(1)),
            (6, stat(5)),
            (7, stat(6)),
            (8, stat(1)),
        ]);
        let mut members = descendants(5, &stats);
        members.sort_unstable();
        assert_eq!(members, [5, 6, 7]);
    }
}
