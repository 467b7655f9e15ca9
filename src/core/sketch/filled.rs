//! Which of a run of bins hold something. Which are empty no processor can guess, so that a look at each in turn would be
//! mispredicted time and again: they are compared four at a time, and those that hold something are told by a bit.

/// Bins of a word.
const WORD: usize = u64::BITS as usize;

/// Keys end at 2,204, and bins begin and end at a multiple of 32.
const MAX_WORDS: usize = 2_208_usize.div_ceil(WORD);

pub struct Filled {
    words: [u64; MAX_WORDS],
}

impl Filled {
    pub fn of(counts: &[u16]) -> Self {
        debug_assert!(counts.len() <= MAX_WORDS * WORD, "{}", counts.len());
        let mut words = [0; MAX_WORDS];
        for (word, counts) in words.iter_mut().zip(counts.chunks(WORD)) {
            let (fours, rest) = counts.as_chunks::<4>();
            for (i, &four) in fours.iter().enumerate() {
                *word |= filled_of_four(four) << (4 * i);
            }
            for (i, &count) in rest.iter().enumerate() {
                *word |= u64::from(count > 0) << (4 * fours.len() + i);
            }
        }
        Self { words }
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The first and the last of them.
    pub fn span(&self) -> Option<(usize, usize)> {
        let first = self.words.iter().position(|&word| word != 0)?;
        let last = self.words.iter().rposition(|&word| word != 0)?;
        Some((
            first * WORD + self.words[first].trailing_zeros() as usize,
            last * WORD + self.words[last].ilog2() as usize,
        ))
    }

    /// Each by its index, in ascending order.
    #[inline(always)]
    pub fn for_each(&self, mut take: impl FnMut(usize)) {
        for (i, &word) in self.words.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                take(i * WORD + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

/// A bit for each count that is not 0, the first one's lowest.
#[inline(always)]
fn filled_of_four(counts: [u16; 4]) -> u64 {
    const BUT_HIGHEST: u64 = 0x7FFF_7FFF_7FFF_7FFF;
    let [a, b, c, d] = counts.map(u64::from);
    let all = a | b << 16 | c << 32 | d << 48;
    // a count's highest bit is set, or any other one, which then carries into it
    let highest = (((all & BUT_HIGHEST) + BUT_HIGHEST) | all) & !BUT_HIGHEST;
    (highest >> 15 | highest >> 30 | highest >> 45 | highest >> 60) & 0b1111
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn those_that_hold_something_are_told(
            counts in prop::collection::vec(prop::sample::select(vec![0, 0, 0, 1, 255, 256, 0x7FFF, 0x8000, 0xFFFF]), 0..2_208),
        ) {
            let filled = Filled::of(&counts);
            let expected: Vec<usize> = (0..counts.len()).filter(|&i| counts[i] > 0).collect();
            let mut told = Vec::new();
            filled.for_each(|index| told.push(index));
            prop_assert_eq!(filled.n(), expected.len());
            prop_assert_eq!(filled.span(), expected.first().copied().zip(expected.last().copied()));
            prop_assert_eq!(told, expected);
        }
    }
}
