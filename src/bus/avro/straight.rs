//! Events whose writer has our own layout, or an earlier version of it: the same result as the
//! plan's steps, in straight code.
//!
//! Nearly all producers write the current schema, and a step's dispatch costs as much as its
//! value. This reads what the plan would, field by field in our order; whatever it does not
//! expect it leaves to the plan, which begins that event anew and names the error.

use super::cursor::Cursor;
use super::error::Fault;
use super::plan::{Level, NONE, Plan, Read, Slots, Step, unsigned};

/// Which of our event's fields the writer has, by slot. Present only if it has them in our order
/// and with our types, and no others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Straight {
    present: u32,
}

/// How each field of ours stands on the wire, by slot: its reading, and whether it may be null.
const OURS: [(Read, bool); 12] = [
    (Read::Long, false),
    (Read::Unsigned, false),
    (Read::Unsigned, true),
    (Read::Unsigned, true),
    (Read::Unsigned, true),
    (Read::Status, true),
    (Read::Symbol, false),
    (Read::Flag, false),
    (Read::Unsigned, true),
    (Read::Unsigned, false),
    (Read::Unsigned, false),
    (Read::UnsignedInt, false),
];

/// Symbols of our outcome.
const N_SYMBOLS: u64 = 5;

impl Straight {
    /// Whether a level of events can be read in straight code.
    pub(super) fn of(plan: &Plan, level: &Level) -> Option<Self> {
        let mut present = 0_u32;
        for step in &level.steps {
            let (read, nullable) = *OURS.get(step.slot as usize)?;
            let null_byte = if nullable { 0 } else { Step::NO_UNION };
            // In our order: nothing present yet lies at or above this one.
            if step.read != read || step.null_byte != null_byte || present >> step.slot != 0 {
                return None;
            }
            if read == Read::Symbol {
                let places = &plan.symbols[step.table as usize];
                if !places.iter().copied().eq(0..N_SYMBOLS as u8) {
                    return None;
                }
            }
            present |= 1 << step.slot;
        }
        Some(Self { present })
    }

    #[inline(always)]
    fn has(self, slot: usize) -> bool {
        self.present & (1 << slot) != 0
    }

    /// Reads one event; a slot that the writer lacks keeps its default.
    #[inline(always)]
    pub(super) fn read(self, cursor: &mut Cursor<'_>, slots: &mut Slots) -> Result<(), Fault> {
        slots[0] = zigzag(cursor.wide_varint()?);
        slots[1] = unsigned(cursor.long_varint()?)?;
        for slot in [2, 3, 4] {
            if self.has(slot) {
                slots[slot] = nullable(cursor, Cursor::long_varint)?;
            }
        }
        if self.has(5) {
            slots[5] = match cursor.byte()? {
                0 => NONE,
                2 => {
                    let code = cursor.varint()?;
                    // A status that is one; what is not is left to the plan.
                    if code & 1 == 1 || code > 2 * 599 {
                        return Err(Fault::Value);
                    }
                    code >> 1
                }
                _ => return Err(Fault::Malformed),
            };
        }
        if self.has(6) {
            slots[6] = unsigned(u64::from(cursor.byte()?))?;
            if slots[6] >= N_SYMBOLS {
                return Err(Fault::Malformed);
            }
        }
        if self.has(7) {
            slots[7] = u64::from(cursor.byte()?);
            if slots[7] > 1 {
                return Err(Fault::Malformed);
            }
        }
        if self.has(8) {
            slots[8] = nullable(cursor, Cursor::varint)?;
        }
        for slot in [9, 10] {
            if self.has(slot) {
                slots[slot] = unsigned(cursor.long_varint()?)?;
            }
        }
        if self.has(11) {
            slots[11] = unsigned(cursor.varint()?)?;
            if slots[11] > i32::MAX as u64 {
                return Err(Fault::Malformed);
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn zigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

#[inline(always)]
fn nullable<'a>(
    cursor: &mut Cursor<'a>,
    varint: impl FnOnce(&mut Cursor<'a>) -> Result<u64, Fault>,
) -> Result<u64, Fault> {
    match cursor.byte()? {
        0 => Ok(NONE),
        2 => unsigned(varint(cursor)?),
        _ => Err(Fault::Malformed),
    }
}
