//! DDSketch over durations in whole microseconds: relative error at most 1 %, in ClickHouse's own state format.
//!
//! Owns the mapping from a value to its key, the bins, merging, and the bytes of a `quantilesDD(0.01, …)` state.
//! It records integers from 1 up (0 counts as 1, since ClickHouse's reader errs below 1) and refuses nothing:
//! what must not be counted is refused before it gets here.
//!
//! Sources: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
//! VLDB 2019; the byte layout is that of ClickHouse's `DDSketch.h` and its stores, stable since 24.1.

mod bins;
mod filled;
mod keys;
mod state;

use bins::Bins;
pub use keys::{GAMMA, Key, KeyTable, key_table, value_of};

/// Keys that a sketch keeps unsorted before it folds them into bins. With the count and the pointer to the bins, a
/// sketch is one cache line, and a window that few requests met needs no allocation at all.
const FEW: usize = 27;

/// A mergeable histogram of durations. 64 bytes while it holds few values.
pub struct Sketch {
    /// How many of `few` are in use.
    n_few: u16,
    few: [Key; FEW],
    bins: Option<Box<Bins>>,
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
        self.bins.as_ref().map_or(0, |bins| bins.bytes())
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
            match &mut self.bins {
                Some(mine) => mine.merge(theirs),
                None => self.bins = Some(theirs.clone()),
            }
            grown += self.heap_bytes().saturating_sub(before);
        }
        grown
    }

    #[cold]
    #[inline(never)]
    fn fold_few(&mut self) -> usize {
        let before = self.heap_bytes();
        let few = &mut self.few[..usize::from(self.n_few)];
        self.bins.get_or_insert_default().add_each(few);
        self.n_few = 0;
        self.heap_bytes().saturating_sub(before)
    }

    /// Appends the state as ClickHouse's `quantilesDD(0.01, …)` has it.
    pub fn encode_state(&mut self, out: &mut Vec<u8>) {
        match &self.bins {
            None => state::encode_few(&mut self.few, usize::from(self.n_few), out),
            Some(_) => {
                self.fold_few();
                if let Some(bins) = &self.bins {
                    bins.encode(out);
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::keys::{key_by_logarithm, threshold_above};
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

    /// What a state holds, by the description of its layout.
    fn read_state(state: &[u8]) -> Vec<(Key, u64)> {
        let mut rest = state;
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at(n);
            rest = left;
            taken.to_vec()
        };
        let mut head = vec![2];
        head.extend(GAMMA.to_le_bytes());
        head.extend([0; 8]);
        head.push(1);
        assert_eq!(take(18), head);
        let varint = |take: &mut dyn FnMut(usize) -> Vec<u8>| {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let byte = take(1)[0];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        };
        let unzigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
        let count = |bytes: Vec<u8>| f64::from_le_bytes(bytes.try_into().expect("eight")) as u64;
        let form = take(1)[0];
        let n = varint(&mut take);
        let mut all = Vec::new();
        if form == 0x0C {
            let first = unzigzag(varint(&mut take));
            assert_eq!(unzigzag(varint(&mut take)), 1);
            for key in first..first + n as i64 {
                all.push((key as Key, count(take(8))));
            }
        } else {
            assert_eq!(form, 0x04);
            let mut key = 0;
            for _ in 0..n {
                key += unzigzag(varint(&mut take));
                all.push((key as Key, count(take(8))));
            }
        }
        assert_eq!(take(12), [3, 4, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(rest.is_empty());
        all.retain(|&(_, count)| count > 0);
        all
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
    fn what_lies_apart_from_the_bins_is_written_before_and_behind_them() {
        // the third way to write is taken past what a bin holds
        for (step, apart, form) in [(1, [511, 768], 0x0C), (2, [100, 2_000], 0x04)] {
            for n_more in [0, 70_000] {
                let mut sketch = Sketch::default();
                let mut expected = std::collections::BTreeMap::new();
                let keys = (512..768).step_by(step).chain(apart);
                for key in keys.chain(std::iter::repeat_n(600, n_more)) {
                    sketch.insert_key(key);
                    *expected.entry(key).or_insert(0) += 1;
                }
                let mut state = Vec::new();
                sketch.encode_state(&mut state);
                let spilled = &sketch.bins.as_ref().expect("many values").spilled;
                assert_eq!([spilled[0].0, spilled[spilled.len() - 1].0], apart);
                assert_eq!(state[18], form);
                assert_eq!(read_state(&state), expected.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_outlier_stands_apart_and_the_others_in_bins() {
        for outlier in [1, 500] {
            let mut sketch = Sketch::default();
            // the first fold decides where the bins begin, the second meets the outlier once more
            for i in 0..2 * FEW as Key {
                sketch.insert_key(if i % 10 == 4 {
                    outlier
                } else {
                    230 + i * 7 % 100
                });
            }
            sketch.fold_few();
            let bins = sketch.bins.as_ref().expect("many values");
            assert_eq!(bins.spilled.len(), 1, "{:?}", bins.spilled);
            assert_eq!(bins.spilled[0].0, outlier);
        }
    }

    #[test]
    fn the_most_of_what_comes_later_decides_how_bins_widen() {
        let mut sketch = Sketch::default();
        let first = (0..FEW).map(|i| 224 + i as Key * 4);
        let later = std::iter::repeat_n(470, FEW - 1).chain([190]);
        for key in first.chain(later) {
            sketch.insert_key(key);
        }
        sketch.fold_few();
        let bins = sketch.bins.as_ref().expect("many values");
        assert_eq!(bins.spilled, [(190, 1)]);
    }

    #[test]
    fn bins_of_many_values_stay_bins_in_a_merge() {
        let mut wide = Sketch::default();
        for i in 0..2_000 {
            wide.insert_key(100 + i * 13 % 400);
        }
        let mut few = Sketch::default();
        for key in 0..=FEW as Key {
            few.insert_key(100 + key);
        }
        for mut sum in [Sketch::default(), few] {
            sum.merge(&wide);
            assert!(
                sum.bins
                    .as_ref()
                    .is_some_and(|bins| bins.spilled.is_empty())
            );
        }
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

        /// Read back by the layout's own words, whichever of its forms was written.
        #[test]
        fn a_state_says_what_was_recorded(values in durations(), repeats in prop::sample::select(vec![1, 1, 1, 300, 70_000])) {
            let mut sketch = Sketch::default();
            for &value in &values {
                sketch.insert(value);
            }
            if let Some(&value) = values.first() {
                (1..repeats).for_each(|_| { sketch.insert(value); });
            }
            let expected = pairs(&sketch);
            let mut state = vec![0xAB];
            sketch.encode_state(&mut state);
            prop_assert_eq!(read_state(&state[1..]), expected);
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
