//! Avro's few primitives, written.

use super::plan::NONE;

/// A long, or an int: they are written alike.
#[inline]
pub(super) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// A number that has no sign with us: the largest long where a long cannot hold it.
#[inline]
pub(super) fn put_int(value: u64, out: &mut Vec<u8>) {
    debug_assert_ne!(value, NONE, "none is written as null");
    put_long(i64::try_from(value).unwrap_or(i64::MAX), out);
}

pub(super) fn put_double(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_long(text.len() as i64, out);
    out.extend_from_slice(text.as_bytes());
}

/// A union of null and one type, null first, as all of ours are.
#[inline]
pub(super) fn put_nullable<T>(
    value: Option<T>,
    out: &mut Vec<u8>,
    put: impl FnOnce(T, &mut Vec<u8>),
) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(2);
            put(value, out);
        }
    }
}
