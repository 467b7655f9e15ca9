#!/usr/bin/env python3
"""The agent's reader of control groups against a real hierarchy of version 2, which this machine need not have: in a guest of
qemu's own emulation, with a distribution's kernel.

    run.py FOLDER       a folder to build in, which keeps the kernel for the next time

Owns what it boots and builds. Exit 0 where every reading agrees with what the guest's kernel says of itself, else 1, with the
guest's console beside it.
"""

import os, re, shutil, subprocess, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The kernel of Debian's cloud images: small, and with control groups, a serial console and a RAM disk (a module).
KERNEL = "linux-image-cloud-amd64"
# By the file that each is wanted for.
PACKAGES = {
    "/usr/bin/qemu-system-x86_64": "qemu-system-x86",
    "/bin/busybox": "busybox-static",
    "/usr/bin/cpio": "cpio",
    "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
}
# It boots in some five seconds and measures for twelve; emulation beside other load may be several times slower.
GUEST_SECONDS = 150

# A reading and the kernel's word are taken some milliseconds apart: here is what that and the guest's clock may make of it.
CORES_APART = 0.04
# What the worker's own pages and the kernel's counters, which are flushed lazily, may differ by between the two.
BYTES_APART = 6 << 20
MIB = 1 << 20
HELD, CACHED = 100 * MIB, 48 * MIB


def say(text):
    print(f"cgroup2: {text}", flush=True)


def stop(text):
    sys.exit(f"cgroup2: {text}")


def quiet(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        stop(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def packages():
    missing = [package for file, package in PACKAGES.items() if not Path(file).exists()]
    has_static_busybox = Path("/bin/busybox").exists() and "dynamically" not in linkage("/bin/busybox")
    if not has_static_busybox and "busybox-static" not in missing:
        missing.append("busybox-static")
    if not missing:
        return
    if not shutil.which("apt-get"):
        stop(f"missing, by Debian's names: {' '.join(missing)}")
    line = ["apt-get", "install", "-y", "--no-install-recommends"]
    if os.geteuid():
        stop(f"missing packages; as root, run:  apt-get update && {' '.join(line + missing)}")
    say(f"installing {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment)
    quiet(*line, "-qq", *missing, env=environment)


def linkage(program):
    """A dynamically linked program names its loader."""
    return "dynamically" if b"/ld-linux" in Path(program).read_bytes()[:4096] else "statically"


def kernel(folder):
    """The kernel and its module for a RAM disk, out of the package, which is not installed."""
    unpacked = folder / "kernel"
    if not any(unpacked.glob("boot/vmlinuz-*")):
        if not shutil.which("apt-get"):
            stop(f"missing: Debian's package {KERNEL}, which this test fetches by apt-get alone")
        depends = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True).stdout
        found = re.search(r"Depends: (linux-image-\S+)", depends)
        if not found:
            stop(f"missing: no package {KERNEL} is known here (Debian has it; apt-get update fetches the lists)")
        say(f"fetching {found[1]}")
        quiet("apt-get", "download", found[1], cwd=folder)
        quiet("dpkg", "-x", next(folder.glob(f"{found[1]}_*.deb")), unpacked)
    return next(unpacked.glob("boot/vmlinuz-*")), next(unpacked.glob("lib/modules/*/kernel/drivers/block/brd.ko"))


def initrd(folder, module):
    """Static programs alone, so that no library has to come along."""
    environment = os.environ | {"RUSTFLAGS": "-C target-feature=+crt-static", "CARGO_TARGET_DIR": str(folder / "target")}
    say("building the reader, linked statically")
    built = ["cargo", "build", "--quiet", "--locked", "--manifest-path", HERE / "Cargo.toml"]
    if subprocess.run(built, env=environment).returncode:
        stop("the reader does not build (the lines above)")
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ["bin", "dev", "proc", "sys"]:
        (root / name).mkdir(parents=True)
    for program, place in [
        ("/bin/busybox", "bin/busybox"),
        (folder / "target/debug/cgroup2", "cgroup2"),
        (HERE / "guest/init", "init"),
        (module, "brd.ko"),
    ]:
        shutil.copy(program, root / place)
    (root / "bin/sh").symlink_to("busybox")
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = folder / "initrd"
    with open(archive, "wb") as to:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=to, cwd=root, check=True)
    return archive


def boot(image, archive):
    """The guest's console. No network, no disk, and no acceleration, which may not be there."""
    guest = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot", "-nic", "none"]
    guest += ["-kernel", image, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1"]
    say("booting the guest")
    try:
        done = subprocess.run(guest, stdin=subprocess.DEVNULL, capture_output=True, timeout=GUEST_SECONDS)
    except subprocess.TimeoutExpired as late:
        stop(f"the guest did not end within {GUEST_SECONDS} s\n{(late.stdout or b'').decode(errors='replace')}")
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


def fields(console, kind):
    """The lines of one kind, by name, each as a table of its `key=value`."""
    lines = re.findall(rf"^{kind} (\w+) (.*?)\r?$", console, re.M)
    return {name: dict(pair.split("=", 1) for pair in rest.split()) for name, rest in lines}


class Judge:
    def __init__(self):
        self.n_wrong = 0

    def hold(self, what, read, wanted, apart=0):
        """`read` is as it was told; none is a reading of nothing."""
        number = None if read in (None, "none") else float(read)
        agrees = (number is None) == (wanted is None) and (wanted is None or abs(number - wanted) <= apart)
        self.n_wrong += not agrees
        mark = "  " if agrees else "XX"
        print(f"  {mark} {what:44} {read or 'missing':>14}   in truth {'none' if wanted is None else f'{wanted:.10g}'}")

    def demand(self, what, is_so):
        self.n_wrong += not is_so
        print(f"  {'  ' if is_so else 'XX'} {what}")


def judge(console):
    told, truth = fields(console, "reading"), fields(console, "truth")
    number = lambda name, key: float(truth[name][key])
    judge = Judge()
    judge.demand("the group is found by its process", "folder=/sys/fs/cgroup/kubepods.slice/model.scope" in console)
    judge.demand("and known as a container's", "model.scope one_thing=true" in console)
    for name, before, after, quota, memory in [("half", "first", "half", 0.5, 200), ("fifth", "changed", "fifth", 0.2, 180)]:
        reading = told[name]
        seconds = number(after, "uptime") - number(before, "uptime")
        cores = (number(after, "usage_usec") - number(before, "usage_usec")) / 1e6 / seconds
        judge.hold(f"cores over {seconds:.1f} s", reading["cores"], cores, CORES_APART)
        judge.demand(f"the quota of {quota} held the worker back to {cores:.3f}", abs(cores - quota) < 0.1)
        judge.hold("cores, the limit", reading["cores_limit"], quota)
        working_set = number(after, "current") - number(after, "inactive_file")
        judge.hold("memory, the working set", reading["memory"], working_set, BYTES_APART)
        judge.demand(f"which is over {HELD // MIB} MiB", float(reading["memory"]) >= HELD)
        judge.demand("the group has page cache beside it", number(after, "inactive_file") >= CACHED // 2)
        judge.hold("memory, the limit of the group above", reading["memory_limit"], memory * MIB)
        throttled = reading["throttled"].split("/")[1]
        judge.hold("periods held back", throttled, number(after, "throttled"), 5)
        judge.demand("of which some were in this interval", float(throttled) > number(before, "throttled"))
    judge.hold("cores at the first reading", told["first"]["cores"], None)
    judge.demand("a group that is gone cannot be read", told["gone"] == {"error": "NotFound"})
    bare = told["bare"]
    judge.hold("memory without its controller", bare["memory"], None)
    judge.hold("its limit, from the group above", bare["memory_limit"], 128 * MIB)
    judge.hold("cores, the limit, likewise", bare["cores_limit"], 1.5)
    judge.hold("periods held back, without the controller", bare["throttled"], None)
    judge.demand("no limit was unreadable", "unread=true" not in console)
    return judge.n_wrong


def main():
    if len(sys.argv) != 2:
        stop("run.py FOLDER")
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    packages()
    image, module = kernel(folder)
    console = boot(image, initrd(folder, module))
    (folder / "console.log").write_text(console)
    if not re.search(r"^end well\r?$", console, re.M):
        stop(f"the guest did not come to its end\n{console}")
    try:
        n_wrong = judge(console)
    except (KeyError, ValueError) as error:
        stop(f"the guest's lines are not whole: {error!r}\n{console}")
    if n_wrong:
        stop(f"{n_wrong} of these are wrong; the guest's console is in {folder / 'console.log'}\n{console}")
    say("the readings agree with the kernel")


main()
