//! What has come of each producer's sequence, so that a message that comes again is known and a gap is counted.
//!
//! Owns the marks of one partition: per producer start the highest sequence and which of the 63 below it have come.
//! Whether a message is new depends on the log before it and on nothing else, so that every table decides alike however
//! often the log is read: which producers are remembered, too, is a rule over offsets ([`Recent`]) and append times, and
//! never over memory or a clock.

mod recent;
mod sequences;

use self::recent::Recent;
pub use self::sequences::Sequences;
use super::event::BatchHead;

/// Producer starts that one partition remembers. With 12 partitions they are those of 98,000 replicas; past it the one
/// that was silent longest is forgotten, and should it send something again, that is counted again.
pub const MAX_PRODUCERS: usize = 8_192;

/// How long a silent producer is remembered, by the broker's append times: events older than that are refused anyway.
pub const MAX_SILENCE_MS: i64 = 48 * 3600 * 1000;

/// What is known of one producer start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub deployment_id: Box<str>,
    pub replica_id: Box<str>,
    pub boot_id: [u8; 16],
    /// Name and version, as told last.
    pub producer: Box<str>,
    pub sequences: Sequences,
    /// The offset and the append time of its last message, whether new or not.
    pub last_offset: u64,
    pub last_append_ms: i64,
}

impl Mark {
    fn is_of(&self, head: &BatchHead<'_>) -> bool {
        self.boot_id == head.boot_id
            && *self.replica_id == *head.replica_id
            && *self.deployment_id == *head.deployment_id
    }
}

/// What came of a producer since the last full flush.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// All that could be read.
    pub messages: u64,
    /// Those that had come before.
    pub repeated: u64,
    /// Sequences passed over, less those that came after all.
    pub missing: i64,
}

impl Came {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.repeated += other.repeated;
        self.missing += other.missing;
    }
}

/// The marks of one partition.
pub struct Marks {
    recent: Recent,
    /// Places whose mark is not the stored one any more.
    changed: Vec<u32>,
    /// Of producers that were forgotten since the last flush.
    forgotten: Came,
}

/// What a flush hands out.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    marks: &'a Marks,
}

impl Marks {
    /// As they were stored; `max` are remembered.
    pub fn new(stored: Vec<Mark>, max: usize) -> Self {
        Self {
            recent: Recent::new(stored, max),
            changed: Vec::new(),
            forgotten: Came::default(),
        }
    }

    /// Notes a message. True where it is new; of one that came before nothing may be counted again.
    #[inline]
    pub fn note(&mut self, head: &BatchHead<'_>, offset: u64, append_ms: i64) -> bool {
        let Ok(sequence) = u64::try_from(head.sequence) else {
            unreachable!("a negative sequence is refused with its message");
        };
        let (place, is_known) = self.recent.place(head, &mut self.forgotten);
        let entry = self.recent.entry_mut(place);
        let mark = &mut entry.mark;
        let is_forgotten = append_ms.saturating_sub(mark.last_append_ms) > MAX_SILENCE_MS;
        let noted = if is_known && !is_forgotten {
            mark.sequences.note(sequence)
        } else {
            mark.sequences = Sequences::beginning_at(sequence);
            Some(0)
        };
        mark.last_offset = offset;
        mark.last_append_ms = append_ms;
        if *mark.producer != *head.producer {
            mark.producer = head.producer.into();
        }
        entry.came.add(Came {
            messages: 1,
            repeated: u64::from(noted.is_none()),
            missing: noted.unwrap_or(0),
        });
        if !entry.is_changed {
            entry.is_changed = true;
            self.changed.push(place);
        }
        noted.is_some()
    }

    /// What is not stored yet.
    pub const fn changes(&self) -> Changes<'_> {
        Changes { marks: self }
    }

    /// Takes the changes as stored, or as stored before.
    pub fn clear_changes(&mut self) {
        for place in self.changed.drain(..) {
            let entry = self.recent.entry_mut(place);
            entry.is_changed = false;
            entry.came = Came::default();
        }
        self.forgotten = Came::default();
    }
}

impl<'a> Changes<'a> {
    /// How many marks changed.
    pub const fn n(self) -> usize {
        self.marks.changed.len()
    }

    /// The marks that changed, and what came of each.
    pub fn iter(self) -> impl Iterator<Item = (&'a Mark, Came)> {
        self.marks.changed.iter().map(move |&place| {
            let entry = self.marks.recent.entry(place);
            (&entry.mark, entry.came)
        })
    }

    /// What came of producers after which too many others came, if anything.
    pub fn forgotten(self) -> Option<Came> {
        Some(self.marks.forgotten).filter(|came| came.messages > 0)
    }
}

#[cfg(test)]
mod tests;
