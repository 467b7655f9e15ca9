//! The bytes of a `quantilesDD` state, as ClickHouse's `DDSketch.h` and its stores read them; stable since 24.1.

use super::keys::{GAMMA, Key};

const FLAG_POSITIVE_STORE: u8 = 1;
const FLAG_INDEX_MAPPING: u8 = 2;
const FLAG_NEGATIVE_STORE: u8 = 3;
const FLAG_ZERO_COUNT: u8 = 4;
const STORE_SPARSE: u8 = 0x04;
const STORE_DENSE: u8 = 0x0C;
const EMPTY_STORE: [u8; 2] = [STORE_SPARSE, 0];

/// What stands before the positive store.
pub fn begin(out: &mut Vec<u8>) {
    out.push(FLAG_INDEX_MAPPING);
    out.extend_from_slice(&GAMMA.to_le_bytes());
    out.extend_from_slice(&0_f64.to_le_bytes());
    out.push(FLAG_POSITIVE_STORE);
}

/// What stands behind it: no negative values, no zeros.
pub fn end(out: &mut Vec<u8>) {
    out.push(FLAG_NEGATIVE_STORE);
    out.extend_from_slice(&EMPTY_STORE);
    out.push(FLAG_ZERO_COUNT);
    out.extend_from_slice(&0_f64.to_le_bytes());
}

/// The positive store of values that were not sorted yet.
pub fn encode_few(few: &mut [Key], out: &mut Vec<u8>) {
    few.sort_unstable();
    let mut n = 0;
    out.reserve(few.len() * 11 + 2);
    let start = out.len();
    // at most 27 entries, so that their number is one byte, known only behind them
    out.extend_from_slice(&[STORE_SPARSE, 0]);
    let mut previous = 0;
    let mut rest = &*few;
    while let Some(&key) = rest.first() {
        let run = rest.iter().take_while(|&&other| other == key).count();
        rest = &rest[run..];
        put_zigzag(i64::from(key) - previous, out);
        previous = i64::from(key);
        out.extend_from_slice(&(run as f64).to_le_bytes());
        n += 1;
    }
    out[start + 1] = n;
}

/// The positive store of (key, count), by ascending key, in whichever of the two forms is shorter.
pub fn encode_pairs(pairs: &[(Key, u64)], out: &mut Vec<u8>) {
    let (Some(&(first, _)), Some(&(last, _))) = (pairs.first(), pairs.last()) else {
        return out.extend_from_slice(&EMPTY_STORE);
    };
    let span = usize::from(last - first) + 1;
    // a sparse entry is a count of eight bytes and a step of one or two, a dense one the count alone
    if span * 8 <= pairs.len() * 9 {
        encode_dense(first, span, pairs, out);
    } else {
        encode_sparse(pairs, out);
    }
}

fn encode_sparse(pairs: &[(Key, u64)], out: &mut Vec<u8>) {
    out.reserve(pairs.len() * 11 + 8);
    out.push(STORE_SPARSE);
    put_varint(pairs.len() as u64, out);
    let mut previous = 0;
    for &(key, count) in pairs {
        put_zigzag(i64::from(key) - previous, out);
        previous = i64::from(key);
        out.extend_from_slice(&(count as f64).to_le_bytes());
    }
}

fn encode_dense(first: Key, span: usize, pairs: &[(Key, u64)], out: &mut Vec<u8>) {
    out.push(STORE_DENSE);
    put_varint(span as u64, out);
    put_zigzag(i64::from(first), out);
    put_zigzag(1, out);
    let start = out.len();
    out.resize(start + span * 8, 0);
    for &(key, count) in pairs {
        let at = start + usize::from(key - first) * 8;
        out[at..at + 8].copy_from_slice(&(count as f64).to_le_bytes());
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_zigzag(value: i64, out: &mut Vec<u8>) {
    put_varint(((value << 1) ^ (value >> 63)) as u64, out);
}
