//! A posted body: one event or an array of them, as JSON, with the names of the wire's `RequestEvent`. Whatever is wrong is
//! told by index and field. The limits are the wire's, and the times those that the processor accepts.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::bus::avro::limits::MAX_EVENTS_PER_BATCH;
use crate::core::event::{OptionalMicros, Outcome, RequestEvent, Status};
use crate::rfc3339::rfc3339_us;

/// The processor's rule: older is refused there.
const OLDEST_US: i64 = 48 * 3600 * 1_000_000;
/// The processor's rule: later is refused there.
const NEWEST_US: i64 = 5 * 60 * 1_000_000;

/// HTTP's statuses have three digits.
const MAX_STATUS: i64 = 999;

/// Why a body was refused, and how many of its events were read by then, the wrong one included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub text: String,
    pub n_events: u64,
}

/// All events of a body.
///
/// # Errors
/// The first thing that is wrong. None of the body is taken then.
pub fn events(body: &[u8], now_us: i64) -> Result<Vec<RequestEvent>, Wrong> {
    let index = Cell::new(0);
    let mut json = serde_json::Deserializer::from_slice(body);
    let seed = Body {
        now_us,
        index: &index,
    };
    seed.deserialize(&mut json)
        .and_then(|events| json.end().map(|()| events))
        .map_err(|error| Wrong {
            text: format!("event {}: {error}", index.get()),
            n_events: index.get() + 1,
        })
}

/// The index of the event that is being read stays in `index`, for the error.
struct Body<'c> {
    now_us: i64,
    index: &'c Cell<u64>,
}

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = Vec<RequestEvent>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = Vec<RequestEvent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event or an array of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Event(self.now_us).visit_map(map).map(|event| vec![event])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = seq.next_element_seed(Event(self.now_us))? {
            if events.len() == MAX_EVENTS_PER_BATCH {
                let text = format!("one body has at most {MAX_EVENTS_PER_BATCH} events");
                return Err(de::Error::custom(text));
            }
            events.push(event);
            self.index.set(events.len() as u64);
        }
        Ok(events)
    }
}

/// One event; with the time now.
struct Event(i64);

impl<'de> DeserializeSeed<'de> for Event {
    type Value = RequestEvent;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Event {
    type Value = RequestEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut draft = Draft::default();
        while let Some(field) = map.next_key::<String>()? {
            let told = |why: &dyn fmt::Display| de::Error::custom(format!("{field}: {why}"));
            let value = map
                .next_value::<Scalar>()
                .map_err(|error: A::Error| told(&error))?;
            draft
                .set(&field, &value, self.0)
                .map_err(|why| told(&why))?;
        }
        draft.finish().map_err(de::Error::custom)
    }
}

/// A value that is no list and no object.
enum Scalar {
    Null,
    Flag(bool),
    Whole(i64),
    Real,
    Text(String),
}

impl<'de> de::Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, true, false or null")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
        Ok(Scalar::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        // one past the wire's numbers is as wrong as a fraction
        Ok(i64::try_from(number).map_or(Scalar::Real, Scalar::Whole))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Real)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }
}

/// What was said so far; the two fields that are required are none until then.
struct Draft {
    finished_at_us: Option<i64>,
    end_to_end_us: Option<u64>,
    event: RequestEvent,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            finished_at_us: None,
            end_to_end_us: None,
            event: RequestEvent {
                finished_at_us: 0,
                end_to_end_us: 0,
                inference_us: OptionalMicros::NONE,
                first_byte_us: OptionalMicros::NONE,
                queue_us: OptionalMicros::NONE,
                cold_start_us: OptionalMicros::NONE,
                request_bytes: 0,
                response_bytes: 0,
                in_flight: 0,
                status: Status::NONE,
                outcome: Outcome::Completed,
                cold_start: false,
            },
        }
    }
}

impl Draft {
    fn set(&mut self, field: &str, value: &Scalar, now_us: i64) -> Result<(), String> {
        let event = &mut self.event;
        match field {
            "finished_at" => self.finished_at_us = Some(value.time(now_us)?),
            "end_to_end_us" => self.end_to_end_us = Some(value.count(i64::MAX)?),
            "inference_us" => event.inference_us = value.optional()?,
            "first_byte_us" => event.first_byte_us = value.optional()?,
            "queue_us" => event.queue_us = value.optional()?,
            "cold_start_us" => event.cold_start_us = value.optional()?,
            "request_bytes" => event.request_bytes = value.count(i64::MAX)?,
            "response_bytes" => event.response_bytes = value.count(i64::MAX)?,
            "in_flight" => {
                event.in_flight = u32::try_from(value.count(i64::from(i32::MAX))?)
                    .expect("checked against a smaller limit");
            }
            "status" => {
                event.status = match value {
                    Scalar::Null => Status::NONE,
                    value => Status::from_code(value.count(MAX_STATUS)?.cast_signed()),
                }
            }
            "outcome" => event.outcome = value.outcome()?,
            "cold_start" => match value {
                Scalar::Flag(flag) => event.cold_start = *flag,
                _ => return Err("must be true or false".to_owned()),
            },
            _ => return Err("no such field".to_owned()),
        }
        Ok(())
    }

    fn finish(self) -> Result<RequestEvent, &'static str> {
        Ok(RequestEvent {
            finished_at_us: self.finished_at_us.ok_or("finished_at is missing")?,
            end_to_end_us: self.end_to_end_us.ok_or("end_to_end_us is missing")?,
            ..self.event
        })
    }
}

impl Scalar {
    fn count(&self, most: i64) -> Result<u64, String> {
        match self {
            Self::Whole(number) if (0..=most).contains(number) => Ok(number.cast_unsigned()),
            _ => Err(format!("must be a whole number from 0 to {most}")),
        }
    }

    fn optional(&self) -> Result<OptionalMicros, String> {
        match self {
            Self::Null => Ok(OptionalMicros::NONE),
            value => value.count(i64::MAX).map(OptionalMicros::some),
        }
    }

    fn outcome(&self) -> Result<Outcome, String> {
        let Self::Text(text) = self else {
            return Err("must be a text".to_owned());
        };
        let found = Outcome::ALL
            .into_iter()
            .find(|outcome| outcome.symbol() == text);
        found.ok_or_else(|| {
            let all = Outcome::ALL.map(Outcome::symbol).join(", ");
            format!("must be one of {all}")
        })
    }

    fn time(&self, now_us: i64) -> Result<i64, String> {
        let time_us = match self {
            Self::Whole(us) => Some(*us),
            Self::Text(text) => rfc3339_us(text),
            _ => None,
        };
        let time_us = time_us.ok_or("must be microseconds since 1970, or RFC 3339")?;
        if time_us < now_us.saturating_sub(OLDEST_US) {
            Err("more than 48 hours ago".to_owned())
        } else if time_us > now_us.saturating_add(NEWEST_US) {
            Err("more than 5 minutes ahead".to_owned())
        } else {
            Ok(time_us)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000_000_000;

    #[test]
    fn an_object_or_an_array_is_read_with_every_field() {
        let full = format!(
            r#"{{"finished_at": {NOW}, "end_to_end_us": 10, "inference_us": 9, "first_byte_us": 8, "queue_us": null,
            "status": 503, "outcome": "aborted", "cold_start": true, "cold_start_us": 1, "request_bytes": 2,
            "response_bytes": 3, "in_flight": 4}}"#
        );
        let read = events(full.as_bytes(), NOW).expect("valid");
        let event = read[0];
        assert_eq!((event.end_to_end_us, event.status()), (10, Some(503)));
        assert_eq!((event.inference_us(), event.queue_us()), (Some(9), None));
        assert_eq!((event.outcome, event.in_flight), (Outcome::Aborted, 4));
        let array = format!("[{full}, {full}]");
        assert_eq!(events(array.as_bytes(), NOW), Ok(vec![event, event]));
        assert_eq!(events(b"[]", NOW), Ok(vec![]));
        let minimal = r#"{"finished_at": "2027-01-15T08:00:00Z", "end_to_end_us": 0}"#;
        let event = events(minimal.as_bytes(), NOW).expect("valid")[0];
        assert_eq!((event.finished_at_us, event.status()), (NOW, None));
    }

    #[test]
    fn what_is_wrong_is_told_by_index_and_field() {
        let good = format!(r#"{{"finished_at": {NOW}, "end_to_end_us": 1}}"#);
        for (bad, told) in [
            (r#""end_to_end_us": -1"#, "event 1: end_to_end_us: must be"),
            (r#""queue_us": 1.5"#, "event 1: queue_us: must be a whole"),
            (r#""status": "ok""#, "event 1: status: must be"),
            (r#""status": 1000"#, "event 1: status: must be"),
            (r#""in_flight": 2147483648"#, "event 1: in_flight: must be"),
            (r#""outcome": "lost""#, "event 1: outcome: must be one of"),
            (r#""cold_start": 1"#, "event 1: cold_start: must be"),
            (
                r#""finished_at": 1800000000"#,
                "event 1: finished_at: more than 48",
            ),
            (
                r#""finished_at": 1900000000000000"#,
                "event 1: finished_at: more than 5",
            ),
            (
                r#""finished_at": "yesterday""#,
                "event 1: finished_at: must be",
            ),
            (r#""latency": 1"#, "event 1: latency: no such field"),
            (r#""queue_us": [1]"#, "event 1: queue_us: invalid type"),
            (r#""cold_start": false"#, "event 1: finished_at is missing"),
        ] {
            let wrong = events(format!("[{good}, {{{bad}}}]").as_bytes(), NOW).expect_err(bad);
            assert!(wrong.text.starts_with(told), "{bad}: {}", wrong.text);
            assert_eq!(wrong.n_events, 2, "{bad}");
        }
        for bad in ["", "1", "[1]", "{", "[]]", "null"] {
            assert!(events(bad.as_bytes(), NOW).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_has_a_limit_of_events() {
        let good = format!(r#"{{"finished_at": {NOW}, "end_to_end_us": 1}}"#);
        let body = |n: usize| format!("[{}]", vec![good.as_str(); n].join(","));
        let most = body(MAX_EVENTS_PER_BATCH);
        assert_eq!(
            events(most.as_bytes(), NOW).map(|e| e.len()),
            Ok(MAX_EVENTS_PER_BATCH)
        );
        assert!(events(body(MAX_EVENTS_PER_BATCH + 1).as_bytes(), NOW).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = events(&body, NOW);
        }
    }
}
