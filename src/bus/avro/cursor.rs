//! A place in a payload and the few ways to move it on, each checked against the end.

use super::error::Fault;

/// What is left of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    total: usize,
}

/// Bytes that a 64-bit variable-length integer takes at most.
const MAX_VARINT_BYTES: usize = 10;

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: payload,
            total: payload.len(),
        }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn offset(&self) -> usize {
        self.total - self.rest.len()
    }

    /// An int or long as it stands on the wire: zigzag is not undone, so that "is it negative"
    /// is its lowest bit. For values that are mostly below 64.
    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        match self.rest.split_first() {
            Some((&byte, tail)) if byte < 0x80 => {
                self.rest = tail;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    /// The same for values of any length. Durations and sizes change theirs from event to event,
    /// and a loop over bytes would mispredict its end each time; so the end is computed from a
    /// word instead, of four bytes (134 seconds, 134 MB) or of eight.
    #[inline(always)]
    pub(super) fn long_varint(&mut self) -> Result<u64, Fault> {
        if let Some((word, _)) = self.rest.split_first_chunk::<4>() {
            let word = u32::from_le_bytes(*word);
            let ends = !word & 0x8080_8080;
            if ends != 0 {
                self.rest = &self.rest[(ends.trailing_zeros() / 8 + 1) as usize..];
                return Ok(u64::from(join_four(word & (ends ^ (ends - 1)))));
            }
        }
        self.wide_varint()
    }

    /// The same for values of mostly more than four bytes: times.
    #[inline(always)]
    pub(super) fn wide_varint(&mut self) -> Result<u64, Fault> {
        if let Some((word, _)) = self.rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*word);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                self.rest = &self.rest[(ends.trailing_zeros() / 8 + 1) as usize..];
                return Ok(join_eight(word & (ends ^ (ends - 1))));
            }
        }
        self.varint_by_bytes()
    }

    /// The last bytes of a payload, and integers of nine and ten bytes.
    #[inline(never)]
    fn varint_by_bytes(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for (at, &byte) in self.rest.iter().take(MAX_VARINT_BYTES).enumerate() {
            if at == MAX_VARINT_BYTES - 1 && byte > 1 {
                return Err(Fault::Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < MAX_VARINT_BYTES {
            Err(Fault::Truncated)
        } else {
            Err(Fault::Malformed)
        }
    }

    #[inline(always)]
    pub(super) fn long(&mut self) -> Result<i64, Fault> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    #[inline(always)]
    pub(super) fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.long()?).map_err(|_| Fault::Malformed)
    }

    /// The length of a string or of bytes.
    #[inline(always)]
    pub(super) fn length(&mut self) -> Result<usize, Fault> {
        let zigzag = self.varint()?;
        if zigzag & 1 == 1 {
            return Err(Fault::Malformed);
        }
        usize::try_from(zigzag >> 1).map_err(|_| Fault::Truncated)
    }

    #[inline(always)]
    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let (&byte, tail) = self.rest.split_first().ok_or(Fault::Truncated)?;
        self.rest = tail;
        Ok(byte)
    }

    #[inline(always)]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (bytes, tail) = self.rest.split_first_chunk().ok_or(Fault::Truncated)?;
        self.rest = tail;
        Ok(*bytes)
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), Fault> {
        self.rest = self.rest.get(bytes..).ok_or(Fault::Truncated)?;
        Ok(())
    }

    /// The head of an array's or map's block: how many items it has, and how many bytes they
    /// take where the writer said so. `None` ends the array.
    pub(super) fn block(&mut self) -> Result<Option<Block>, Fault> {
        let count = self.long()?;
        if count == 0 {
            return Ok(None);
        }
        let bytes = if count < 0 {
            Some(self.length()?)
        } else {
            None
        };
        Ok(Some(Block {
            count: count.unsigned_abs(),
            bytes,
        }))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) count: u64,
    pub(super) bytes: Option<usize>,
}

/// Bytes that hold seven bits each, moved together in steps of twice the width: the upper half
/// of each pair, shifted down, is taken off where it stood and added where it belongs.
#[inline(always)]
fn join_four(word: u32) -> u32 {
    let by_7 = word & 0x7f7f_7f7f;
    let by_14 = by_7 - ((by_7 >> 1) & 0x3f80_3f80);
    (by_14 & 0x3fff) | ((by_14 >> 16) << 14)
}

#[inline(always)]
fn join_eight(word: u64) -> u64 {
    let by_7 = word & 0x7f7f_7f7f_7f7f_7f7f;
    let by_14 = by_7 - ((by_7 >> 1) & 0x3f80_3f80_3f80_3f80);
    let upper = by_14 & 0x3fff_0000_3fff_0000;
    let by_28 = by_14 - upper + (upper >> 2);
    u64::from(by_28 as u32) | ((by_28 >> 32) << 28)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    proptest! {
        #[test]
        fn an_integer_of_any_length_reads_back_wherever_it_stands(
            value in any::<u64>(), shift in 0_u32..64, after in 0_usize..12,
        ) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            let length = bytes.len();
            bytes.extend(std::iter::repeat_n(0xff, after));
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.offset(), length);
            prop_assert_eq!(Cursor::new(&bytes[..length - 1]).varint(), Err(Fault::Truncated));
        }
    }

    #[test]
    fn an_integer_past_64_bits_is_malformed() {
        let mut bytes = vec![0xff; 9];
        bytes.push(2);
        assert_eq!(Cursor::new(&bytes).varint(), Err(Fault::Malformed));
        assert_eq!(Cursor::new(&[0xff; 11]).varint(), Err(Fault::Malformed));
    }

    #[test]
    fn a_block_of_the_least_count_does_not_overflow() {
        let mut bytes = encoded(u64::MAX);
        bytes.push(2);
        let block = Cursor::new(&bytes)
            .block()
            .expect("two integers")
            .expect("not 0");
        assert_eq!((block.count, block.bytes), (1 << 63, Some(1)));
    }
}
