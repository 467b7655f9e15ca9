//! Which sequences of one producer start have come: the highest, and a bit for each of the 63 below it.

/// Sequences that are told apart, the highest among them. A producer without idempotence sends five at once by
/// librdkafka's default, so that what comes late comes by less than this.
const WIDTH: u64 = u64::BITS as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// The first that came. What lies before it says nothing of a gap: it may have come before anybody looked.
    pub first: u64,
    /// The highest that came.
    pub last: u64,
    /// Bit `n` stands for `last - n`.
    pub seen: u64,
}

impl Sequences {
    pub const fn beginning_at(sequence: u64) -> Self {
        Self {
            first: sequence,
            last: sequence,
            seen: 1,
        }
    }

    /// Notes one. None where it came before, or lies too far back to tell; else by how many more sequences than before
    /// are missing between the first and the last.
    pub fn note(&mut self, sequence: u64) -> Option<i64> {
        if sequence > self.last {
            let ahead = sequence - self.last;
            let kept = if ahead < WIDTH { self.seen << ahead } else { 0 };
            self.seen = kept | 1;
            self.last = sequence;
            return Some(ahead as i64 - 1);
        }
        let bit = match self.last - sequence {
            behind if behind < WIDTH => 1 << behind,
            _ => return None,
        };
        if self.seen & bit != 0 {
            return None;
        }
        self.seen |= bit;
        if sequence >= self.first {
            return Some(-1);
        }
        let passed_over = self.first - sequence - 1;
        self.first = sequence;
        Some(passed_over as i64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_came_before_is_known() {
        let mut sequences = Sequences::beginning_at(5);
        assert_eq!(sequences.note(5), None);
        assert_eq!(sequences.note(8), Some(2));
        assert_eq!(sequences.note(6), Some(-1));
        assert_eq!(sequences.note(6), None);
        assert_eq!(sequences.note(2), Some(2));
        assert_eq!(sequences.note(71), Some(62));
        // 8 is the last that is told apart, and has come; 7 has not, and nobody knows
        assert_eq!((sequences.note(8), sequences.note(7)), (None, None));
        assert_eq!(sequences.note(9), Some(-1));
        assert_eq!(sequences.note(1 << 62), Some((1 << 62) - 72));
        assert_eq!(sequences.note(71), None);
    }

    proptest! {
        #[test]
        fn nothing_is_taken_twice_and_gaps_add_up(all in prop::collection::vec(0_u64..150, 1..200)) {
            let mut sequences = Sequences::beginning_at(all[0]);
            let mut taken = BTreeSet::from([all[0]]);
            let mut missing = 0;
            for &sequence in &all[1..] {
                let highest = *taken.last().expect("one at least");
                let is_new = !taken.contains(&sequence) && sequence + WIDTH > highest;
                let noted = sequences.note(sequence);
                prop_assert_eq!(noted.is_some(), is_new);
                missing += noted.unwrap_or(0);
                taken.extend(is_new.then_some(sequence));
                let (first, last) = (*taken.first().expect("one"), *taken.last().expect("one"));
                prop_assert_eq!((sequences.first, sequences.last), (first, last));
                prop_assert_eq!(missing, (last - first + 1) as i64 - taken.len() as i64);
            }
        }
    }
}
