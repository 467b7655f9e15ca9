//! The bins of a sketch that has met more than a few values.

use super::keys::Key;
use super::state;

/// Bins grow by whole cache lines of `u16`.
const BIN_STEP: u16 = 32;

/// Up to this span (a factor of 160 between the fastest and the slowest) bins are simply widened. Beyond it only once
/// there are `EVENTS_PER_BIN` a bin, those that come included, so that one outlier does not cost a kilobyte.
const NARROW_SPAN: usize = 256;
const EVENTS_PER_BIN: u64 = 4;

/// Counts by key over one contiguous span, and what does not fit there.
#[derive(Clone, Default)]
pub struct Bins {
    first_key: Key,
    counts: Vec<u16>,
    /// Sorted by key: far outliers, and what overflowed a `u16`.
    pub spilled: Vec<(Key, u64)>,
    pub total: u64,
}

impl Bins {
    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.counts.capacity() * size_of::<u16>()
            + self.spilled.capacity() * size_of::<(Key, u64)>()
    }

    /// Lowest and highest key of the contiguous span.
    pub fn span(&self) -> Option<(Key, Key)> {
        let n = Key::try_from(self.counts.len()).unwrap_or(Key::MAX);
        (n > 0).then(|| (self.first_key, self.first_key + (n - 1)))
    }

    /// The counts of the contiguous span that are not zero, by ascending key.
    pub fn dense(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        (self.first_key..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(key, &count)| (key, u64::from(count)))
    }

    /// Widens the span to hold `keys`, in no order, but for those that stand so far from the others that it would be mostly
    /// empty. Where there are such, it sorts the keys.
    fn make_room_for(&mut self, keys: &mut [Key]) {
        let (low, high) = keys.iter().fold((Key::MAX, 0), |(low, high), &key| {
            (low.min(key), high.max(key))
        });
        let n_coming = keys.len() as u64;
        if low > high || self.try_widen(low, high, n_coming) {
            return;
        }
        keys.sort_unstable();
        // of the runs that fit, the one with the most keys
        let (mut first, mut best) = (0, 0..0);
        for (last, &high) in keys.iter().enumerate() {
            while first < last && self.widened(keys[first], high, n_coming).is_none() {
                first += 1;
            }
            let fits = self.widened(keys[first], high, n_coming).is_some();
            if fits && last + 1 - first > best.len() {
                best = first..last + 1;
            }
        }
        if let [low, ..] = keys[best.clone()] {
            self.try_widen(low, keys[best.end - 1], n_coming);
        }
    }

    /// Widens the span to hold `low..=high`; false where that would be mostly empty, `n_coming` values included.
    fn try_widen(&mut self, low: Key, high: Key, n_coming: u64) -> bool {
        let widened = self.widened(low, high, n_coming);
        if let Some((first, n)) = widened {
            self.widen(first, n);
        }
        widened.is_some()
    }

    /// The first key and the bins of the span that holds `low..=high` too; none where it would be mostly empty.
    fn widened(&self, low: Key, high: Key, n_coming: u64) -> Option<(Key, usize)> {
        let (first, last) = match self.span() {
            Some((first, last)) => (first.min(low), last.max(high)),
            None => (low, high),
        };
        let first = first / BIN_STEP * BIN_STEP;
        let n = usize::from((last / BIN_STEP + 1) * BIN_STEP - first);
        let is_worth_it = n <= NARROW_SPAN
            || n == self.counts.len()
            || self.total + n_coming >= EVENTS_PER_BIN * n as u64;
        is_worth_it.then_some((first, n))
    }

    /// Widens the span by a step to either side where that reaches `low` or `high`.
    fn make_room_nearby(&mut self, low: Key, high: Key) {
        let Some((first, last)) = self.span() else {
            return;
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

    /// Counts a value of each of the keys, which are in no order.
    pub fn add_each(&mut self, keys: &mut [Key]) {
        self.make_room_for(keys);
        let mut n_within = 0;
        for &key in &*keys {
            let index = usize::from(key.wrapping_sub(self.first_key));
            match self.counts.get_mut(index) {
                Some(bin) if *bin < u16::MAX => {
                    *bin += 1;
                    n_within += 1;
                }
                _ => self.add(key, 1),
            }
        }
        self.total += n_within;
    }

    /// Counts `count` values.
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

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        if let Some((low, high)) = other.span() {
            if self.try_widen(low, high, other.total) {
                self.merge_within(other);
            } else {
                self.make_room_nearby(low, high);
                other.dense().for_each(|(key, count)| self.add(key, count));
            }
        }
        for &(key, count) in &other.spilled {
            self.add(key, count);
        }
    }

    /// Adds bins that lie within the span, one beside the other: a loop that the compiler makes wide.
    fn merge_within(&mut self, other: &Self) {
        let shift = usize::from(other.first_key - self.first_key);
        let mine = &mut self.counts[shift..shift + other.counts.len()];
        let overflows = mine
            .iter()
            .zip(&other.counts)
            .any(|(mine, theirs)| mine.checked_add(*theirs).is_none());
        if overflows {
            return other.dense().for_each(|(key, count)| self.add(key, count));
        }
        for (mine, theirs) in mine.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other
            .counts
            .iter()
            .map(|&count| u64::from(count))
            .sum::<u64>();
    }

    /// The state, its store in whichever of ClickHouse's two forms is shorter.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let n_below = self
            .spilled
            .partition_point(|&(key, _)| key < self.first_key);
        let (below, above) = self.spilled.split_at(n_below);
        let is_within = |&(key, _): &(Key, u64)| self.span().is_some_and(|(_, last)| key <= last);
        if above.first().is_some_and(is_within) {
            // a bin overflowed, which takes 65,536 values in it
            return state::encode_pairs(&self.pairs(), out);
        }
        state::encode_runs(below, (self.first_key, &self.counts), above, out);
    }

    /// All counts by ascending key, each key once.
    fn pairs(&self) -> Vec<(Key, u64)> {
        let mut pairs: Vec<(Key, u64)> = self.dense().chain(self.spilled.iter().copied()).collect();
        pairs.sort_unstable();
        pairs.dedup_by(|&mut (key, count), (kept, sum)| {
            let is_same = key == *kept;
            *sum += if is_same { count } else { 0 };
            is_same
        });
        pairs
    }
}
