//! Schemas change while old and new producers run: a later and an earlier writer schema, known to the
//! processor by a folder only, are read to the same numbers.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::support::compare::{self, VIEWS};
use crate::support::generator::{HOUR, Replica, SECOND, Schemas, event};
use crate::support::message::{Batch, Body, Event, Facts, Gpu, Message, Sample, Topic};
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::recount::{Question, Truth};
use crate::support::space::Space;
use crate::support::tables;
use crate::support::wire::{self, Writer};

fn built_in(file: &str) -> Json {
    let text = wire::read_schema(&crate::support::root().join("schemas").join(file));
    serde_json::from_str(&text).expect("a schema is JSON")
}

fn fields<'a>(schema: &'a mut Json, path: &[&str]) -> &'a mut Vec<Json> {
    let of = path.iter().fold(schema, |schema, name| {
        let fields = schema["fields"].as_array_mut().expect("fields");
        let field = fields
            .iter_mut()
            .find(|f| f["name"] == **name)
            .unwrap_or_else(|| panic!("no field {name}"));
        &mut field["type"]["items"]
    });
    of["fields"].as_array_mut().expect("fields")
}

fn without(mut schema: Json, path: &[&str], names: &[&str]) -> Json {
    let of = fields(&mut schema, path);
    let before = of.len();
    of.retain(|field| !names.contains(&field["name"].as_str().expect("a name")));
    assert_eq!(
        of.len() + names.len(),
        before,
        "every field of {names:?} was there"
    );
    schema
}

/// One more field on each level, in the middle as well as at the end.
fn later(mut schema: Json, inner: &str) -> Json {
    fields(&mut schema, &[]).insert(
        2,
        json!({"name": "region", "type": "string", "default": "eu-west"}),
    );
    fields(&mut schema, &[inner])
        .push(json!({"name": "tokens", "type": ["null", "long"], "default": null}));
    fields(&mut schema, &[inner]).insert(0, json!({"name": "tries", "type": "int", "default": 3}));
    schema
}

struct Speaker<'a> {
    random: &'a mut Random,
    replica: Replica,
    at: i64,
}

impl Speaker<'_> {
    fn batch(&mut self) -> Batch {
        let events = (0..20)
            .map(|n| event(self.random, self.at + n * SECOND))
            .collect();
        self.replica.batch(events)
    }

    fn sample(&mut self) -> Sample {
        self.at += 5 * SECOND;
        self.replica
            .sample(self.random, self.at, 5 * SECOND, "active")
    }
}

fn message(writer: &Writer, written: wire::Raw, meant: Body) -> Message {
    let (topic, key) = match &meant {
        Body::Batch(batch) => (Topic::Requests, &batch.head.deployment_id),
        Body::Sample(sample) => (Topic::Replicas, &sample.head.deployment_id),
        Body::Garbage(_) => unreachable!("nothing here is garbage"),
    };
    Message {
        topic,
        key: key.clone(),
        payload: writer.write(&written),
        body: meant,
    }
}

/// What is read of an event whose writer did not know these fields.
fn early(event: &Event) -> Event {
    Event {
        outcome: "completed",
        cold_start_us: None,
        in_flight: 0,
        queue_us: None,
        ..event.clone()
    }
}

/// Later and earlier batches, later and earlier samples; their schemas are put into the folder.
fn writers(folder: &Path) -> [Writer; 4] {
    let write = |name: &str, schema: &Json| {
        std::fs::write(folder.join(name), schema.to_string()).expect("a schema is written");
        Writer::new(&schema.to_string())
    };
    let (batch, sample) = (
        built_in("request_batch.avsc"),
        built_in("replica_sample.avsc"),
    );
    let event_fields = ["outcome", "cold_start_us", "in_flight", "queue_us"];
    [
        write("batch_later.avsc", &later(batch.clone(), "events")),
        write(
            "batch_earlier.avsc",
            &without(
                without(batch, &["events"], &event_fields),
                &[],
                &["producer"],
            ),
        ),
        write("sample_later.avsc", &later(sample.clone(), "gpus")),
        write(
            "sample_earlier.avsc",
            &without(
                without(sample, &["gpus"], &["sm_activity"]),
                &[],
                &["dropped", "load_us"],
            ),
        ),
    ]
}

#[test]
fn later_and_earlier_writers_are_read_to_the_same_numbers() {
    let mut random = Random::new(random::seed("evolution"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let writers = writers(folder.path());
    let now = modelmeter::clock::now_us();
    let facts = Facts {
        deployment_name: "evolving".to_owned(),
        model_id: "m".to_owned(),
        model_name: "m".to_owned(),
        environment: "e".to_owned(),
        kind: "production",
        instance_type: "i".to_owned(),
    };
    let replica = Replica::new(&mut random, "evolving", "r", &facts);
    let mut speaker = Speaker {
        random: &mut random,
        replica,
        at: now - HOUR,
    };

    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let current = Schemas::built_in();
    for _ in 0..30 {
        let batch = speaker.batch();
        publisher.send(message(
            &writers[0],
            wire::batch(&batch),
            Body::Batch(batch),
        ));
        let batch = speaker.batch();
        let read = Batch {
            head: batch.head.clone(),
            events: batch.events.iter().map(early).collect(),
        };
        publisher.send(message(&writers[1], wire::batch(&batch), Body::Batch(read)));
        publisher.send(current.batch(speaker.batch()));
        let sample = speaker.sample();
        publisher.send(message(
            &writers[2],
            wire::sample(&sample),
            Body::of(sample),
        ));
        let sample = speaker.sample();
        let gpus = sample
            .gpus
            .iter()
            .map(|gpu| Gpu {
                sm_activity: None,
                ..gpu.clone()
            })
            .collect();
        let read = Sample {
            dropped: Vec::new(),
            load_us: None,
            gpus,
            ..sample.clone()
        };
        publisher.send(message(&writers[3], wire::sample(&sample), Body::of(read)));
        publisher.send(current.sample(speaker.sample()));
    }
    publisher.flush();
    let schemas = folder.path().display().to_string();
    let mut processor = space.processor(&["--schemas", &schemas]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    tables::compare_all(&space, &publisher).unwrap_or_else(|e| panic!("{e}"));
    let log = publisher.log();
    let truth = Truth::of(log.iter().map(AsRef::as_ref));
    for view in VIEWS {
        let question = Question {
            deployment: "evolving",
            start: now / SECOND - 7200,
            stop: now / SECOND,
            step: 60,
        };
        let rows = compare::view(&space, &truth, view, &question).unwrap_or_else(|e| panic!("{e}"));
        assert!(rows > 0, "{view} shows something");
    }
}
