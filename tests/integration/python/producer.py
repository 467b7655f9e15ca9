"""The wire as another implementation sees it: fastavro computes the same fingerprints, writes and
reads the documented examples, and reads back from a real broker what the example producer sent.

    python tests/integration/python/producer.py --kafka HOST:PORT
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import uuid

import confluent_kafka
import fastavro
from confluent_kafka.admin import AdminClient, NewTopic
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMAS = pathlib.Path(__file__).resolve().parents[3] / "schemas"

# The same two numbers stand in src/bus/avro/tests/fingerprints.rs.
FINGERPRINTS = {
    "request_batch": 0xCC77461024E7D6A5,
    "replica_sample": 0xA7D7EE01E8212392,
}


def schema(name):
    return json.loads((SCHEMAS / f"{name}.avsc").read_text())


def frame(name):
    return b"\xc3\x01" + FINGERPRINTS[name].to_bytes(8, "little")


def check_fingerprints():
    for name, expected in FINGERPRINTS.items():
        hexadecimal = fingerprint(to_parsing_canonical_form(schema(name)), "CRC-64-AVRO")
        found = int.from_bytes(bytes.fromhex(hexadecimal), "little")
        assert found == expected, f"{name}: {found:016x} is not {expected:016x}"


def check_examples():
    """Both examples of each message are written; the full one comes back as it was."""
    for name in FINGERPRINTS:
        parsed = fastavro.parse_schema(schema(name))
        for size in ("full", "minimal"):
            example = json.loads((SCHEMAS / "examples" / f"{name}.{size}.json").read_text())
            example["boot_id"] = example["boot_id"].encode("latin-1")
            body = io.BytesIO()
            fastavro.schemaless_writer(body, parsed, example)
            body.seek(0)
            # Logical types aside, so that a time stays the number that the example shows.
            read = fastavro.schemaless_reader(body, plain_times(schema(name)))
            if size == "full":
                assert read == example, f"{name}: {read} is not {example}"
            for field in example:
                assert field in read


def plain_times(node):
    """The schema without logical types."""
    if isinstance(node, dict):
        return {key: plain_times(value) for key, value in node.items() if key != "logicalType"}
    return [plain_times(item) for item in node] if isinstance(node, list) else node


def check_producer(kafka):
    """The example producer, run as it stands, and what it says it sent read from the broker."""
    run = uuid.uuid4().hex[:12]
    topics = {"request_batch": f"producer.requests.{run}", "replica_sample": f"producer.replicas.{run}"}
    admin = AdminClient({"bootstrap.servers": kafka})
    created = admin.create_topics([NewTopic(t, 3, 1) for t in topics.values()])
    for future in created.values():
        future.result(30)
    command = [sys.executable, SCHEMAS / "examples" / "producer.py", "--kafka", kafka, "--deployment", f"d-{run}"]
    command += ["--topic", topics["request_batch"], "--replicas-topic", topics["replica_sample"], "--requests", "30"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert said == {"deployment": f"d-{run}", "requests": 30, "status_2xx": 27, "status_5xx": 3, "samples": 1, "unsent": 0}
    batch, sample = (read_one(kafka, name, topic) for name, topic in topics.items())
    assert batch["deployment_id"] == sample["deployment_id"] == said["deployment"]
    assert batch["sequence"] == sample["sequence"] == 0
    assert len(batch["boot_id"]) == 16 and batch["boot_id"] == sample["boot_id"]
    assert [event["status"] for event in batch["events"]].count(200) == 27
    assert all(event["outcome"] == "completed" and event["queue_us"] is None for event in batch["events"])
    assert (sample["state"], sample["interval_us"], sample["gpus"]) == ("active", 5_000_000, [])


def read_one(kafka, name, topic):
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka, "group.id": topic})
    # Assigned, not subscribed: no group has to form.
    start = confluent_kafka.OFFSET_BEGINNING
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, start) for partition in range(3)])
    message = consumer.poll(60)
    consumer.close()
    assert message is not None and message.error() is None, f"nothing on {topic}: {message and message.error()}"
    assert message.value()[:10] == frame(name), message.value()[:10].hex()
    record = fastavro.schemaless_reader(io.BytesIO(message.value()[10:]), fastavro.parse_schema(schema(name)))
    assert message.key().decode() == record["deployment_id"]
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka", required=True)
    kafka = parser.parse_args().kafka
    check_fingerprints()
    check_examples()
    check_producer(kafka)
    print("fingerprints, examples and producer: as documented")
