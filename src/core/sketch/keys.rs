//! From a value to its key without a logarithm, and back.

use std::sync::LazyLock;

/// (1 + α) / (1 − α) with α = 1 %. The bits are those that ClickHouse writes and compares on a merge.
pub const GAMMA: f64 = f64::from_bits(0x3FF0_52BF_5A81_4AFD);

/// The slice of the key table that a value falls into: its exponent and the six bits behind its leading one. A slice
/// is at most 1.6 % wide and a bin 2 %, so that a slice has at most one threshold inside.
const MANTISSA_BITS: u32 = 6;
const SLICES: usize = 64 << MANTISSA_BITS;

/// A bin's number: floor(ln v / ln γ). At most 2,204 for a `u64`.
pub type Key = u16;

#[derive(Clone, Copy)]
struct Slice {
    /// From this value up, within the slice, the key is one higher.
    threshold: u64,
    key: Key,
}

/// Value to key without a logarithm, exact for every integer below 2^53.
pub struct KeyTable {
    slices: Box<[Slice; SLICES]>,
}

static KEY_TABLE: LazyLock<KeyTable> = LazyLock::new(KeyTable::new);

/// The one key table. A hot loop takes it once, outside.
pub fn key_table() -> &'static KeyTable {
    &KEY_TABLE
}

pub(super) fn key_by_logarithm(value: u64) -> Key {
    ((value as f64).ln() / GAMMA.ln()).floor() as Key
}

impl KeyTable {
    fn new() -> Self {
        let mut slices = vec![
            Slice {
                threshold: u64::MAX,
                key: 0
            };
            SLICES
        ];
        for exponent in 0..64_u32 {
            for mantissa in 0..1_u64 << MANTISSA_BITS {
                let lowest = slice_value(exponent, mantissa);
                let key = key_by_logarithm(lowest);
                slices[(exponent as usize) << MANTISSA_BITS | mantissa as usize] = Slice {
                    threshold: threshold_above(key),
                    key,
                };
            }
        }
        let slices: Box<[Slice]> = slices.into_boxed_slice();
        Self {
            slices: slices
                .try_into()
                .unwrap_or_else(|_| unreachable!("the vector has SLICES entries")),
        }
    }

    /// The key of a duration in microseconds; 0 counts as 1.
    #[inline]
    pub fn key(&self, value_us: u64) -> Key {
        let value = value_us | u64::from(value_us == 0);
        let exponent = 63 - value.leading_zeros();
        // the leading one is shifted out, the six bits behind it stay
        let mantissa = (value << (63 - exponent) << 1) >> (64 - MANTISSA_BITS);
        let slice =
            &self.slices[((exponent as usize) << MANTISSA_BITS | mantissa as usize) & (SLICES - 1)];
        slice.key + Key::from(value >= slice.threshold)
    }
}

/// The lowest integer of a slice.
fn slice_value(exponent: u32, mantissa: u64) -> u64 {
    let one = 1_u64 << exponent;
    if exponent >= MANTISSA_BITS {
        one | mantissa << (exponent - MANTISSA_BITS)
    } else {
        one | mantissa >> (MANTISSA_BITS - exponent)
    }
}

/// The lowest integer whose key is above `key`.
pub(super) fn threshold_above(key: Key) -> u64 {
    let guess = GAMMA.powi(i32::from(key) + 1);
    if guess >= (1_u64 << 53) as f64 {
        // beyond 2^53 an f64 no longer tells neighbours apart; a saturating cast ends at u64::MAX
        return guess as u64;
    }
    let mut threshold = guess as u64;
    while threshold > 1 && key_by_logarithm(threshold - 1) > key {
        threshold -= 1;
    }
    while key_by_logarithm(threshold) <= key {
        threshold += 1;
    }
    threshold
}

/// The value that a bin stands for: at most 1 % from everything in it.
pub fn value_of(key: Key) -> f64 {
    GAMMA.powi(i32::from(key)) * 1.01
}
