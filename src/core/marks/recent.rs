//! The producers of which something came last, up to a number of them. Which they are follows from the log alone: those
//! with the highest last offsets.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Came, Mark, Sequences};
use crate::core::event::BatchHead;

/// Stands for no place.
const NONE: u32 = u32::MAX;

pub(super) struct Entry {
    pub mark: Mark,
    pub came: Came,
    pub is_changed: bool,
    /// The neighbours in the order of last offsets.
    newer: u32,
    older: u32,
}

pub(super) struct Recent {
    hasher: DefaultHashBuilder,
    by_producer: HashTable<u32>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    max: usize,
}

impl Recent {
    pub fn new(mut stored: Vec<Mark>, max: usize) -> Self {
        assert!(max > 0, "at least the latest producer is remembered");
        stored.sort_by_key(|mark| mark.last_offset);
        let n_too_many = stored.len().saturating_sub(max);
        let mut recent = Self {
            hasher: DefaultHashBuilder::default(),
            by_producer: HashTable::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            max,
        };
        for mark in stored.into_iter().skip(n_too_many) {
            let hash = recent.hash(&mark.deployment_id, &mark.replica_id, &mark.boot_id);
            recent.add(hash, mark);
        }
        recent
    }

    pub fn entry(&self, place: u32) -> &Entry {
        &self.entries[place as usize]
    }

    pub fn entry_mut(&mut self, place: u32) -> &mut Entry {
        &mut self.entries[place as usize]
    }

    /// Where the producer of a message stands, as the newest now, and whether it was known. What had come of one that is
    /// forgotten for it, and is not stored, is added to `forgotten`.
    #[inline]
    pub fn place(&mut self, head: &BatchHead<'_>, forgotten: &mut Came) -> (u32, bool) {
        let hash = self.hash(head.deployment_id, head.replica_id, &head.boot_id);
        let entries = &self.entries;
        let found = self
            .by_producer
            .find(hash, |&place| entries[place as usize].mark.is_of(head));
        if let Some(&place) = found {
            if place != self.newest {
                self.unlink(place);
                self.link_newest(place);
            }
            return (place, true);
        }
        let mark = Mark {
            deployment_id: head.deployment_id.into(),
            replica_id: head.replica_id.into(),
            boot_id: head.boot_id,
            producer: head.producer.into(),
            sequences: Sequences::beginning_at(0),
            last_offset: 0,
            last_append_ms: 0,
        };
        let place = if self.entries.len() < self.max {
            self.add(hash, mark)
        } else {
            self.replace_oldest(hash, mark, forgotten)
        };
        (place, false)
    }

    fn hash(&self, deployment_id: &str, replica_id: &str, boot_id: &[u8; 16]) -> u64 {
        self.hasher.hash_one((deployment_id, replica_id, boot_id))
    }

    fn add(&mut self, hash: u64, mark: Mark) -> u32 {
        let place = u32::try_from(self.entries.len()).expect("few producers are remembered");
        self.entries.push(Entry {
            mark,
            came: Came::default(),
            is_changed: false,
            newer: NONE,
            older: NONE,
        });
        self.insert(hash, place);
        self.link_newest(place);
        place
    }

    #[cold]
    fn replace_oldest(&mut self, hash: u64, mark: Mark, forgotten: &mut Came) -> u32 {
        let place = self.oldest;
        self.unlink(place);
        let old = &self.entries[place as usize].mark;
        let old_hash = self.hash(&old.deployment_id, &old.replica_id, &old.boot_id);
        if let Ok(found) = self
            .by_producer
            .find_entry(old_hash, |&other| other == place)
        {
            found.remove();
        }
        let entry = &mut self.entries[place as usize];
        entry.mark = mark;
        forgotten.add(std::mem::take(&mut entry.came));
        self.insert(hash, place);
        self.link_newest(place);
        place
    }

    fn insert(&mut self, hash: u64, place: u32) {
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_producer.insert_unique(hash, place, |&place| {
            let mark = &entries[place as usize].mark;
            hasher.hash_one((&*mark.deployment_id, &*mark.replica_id, &mark.boot_id))
        });
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, before);
        match before {
            NONE => self.oldest = place,
            before => self.entries[before as usize].newer = place,
        }
    }
}
