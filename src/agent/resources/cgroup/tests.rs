//! Paths against lines of real machines, and version 2 against files of a real hierarchy (`tests/data/cgroup2`).

use std::fs;

use super::*;
use crate::agent::resources::counter::Counter;
use crate::agent::resources::usage::Throttling;

const RECORDED_MS: u64 = 4370;

const V2_HOST: &str =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_HOST: &str = "\
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
/// A container of version 1 without a namespace: each mount begins at its own group.
const V1_CONTAINER: &str = "\
33 31 0:30 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
";

fn folders(cgroup: &Cgroup) -> Vec<String> {
    cgroup
        .places()
        .map(|place| place.folder.display().to_string())
        .collect()
}

#[test]
fn a_process_group_is_found_in_each_hierarchy() {
    let v2 = Mounts::parse(V2_HOST);
    let found = v2.of_process("0::/kubepods.slice/x.scope\n").expect("v2");
    assert_eq!(folders(&found), ["/sys/fs/cgroup/kubepods.slice/x.scope"]);
    assert!(found.is_one_thing());
    let session = v2.of_process("0::/user.slice/session-3.scope\n");
    assert!(!session.expect("v2").is_one_thing());

    let lines = "5:memory:/m/x\n2:cpu,cpuacct:/c/x\n1:name=systemd:/s\n0::/\n";
    let v1 = Mounts::parse(V1_HOST).of_process(lines).expect("v1");
    let cpu = "/sys/fs/cgroup/cpu,cpuacct/c/x";
    assert_eq!(folders(&v1), [cpu, cpu, "/sys/fs/cgroup/memory/m/x"]);
    assert!(!v1.is_one_thing());

    let lines = "5:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n";
    let container = Mounts::parse(V1_CONTAINER).of_process(lines).expect("v1");
    let cpu = "/sys/fs/cgroup/cpu,cpuacct";
    assert_eq!(folders(&container), [cpu, cpu, "/sys/fs/cgroup/memory"]);
    assert!(container.is_one_thing());

    assert_eq!(Mounts::parse("").of_process("0::/x\n"), None);
}

#[test]
fn a_named_group_may_be_a_folder_or_a_path() {
    let mounts = Mounts::parse(V1_HOST);
    let cpu = "/sys/fs/cgroup/cpu,cpuacct/a/b";
    for named in ["/sys/fs/cgroup/memory/a/b", "/a/b"] {
        let found = mounts.named(Path::new(named)).expect("v1");
        assert_eq!(
            folders(&found),
            [cpu, cpu, "/sys/fs/cgroup/memory/a/b"],
            "{named}"
        );
    }
    let unified = mounts.named(Path::new("/sys/fs/cgroup/unified/a"));
    assert!(matches!(unified, Some(Cgroup::V2(_))), "{unified:?}");
    // Above what can be seen: the nearest that can.
    let hidden = Mounts::parse(V2_HOST).of_process("0::/../other\n");
    assert_eq!(folders(&hidden.expect("v2")), ["/sys/fs/cgroup"]);
}

fn recorded(when: &str) -> Place {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cgroup2");
    Place {
        folder: top.join(when).join("kubepods.slice/model.scope"),
        top: top.join(when),
        is_cut: false,
    }
}

#[test]
fn files_of_a_real_version_2_say_what_was_used() {
    const MIB: u64 = 1 << 20;
    let (before, after) = (recorded("before"), recorded("after"));
    let read = |place: Place| Cgroup::V2(place).read().expect("the files are there");
    let (before, after) = (read(before), read(after));

    // A quota of half a core, and one that spins: half a core was used.
    let mut cpu = Counter::default();
    let at = std::time::Duration::from_millis;
    cpu.rate(at(0), before.cpu_seconds);
    let cores = cpu.rate(at(RECORDED_MS), after.cpu_seconds).expect("cores");
    assert!((cores - 0.5).abs() < 0.05, "{cores}");
    assert_eq!(after.cpu_limit_cores, Some(0.5), "the group's own");
    assert_eq!(
        after.memory_limit_bytes,
        Some(200 * MIB),
        "that of the one above"
    );
    let memory = after.memory_bytes.expect("memory") / MIB;
    assert!((30..=32).contains(&memory), "{memory}");
    let (before, after) = (before.throttling, after.throttling);
    let (before, after) = (before.expect("told"), after.expect("told"));
    assert!(after.n_throttled > before.n_throttled && after.throttled_us > before.throttled_us);
}

#[test]
fn inactive_files_are_no_working_set_and_what_is_not_there_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("written");
    let group = Cgroup::V2(Place {
        folder: folder.path().to_owned(),
        top: folder.path().to_owned(),
        is_cut: false,
    });
    assert_eq!(group.read().expect("a folder"), Usage::default());
    write("memory.current", "1000\n");
    write("memory.stat", "inactive_anon 1\ninactive_file 300\n");
    write("memory.max", "max\n");
    write("cpu.max", "max 100000\n");
    write(
        "cpu.stat",
        "usage_usec 2500000\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
    );
    let usage = Usage {
        cpu_seconds: Some(2.5),
        cpu_limit_cores: None,
        memory_bytes: Some(700),
        memory_limit_bytes: None,
        throttling: Some(Throttling {
            n_periods: 4,
            n_throttled: 3,
            throttled_us: 2,
        }),
        ..Usage::default()
    };
    assert_eq!(group.read().expect("a folder"), usage);
    // a limit that changes is the next reading's
    write("cpu.max", "200000 100000\n");
    write("memory.max", "5000\n");
    let changed = group.read().expect("a folder");
    assert_eq!(changed.cpu_limit_cores, Some(2.0));
    assert_eq!(changed.memory_limit_bytes, Some(5000));
    drop(folder);
    let gone = group.read().expect_err("it vanished");
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_limit_that_cannot_be_read_is_unknown_whatever_is_set_above() {
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("model");
    fs::create_dir(&folder).expect("a folder");
    let place = Place {
        folder: folder.clone(),
        top: top.path().to_owned(),
        is_cut: false,
    };
    let v1 = Cgroup::V1 {
        cpu: Some(place.clone()),
        cpuacct: Some(place.clone()),
        memory: Some(place.clone()),
    };
    let v2 = Cgroup::V2(place);
    let limits = |group: &Cgroup| {
        let usage = group.read().expect("a folder");
        let unread = (usage.unread_limits.cpu, usage.unread_limits.memory);
        (usage.cpu_limit_cores, usage.memory_limit_bytes, unread)
    };
    for (file, text) in [
        ("cpu.cfs_quota_us", "200000\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("memory.limit_in_bytes", "4096\n"),
        ("cpu.max", "200000 100000\n"),
        ("memory.max", "4096\n"),
    ] {
        fs::write(top.path().join(file), text).expect("written");
    }
    for group in [&v1, &v2] {
        assert_eq!(limits(group), (Some(2.0), Some(4096), (false, false)));
    }
    // a folder in a file's place: not even root can read it
    for file in ["memory.limit_in_bytes", "memory.max"] {
        fs::create_dir(folder.join(file)).expect("a folder");
    }
    for group in [&v1, &v2] {
        assert_eq!(limits(group), (Some(2.0), None, (false, true)));
    }
    for file in ["cpu.cfs_quota_us", "cpu.max"] {
        fs::write(folder.join(file), "much\n").expect("written");
    }
    for group in [&v1, &v2] {
        assert_eq!(limits(group), (None, None, (true, true)));
    }
}
