//! Where the hierarchies of control groups are mounted, and which folder in each is a group's.

use std::io;
use std::path::{Path, PathBuf};

use super::{Cgroup, Place};

/// One mounted hierarchy.
#[derive(Debug)]
struct Mount {
    /// The group that the mount shows as its top: not `/` in a container without a namespace of its own.
    root: PathBuf,
    point: PathBuf,
    /// None for version 2.
    controllers: Option<Vec<String>>,
}

#[derive(Debug)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string(
            "/proc/self/mountinfo",
        )?))
    }

    /// From lines as in proc(5): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELD…] - TYPE SOURCE SUPER-OPTIONS`.
    pub fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(parse_line).collect())
    }

    /// The group of the process whose `/proc/PID/cgroup` has these lines: `ID:CONTROLLERS:PATH`.
    pub fn of_process(&self, lines: &str) -> Option<Cgroup> {
        self.cgroup(|mount| {
            lines.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let is_of_mount = match &mount.controllers {
                    None => controllers.is_empty(),
                    Some(mounted) => controllers
                        .split(',')
                        .any(|name| mounted.iter().any(|own| own == name)),
                };
                is_of_mount.then(|| PathBuf::from(path))
            })
        })
    }

    /// The group of this path: absolute below any mount, else as `/proc/PID/cgroup` would show it.
    pub fn named(&self, path: &Path) -> Option<Cgroup> {
        // The longest mount point above it: one mount may lie inside another.
        let inner = self
            .0
            .iter()
            .filter_map(|mount| Some((mount, path.strip_prefix(&mount.point).ok()?)))
            .max_by_key(|(mount, _)| mount.point.as_os_str().len());
        match inner {
            // Below version 2's mount it is version 2's group, whatever else is mounted.
            Some((mount, _)) if mount.controllers.is_none() => Some(Cgroup::V2(Place {
                folder: path.to_owned(),
                top: mount.point.clone(),
                is_cut: mount.is_cut(),
            })),
            Some((mount, below)) => self.cgroup(|_| Some(mount.root.join(below))),
            None => self.cgroup(|_| Some(path.to_owned())),
        }
    }

    /// Version 1 where it has any of the controllers, else version 2; `path` gives the group's path in a hierarchy.
    fn cgroup(&self, path: impl Fn(&Mount) -> Option<PathBuf>) -> Option<Cgroup> {
        let place = |mount: &Mount| Some(mount.place(&path(mount)?));
        let v1 = |controller: &str| {
            let has = |mount: &&Mount| {
                let own = mount.controllers.as_ref();
                own.is_some_and(|names| names.iter().any(|name| name == controller))
            };
            self.0.iter().find(has).and_then(place)
        };
        let (cpu, cpuacct, memory) = (v1("cpu"), v1("cpuacct"), v1("memory"));
        if cpu.is_some() || cpuacct.is_some() || memory.is_some() {
            return Some(Cgroup::V1 {
                cpu,
                cpuacct,
                memory,
            });
        }
        let v2 = self.0.iter().find(|mount| mount.controllers.is_none())?;
        place(v2).map(Cgroup::V2)
    }
}

impl Mount {
    /// A path outside of what the mount shows (`/../…` with a namespace) is a group that cannot be seen from here: the
    /// top is the nearest that can.
    fn place(&self, path: &Path) -> Place {
        let climbs = path.iter().any(|part| part == "..");
        let below = path.strip_prefix(&self.root).ok().filter(|_| !climbs);
        let folder = match below {
            Some(below) if below.as_os_str().is_empty() => self.point.clone(),
            Some(below) => self.point.join(below),
            None => self.point.clone(),
        };
        Place {
            folder,
            top: self.point.clone(),
            is_cut: self.is_cut(),
        }
    }

    fn is_cut(&self) -> bool {
        self.root != Path::new("/")
    }
}

fn parse_line(line: &str) -> Option<Mount> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => Some(kind.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(Mount {
        root: PathBuf::from(root),
        point: PathBuf::from(point),
        controllers,
    })
}
