//! One control group, of version 1, 2 or both: its CPU time, its working set, and the tightest limits on its way up.
//!
//! Finds the files by `mountinfo`, since each controller may be mounted elsewhere, and in a container each mount may
//! show the container's own group as its top. Refuses to guess: a file that is not there is a reading of none.

mod files;
mod mounts;
mod v1;
mod v2;

use std::io;
use std::path::{Path, PathBuf};

use super::usage::Usage;
use files::Unread;
pub use mounts::Mounts;

/// A group's folder in one hierarchy, and where that hierarchy begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub folder: PathBuf,
    pub top: PathBuf,
    /// The top is not the machine's root: the mount was made for a container.
    pub is_cut: bool,
}

impl Place {
    /// The folder and those above it, up to the top of the hierarchy.
    fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.top))
    }

    /// The least of what `limit` finds on the way up. One that cannot be read may be the least, so that none is known then.
    fn tightest<T: PartialOrd>(
        &self,
        limit: impl Fn(&Path) -> Result<Option<T>, Unread>,
    ) -> Result<Option<T>, Unread> {
        let mut least = None;
        for folder in self.upwards() {
            if let Some(found) = limit(folder)?
                && least.as_ref().is_none_or(|least| found < *least)
            {
                least = Some(found);
            }
        }
        Ok(least)
    }
}

/// Where the controllers of one group are. A machine may have some in version 1 and some in version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    V2(Place),
    V1 {
        cpu: Option<Place>,
        cpuacct: Option<Place>,
        memory: Option<Place>,
    },
}

impl Cgroup {
    /// The group of a process.
    ///
    /// # Errors
    /// When `/proc` does not tell, or no controller is mounted.
    pub fn of_process(pid: &str) -> io::Result<Self> {
        let mounts = Mounts::of_this_process()?;
        let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        mounts.of_process(&lines).ok_or_else(no_controller)
    }

    /// The group that a person named: a folder below a mount, or a path as `/proc/PID/cgroup` shows it.
    ///
    /// # Errors
    /// When no controller is mounted.
    pub fn named(path: &Path) -> io::Result<Self> {
        Mounts::of_this_process()?
            .named(path)
            .ok_or_else(no_controller)
    }

    /// What the files say now.
    ///
    /// # Errors
    /// When the group is not there.
    pub fn read(&self) -> io::Result<Usage> {
        if !self.is_there() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no control group {self}"),
            ));
        }
        Ok(match self {
            Self::V2(place) => v2::read(place),
            Self::V1 {
                cpu,
                cpuacct,
                memory,
            } => v1::read(cpu.as_ref(), cpuacct.as_ref(), memory.as_ref()),
        })
    }

    /// Whether it is one container's or one service's rather than a whole session's or machine's: its own group is
    /// the top of what it can see, or its path is one that a container runtime or systemd gives to one thing.
    pub fn is_one_thing(&self) -> bool {
        self.places().any(|place| {
            let own_top = place.folder == place.top
                && (place.is_cut
                    || NOT_AT_THE_ROOT
                        .iter()
                        .any(|file| place.folder.join(file).exists()));
            own_top || is_of_a_runtime(&place.folder)
        })
    }

    fn is_there(&self) -> bool {
        self.places().any(|place| place.folder.is_dir())
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        let (first, others) = match self {
            Self::V2(place) => (Some(place), [None, None]),
            Self::V1 {
                cpu,
                cpuacct,
                memory,
            } => (cpu.as_ref(), [cpuacct.as_ref(), memory.as_ref()]),
        };
        first.into_iter().chain(others.into_iter().flatten())
    }
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.places().next() {
            Some(place) => place.folder.display().fmt(f),
            None => f.write_str("(none)"),
        }
    }
}

/// Files that every group of version 2 has but the machine's root: a top that has one is a container's.
const NOT_AT_THE_ROOT: [&str; 2] = ["memory.current", "cpu.max"];

/// Names that the runtimes put into a path. A session of a person has none of them.
const RUNTIMES: [&str; 7] = [
    "kubepods",
    "docker",
    "containerd",
    "crio",
    "libpod",
    "lxc",
    "ecs",
];

fn is_of_a_runtime(folder: &Path) -> bool {
    let is_service = folder.extension().is_some_and(|end| end == "service");
    is_service
        || folder.iter().any(|name| {
            let name = name.to_string_lossy();
            RUNTIMES.iter().any(|runtime| name.starts_with(runtime))
        })
}

fn no_controller() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "no hierarchy of control groups is mounted",
    )
}

#[cfg(test)]
mod tests;
