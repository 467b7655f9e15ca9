"""Sends answered requests and a sample of one replica to modelmeter: all that a model server needs.

    pip install confluent-kafka==2.16.1 fastavro==1.13.1
    python schemas/examples/producer.py --kafka 127.0.0.1:9092
"""
import argparse, io, json, os, pathlib, time, uuid

import confluent_kafka, fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

here = pathlib.Path(__file__).parent.parent
args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("--kafka", default="127.0.0.1:9092", help="host:port of a broker")
args.add_argument("--topic", "--requests-topic", default="modelmeter.requests", help="where request batches go")
args.add_argument("--replicas-topic", default="modelmeter.replicas", help="where the sample goes")
args.add_argument("--schema", default=here / "request_batch.avsc", help="schema of the batches")
args.add_argument("--sample-schema", default=here / "replica_sample.avsc", help="schema of the sample")
args.add_argument("--deployment", default="example", help="the deployment that was asked")
args.add_argument("--requests", type=int, default=20, help="how many requests to make up")
args = args.parse_args()

# Idempotent: librdkafka then neither doubles nor reorders what it sends again.
producer = confluent_kafka.Producer({"bootstrap.servers": args.kafka, "enable.idempotence": True, "linger.ms": 50})
lost = []  # acknowledged is acknowledged; what was not is yours to count and to report in `dropped`

def send(topic, schema_file, message):
    """Avro's single-object encoding: C3 01, the schema's fingerprint, the record."""
    schema = json.loads(pathlib.Path(schema_file).read_text())
    name = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))  # little-endian already
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), message)
    # Keyed by deployment, so that one worker sees all of it, in order.
    producer.produce(topic, b"\xc3\x01" + name + body.getvalue(), key=message["deployment_id"],
                     on_delivery=lambda error, _: error and lost.append(error))

now = time.time_ns() // 1000  # every time is in microseconds since 1970, UTC
# One boot_id for each start of your process; sequence counts its batches from 0, and its samples apart.
identity = {"deployment_id": args.deployment, "replica_id": "example-0", "boot_id": os.urandom(16), "producer": "example/1.0"}
# Collect what is answered for a second or so and send it at once. A field that you leave out has its default.
events = [{"finished_at": now - 1000 * i, "end_to_end_us": 20_000 + 500 * i, "inference_us": 18_000 + 500 * i,
           "status": 503 if i % 10 == 9 else 200, "in_flight": 1 + i % 4} for i in range(args.requests)]
send(args.topic, args.schema, {**identity, "sequence": 0, "events": events})
# Every 5 seconds: what the replica was and used since the last sample. What you cannot read stays null.
send(args.replicas_topic, args.sample_schema, {**identity, "sequence": 0, "sampled_at": now, "state": "active",
     "interval_us": 5_000_000, "model_name": "Example", "cpu_cores_used": 1.5, "memory_bytes": 2 << 30, "in_flight": 2})
unsent = producer.flush(30) + len(lost)
print(json.dumps({"deployment": args.deployment, "requests": len(events), "status_2xx": sum(e["status"] < 300 for e in events),
                  "status_5xx": sum(e["status"] >= 500 for e in events), "samples": 1, "unsent": unsent}))
raise SystemExit(1 if unsent else 0)
