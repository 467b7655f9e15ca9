//! Marks over random logs: each message is judged as a plain list judges it, wherever the marks were stored and read back.

use proptest::prelude::*;

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn head(replica: &'static str, boot: u8, sequence: i64) -> BatchHead<'static> {
    BatchHead {
        deployment_id: "d",
        replica_id: replica,
        boot_id: [boot; 16],
        sequence,
        producer: "p/1",
    }
}

#[test]
fn a_message_that_came_before_is_known_until_its_producer_is_silent_too_long() {
    let mut marks = Marks::new(Vec::new(), 10);
    assert!(marks.note(&head("r", 1, 0), 10, 0));
    assert!(!marks.note(&head("r", 1, 0), 11, HOUR_MS));
    // another start, another replica
    assert!(marks.note(&head("r", 2, 0), 12, HOUR_MS));
    assert!(marks.note(&head("s", 1, 0), 13, HOUR_MS));
    assert!(!marks.note(&head("r", 1, 0), 14, 49 * HOUR_MS));
    assert!(marks.note(&head("r", 1, 0), 15, 98 * HOUR_MS));
}

#[test]
fn a_flush_tells_what_came_and_what_is_missing() {
    let mut marks = Marks::new(Vec::new(), 10);
    for (offset, sequence) in [(5, 0), (6, 3), (7, 3), (8, 1)] {
        marks.note(&head("r", 1, sequence), offset, 1000);
    }
    let changes: Vec<(Mark, Came)> = marks
        .changes()
        .iter()
        .map(|(mark, came)| (mark.clone(), came))
        .collect();
    let [(mark, came)] = changes.as_slice() else {
        panic!("one producer: {changes:?}");
    };
    let expected = Came {
        messages: 4,
        repeated: 1,
        missing: 1,
    };
    assert_eq!((mark.last_offset, *came), (8, expected));
    marks.clear_changes();
    assert_eq!(marks.changes().iter().count(), 0);
    marks.note(&head("r", 1, 4), 9, 1000);
    let (_, came) = marks.changes().iter().next().expect("it changed again");
    assert_eq!((came.messages, came.missing), (1, 0));
}

#[test]
fn the_one_that_was_silent_longest_makes_room() {
    let mut marks = Marks::new(Vec::new(), 2);
    assert!(marks.note(&head("a", 1, 0), 0, 0));
    assert!(marks.note(&head("b", 1, 0), 1, 0));
    assert!(!marks.note(&head("a", 1, 0), 2, 0));
    assert!(marks.note(&head("c", 1, 0), 3, 0));
    assert!(!marks.note(&head("a", 1, 0), 4, 0));
    assert!(marks.note(&head("b", 1, 0), 5, 0));
    let changes = marks.changes();
    let told: u64 = changes.iter().map(|(_, came)| came.messages).sum();
    // b's first message and c's were told of nowhere else
    assert_eq!(
        (told, changes.forgotten().map(|came| came.messages)),
        (4, Some(2))
    );
}

/// A producer, and what came of it: as simple as can be.
#[derive(Default)]
struct Plain(Vec<((&'static str, u8), Vec<i64>, i64)>);

impl Plain {
    fn note(&mut self, head: &BatchHead<'_>, append_ms: i64, max: usize) -> bool {
        let key = (
            ["a", "b", "c", "d"][usize::from(head.replica_id.as_bytes()[0] - b'a')],
            head.boot_id[0],
        );
        let found = self.0.iter().position(|(other, ..)| *other == key);
        let mut known = found.map(|index| self.0.remove(index));
        known = known.filter(|(_, _, last)| append_ms - last <= MAX_SILENCE_MS);
        let (_, mut came, _) = known.unwrap_or((key, Vec::new(), 0));
        let highest = came.iter().copied().max().unwrap_or(0);
        let is_new = !came.contains(&head.sequence) && head.sequence > highest - 64;
        came.extend(is_new.then_some(head.sequence));
        self.0.push((key, came, append_ms));
        if self.0.len() > max {
            self.0.remove(0);
        }
        is_new
    }
}

proptest! {
    #[test]
    fn marks_read_back_judge_as_if_nothing_had_happened(
        log in prop::collection::vec((0_usize..4, 0_u8..2, 0_i64..90, 0_i64..20, prop::bool::weighted(0.1)), 1..300),
        max in 1_usize..9,
    ) {
        let mut plain = Plain::default();
        let mut marks = Marks::new(Vec::new(), max);
        let mut stored: Vec<Mark> = Vec::new();
        let mut append_ms = 0;
        for (offset, (replica, boot, sequence, hours, is_stored)) in (0_u64..).zip(log) {
            append_ms += hours * hours * hours * HOUR_MS / 1000;
            let head = head(["a", "b", "c", "d"][replica], boot, sequence);
            prop_assert_eq!(marks.note(&head, offset, append_ms), plain.note(&head, append_ms, max));
            if is_stored {
                for (mark, _) in marks.changes().iter() {
                    stored.retain(|other| (&other.replica_id, other.boot_id) != (&mark.replica_id, mark.boot_id));
                    stored.push(mark.clone());
                }
                marks = Marks::new(stored.clone(), max);
            }
        }
    }
}
