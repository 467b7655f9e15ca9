//! The open windows of one tier: found by owner and start, cleared whole.
//!
//! An owner is a deployment or a replica, by its number in [`super::ids`]. Windows lie in one vector, so that the fold
//! can prefetch one by its index, and a flush walks memory in order.

use super::table::Tier;

/// The windows of one tier that have data.
pub struct Level<W> {
    tier: Tier,
    /// By owner: where its windows are.
    slots: Vec<Slots>,
    windows: Vec<Open<W>>,
    /// Bytes behind the windows, as told by [`Self::grow`].
    heap_bytes: usize,
}

/// One window with data.
pub struct Open<W> {
    pub owner: u32,
    /// Seconds since 1970, a multiple of the tier.
    pub start: u32,
    pub window: W,
}

/// The windows of one owner by their start. Live traffic stays in the one that was used last, and where that is the only
/// one, nothing is allocated.
#[derive(Clone)]
struct Slots {
    /// (start, index) of the latest use; [`NO_WINDOW`] as the index where there is none.
    last: (u32, u32),
    /// Empty while there is at most one; from the second on all of them, the first too.
    sorted: Vec<(u32, u32)>,
}

/// No window has this index; see [`Level::index_of_other`].
const NO_WINDOW: u32 = u32::MAX;

impl Slots {
    const EMPTY: Self = Self {
        last: (0, NO_WINDOW),
        sorted: Vec::new(),
    };

    const fn is_empty(&self) -> bool {
        self.last.1 == NO_WINDOW
    }

    /// The index of the window that starts there, which is the latest from now on; `next` where it is new.
    fn find_or_open(&mut self, start: u32, next: u32) -> u32 {
        let is_first = self.is_empty();
        if !is_first && self.sorted.is_empty() {
            self.sorted.push(self.last);
        }
        let found = self
            .sorted
            .binary_search_by_key(&start, |&(start, _)| start);
        let index = match found {
            Ok(at) => self.sorted[at].1,
            Err(at) => {
                if !is_first {
                    self.sorted.insert(at, (start, next));
                }
                next
            }
        };
        self.last = (start, index);
        index
    }

    fn clear(&mut self) {
        self.last = Self::EMPTY.last;
        self.sorted.clear();
    }
}

impl<W: Default> Level<W> {
    pub fn new(tier: Tier) -> Self {
        Self {
            tier,
            slots: Vec::new(),
            windows: Vec::new(),
            heap_bytes: 0,
        }
    }

    /// The index of the window that holds `second`; it is opened when missing.
    #[inline]
    pub fn index_of(&mut self, owner: u32, second: u32) -> u32 {
        // without the division that the window's start would take
        if let Some(slots) = self.slots.get(owner as usize)
            && second.wrapping_sub(slots.last.0) < self.tier.seconds()
            && !slots.is_empty()
        {
            return slots.last.1;
        }
        self.index_of_other(owner, self.tier.floor(second))
    }

    fn index_of_other(&mut self, owner: u32, start: u32) -> u32 {
        if self.slots.len() <= owner as usize {
            self.slots.resize(owner as usize + 1, Slots::EMPTY);
        }
        let next = u32::try_from(self.windows.len())
            .ok()
            .filter(|&next| next != NO_WINDOW)
            .expect("a range is closed long before 2^32 windows");
        let index = self.slots[owner as usize].find_or_open(start, next);
        if index == next {
            self.windows.push(Open {
                owner,
                start,
                window: W::default(),
            });
        }
        index
    }

    #[inline]
    pub fn window(&mut self, index: u32) -> &mut W {
        &mut self.windows[index as usize].window
    }

    /// Starts to load a window into the cache.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        let open: *const Open<W> = &raw const self.windows[index as usize];
        #[cfg(target_arch = "x86_64")]
        for line in 0..size_of::<Open<W>>().div_ceil(64) {
            // SAFETY: a prefetch reads nothing; the address lies within the element, whose bounds were just checked.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    open.cast::<i8>().add(line * 64),
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = open;
    }

    /// Notes that a window's heap grew.
    #[inline]
    pub fn grow(&mut self, bytes: usize) {
        self.heap_bytes += bytes;
    }

    /// Bytes held by the windows, about.
    pub fn state_bytes(&self) -> usize {
        self.heap_bytes + self.windows.len() * size_of::<Open<W>>()
    }

    /// Adds finer windows of the same owners to those that hold them. `merge` returns how many bytes its target grew.
    pub fn merge_up(&mut self, finer: &[Open<W>], merge: impl Fn(&mut W, &W) -> usize) {
        for open in finer {
            let index = self.index_of(open.owner, open.start);
            self.heap_bytes += merge(&mut self.windows[index as usize].window, &open.window);
        }
    }

    /// How many windows have data.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The windows, in the order in which they were opened.
    pub fn windows(&self) -> &[Open<W>] {
        &self.windows
    }

    pub fn windows_mut(&mut self) -> &mut [Open<W>] {
        &mut self.windows
    }

    /// Drops every window. Room for as many stays, so that a steady load allocates nothing.
    pub fn clear(&mut self) {
        for open in &self.windows {
            self.slots[open.owner as usize].clear();
        }
        let n = self.windows.len();
        self.windows.clear();
        self.windows.shrink_to(n);
        self.heap_bytes = 0;
    }

    /// Drops every window and all room: for a tier that lives within a flush.
    pub fn release(&mut self) {
        *self = Self::new(self.tier);
    }

    /// Forgets the owners too; the windows must have been cleared.
    pub fn forget_owners(&mut self) {
        debug_assert!(self.windows.is_empty());
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_owners_only_window_takes_no_allocation() {
        let mut level: Level<u64> = Level::new(Tier::Minute);
        level.index_of(3, 61);
        level.index_of(3, 119);
        assert_eq!(level.slots[3].sorted.capacity(), 0);
    }

    proptest! {
        /// Windows are asked for and, once in a while, cleared.
        #[test]
        fn a_window_is_found_again_and_gone_after_a_clear(
            asked in prop::collection::vec(prop::option::weighted(0.95, (0..3_u32, 0..400_u32)), 1..200),
        ) {
            let mut level: Level<u64> = Level::new(Tier::Minute);
            let mut known = BTreeMap::new();
            for step in asked {
                let Some((owner, second)) = step else {
                    level.clear();
                    known.clear();
                    continue;
                };
                let next = known.len() as u32;
                let index = *known.entry((owner, second / 60 * 60)).or_insert(next);
                prop_assert_eq!(level.index_of(owner, second), index);
                *level.window(index) += 1;
            }
            prop_assert_eq!(level.len(), known.len());
            let by_index: BTreeMap<u32, (u32, u32)> = known.into_iter().map(|(key, index)| (index, key)).collect();
            for (open, key) in level.windows().iter().zip(by_index.values()) {
                prop_assert_eq!((open.owner, open.start), *key);
                prop_assert!(open.window > 0);
            }
        }
    }
}
