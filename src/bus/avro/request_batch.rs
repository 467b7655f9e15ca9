//! `modelmeter.RequestBatch`: which field goes where, and the batch as typed values.

use super::compile::{Field, Holds};
use super::cursor::Cursor;
use super::encode::{put_int, put_long, put_nullable, put_text};
use super::error::DecodeError;
use super::limits::{MAX_EVENTS_PER_BATCH, MAX_ID_BYTES, MAX_MESSAGE_BYTES};
use super::plan::{Level, Message, NoRows, Place, Plan, Rows, Slots, read_blocks};
use super::registry::{FRAME_BYTES, built_in};
use crate::core::event::{BatchHead, OptionalMicros, Outcome, RequestEvent, Status};

pub(super) const SCHEMA: &str = include_str!("../../../schemas/request_batch.avsc");

pub(super) const DEPLOYMENT_ID: u8 = 0;
pub(super) const REPLICA_ID: u8 = 1;
pub(super) const BOOT_ID: u8 = 2;
pub(super) const SEQUENCE: u8 = 3;
pub(super) const PRODUCER: u8 = 4;
const EVENTS: u8 = 5;

pub(super) const FIELDS: &[Field] = &[
    Field::new("deployment_id", DEPLOYMENT_ID, Holds::Text),
    Field::new("replica_id", REPLICA_ID, Holds::Text),
    Field::new("boot_id", BOOT_ID, Holds::Boot),
    Field::new("sequence", SEQUENCE, Holds::Unsigned),
    Field::new("producer", PRODUCER, Holds::Text),
    Field::new("events", EVENTS, Holds::Events(EVENT_FIELDS)),
];

const EVENT_FIELDS: &[Field] = &[
    Field::new("finished_at", 0, Holds::Time),
    Field::new("end_to_end_us", 1, Holds::Unsigned),
    Field::new("inference_us", 2, Holds::Unsigned),
    Field::new("first_byte_us", 3, Holds::Unsigned),
    Field::new("queue_us", 4, Holds::Unsigned),
    Field::new("status", 5, Holds::Status),
    Field::new("outcome", 6, Holds::Symbol),
    Field::new("cold_start", 7, Holds::Flag),
    Field::new("cold_start_us", 8, Holds::Unsigned),
    Field::new("request_bytes", 9, Holds::Unsigned),
    Field::new("response_bytes", 10, Holds::Unsigned),
    Field::new("in_flight", 11, Holds::Unsigned),
];

/// Decodes a batch, appending its events. On an error `events` is as it was before.
///
/// # Errors
/// Whatever is wrong with the message; see [`DecodeError::reason`].
pub fn decode_batch<'a>(
    plan: &Plan,
    body: &'a [u8],
    events: &mut Vec<RequestEvent>,
) -> Result<BatchHead<'a>, DecodeError> {
    let before = events.len();
    let decoded = decode(plan, body, events);
    if decoded.is_err() {
        events.truncate(before);
    }
    decoded
}

fn decode<'a>(
    plan: &Plan,
    body: &'a [u8],
    events: &mut Vec<RequestEvent>,
) -> Result<BatchHead<'a>, DecodeError> {
    let before = events.len();
    let mut rows = EventRows { events };
    let slots = read_message(plan, Message::RequestBatch, body, &mut rows)?;
    if rows.events.len() == before {
        return Err(DecodeError::NoEvents);
    }
    head(&slots, body)
}

/// Runs a plan over a whole body.
#[inline(always)]
pub(super) fn read_message(
    plan: &Plan,
    expected: Message,
    body: &[u8],
    rows: &mut impl Rows,
) -> Result<Slots, DecodeError> {
    if plan.message != expected {
        return Err(DecodeError::WrongMessage {
            expected,
            found: plan.message,
        });
    }
    if body.len() > MAX_MESSAGE_BYTES - FRAME_BYTES {
        return Err(DecodeError::TooLarge { bytes: body.len() });
    }
    let level = &plan.levels[0];
    let mut slots = level.defaults;
    let mut cursor = Cursor::new(body);
    plan.read_record(level, &mut cursor, &mut slots, rows)?;
    match cursor.remaining() {
        0 => Ok(slots),
        bytes => Err(DecodeError::TrailingBytes { bytes }),
    }
}

/// The five fields that identify a message, at the same slots in both.
pub(super) fn head<'a>(slots: &Slots, body: &'a [u8]) -> Result<BatchHead<'a>, DecodeError> {
    let boot_id = Place::bytes(slots[BOOT_ID as usize], body);
    Ok(BatchHead {
        deployment_id: id(slots[DEPLOYMENT_ID as usize], body, "deployment_id")?,
        replica_id: id(slots[REPLICA_ID as usize], body, "replica_id")?,
        boot_id: boot_id
            .try_into()
            .map_err(|_| DecodeError::Malformed { field: "boot_id" })?,
        sequence: slots[SEQUENCE as usize] as i64,
        producer: Place::text(slots[PRODUCER as usize], body, "producer")?,
    })
}

fn id<'a>(slot: u64, body: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    let bytes = Place::bytes(slot, body);
    if bytes.is_empty() || bytes.len() > MAX_ID_BYTES || !are_id_bytes(bytes) {
        return Err(DecodeError::BadId { field });
    }
    Place::text(slot, body, field)
}

/// Sixteen at a time: with one event a message, two ids are a good part of the work. The last
/// sixteen may overlap those before, so that only short ids are copied.
#[inline(always)]
fn are_id_bytes(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<16>() else {
        let mut padded = [b'0'; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        return are_sixteen_id_bytes(&padded);
    };
    bytes.as_chunks::<16>().0.iter().all(are_sixteen_id_bytes) && are_sixteen_id_bytes(last)
}

/// Without a branch a byte, which compiles to a handful of vector instructions.
#[inline(always)]
fn are_sixteen_id_bytes(bytes: &[u8; 16]) -> bool {
    bytes
        .iter()
        .map(|&byte| {
            let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
            // '0' to '9' and, right after them, ':'.
            let digit_or_colon = byte.wrapping_sub(b'0') < 11;
            letter | digit_or_colon | (byte == b'.') | (byte == b'_') | (byte == b'-')
        })
        .fold(true, |all, this| all & this)
}

struct EventRows<'e> {
    events: &'e mut Vec<RequestEvent>,
}

impl Rows for EventRows<'_> {
    fn read(
        &mut self,
        plan: &Plan,
        level: &Level,
        _slot: u8,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), DecodeError> {
        let mut slots = level.defaults;
        let events = &mut *self.events;
        // Grows by doubling from what the buffer already has: a worker's buffer is at its size
        // after the first batches, and a count that the payload does not hold reserves nothing.
        let limit = (MAX_EVENTS_PER_BATCH, DecodeError::TooManyEvents);
        read_blocks(cursor, "events", limit, |cursor| {
            let start = *cursor;
            let straight = level.straight;
            if straight.is_none_or(|straight| straight.read(cursor, &mut slots).is_err()) {
                *cursor = start;
                plan.read_record(level, cursor, &mut slots, &mut NoRows)?;
            }
            events.push(event(&slots));
            Ok(())
        })
    }
}

#[inline(always)]
fn event(slots: &Slots) -> RequestEvent {
    RequestEvent {
        finished_at_us: slots[0] as i64,
        end_to_end_us: slots[1],
        // NONE is the word that OptionalMicros and Status keep for none.
        inference_us: OptionalMicros::some(slots[2]),
        first_byte_us: OptionalMicros::some(slots[3]),
        queue_us: OptionalMicros::some(slots[4]),
        cold_start_us: OptionalMicros::some(slots[8]),
        request_bytes: slots[9],
        response_bytes: slots[10],
        in_flight: slots[11] as u32,
        status: Status::from_raw(slots[5] as u16),
        outcome: Outcome::ALL[(slots[6] as usize).min(Outcome::ALL.len() - 1)],
        cold_start: slots[7] == 1,
    }
}

/// Appends a framed batch, written with the current schema.
///
/// Numbers that the wire cannot hold become the largest that it can. It is the caller's to keep
/// the ids valid and the events within [`MAX_EVENTS_PER_BATCH`].
pub fn encode_batch(head: &BatchHead<'_>, events: &[RequestEvent], out: &mut Vec<u8>) {
    built_in(Message::RequestBatch).put_frame(out);
    put_head(head, out);
    if !events.is_empty() {
        put_long(events.len() as i64, out);
        for event in events {
            put_event(event, out);
        }
    }
    put_long(0, out);
}

pub(super) fn put_head(head: &BatchHead<'_>, out: &mut Vec<u8>) {
    put_text(head.deployment_id, out);
    put_text(head.replica_id, out);
    out.extend_from_slice(&head.boot_id);
    put_long(head.sequence, out);
    put_text(head.producer, out);
}

fn put_event(event: &RequestEvent, out: &mut Vec<u8>) {
    put_long(event.finished_at_us, out);
    put_int(event.end_to_end_us, out);
    put_nullable(event.inference_us.get(), out, put_int);
    put_nullable(event.first_byte_us.get(), out, put_int);
    put_nullable(event.queue_us.get(), out, put_int);
    put_nullable(event.status.code(), out, |code, out| {
        put_long(i64::from(code), out);
    });
    put_long(event.outcome as i64, out);
    out.push(u8::from(event.cold_start));
    put_nullable(event.cold_start_us.get(), out, put_int);
    put_int(event.request_bytes, out);
    put_int(event.response_bytes, out);
    put_int(u64::from(event.in_flight.min(i32::MAX as u32)), out);
}

#[cfg(test)]
mod tests {
    use super::{MAX_ID_BYTES, are_id_bytes};

    #[test]
    fn no_place_of_an_id_goes_unseen() {
        for length in 1..=MAX_ID_BYTES {
            let mut bytes = vec![b'a'; length];
            assert!(are_id_bytes(&bytes), "{length}");
            for at in 0..length {
                for byte in [b' ', 0x80, 0xFF] {
                    bytes[at] = byte;
                    assert!(!are_id_bytes(&bytes), "{byte:#x} at {at} of {length}");
                }
                bytes[at] = b'a';
            }
        }
    }

    #[test]
    fn exactly_the_bytes_of_ids_are_let_through() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
            for (length, at) in [(1, 0), (15, 14), (16, 15), (17, 0), (17, 16), (40, 33)] {
                let mut bytes = vec![b'a'; length];
                bytes[at] = byte;
                assert_eq!(
                    are_id_bytes(&bytes),
                    expected,
                    "{byte:#x} at {at} of {length}"
                );
            }
        }
    }
}
