//! DDSketch over durations in whole microseconds: relative error at most 1 %, in ClickHouse's own state format.
//!
//! Owns the mapping from a value to its key, the bins, merging, and the bytes of a `quantilesDD(0.01, …)` state.
//! It records integers from 1 up (0 counts as 1, since ClickHouse's reader errs below 1) and refuses nothing:
//! what must not be counted is refused before it gets here.
//!
//! Sources: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
//! VLDB 2019; the byte layout is that of ClickHouse's `DDSketch.h` and its stores, stable since 24.1.

use std::sync::LazyLock;

/// (1 + α) / (1 − α) with α = 1 %. The bits are those that ClickHouse writes and compares on a merge.
pub const GAMMA: f64 = f64::from_bits(0x3FF0_52BF_5A81_4AFD);

/// Keys that a sketch keeps unsorted before it folds them into bins. With the count and the pointer to the bins, a
/// sketch is one cache line, and a window that few requests met needs no allocation at all.
const FEW: usize = 27;

/// Bins grow by whole cache lines of `u16`.
const BIN_STEP: u16 = 32;

/// Up to this span (a factor of 160 between the fastest and the slowest) bins are simply widened. Beyond it only once
/// the bins hold `EVENTS_PER_BIN` a bin, so that one outlier does not cost a kilobyte.
const NARROW_SPAN: usize = 256;
const EVENTS_PER_BIN: u64 = 4;

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

fn key_by_logarithm(value: u64) -> Key {
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
fn threshold_above(key: Key) -> u64 {
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

/// A mergeable histogram of durations. 64 bytes while it holds few values.
pub struct Sketch {
    /// How many of `few` are in use.
    n_few: u16,
    few: [Key; FEW],
    bins: Option<Box<Bins>>,
}

/// Counts by key over one contiguous span, and what does not fit there.
#[derive(Default)]
struct Bins {
    first_key: Key,
    counts: Vec<u16>,
    /// Sorted by key: far outliers, and what overflowed a `u16`.
    spilled: Vec<(Key, u64)>,
    total: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            n_few: 0,
            few: [0; FEW],
            bins: None,
        }
    }
}

impl Sketch {
    /// Records one duration in microseconds.
    pub fn insert(&mut self, value_us: u64) {
        self.insert_key(key_table().key(value_us));
    }

    /// Records one value by its key. Returns by how many bytes the heap grew.
    #[inline]
    pub fn insert_key(&mut self, key: Key) -> usize {
        let mut grown = 0;
        if usize::from(self.n_few) == FEW {
            grown = self.fold_few();
        }
        self.few[usize::from(self.n_few)] = key;
        self.n_few += 1;
        grown
    }

    /// True while nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.n_few == 0 && self.bins.is_none()
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        u64::from(self.n_few) + self.bins.as_ref().map_or(0, |bins| bins.total)
    }

    /// Bytes behind the struct itself.
    pub fn heap_bytes(&self) -> usize {
        self.bins.as_ref().map_or(0, |bins| {
            size_of::<Bins>()
                + bins.counts.capacity() * size_of::<u16>()
                + bins.spilled.capacity() * size_of::<(Key, u64)>()
        })
    }

    /// Adds everything that `other` holds. Any order and grouping of merges gives the same counts. Returns by how many
    /// bytes the heap grew.
    pub fn merge(&mut self, other: &Self) -> usize {
        let mut grown = 0;
        for &key in &other.few[..usize::from(other.n_few)] {
            grown += self.insert_key(key);
        }
        if let Some(theirs) = &other.bins {
            let before = self.heap_bytes();
            let bins = self.bins.get_or_insert_default();
            if let Some((low, high)) = theirs.span() {
                bins.make_room(low, high);
                for (key, count) in theirs.dense() {
                    bins.add(key, count);
                }
            }
            for &(key, count) in &theirs.spilled {
                bins.add(key, count);
            }
            grown += self.heap_bytes().saturating_sub(before);
        }
        grown
    }

    #[cold]
    #[inline(never)]
    fn fold_few(&mut self) -> usize {
        let before = self.heap_bytes();
        let few = &self.few[..usize::from(self.n_few)];
        let (low, high) = few.iter().fold((Key::MAX, 0), |(low, high), &key| {
            (low.min(key), high.max(key))
        });
        let bins = self.bins.get_or_insert_default();
        if low <= high {
            bins.make_room(low, high);
        }
        for &key in few {
            bins.add_one(key);
        }
        self.n_few = 0;
        self.heap_bytes().saturating_sub(before)
    }

    /// Appends the state as ClickHouse's `quantilesDD(0.01, …)` has it.
    pub fn encode_state(&mut self, out: &mut Vec<u8>) {
        out.push(FLAG_INDEX_MAPPING);
        out.extend_from_slice(&GAMMA.to_le_bytes());
        out.extend_from_slice(&0_f64.to_le_bytes());
        out.push(FLAG_POSITIVE_STORE);
        if self.bins.is_some() {
            self.fold_few();
        }
        match &self.bins {
            None => encode_few(&mut self.few[..usize::from(self.n_few)], out),
            Some(bins) => bins.encode(out),
        }
        out.push(FLAG_NEGATIVE_STORE);
        out.extend_from_slice(&EMPTY_STORE);
        out.push(FLAG_ZERO_COUNT);
        out.extend_from_slice(&0_f64.to_le_bytes());
    }

    /// The value at `quantile` (0 to 1) of what was recorded; `None` without values. For tests and small tools: people
    /// read percentiles from ClickHouse.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let mut pairs: Vec<(Key, u64)> = self.few[..usize::from(self.n_few)]
            .iter()
            .map(|&key| (key, 1))
            .collect();
        if let Some(bins) = &self.bins {
            pairs.extend(bins.dense());
            pairs.extend_from_slice(&bins.spilled);
        }
        pairs.sort_unstable();
        let rank = quantile * (self.count().checked_sub(1)? as f64);
        let mut seen = 0;
        for &(key, count) in &pairs {
            seen += count;
            if seen as f64 > rank {
                return Some(value_of(key));
            }
        }
        pairs.last().map(|&(key, _)| value_of(key))
    }
}

impl Bins {
    /// Lowest and highest key of the contiguous span.
    fn span(&self) -> Option<(Key, Key)> {
        let n = Key::try_from(self.counts.len()).unwrap_or(Key::MAX);
        (n > 0).then(|| (self.first_key, self.first_key + (n - 1)))
    }

    /// The counts of the contiguous span that are not zero, by ascending key.
    fn dense(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        (self.first_key..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(key, &count)| (key, u64::from(count)))
    }

    /// Widens the span to hold `low..=high`, unless that would be mostly empty.
    fn make_room(&mut self, low: Key, high: Key) {
        let (first, last) = match self.span() {
            Some((first, last)) if first <= low && high <= last => return,
            Some((first, last)) => (first.min(low), last.max(high)),
            None => (low, high),
        };
        let first = first / BIN_STEP * BIN_STEP;
        let n = usize::from((last / BIN_STEP + 1) * BIN_STEP - first);
        if n > NARROW_SPAN && self.total < EVENTS_PER_BIN * n as u64 {
            // what is near the present span is still worth a widening; the rest goes to `spilled`
            return self.make_room_nearby(low, high);
        }
        self.widen(first, n);
    }

    fn make_room_nearby(&mut self, low: Key, high: Key) {
        let Some((first, last)) = self.span() else {
            // the first values are already wide apart: start from the lower end
            let first = low / BIN_STEP * BIN_STEP;
            return self.widen(first, usize::from(BIN_STEP));
        };
        let step_below = (first - first.min(BIN_STEP)) / BIN_STEP * BIN_STEP;
        let step_above = last + BIN_STEP;
        let new_first = if low < first && low >= step_below {
            step_below
        } else {
            first
        };
        let new_last = if high > last && high <= step_above {
            step_above
        } else {
            last
        };
        let n = usize::from(new_last - new_first) + 1;
        if n <= NARROW_SPAN {
            self.widen(new_first, n);
        }
    }

    fn widen(&mut self, first: Key, n: usize) {
        if n == self.counts.len() {
            return;
        }
        let mut counts = vec![0; n];
        if !self.counts.is_empty() {
            let shift = usize::from(self.first_key - first);
            counts[shift..shift + self.counts.len()].copy_from_slice(&self.counts);
        }
        self.first_key = first;
        self.counts = counts;
        // what lay outside before may lie inside now; leaving it would only cost space, not correctness
        let spilled = std::mem::take(&mut self.spilled);
        for (key, count) in spilled {
            self.total -= count;
            self.add(key, count);
        }
    }

    #[inline]
    fn add_one(&mut self, key: Key) {
        let index = usize::from(key.wrapping_sub(self.first_key));
        if let Some(bin) = self.counts.get_mut(index)
            && let Some(sum) = bin.checked_add(1)
        {
            *bin = sum;
            self.total += 1;
        } else {
            self.add(key, 1);
        }
    }

    fn add(&mut self, key: Key, count: u64) {
        self.total += count;
        let index = usize::from(key.wrapping_sub(self.first_key));
        if let Some(bin) = self.counts.get_mut(index)
            && let Some(sum) = u16::try_from(count)
                .ok()
                .and_then(|count| bin.checked_add(count))
        {
            *bin = sum;
            return;
        }
        match self.spilled.binary_search_by_key(&key, |&(key, _)| key) {
            Ok(at) => self.spilled[at].1 += count,
            Err(at) => self.spilled.insert(at, (key, count)),
        }
    }

    /// The store in whichever of ClickHouse's two forms is shorter.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut pairs: Vec<(Key, u64)> = Vec::with_capacity(64);
        let mut spilled = self.spilled.iter().copied().peekable();
        for (key, mut count) in self.dense() {
            while let Some(pair) = spilled.next_if(|&(other, _)| other < key) {
                pairs.push(pair);
            }
            if let Some((_, more)) = spilled.next_if(|&(other, _)| other == key) {
                count += more;
            }
            pairs.push((key, count));
        }
        pairs.extend(spilled);
        let (Some(&(first, _)), Some(&(last, _))) = (pairs.first(), pairs.last()) else {
            return out.extend_from_slice(&EMPTY_STORE);
        };
        let span = usize::from(last - first) + 1;
        if span * 8 <= pairs.len() * 9 {
            encode_dense(first, span, &pairs, out);
        } else {
            encode_sparse(&pairs, out);
        }
    }
}

// The bytes of ClickHouse's state.
const FLAG_POSITIVE_STORE: u8 = 1;
const FLAG_INDEX_MAPPING: u8 = 2;
const FLAG_NEGATIVE_STORE: u8 = 3;
const FLAG_ZERO_COUNT: u8 = 4;
const STORE_SPARSE: u8 = 0x04;
const STORE_DENSE: u8 = 0x0C;
const EMPTY_STORE: [u8; 2] = [STORE_SPARSE, 0];

fn encode_few(few: &mut [Key], out: &mut Vec<u8>) {
    few.sort_unstable();
    out.push(STORE_SPARSE);
    let runs = few.chunk_by(|a, b| a == b);
    put_varint(runs.clone().count() as u64, out);
    let mut previous = 0;
    for run in runs {
        put_zigzag(i64::from(run[0]) - previous, out);
        previous = i64::from(run[0]);
        out.extend_from_slice(&(run.len() as f64).to_le_bytes());
    }
}

fn encode_sparse(pairs: &[(Key, u64)], out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(sketch: &Sketch) -> Vec<(Key, u64)> {
        let mut all = std::collections::BTreeMap::new();
        for &key in &sketch.few[..usize::from(sketch.n_few)] {
            *all.entry(key).or_insert(0) += 1;
        }
        if let Some(bins) = &sketch.bins {
            for (key, count) in bins.dense().chain(bins.spilled.iter().copied()) {
                *all.entry(key).or_insert(0) += count;
            }
        }
        all.into_iter().collect()
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![
            8 => 1_000..100_000_u64,
            2 => 1..10_000_000_000_u64,
            1 => Just(0),
            1 => 0..=i64::MAX as u64,
        ];
        prop::collection::vec(value, 0..400)
    }

    #[test]
    fn gamma_is_one_percent() {
        assert!((GAMMA - 1.01 / 0.99).abs() < 1e-15);
        assert_eq!(size_of::<Sketch>(), 64);
    }

    #[test]
    fn keys_equal_the_logarithm_around_every_threshold() {
        for key in 0..1800 {
            let threshold = threshold_above(key);
            for value in [threshold.saturating_sub(1).max(1), threshold, threshold + 1] {
                assert_eq!(
                    key_table().key(value),
                    key_by_logarithm(value),
                    "value {value}"
                );
            }
        }
        assert_eq!(key_table().key(0), key_table().key(1));
        assert_eq!(
            key_table().key(i64::MAX as u64),
            key_by_logarithm(i64::MAX as u64)
        );
    }

    #[test]
    fn counts_beyond_a_bin_are_kept() {
        let mut sketch = Sketch::default();
        for _ in 0..200_000 {
            sketch.insert(5_000);
        }
        assert_eq!(pairs(&sketch), [(key_table().key(5_000), 200_000)]);
    }

    #[test]
    fn outliers_do_not_widen_a_small_sketch() {
        let mut sketch = Sketch::default();
        for i in 0..60 {
            sketch.insert(if i % 20 == 0 {
                100_000_000
            } else {
                20_000 + i * 100
            });
        }
        assert!(sketch.heap_bytes() < 800, "{}", sketch.heap_bytes());
        assert_eq!(sketch.count(), 60);
    }

    proptest! {
        #[test]
        fn every_value_is_in_its_bin(values in durations()) {
            let mut sketch = Sketch::default();
            let mut expected = std::collections::BTreeMap::new();
            for &value in &values {
                sketch.insert(value);
                *expected.entry(key_table().key(value)).or_insert(0_u64) += 1;
            }
            prop_assert_eq!(pairs(&sketch), expected.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(sketch.count(), values.len() as u64);
        }

        #[test]
        fn merging_is_recording(values in durations(), cuts in prop::collection::vec(0..3_usize, 400)) {
            let mut whole = Sketch::default();
            let mut parts: [Sketch; 3] = Default::default();
            for (value, part) in values.iter().zip(cuts) {
                whole.insert(*value);
                parts[part].insert(*value);
            }
            let [a, mut b, mut c] = parts;
            b.merge(&c);
            b.merge(&a);
            prop_assert_eq!(pairs(&b), pairs(&whole));
            c.merge(&Sketch::default());
            prop_assert_eq!(c.count() + a.count() <= whole.count(), true);
        }

        /// The error bound, and the same keys as the published implementation.
        #[test]
        fn quantiles_are_within_one_percent(mut values in prop::collection::vec(1..10_000_000_000_u64, 1..400), quantile in 0.0..1.0_f64) {
            let mut sketch = Sketch::default();
            let mut oracle = sketches_ddsketch::DDSketch::new(sketches_ddsketch::Config::new(0.01, 4096, 1.0));
            for &value in &values {
                sketch.insert(value);
                oracle.add(value as f64);
            }
            values.sort_unstable();
            let rank = quantile * (values.len() - 1) as f64;
            let got = sketch.quantile(quantile).expect("not empty");
            let (low, high) = (values[rank.floor() as usize] as f64, values[rank.ceil() as usize] as f64);
            prop_assert!(got >= low * 0.9899 && got <= high * 1.0101, "{got} not within 1 % of {low}..{high}");
            let theirs = oracle.quantile(quantile).expect("in range").expect("not empty");
            prop_assert!((got / theirs - 1.0).abs() < 0.021, "{got} against {theirs}");
        }
    }
}
