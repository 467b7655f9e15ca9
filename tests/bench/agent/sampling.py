#!/usr/bin/env python3
"""What it costs to watch a replica: the CPU time of one agent that samples every 5 s, with eight stand-in GPUs, a server that
is asked once a second whether it is ready, and a real broker that takes the samples. No request passes.

Owns its processes and a folder of its own. The aim is under 0.1 % of a core. CPU time is the kernel's, of each thread, so that
a busy machine makes the run no dearer than its caches do.

    sampling.py MODELMETER [--seconds S] [--parts DIR] [--out FILE]
"""

import argparse, json, os, re, signal, subprocess, sys, tempfile, time, urllib.request
from collections import Counter
from pathlib import Path

AIM_CORES = 0.001
GPUS = 8
SAMPLE_SECONDS = 5
# Before the measuring begins: connections, the GPUs' first looks, the first samples.
SETTLE_SAMPLES = 4
START_SECONDS = 180
ROOT = Path(__file__).resolve().parents[3]


def until(what, condition):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"{what}: not within {START_SECONDS} s")


def cpu_seconds(pid):
    """By the threads' names."""
    by_name = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        by_name[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return by_name


def n_delivered(admin):
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=10).read().decode()
    return int(re.search(r"^modelmeter_agent_batches_delivered_total (\d+)", text, re.M)[1])


def stand_in(folder):
    """The tests' GPU library, with eight GPUs at work."""
    library = folder / "libnvidia-ml.so.1"
    source = ROOT / "tests/nvml/nvml.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    lines = [f"count {GPUS}"]
    for gpu in range(GPUS):
        lines += [f"{gpu}.util {10 * gpu}", f"{gpu}.odd 50", f"{gpu}.used 3000", f"{gpu}.total 8000", f"{gpu}.sm 25"]
    (folder / "state").write_text("\n".join(lines) + "\n")
    return library


def measure(arguments, folder, running):
    log = lambda name: open(folder / f"{name}.log", "wb")
    ready = folder / "ready.json"
    up = [arguments.modelmeter, "up", "--dir", folder / "up", "--ready-file", ready, "--parts", arguments.parts]
    up += ["--kafka-port", "0", "--clickhouse-port", "0", "--dashboard-port", "0"]
    running.append(subprocess.Popen(up, stdout=log("up"), stderr=subprocess.STDOUT))
    until("the broker is up", ready.exists)
    kafka = json.loads(ready.read_text())["kafka"]

    agent = [arguments.modelmeter, "agent", "--deployment-id", "bench", "--kafka", kafka, "--spool", folder / "spool"]
    agent += ["--gpus", "all", "--nvml-library", stand_in(folder), "--sample-interval", f"{SAMPLE_SECONDS}s"]
    agent += ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1", "--admin-listen", "127.0.0.1:0"]
    server = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.BaseHTTPRequestHandler); " \
             "open('port', 'w').write(str(s.server_port)); s.serve_forever()"
    running.append(subprocess.Popen([sys.executable, "-c", server], cwd=folder, stderr=subprocess.DEVNULL))
    port = until("the server listens", lambda: (folder / "port").exists() and (folder / "port").read_text())
    # it answers 501, which is not ready, and costs the same
    agent += ["--ready-check", f"http://127.0.0.1:{port}/", "--", "sleep", "100000"]
    running.append(subprocess.Popen(agent, stdout=log("agent"), stderr=subprocess.STDOUT, cwd=folder))
    pid = running[-1].pid
    says = lambda: re.search(r"admin on http://(\S+)", (folder / "agent.log").read_text())
    admin = until("the agent is up", says)[1]
    until("the first samples are delivered", lambda: n_delivered(admin) >= SETTLE_SAMPLES)

    began, n_before, before = time.monotonic(), n_delivered(admin), cpu_seconds(pid)
    time.sleep(arguments.seconds)
    after, n_after, seconds = cpu_seconds(pid), n_delivered(admin), time.monotonic() - began
    used = {name: after[name] - before[name] for name in after}
    cores = sum(used.values()) / seconds
    return {
        "seconds": round(seconds, 1),
        "samples": n_after - n_before,
        "gpus": GPUS,
        "cpu_ms": round(sum(used.values()) * 1e3, 2),
        "cpu_ms_by_thread": {name: round(value * 1e3, 2) for name, value in sorted(used.items(), key=lambda it: -it[1])},
        "cores_percent": round(cores * 100, 4),
        "cpu_seconds_an_hour": round(cores * 3600, 3),
        "aim_cores_percent": AIM_CORES * 100,
        "is_reached": cores < AIM_CORES,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modelmeter", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--parts", default=str(ROOT / "deploy/local/parts"))
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench/sampling.json")
    arguments = parser.parse_args()
    running = []
    with tempfile.TemporaryDirectory(prefix="modelmeter-sampling-") as folder:
        try:
            report = measure(arguments, Path(folder), running)
        finally:
            for process in reversed(running):
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(120)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
