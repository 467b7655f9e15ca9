#!/usr/bin/env python3
"""Whether requests through the agent feel what becomes of Kafka: four agents before one model server in one run, whose
Kafka is up, behind a slow line, down, and just coming back with a backlog to take.

Owns its broker, its engine (for the topics alone) and a folder of its own. Each number is also given as a ratio to that of
the agent whose Kafka is up, of the same round. It fails where an event was lost or a request failed.

    kafka.py MODELMETER [--parts DIR] [--rounds N] [--seconds S] [--rate R] [--out FILE]
"""

import argparse, os, re, socket, subprocess, sys, tempfile, threading, time, urllib.request
from pathlib import Path

from run import Machine, cpu_us, free_port, percentile, rss_mb, spread, tell, wait_for

STATES = ["up", "slow", "down", "back"]
# What the slow line carries: less than the batches of the closed loop need.
SLOW_BYTES_A_SECOND = 64_000
# Long enough for a broker on a machine under load, and for a backlog to be taken.
PATIENCE = 120


class Relay:
    """A line to the broker that can be slow or cut. Brokers tell clients where they are, and so does the relay instead."""

    def __init__(self, broker, bytes_a_second=None):
        self.broker, self.bytes_a_second, self.is_open = broker, bytes_a_second, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lines = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.broker))
            self.lines += [client, server]
            threading.Thread(target=self.up, args=(client, server), daemon=True).start()
            threading.Thread(target=self.down, args=(server, client), daemon=True).start()

    def up(self, source, target):
        for data in self.pieces(source, target):
            target.sendall(data)
            if self.bytes_a_second:
                time.sleep(len(data) / self.bytes_a_second)

    def down(self, source, target):
        old, new = (b"127.0.0.1" + port.to_bytes(4, "big") for port in (self.broker, self.port))
        for data in self.pieces(source, target):
            target.sendall(data.replace(old, new))

    def pieces(self, source, target):
        try:
            while data := source.recv(4096):
                yield data
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def cut(self):
        self.is_open = False
        for end in self.lines:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.lines = []

    def mend(self):
        self.is_open = True


class KafkaMachine(Machine):
    def __init__(self, folder, modelmeter, parts):
        self.folder, self.running, self.ports = Path(folder), [], {}
        cores = sorted(os.sched_getaffinity(0))
        self.load_core, self.proxy_core = cores[0], cores[-1]
        self.server = self.start_server()
        broker = self.start_part(modelmeter, "kafka", parts)
        self.start_part(modelmeter, "clickhouse", parts)
        self.make_topics(modelmeter)
        self.relays = {"slow": Relay(broker, SLOW_BYTES_A_SECOND), "back": Relay(broker)}
        kafka = {"up": broker, "down": None} | {name: relay.port for name, relay in self.relays.items()}
        self.targets = {name: self.start_agent(modelmeter, name, kafka[name]) for name in STATES}

    def start_part(self, modelmeter, name, parts):
        self.ports[name] = port = free_port()
        command = ["taskset", "-c", str(self.load_core), modelmeter, name, "--dir", str(self.folder / name)]
        log = open(self.folder / f"{name}.log", "wb")
        self.running.append(subprocess.Popen(command + ["--port", str(port), "--parts", parts], stdout=log, stderr=log))
        wait_for(port, PATIENCE)
        return port

    def make_topics(self, modelmeter):
        command = [modelmeter, "migrate", "up", "--kafka", f"127.0.0.1:{self.ports['kafka']}"]
        command += ["--clickhouse", f"http://127.0.0.1:{self.ports['clickhouse']}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)

    def counts(self, name):
        url = f"http://127.0.0.1:{self.ports[name + '-admin']}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        of = lambda metric: int(re.search(rf"modelmeter_agent_{metric} (\d+)", text)[1])
        lost = re.findall(r'modelmeter_agent_events_lost_total{reason="(\w+)"} (\d+)', text)
        counted = {key: of(key) for key in ("events_recorded_total", "events_delivered_total", "spooled_events")}
        return counted | {"lost": {reason: int(n) for reason, n in lost if int(n)}}


def measure(machine, rounds, seconds, rate):
    seen = {name: {"cpu_us": [], "proxy_thread_us": [], "p50_us": [], "p99_us": []} for name in STATES}
    for n_round in range(rounds):
        # who comes first in a round, comes last in another
        for name in STATES[n_round % len(STATES) :] + STATES[: n_round % len(STATES)]:
            pid, port, relay = machine.targets[name], machine.ports[name], machine.relays.get(name)
            if name == "back":
                relay.cut()
                machine.load(port, "small", seconds)
                relay.mend()
            before, thread_before = cpu_us(pid), cpu_us(pid, "proxy")
            n, _ = machine.load(port, "small", seconds)
            seen[name]["cpu_us"].append((cpu_us(pid) - before) / n)
            seen[name]["proxy_thread_us"].append((cpu_us(pid, "proxy") - thread_before) / n)
            _, times = machine.load(port, "small", seconds, rate)
            seen[name]["p50_us"].append(percentile(times, 0.5))
            seen[name]["p99_us"].append(percentile(times, 0.99))
    report = {name: {key: spread(all) for key, all in values.items()} for name, values in seen.items()}
    for name in STATES[1:]:
        for key in seen[name]:
            ratio = [a / b for a, b in zip(seen[name][key], seen["up"][key])]
            report[name][f"{key}_ratio_to_up"] = spread(ratio)
    return report


def is_settled(name, counted):
    """Nothing is lost, none waits in memory, and where Kafka is there none waits on the disk."""
    there = counted["events_delivered_total"] + counted["spooled_events"]
    waits = counted["spooled_events"] and name in ("up", "back")
    return there == counted["events_recorded_total"] and not waits and not counted["lost"]


def settle(machine):
    """What the agents counted, once those whose Kafka is there had time to tell it all."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        counts = {name: machine.counts(name) for name in STATES}
        if all(is_settled(name, counted) for name, counted in counts.items()):
            break
        time.sleep(0.5)
    for name, counted in counts.items():
        counted["rss_mb"] = round(rss_mb(machine.targets[name]), 1)
    return counts


def main():
    options = argparse.ArgumentParser()
    options.add_argument("modelmeter")
    options.add_argument("--parts", default="deploy/local/parts")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--rate", type=int, default=10_000)
    options.add_argument("--out", default="target/bench/agent-kafka.json")
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelmeter-bench-") as folder:
        os.chmod(folder, 0o755)
        machine = KafkaMachine(folder, os.path.abspath(options.modelmeter), os.path.abspath(options.parts))
        try:
            report = measure(machine, options.rounds, options.seconds, options.rate)
            counts = settle(machine)
        finally:
            machine.stop()
    for name in STATES:
        report[name] |= counts[name]
    tell(report, options.out)
    wrong = [name for name, counted in counts.items() if not is_settled(name, counted)]
    if wrong:
        sys.exit(f"events were lost or not delivered: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
