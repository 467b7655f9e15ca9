#!/usr/bin/env python3
"""What the agent's proxy costs beside nginx and haproxy, in one run on one machine.

Owns its processes and a folder of its own; refuses to say anything absolute: the machine is in every number, so each is
also given as a ratio to nginx's of the same round. Load and model server share one core, the proxy has the other.

    run.py MODELMETER [--rounds N] [--seconds S] [--out FILE]
"""

import argparse, asyncio, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

CONNECTIONS = 8
# The rate that latency is taken at, as a share of what the slowest target reached.
LOAD = 0.5
STREAMS, TOKENS, TOKEN_SECONDS = 20, 100, 0.01
START_SECONDS = 20
# Memory is what is held, not what a start takes: the agent lets go of that 8 s after it.
SETTLE_SECONDS = 10


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def family(pid):
    """The process and its children: nginx works in a child."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_us(pid, thread=None):
    """CPU time of all threads, or of those of one name, in microseconds."""
    total = 0
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            if thread is None or (task / "comm").read_text().strip() == thread:
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1000


def rss_mb(pid):
    kb = 0
    for member in family(pid):
        kb += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{member}/status").read_text())[1])
    return kb / 1024


class Machine:
    """The processes of one run."""

    def __init__(self, folder, modelmeter):
        self.folder, self.running, self.ports = Path(folder), [], {}
        cores = sorted(os.sched_getaffinity(0))
        self.load_core, self.proxy_core = cores[0], cores[-1]
        self.server = self.start_server()
        self.targets = {
            "nginx": self.start_nginx(),
            "haproxy": self.start_haproxy(),
            "agent": self.start_agent(modelmeter),
        }

    def start(self, name, core, command):
        log = open(self.folder / f"{name}.log", "wb")
        prefix = ["taskset", "-c", str(core)]
        process = subprocess.Popen(prefix + command, stdout=log, stderr=log)
        self.running.append(process)
        wait_for(self.ports[name])
        return process.pid

    def nginx(self, name, body):
        self.ports[name] = port = free_port()
        conf = self.folder / f"{name}.conf"
        conf.write_text(
            f"worker_processes 1; daemon off; pid {self.folder}/{name}.pid; error_log {self.folder}/{name}.err;\n"
            "events { worker_connections 8192; }\nworker_rlimit_nofile 16384;\n"
            f"http {{ keepalive_requests 1000000000; client_body_temp_path {self.folder}/{name}.b;"
            f" proxy_temp_path {self.folder}/{name}.p;\n{body(port)} }}\n"
        )
        return ["nginx", "-c", str(conf)]

    def start_server(self):
        (self.folder / "large").write_bytes(b"x" * 100_000)
        small = "x" * 100
        body = lambda port: (
            f"access_log off; server {{ listen 127.0.0.1:{port} backlog=4096; root {self.folder};"
            f" location = /small {{ return 200 '{small}'; }} }}"
        )
        return self.start("server", self.load_core, self.nginx("server", body))

    def start_nginx(self):
        server = self.ports["server"]
        body = lambda port: (
            f"access_log {self.folder}/access.log;\nupstream model {{ server 127.0.0.1:{server}; keepalive 64;"
            " keepalive_requests 1000000000; }\n"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://model;"
            " proxy_http_version 1.1; proxy_set_header Connection ''; } }"
        )
        return self.start("nginx", self.proxy_core, self.nginx("nginx", body))

    def start_haproxy(self):
        self.ports["haproxy"] = port = free_port()
        conf = self.folder / "haproxy.cfg"
        conf.write_text(
            "global\n nbthread 1\n maxconn 8192\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n"
            " timeout server 60s\n http-reuse always\n"
            f"frontend f\n bind 127.0.0.1:{port} backlog 4096\n default_backend b\n"
            f"backend b\n server m 127.0.0.1:{self.ports['server']}\n"
        )
        return self.start("haproxy", self.proxy_core, ["haproxy", "-f", str(conf)])

    def start_agent(self, modelmeter, name="agent", kafka=None):
        # Without a Kafka nobody listens there: batches go to the spool, as they would with it down.
        kafka = kafka or free_port()
        self.ports[name], self.ports[f"{name}-admin"] = port, admin = free_port(), free_port()
        command = [modelmeter, "agent", "--deployment-id", name, "--kafka", f"127.0.0.1:{kafka}"]
        command += ["--admin-listen", f"127.0.0.1:{admin}", "--spool", str(self.folder / "spool")]
        command += ["--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{self.ports['server']}"]
        return self.start(name, self.proxy_core, command)

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def load(self, port, path, seconds, rate=None):
        """Requests done, and each one's microseconds where there was a rate."""
        command = ["taskset", "-c", str(self.load_core), "h2load", "--h1", "-c", str(CONNECTIONS), "-D", str(seconds)]
        log = self.folder / "latency.tsv"
        if rate:
            log.unlink(missing_ok=True)
            command += ["--rps", str(max(1, rate // CONNECTIONS)), f"--log-file={log}"]
        done = subprocess.run(command + [f"http://127.0.0.1:{port}/{path}"], capture_output=True, text=True)
        found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
        if not found or int(found[2]) or int(found[3]):
            sys.exit(f"h2load failed:\n{done.stdout}{done.stderr}")
        times = [int(line.split("\t")[2]) for line in log.open()] if rate else []
        return int(found[1]), times


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def tell(report, out):
    text = json.dumps(report, indent=2)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text + "\n")
    print(text)


def measure_cpu(machine, path, rounds, seconds):
    """Microseconds of CPU a request, target by target, in rounds; the agent's own thread apart."""
    took = {name: [] for name in [*machine.targets, "agent_proxy_thread"]}
    rates = {name: [] for name in machine.targets}
    for _ in range(rounds):
        for name, pid in machine.targets.items():
            before, before_thread = cpu_us(pid), cpu_us(pid, "proxy")
            n, _ = machine.load(machine.ports[name], path, seconds)
            took[name].append((cpu_us(pid) - before) / n)
            rates[name].append(n / seconds)
            if name == "agent":
                took["agent_proxy_thread"].append((cpu_us(pid, "proxy") - before_thread) / n)
    ratio = {name: [a / b for a, b in zip(all, took["nginx"])] for name, all in took.items()}
    return {
        name: {"cpu_us": spread(all), "ratio_to_nginx": spread(ratio[name])} for name, all in took.items()
    }, min(statistics.median(all) for all in rates.values())


def measure_latency(machine, path, rounds, seconds, rate):
    ports = {"straight": machine.ports["server"]} | {name: machine.ports[name] for name in machine.targets}
    seen = {name: {"p50_us": [], "p99_us": []} for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            _, times = machine.load(port, path, seconds, int(rate))
            seen[name]["p50_us"].append(percentile(times, 0.5))
            seen[name]["p99_us"].append(percentile(times, 0.99))
    report = {name: {key: spread(all) for key, all in values.items()} for name, values in seen.items()}
    for key in ("p50_us", "p99_us"):
        above = [a - b for a, b in zip(seen["agent"][key], seen["nginx"][key])]
        report["agent"][f"{key}_above_nginx"] = spread(above)
    return report


def measure_memory(machine):
    time.sleep(SETTLE_SECONDS)
    report = {name: {} for name in machine.targets}
    request = b"GET /small HTTP/1.1\r\nhost: m\r\n\r\n"
    for name, pid in machine.targets.items():
        open_ones = []
        for n in (10, 1000):
            while len(open_ones) < n:
                stream = socket.create_connection(("127.0.0.1", machine.ports[name]))
                stream.sendall(request)
                stream.recv(4096)
                open_ones.append(stream)
            report[name][f"rss_mb_{n}"] = round(rss_mb(pid), 1)
        for stream in open_ones:
            stream.close()
    return report


async def stream_server(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(TOKENS):
                writer.write(b"d\r\ndata: token\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(TOKEN_SECONDS)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def stream_client(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = await reader.read(65536)
        if not data:
            sys.exit("a token stream broke")
        tail = (tail + data)[-5:]
    writer.close()


async def measure_streams(machine, rounds):
    """Microseconds of CPU a token; nginx as it is by default, with what it buffers."""
    took = {name: [] for name in machine.targets}
    server = await asyncio.start_server(stream_server, "127.0.0.1", machine.ports["server"])
    async with server:
        for _ in range(rounds):
            for name, pid in machine.targets.items():
                before = cpu_us(pid)
                await asyncio.gather(*(stream_client(machine.ports[name]) for _ in range(STREAMS)))
                took[name].append((cpu_us(pid) - before) / (STREAMS * TOKENS))
    return {name: {"cpu_us_per_token": spread(all)} for name, all in took.items()}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("modelmeter")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--out", default="target/bench/agent.json")
    options = options.parse_args()
    missing = [tool for tool in ("nginx", "haproxy", "h2load", "taskset") if not shutil.which(tool)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (Debian: nginx-light haproxy nghttp2-client util-linux)")
    report = {}
    with tempfile.TemporaryDirectory(prefix="modelmeter-bench-") as folder:
        os.chmod(folder, 0o755)
        machine = Machine(folder, options.modelmeter)
        try:
            report["memory"] = measure_memory(machine)
            for path in ("small", "large"):
                cpu, slowest = measure_cpu(machine, path, options.rounds, options.seconds)
                latency = measure_latency(machine, path, options.rounds, options.seconds, slowest * LOAD)
                report[path] = {"cpu": cpu, "rate": round(slowest * LOAD), "latency": latency}
            # the token server takes the place of the other
            server = machine.running.pop(0)
            server.terminate()
            server.wait()
            os.sched_setaffinity(0, {machine.load_core})
            report["streams"] = asyncio.run(measure_streams(machine, 3))
        finally:
            machine.stop()
    tell(report, options.out)


if __name__ == "__main__":
    main()
