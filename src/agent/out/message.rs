//! One Kafka message on its way: its name, under which the spool keeps it, and the bytes of its file.
//!
//! A file is the message as Kafka gets it, behind a checksum, so that what a crash left is sent as it was, with its boot
//! and sequence, or is known to be torn. The name tells what is lost if the bytes are not there.

use std::fmt;

use crate::bus::avro::limits::MAX_MESSAGE_BYTES;
use crate::core::table::Stream;

/// First bytes of a file; the digit is the format's version.
const MAGIC: [u8; 4] = *b"mms1";

/// Magic, checksum, length.
const HEADER_BYTES: usize = 12;

/// What a file may have at most.
pub const MAX_FILE_BYTES: u64 = (MAX_MESSAGE_BYTES + HEADER_BYTES) as u64;

/// How a file's name ends.
const SUFFIX: &str = ".message";

/// A message's place in the order, and what it is. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Microseconds since 1970, UTC.
    pub created_us: i64,
    pub boot_id: [u8; 16],
    pub stream: Stream,
    pub sequence: i64,
    /// Requests in it; a sample has none.
    pub n_events: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:017}-{:032x}-{}-{}-{}{SUFFIX}",
            self.created_us.max(0),
            u128::from_be_bytes(self.boot_id),
            stream_word(self.stream),
            self.sequence,
            self.n_events
        )
    }
}

impl Name {
    /// The name in a file's name; none for a file that is not the spool's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(SUFFIX)?.split('-');
        let created_us = parts.next()?.parse().ok()?;
        let boot_id = u128::from_str_radix(parts.next()?, 16).ok()?;
        let stream = parts.next()?;
        let name = Self {
            created_us,
            boot_id: boot_id.to_be_bytes(),
            stream: Stream::ALL
                .into_iter()
                .find(|&known| stream_word(known) == stream)?,
            sequence: parts.next()?.parse().ok()?,
            n_events: parts.next()?.parse().ok()?,
        };
        // only what is written here: nothing else may be sent, or removed, in its stead
        (name.to_string() == text).then_some(name)
    }
}

const fn stream_word(stream: Stream) -> &'static str {
    match stream {
        Stream::Requests => "requests",
        Stream::Replicas => "replicas",
    }
}

/// The file of a message.
pub fn to_file(message: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + message.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&checksum(message).to_le_bytes());
    let length = u32::try_from(message.len()).expect("messages are far below 4 GiB");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(message);
    file
}

/// The message in a file; none when it is torn or was changed.
pub fn from_file(file: &[u8]) -> Option<&[u8]> {
    let (magic, rest) = file.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (length, message) = rest.split_first_chunk::<4>()?;
    let is_whole = *magic == MAGIC
        && u32::from_le_bytes(*length) as usize == message.len()
        && u32::from_le_bytes(*sum) == checksum(message);
    is_whole.then_some(message)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Name> {
        (
            0..i64::MAX,
            any::<[u8; 16]>(),
            any::<bool>(),
            0..i64::MAX,
            any::<u32>(),
        )
            .prop_map(
                |(created_us, boot_id, is_sample, sequence, n_events)| Name {
                    created_us,
                    boot_id,
                    stream: Stream::ALL[usize::from(is_sample)],
                    sequence,
                    n_events,
                },
            )
    }

    proptest! {
        #[test]
        fn names_come_back(name in name()) {
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn any_text_is_a_name_or_none(text in ".{0,80}") {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn files_come_back_and_torn_ones_do_not(
            message in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>(),
            bit in any::<prop::sample::Index>(),
        ) {
            let file = to_file(&message);
            prop_assert_eq!(from_file(&file), Some(&message[..]));
            prop_assert_eq!(from_file(&file[..cut.index(file.len())]), None);
            let mut changed = file.clone();
            let at = bit.index(file.len() * 8);
            changed[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(from_file(&changed), None);
        }
    }
}
