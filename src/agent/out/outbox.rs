//! The messages that Kafka does not have yet, oldest first: which is sent next, and which goes when there is no more room.
//! Nothing goes uncounted. Knows no clock and no Kafka; its disk is the [`Spool`].
//!
//! A message is *waiting* or *sent*: given to the Kafka client, which may still deliver it. Only waiting ones are ever
//! given up, so that none is both lost and delivered. Each stream's messages are sent in lots, the next when the client has
//! none of the last.

use std::collections::BTreeMap;

use super::message::Name;
use super::spool::{Leftover, ReadError, Spool};
use crate::agent::loss::{Loss, Losses};
use crate::core::table::Stream;

/// Bytes of messages kept in memory while the disk takes none. At the limit the oldest goes, counted as `memory_full`.
pub const MAX_MEMORY_BYTES: u64 = 16 << 20;

/// Bytes of one stream given to the Kafka client at a time, with [`MAX_LOT_MESSAGES`] less than one request of its takes. More
/// waits on the disk.
///
/// librdkafka 2.12 sends nothing more for a partition that has five messages under way and, where more are at hand, asks
/// itself without a pause whether it may, until the answer: behind a slow line it took half a core of the model server's.
pub const MAX_LOT_BYTES: u64 = 768 << 10;

/// Messages of a lot: each takes its key and some 36 bytes more in a request.
pub const MAX_LOT_MESSAGES: usize = 512;

/// The part of the spool that a stream may have at the client and that so cannot be given up: the rest is newer than what
/// is given up.
const SENT_SHARE: u64 = 8;

/// What bounds the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub spool_bytes: u64,
    pub memory_bytes: u64,
    pub age_us: i64,
}

struct Entry {
    name: Name,
    /// As the limits count them.
    bytes: u64,
    /// The message, where the disk did not take it.
    in_memory: Option<Vec<u8>>,
    is_sent: bool,
}

/// A message to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub id: u64,
    pub name: Name,
    pub message: Vec<u8>,
}

/// What waits, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub n_messages: u64,
    pub n_events: u64,
    pub spool_bytes: u64,
    pub memory_bytes: u64,
    /// Events in memory alone: they do not outlive the process.
    pub n_events_in_memory: u64,
    pub oldest_us: Option<i64>,
}

/// Whether the disk took a message.
#[derive(Debug)]
pub enum Kept {
    OnDisk,
    InMemory(Option<std::io::Error>),
}

/// The messages of one stream.
#[derive(Default)]
struct Lane {
    entries: BTreeMap<u64, Entry>,
    /// Every entry before this one is sent.
    first_waiting: u64,
    n_sent: usize,
    sent_bytes: u64,
    /// Whether the lot that is being sent takes more.
    is_open: bool,
}

impl Lane {
    fn oldest_waiting(&self, wanted: impl Fn(&Entry) -> bool) -> Option<u64> {
        self.entries
            .range(self.first_waiting..)
            .find(|(_, entry)| !entry.is_sent && wanted(entry))
            .map(|(&id, _)| id)
    }

    /// What the open lot takes next; a first message always fits.
    fn next_of_lot(&self, most: u64) -> Option<u64> {
        let id = self.is_open.then(|| self.oldest_waiting(|_| true))??;
        let bytes = self.sent_bytes + self.entries[&id].bytes;
        let fits = bytes <= most && self.n_sent < MAX_LOT_MESSAGES;
        (self.n_sent == 0 || fits).then_some(id)
    }

    fn sent(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.is_sent = true;
            self.n_sent += 1;
            self.sent_bytes += entry.bytes;
            self.first_waiting = id + 1;
        }
    }

    fn returned(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_sent) {
            entry.is_sent = false;
            self.n_sent -= 1;
            self.sent_bytes -= entry.bytes;
            self.first_waiting = self.first_waiting.min(id);
            self.is_open = false;
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if entry.is_sent {
            self.n_sent -= 1;
            self.sent_bytes -= entry.bytes;
        }
        Some(entry)
    }
}

pub struct Outbox {
    spool: Option<Spool>,
    room: Room,
    /// By stream.
    lanes: [Lane; Stream::ALL.len()],
    /// Across streams, so that the oldest has the lowest.
    next_id: u64,
    backlog: Backlog,
}

impl Outbox {
    /// With what an earlier start left. Without a spool everything is in memory.
    pub fn new(spool: Option<(Spool, Vec<Leftover>)>, room: Room) -> Self {
        let (spool, leftovers) = spool.unzip();
        let mut outbox = Self {
            spool,
            room,
            lanes: Default::default(),
            next_id: 0,
            backlog: Backlog::default(),
        };
        for Leftover { name, bytes } in leftovers.unwrap_or_default() {
            outbox.insert(name, bytes, None);
        }
        outbox
    }

    /// Takes over what agents that have ended left behind; gives how many messages that is. They stand behind what waits
    /// already: the order of messages means nothing to whoever reads them.
    pub fn take_over(&mut self, losses: &Losses) -> usize {
        let left = self.spool.as_ref().map(Spool::take_over);
        let left = left.unwrap_or_default();
        for &Leftover { name, bytes } in &left {
            self.insert(name, bytes, None);
        }
        self.make_room(losses);
        left.len()
    }

    /// Takes a message: onto the disk, else into memory. What has to go for it is counted.
    pub fn push(&mut self, name: Name, message: Vec<u8>, losses: &Losses) -> Kept {
        let written = self.spool.as_ref().map(|spool| spool.write(name, &message));
        let kept = match written {
            Some(Ok(bytes)) => {
                self.insert(name, bytes, None);
                Kept::OnDisk
            }
            Some(Err(error)) => {
                self.insert(name, message.len() as u64, Some(message));
                Kept::InMemory(Some(error))
            }
            None => {
                self.insert(name, message.len() as u64, Some(message));
                Kept::InMemory(None)
            }
        };
        self.make_room(losses);
        kept
    }

    fn insert(&mut self, name: Name, bytes: u64, in_memory: Option<Vec<u8>>) {
        let events = u64::from(name.n_events);
        self.backlog.n_messages += 1;
        self.backlog.n_events += events;
        if in_memory.is_some() {
            self.backlog.memory_bytes += bytes;
            self.backlog.n_events_in_memory += events;
        } else {
            self.backlog.spool_bytes += bytes;
        }
        let entry = Entry {
            name,
            bytes,
            in_memory,
            is_sent: false,
        };
        self.lanes[name.stream as usize]
            .entries
            .insert(self.next_id, entry);
        self.next_id += 1;
    }

    fn make_room(&mut self, losses: &Losses) {
        while self.backlog.memory_bytes > self.room.memory_bytes {
            let Some(id) = self.oldest_waiting(|entry| entry.in_memory.is_some()) else {
                break;
            };
            self.give_up(id, Loss::MemoryFull, losses);
        }
        while self.backlog.spool_bytes > self.room.spool_bytes {
            let Some(id) = self.oldest_waiting(|entry| entry.in_memory.is_none()) else {
                break;
            };
            self.give_up(id, Loss::SpoolFull, losses);
        }
    }

    /// Gives up what has waited for too long.
    pub fn expire(&mut self, now_us: i64, losses: &Losses) {
        let too_old = now_us.saturating_sub(self.room.age_us);
        while let Some(id) = self.oldest_waiting(|_| true) {
            if self
                .entry(id)
                .is_none_or(|entry| entry.name.created_us > too_old)
            {
                break;
            }
            self.give_up(id, Loss::SpoolExpired, losses);
        }
    }

    fn oldest_waiting(&self, wanted: impl Fn(&Entry) -> bool) -> Option<u64> {
        let oldest = self.lanes.iter();
        oldest.filter_map(|lane| lane.oldest_waiting(&wanted)).min()
    }

    fn entry(&self, id: u64) -> Option<&Entry> {
        self.lanes.iter().find_map(|lane| lane.entries.get(&id))
    }

    /// Begins the next lot of a stream that has nothing under way.
    pub fn open_lot(&mut self, stream: Stream) {
        let lane = &mut self.lanes[stream as usize];
        lane.is_open = lane.n_sent == 0;
    }

    /// The next message of an open lot, now counted as sent; none when there is none, or the lots are full. One that the disk
    /// does not give back is counted and gone, but where the process has no descriptors left: that ends the lot.
    pub fn next(&mut self, losses: &Losses) -> Option<Outgoing> {
        let most = MAX_LOT_BYTES.min(self.room.spool_bytes / SENT_SHARE);
        loop {
            let lane = self.lanes.iter_mut();
            let (lane, id) = lane
                .filter_map(|lane| lane.next_of_lot(most).map(|id| (lane, id)))
                .min_by_key(|(_, id)| *id)?;
            let entry = &lane.entries[&id];
            let name = entry.name;
            let found = match (&entry.in_memory, &self.spool) {
                (Some(message), _) => Ok(message.clone()),
                (None, Some(spool)) => spool.read(name),
                (None, None) => Err(ReadError::Torn),
            };
            match found {
                Ok(message) => {
                    lane.sent(id);
                    return Some(Outgoing { id, name, message });
                }
                Err(error) if error.may_pass() => lane.is_open = false,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, file = %name, "a spooled batch is lost");
                    self.give_up(id, Loss::SpoolDamaged, losses);
                }
            }
        }
    }

    /// The client gave it back undelivered: it waits again, in its old place, for another lot. Gives its
    /// stream.
    pub fn returned(&mut self, id: u64) -> Option<Stream> {
        let stream = self.entry(id)?.name.stream;
        self.lanes[stream as usize].returned(id);
        Some(stream)
    }

    /// Kafka has it; gives its events.
    pub fn delivered(&mut self, id: u64) -> Option<Name> {
        self.remove(id)
    }

    /// Kafka will never take it.
    pub fn refused(&mut self, id: u64, losses: &Losses) {
        self.give_up(id, Loss::Refused, losses);
    }

    fn give_up(&mut self, id: u64, loss: Loss, losses: &Losses) {
        if let Some(name) = self.remove(id) {
            losses.add(loss, u64::from(name.n_events));
        }
    }

    fn remove(&mut self, id: u64) -> Option<Name> {
        let entry = self.lanes.iter_mut().find_map(|lane| lane.remove(id))?;
        let events = u64::from(entry.name.n_events);
        self.backlog.n_messages -= 1;
        self.backlog.n_events -= events;
        if entry.in_memory.is_some() {
            self.backlog.memory_bytes -= entry.bytes;
            self.backlog.n_events_in_memory -= events;
        } else {
            self.backlog.spool_bytes -= entry.bytes;
            if let Some(Err(error)) = self.spool.as_ref().map(|spool| spool.remove(entry.name)) {
                // a file that is gone is what was wanted; another comes again at the next start, with its sequence
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%error, file = %entry.name, "a file of the spool cannot be removed");
                }
            }
        }
        Some(entry.name)
    }

    pub fn is_empty(&self) -> bool {
        self.backlog.n_messages == 0
    }

    pub fn backlog(&self) -> Backlog {
        let oldest = self.lanes.iter();
        let oldest = oldest.filter_map(|lane| lane.entries.first_key_value());
        let oldest = oldest.min_by_key(|(id, _)| **id);
        Backlog {
            oldest_us: oldest.map(|(_, entry)| entry.name.created_us),
            ..self.backlog
        }
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
