//! The bytes of a `quantilesDD` state, as ClickHouse's `DDSketch.h` and its stores read them; stable since 24.1.

use super::filled::Filled;
use super::keys::{GAMMA, Key};

const FLAG_POSITIVE_STORE: u8 = 1;
const FLAG_INDEX_MAPPING: u8 = 2;
const FLAG_NEGATIVE_STORE: u8 = 3;
const FLAG_ZERO_COUNT: u8 = 4;
const STORE_SPARSE: u8 = 0x04;
const STORE_DENSE: u8 = 0x0C;

/// What stands before the positive store: γ, an index offset of 0, the store's flag.
const HEAD: [u8; 18] = {
    let mut head = [0; 18];
    head[0] = FLAG_INDEX_MAPPING;
    let gamma = GAMMA.to_bits().to_le_bytes();
    let mut at = 0;
    while at < gamma.len() {
        head[1 + at] = gamma[at];
        at += 1;
    }
    head[17] = FLAG_POSITIVE_STORE;
    head
};

/// What stands behind it: no negative values, and a count of zeros that is 0.
const TAIL: [u8; 12] = {
    let mut tail = [0; 12];
    tail[0] = FLAG_NEGATIVE_STORE;
    tail[1] = STORE_SPARSE;
    tail[3] = FLAG_ZERO_COUNT;
    tail
};

/// The state of no values at all: most of what a quiet deployment writes.
const EMPTY: [u8; 32] = {
    let mut empty = [0; 32];
    let mut at = 0;
    while at < HEAD.len() {
        empty[at] = HEAD[at];
        at += 1;
    }
    empty[at] = STORE_SPARSE;
    at += 2;
    let mut from = 0;
    while from < TAIL.len() {
        empty[at + from] = TAIL[from];
        from += 1;
    }
    empty
};

/// A sparse entry: a step of at most two bytes, since keys end at 2,204, and a count.
const MAX_ENTRY: usize = 10;

/// The state of few values in no order, which are sorted on the way. At most 127, so that how many entries there are is
/// one byte, known only behind them.
pub fn encode_few<const FEW: usize>(few: &mut [Key; FEW], n: usize, out: &mut Vec<u8>) {
    const { assert!(FEW < 0x80, "the number of entries is one byte") };
    let few = &mut few[..n];
    if few.is_empty() {
        return out.extend_from_slice(&EMPTY);
    }
    few.sort_unstable();
    let start = begin(few.len() * MAX_ENTRY + 2, out);
    let store = &mut out[start..];
    store[0] = STORE_SPARSE;
    let (mut n_entries, mut at, mut previous) = (0, 2, 0);
    let mut index = 0;
    while let Some(&key) = few.get(index) {
        let first = index;
        while few.get(index) == Some(&key) {
            index += 1;
        }
        at += put_entry(key - previous, (index - first) as f64, &mut store[at..]);
        previous = key;
        n_entries += 1;
    }
    store[1] = n_entries;
    end(start + at, out);
}

/// The state of three runs by ascending key, none of which reaches into another: few pairs, counts of keys that follow each
/// other, the first of which is `first_key`'s, and few pairs again.
pub fn encode_runs(
    below: &[(Key, u64)],
    (first_key, counts): (Key, &[u16]),
    above: &[(Key, u64)],
    out: &mut Vec<u8>,
) {
    let filled = Filled::of(counts);
    let counted = filled.span();
    let key_of = |pair: &(Key, u64)| pair.0;
    let (low, high) = (
        counted.map(|(first, _)| first_key + first as Key),
        counted.map(|(_, last)| first_key + last as Key),
    );
    let low = below.first().map(key_of).or(low);
    let high = above.last().map(key_of).or(high);
    let (Some(low), Some(high)) = (
        low.or(above.first().map(key_of)),
        high.or(below.last().map(key_of)),
    ) else {
        return out.extend_from_slice(&EMPTY);
    };
    let n_entries = below.len() + filled.n() + above.len();
    let span = usize::from(high - low) + 1;
    if is_dense_shorter(span, n_entries) {
        let at = begin_dense(low, span, out);
        let (slots, _) = out[at..].as_chunks_mut::<8>();
        for &(key, count) in below.iter().chain(above) {
            slots[usize::from(key - low)] = (count as f64).to_le_bytes();
        }
        if let Some((first, last)) = counted {
            let behind = &mut slots[usize::from(first_key + first as Key - low)..];
            for (slot, &count) in behind.iter_mut().zip(&counts[first..=last]) {
                *slot = f64::from(count).to_le_bytes();
            }
        }
        end(at + span * 8, out);
    } else {
        let start = begin(Sparse::most(n_entries), out);
        let mut sparse = Sparse::begin(n_entries, &mut out[start..]);
        for &(key, count) in below {
            sparse.put(key, count as f64);
        }
        filled.for_each(|bin| sparse.put(first_key + bin as Key, f64::from(counts[bin])));
        for &(key, count) in above {
            sparse.put(key, count as f64);
        }
        end(start + sparse.at, out);
    }
}

/// The state of (key, count), by ascending key.
pub fn encode_pairs(pairs: &[(Key, u64)], out: &mut Vec<u8>) {
    let (Some(&(first, _)), Some(&(last, _))) = (pairs.first(), pairs.last()) else {
        return out.extend_from_slice(&EMPTY);
    };
    let span = usize::from(last - first) + 1;
    if is_dense_shorter(span, pairs.len()) {
        let at = begin_dense(first, span, out);
        let (slots, _) = out[at..].as_chunks_mut::<8>();
        for &(key, count) in pairs {
            slots[usize::from(key - first)] = (count as f64).to_le_bytes();
        }
        end(at + span * 8, out);
    } else {
        let start = begin(Sparse::most(pairs.len()), out);
        let mut sparse = Sparse::begin(pairs.len(), &mut out[start..]);
        for &(key, count) in pairs {
            sparse.put(key, count as f64);
        }
        end(start + sparse.at, out);
    }
}

/// A sparse entry is a count of eight bytes and a step of one or two, a dense one the count alone.
const fn is_dense_shorter(span: usize, n_entries: usize) -> bool {
    span * 8 <= n_entries * 9
}

/// A sparse store that is being written.
struct Sparse<'s> {
    store: &'s mut [u8],
    /// Where the next entry goes.
    at: usize,
    previous: Key,
}

impl<'s> Sparse<'s> {
    /// Bytes that a store takes at most. The number of entries is at most 2,205 and takes two bytes.
    const fn most(n_entries: usize) -> usize {
        n_entries * MAX_ENTRY + 3
    }

    fn begin(n_entries: usize, store: &'s mut [u8]) -> Self {
        store[0] = STORE_SPARSE;
        let at = 1 + put_short(n_entries as u16, &mut store[1..]);
        Self {
            store,
            at,
            previous: 0,
        }
    }

    #[inline(always)]
    fn put(&mut self, key: Key, count: f64) {
        self.at += put_entry(key - self.previous, count, &mut self.store[self.at..]);
        self.previous = key;
    }
}

/// Everything of a dense store but its counts, which are 0 so far; gives where they begin.
fn begin_dense(first_key: Key, span: usize, out: &mut Vec<u8>) -> usize {
    let start = begin(span * 8 + 8, out);
    let store = &mut out[start..];
    store[0] = STORE_DENSE;
    let mut at = 1 + put_short(span as u16, &mut store[1..]);
    at += put_short(first_key << 1, &mut store[at..]);
    // the step between two keys, 1, in zigzag
    store[at] = 2;
    start + at + 1
}

/// Appends what stands before the store and room for `most` bytes of it; gives where the store begins.
fn begin(most: usize, out: &mut Vec<u8>) -> usize {
    out.reserve(HEAD.len() + most + TAIL.len());
    out.extend_from_slice(&HEAD);
    let start = out.len();
    out.resize(start + most, 0);
    start
}

/// The store ends at `at`.
fn end(at: usize, out: &mut Vec<u8>) {
    out.truncate(at);
    out.extend_from_slice(&TAIL);
}

/// One sparse entry; gives its bytes. Keys ascend, so that zigzag is a shift.
#[inline(always)]
fn put_entry(step: Key, count: f64, out: &mut [u8]) -> usize {
    let Some(entry) = out.first_chunk_mut::<MAX_ENTRY>() else {
        unreachable!("room for the longest entry is made first");
    };
    let at = put_short(step << 1, entry);
    entry[at..at + 8].copy_from_slice(&count.to_le_bytes());
    at + 8
}

/// An unsigned LEB128 number below 2^14; gives its bytes.
#[inline(always)]
fn put_short(value: u16, out: &mut [u8]) -> usize {
    debug_assert!(value < 1 << 14, "keys end at 2,204");
    if value < 0x80 {
        out[0] = value as u8;
        1
    } else {
        out[0] = value as u8 | 0x80;
        out[1] = (value >> 7) as u8;
        2
    }
}
