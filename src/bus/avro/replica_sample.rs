//! `modelmeter.ReplicaSample`: which field goes where, and the sample as typed values.

use super::compile::{Field, Holds};
use super::cursor::Cursor;
use super::encode::{put_double, put_int, put_long, put_nullable, put_text};
use super::error::DecodeError;
use super::limits::{MAX_DROPPED_REASONS, MAX_GPUS, MAX_INTERVAL_US};
use super::plan::{Level, Message, NONE, NoRows, Place, Plan, Rows, Slots, read_blocks};
use super::registry::built_in;
use super::request_batch::{
    BOOT_ID, DEPLOYMENT_ID, PRODUCER, REPLICA_ID, SEQUENCE, head, put_head, read_message,
};
use crate::core::event::{GpuReading, Kind, ReplicaSample, ReplicaState};

pub(super) const SCHEMA: &str = include_str!("../../../schemas/replica_sample.avsc");

const GPUS: u8 = 5;
const DROPPED: u8 = 6;

pub(super) const FIELDS: &[Field] = &[
    Field::new("deployment_id", DEPLOYMENT_ID, Holds::Text),
    Field::new("replica_id", REPLICA_ID, Holds::Text),
    Field::new("boot_id", BOOT_ID, Holds::Boot),
    Field::new("sequence", SEQUENCE, Holds::Unsigned),
    Field::new("producer", PRODUCER, Holds::Text),
    Field::new("gpus", GPUS, Holds::Rows(GPU_FIELDS)),
    Field::new("dropped", DROPPED, Holds::Rows(DROPPED_FIELDS)),
    Field::new("sampled_at", 7, Holds::Time),
    Field::new("state", 8, Holds::Symbol),
    Field::new("interval_us", 9, Holds::Unsigned),
    Field::new("model_id", 10, Holds::Text),
    Field::new("model_name", 11, Holds::Text),
    Field::new("deployment_name", 12, Holds::Text),
    Field::new("environment", 13, Holds::Text),
    Field::new("kind", 14, Holds::Symbol),
    Field::new("instance_type", 15, Holds::Text),
    Field::new("cpu_cores_used", 16, Holds::Quantity),
    Field::new("cpu_cores_limit", 17, Holds::Quantity),
    Field::new("memory_bytes", 18, Holds::Unsigned),
    Field::new("memory_limit_bytes", 19, Holds::Unsigned),
    Field::new("in_flight", 20, Holds::Unsigned),
    Field::new("in_flight_mean", 21, Holds::Quantity),
    Field::new("oldest_in_flight_us", 22, Holds::Unsigned),
    Field::new("restarts", 23, Holds::Unsigned),
    Field::new("load_us", 24, Holds::Unsigned),
];

const GPU_FIELDS: &[Field] = &[
    Field::new("uuid", 0, Holds::Text),
    Field::new("name", 1, Holds::Text),
    Field::new("utilization", 2, Holds::Ratio),
    Field::new("sm_activity", 3, Holds::Ratio),
    Field::new("memory_used_bytes", 4, Holds::Unsigned),
    Field::new("memory_total_bytes", 5, Holds::Unsigned),
];

const DROPPED_FIELDS: &[Field] = &[
    Field::new("reason", 0, Holds::Text),
    Field::new("count", 1, Holds::Unsigned),
];

/// Decodes a sample. `gpus` is emptied first and then holds the sample's GPUs; on an error it is
/// empty.
///
/// `dropped` is the sum over the reasons.
///
/// # Errors
/// Whatever is wrong with the message; see [`DecodeError::reason`].
pub fn decode_sample<'a>(
    plan: &Plan,
    body: &'a [u8],
    gpus: &mut Vec<GpuReading>,
) -> Result<ReplicaSample<'a>, DecodeError> {
    gpus.clear();
    let mut rows = SampleRows {
        body,
        gpus,
        dropped: 0,
    };
    let decoded = read_message(plan, Message::ReplicaSample, body, &mut rows)
        .and_then(|slots| sample(&slots, body, rows.dropped));
    if decoded.is_err() {
        gpus.clear();
    }
    decoded
}

fn sample<'a>(
    slots: &Slots,
    body: &'a [u8],
    dropped: u64,
) -> Result<ReplicaSample<'a>, DecodeError> {
    let text = |slot: usize, field| Place::text(slots[slot], body, field);
    let interval_us = slots[9];
    if interval_us > MAX_INTERVAL_US {
        return Err(DecodeError::BadValue {
            field: "interval_us",
        });
    }
    Ok(ReplicaSample {
        head: head(slots, body)?,
        sampled_at_us: slots[7] as i64,
        interval_us,
        state: ReplicaState::ALL[(slots[8] as usize).min(ReplicaState::ALL.len() - 1)],
        model_id: text(10, "model_id")?,
        model_name: text(11, "model_name")?,
        deployment_name: text(12, "deployment_name")?,
        environment: text(13, "environment")?,
        kind: Kind::ALL[(slots[14] as usize).min(Kind::ALL.len() - 1)],
        instance_type: text(15, "instance_type")?,
        cpu_cores_used: double(slots[16]),
        cpu_cores_limit: double(slots[17]),
        memory_bytes: integer(slots[18]),
        memory_limit_bytes: integer(slots[19]),
        in_flight: integer(slots[20]).map(|count| count as u32),
        in_flight_mean: double(slots[21]),
        oldest_in_flight_us: integer(slots[22]),
        restarts: slots[23],
        load_us: integer(slots[24]),
        dropped,
    })
}

fn integer(slot: u64) -> Option<u64> {
    (slot != NONE).then_some(slot)
}

fn double(slot: u64) -> Option<f64> {
    (slot != NONE).then(|| f64::from_bits(slot))
}

struct SampleRows<'r, 'b> {
    body: &'b [u8],
    gpus: &'r mut Vec<GpuReading>,
    dropped: u64,
}

impl Rows for SampleRows<'_, '_> {
    fn read(
        &mut self,
        plan: &Plan,
        level: &Level,
        slot: u8,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), DecodeError> {
        let mut slots = level.defaults;
        if slot == GPUS {
            let limit = (MAX_GPUS, DecodeError::TooManyGpus);
            read_blocks(cursor, "gpus", limit, |cursor| {
                plan.read_record(level, cursor, &mut slots, &mut NoRows)?;
                // Not kept, but a message with text that is none is refused whole.
                Place::text(slots[0], self.body, "uuid")?;
                Place::text(slots[1], self.body, "name")?;
                self.gpus.push(GpuReading {
                    utilization: double(slots[2]),
                    sm_activity: double(slots[3]),
                    memory_used_bytes: integer(slots[4]),
                    memory_total_bytes: integer(slots[5]),
                });
                Ok(())
            })
        } else {
            let limit = (MAX_DROPPED_REASONS, DecodeError::TooManyReasons);
            read_blocks(cursor, "dropped", limit, |cursor| {
                plan.read_record(level, cursor, &mut slots, &mut NoRows)?;
                Place::text(slots[0], self.body, "reason")?;
                self.dropped += slots[1];
                Ok(())
            })
        }
    }
}

/// A GPU to be sent, with what tells a person which it is.
#[derive(Debug, Clone, Copy)]
pub struct NamedGpu<'a> {
    pub uuid: &'a str,
    pub name: &'a str,
    pub reading: GpuReading,
}

/// Events that a producer lost in this boot, for one reason.
#[derive(Debug, Clone, Copy)]
pub struct DroppedEvents<'a> {
    pub reason: &'a str,
    pub count: u64,
}

/// Appends a framed sample, written with the current schema. What was dropped is written from
/// `dropped`, not from the sample's sum.
///
/// Numbers that the wire cannot hold become the largest that it can. It is the caller's to keep
/// the ids valid, readings in their ranges and the lists within their limits.
pub fn encode_sample(
    sample: &ReplicaSample<'_>,
    gpus: &[NamedGpu<'_>],
    dropped: &[DroppedEvents<'_>],
    out: &mut Vec<u8>,
) {
    built_in(Message::ReplicaSample).put_frame(out);
    put_head(&sample.head, out);
    put_long(sample.sampled_at_us, out);
    put_long(sample.state as i64, out);
    put_int(sample.interval_us, out);
    put_text(sample.model_id, out);
    put_text(sample.model_name, out);
    put_text(sample.deployment_name, out);
    put_text(sample.environment, out);
    put_long(sample.kind as i64, out);
    put_text(sample.instance_type, out);
    put_nullable(sample.cpu_cores_used, out, put_double);
    put_nullable(sample.cpu_cores_limit, out, put_double);
    put_nullable(sample.memory_bytes, out, put_int);
    put_nullable(sample.memory_limit_bytes, out, put_int);
    put_gpus(gpus, out);
    put_nullable(sample.in_flight, out, |count, out| {
        put_count(u64::from(count), out);
    });
    put_nullable(sample.in_flight_mean, out, put_double);
    put_nullable(sample.oldest_in_flight_us, out, put_int);
    put_count(sample.restarts, out);
    put_nullable(sample.load_us, out, put_int);
    put_dropped(dropped, out);
}

fn put_gpus(gpus: &[NamedGpu<'_>], out: &mut Vec<u8>) {
    if !gpus.is_empty() {
        put_long(gpus.len() as i64, out);
        for gpu in gpus {
            put_text(gpu.uuid, out);
            put_text(gpu.name, out);
            put_nullable(gpu.reading.utilization, out, put_double);
            put_nullable(gpu.reading.sm_activity, out, put_double);
            put_nullable(gpu.reading.memory_used_bytes, out, put_int);
            put_nullable(gpu.reading.memory_total_bytes, out, put_int);
        }
    }
    put_long(0, out);
}

fn put_dropped(dropped: &[DroppedEvents<'_>], out: &mut Vec<u8>) {
    if !dropped.is_empty() {
        put_long(dropped.len() as i64, out);
        for events in dropped {
            put_text(events.reason, out);
            put_count(events.count, out);
        }
    }
    put_long(0, out);
}

fn put_count(count: u64, out: &mut Vec<u8>) {
    put_int(count.min(i32::MAX as u64), out);
}
