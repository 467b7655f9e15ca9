//! A plan: how to read one writer's schema into our fields, compiled once per schema.
//!
//! A level is a list of steps, one a field of the writer's record, in the writer's order. A step
//! reads one value into a numbered word, a *slot*, or passes over it. The loop over steps neither
//! recurses nor allocates nor looks a name up; what is rare (a union of more than null and one
//! type, a nested record) stands in side tables.
//!
//! A slot's 64 bits are: an integer; a double's bits; 0 or 1; an enum's place among *our* symbols;
//! a string's offset and length in the payload ([`Place`]); or [`NONE`]. No value is mistaken for
//! `NONE`: whatever may be null refuses negative integers and NaN when it is read.

use std::fmt;

use super::error::{DecodeError, Fault};
use super::skip::Skipper;
use super::straight::Straight;

use super::cursor::Cursor;
use super::limits::{MAX_READING, MAX_TEXT_BYTES, RATIO_ROUNDING};
use crate::core::event::Status;

/// The two messages of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    RequestBatch,
    ReplicaSample,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestBatch => "RequestBatch",
            Self::ReplicaSample => "ReplicaSample",
        })
    }
}

/// A slot that holds null.
pub(super) const NONE: u64 = u64::MAX;

/// Slots of a level. A power of two, so that masking a slot's number makes its bound known.
pub(super) const SLOTS: usize = 32;

pub(super) type Slots = [u64; SLOTS];

/// How one writer's schema is read.
#[derive(Debug)]
pub struct Plan {
    pub(super) message: Message,
    /// The first is the message's own record.
    pub(super) levels: Vec<Level>,
    /// For a union that is not just null and one type: a step a branch.
    pub(super) branches: Vec<Vec<Step>>,
    /// The writer's enum symbols as places among ours.
    pub(super) symbols: Vec<Vec<u8>>,
    pub(super) skipper: Skipper,
}

/// One record.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) steps: Vec<Step>,
    /// The values of the fields that the writer does not have.
    pub(super) defaults: Slots,
    /// The fields' names by slot, for errors.
    pub(super) names: [&'static str; SLOTS],
    /// For a level of events, whether there is a shorter way to the same result.
    pub(super) straight: Option<Straight>,
}

impl Level {
    pub(super) fn empty() -> Self {
        Self {
            steps: Vec::new(),
            defaults: [0; SLOTS],
            names: [""; SLOTS],
            straight: None,
        }
    }
}

/// Reads one value of the writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) read: Read,
    pub(super) slot: u8,
    /// The byte that a union of null and one type begins with for null; the other branch's is
    /// this one with bit 1 flipped. [`Step::NO_UNION`] where the writer has no union.
    pub(super) null_byte: u8,
    /// Place in the side table that `read` needs.
    pub(super) table: u32,
}

impl Step {
    pub(super) const NO_UNION: u8 = 0xff;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Any long: a time.
    Long,
    /// A long from 0 on: a duration, bytes, a sequence number.
    Unsigned,
    /// An int from 0 on: a count.
    UnsignedInt,
    /// Any int, as [`Status`] keeps it.
    Status,
    /// A quantity from 0 on, or a ratio up to 1, from each type that promotes to double.
    Quantity(Number),
    Ratio(Number),
    Flag,
    Symbol,
    /// A string or bytes: its place.
    Text,
    /// The sixteen bytes of a boot id: their place.
    Boot,
    Null,
    /// An array whose items become rows of ours; `table` is the items' level.
    Rows,
    /// A record within a union of the items of an array.
    Inline,
    Branch,
    Skip,
    /// A branch that our field cannot hold.
    Unfit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Int,
    Long,
    Float,
    Double,
}

/// Where the rows of a nested array go; each message has its own.
pub(super) trait Rows {
    /// Reads an array whose items are read by `level`. `slot` says which of our arrays it is.
    fn read(
        &mut self,
        plan: &Plan,
        level: &Level,
        slot: u8,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), DecodeError>;
}

/// For a level that has no arrays of ours: the compiler of plans puts none there.
pub(super) struct NoRows;

impl Rows for NoRows {
    fn read(
        &mut self,
        _: &Plan,
        level: &Level,
        slot: u8,
        _: &mut Cursor<'_>,
    ) -> Result<(), DecodeError> {
        Err(Fault::Malformed.at(level.name(slot)))
    }
}

impl Level {
    pub(super) fn name(&self, slot: u8) -> &'static str {
        self.names[slot as usize % SLOTS]
    }
}

impl Plan {
    /// Which message this plan reads.
    pub fn message(&self) -> Message {
        self.message
    }

    /// Reads one record. `slots` must hold the level's defaults, or what the last record of this
    /// level left: every step writes its slot.
    #[inline(always)]
    pub(super) fn read_record(
        &self,
        level: &Level,
        cursor: &mut Cursor<'_>,
        slots: &mut Slots,
        rows: &mut impl Rows,
    ) -> Result<(), DecodeError> {
        for step in &level.steps {
            let slot = step.slot as usize % SLOTS;
            if step.null_byte != Step::NO_UNION {
                let branch = cursor
                    .varint()
                    .map_err(|fault| fault.at(level.name(step.slot)))?;
                if branch == u64::from(step.null_byte) {
                    slots[slot] = NONE;
                    continue;
                }
                if branch != u64::from(step.null_byte ^ 2) {
                    return Err(Fault::Malformed.at(level.name(step.slot)));
                }
            }
            match self.read_word(step, cursor) {
                Ok(Some(word)) => slots[slot] = word,
                Ok(None) => self.read_rare(level, step, cursor, slots, rows)?,
                Err(fault) => return Err(fault.at(level.name(step.slot))),
            }
        }
        Ok(())
    }

    /// Reads a value that fits a slot; `None` for the steps that do something else.
    #[inline(always)]
    fn read_word(&self, step: &Step, cursor: &mut Cursor<'_>) -> Result<Option<u64>, Fault> {
        Ok(Some(match step.read {
            Read::Long => cursor.long()? as u64,
            Read::Unsigned => unsigned(cursor.varint()?)?,
            Read::UnsignedInt => {
                let count = unsigned(cursor.varint()?)?;
                if count > i32::MAX as u64 {
                    return Err(Fault::Malformed);
                }
                count
            }
            Read::Status => u64::from(Status::from_code(i64::from(cursor.int()?)).raw()),
            Read::Quantity(number) => quantity(number_of(number, cursor)?)?,
            Read::Ratio(number) => ratio(number_of(number, cursor)?)?,
            Read::Flag => match cursor.byte()? {
                flag @ (0 | 1) => u64::from(flag),
                _ => return Err(Fault::Malformed),
            },
            Read::Symbol => {
                let symbols = &self.symbols[step.table as usize];
                let symbol = symbols.get(cursor.length()?).ok_or(Fault::Malformed)?;
                u64::from(*symbol)
            }
            Read::Text => {
                let bytes = cursor.length()?;
                if bytes > MAX_TEXT_BYTES {
                    return Err(Fault::Text);
                }
                Place::take(cursor, bytes)?
            }
            Read::Boot => Place::take(cursor, 16)?,
            Read::Null => NONE,
            Read::Rows | Read::Inline | Read::Branch | Read::Skip | Read::Unfit => return Ok(None),
        }))
    }

    /// The steps that are no single value, kept out of the loop that events take.
    #[inline(never)]
    fn read_rare(
        &self,
        level: &Level,
        step: &Step,
        cursor: &mut Cursor<'_>,
        slots: &mut Slots,
        rows: &mut impl Rows,
    ) -> Result<(), DecodeError> {
        let table = step.table as usize;
        match step.read {
            Read::Skip => self
                .skipper
                .skip(table, cursor)
                .map_err(|fault| fault.at(SKIPPED)),
            Read::Rows => rows.read(self, &self.levels[table], step.slot, cursor),
            Read::Inline => {
                let inner = &self.levels[table];
                *slots = inner.defaults;
                // Only items of our arrays are read inline, and those hold no arrays of ours.
                self.read_record_again(inner, cursor, slots)
            }
            Read::Branch => {
                let name = level.name(step.slot);
                let branch = cursor.length().map_err(|fault| fault.at(name))?;
                let inner = self.branches[table]
                    .get(branch)
                    .ok_or(Fault::Malformed.at(name))?;
                match self.read_word(inner, cursor) {
                    Ok(Some(word)) => {
                        slots[inner.slot as usize % SLOTS] = word;
                        Ok(())
                    }
                    // A union holds no union: this goes no deeper.
                    Ok(None) if inner.read == Read::Branch => Err(Fault::Malformed.at(name)),
                    Ok(None) => self.read_rare(level, inner, cursor, slots, rows),
                    Err(fault) => Err(fault.at(name)),
                }
            }
            _ => Err(Fault::Value.at(level.name(step.slot))),
        }
    }

    #[inline(never)]
    fn read_record_again(
        &self,
        level: &Level,
        cursor: &mut Cursor<'_>,
        slots: &mut Slots,
    ) -> Result<(), DecodeError> {
        self.read_record(level, cursor, slots, &mut NoRows)
    }
}

/// What errors call a field that is not ours.
pub(super) const SKIPPED: &str = "a field that only the writer knows";

/// Reads an array's blocks, `item` at each item, and refuses one with more than `limit` items.
/// What a block says of its bytes is passed over, as every reader of arrays does.
#[inline(always)]
pub(super) fn read_blocks<'a>(
    cursor: &mut Cursor<'a>,
    name: &'static str,
    (limit, past_limit): (usize, DecodeError),
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut items = 0_u64;
    while let Some(block) = cursor.block().map_err(|fault| fault.at(name))? {
        items = items.saturating_add(block.count);
        if items > limit as u64 {
            return Err(past_limit);
        }
        for _ in 0..block.count {
            item(cursor)?;
        }
    }
    Ok(())
}

/// A string's place in the payload, in a slot: offset and length of 32 bits each, which
/// `MAX_MESSAGE_BYTES` keeps them within.
pub(super) struct Place;

impl Place {
    #[inline(always)]
    fn take(cursor: &mut Cursor<'_>, bytes: usize) -> Result<u64, Fault> {
        let offset = cursor.offset();
        cursor.skip(bytes)?;
        Ok((offset as u64) << 32 | bytes as u64)
    }

    pub(super) fn bytes(slot: u64, payload: &[u8]) -> &[u8] {
        let (offset, bytes) = ((slot >> 32) as usize, slot as u32 as usize);
        payload.get(offset..offset + bytes).unwrap_or_default()
    }

    /// The text at a place; only its UTF-8 is left to be checked.
    pub(super) fn text<'a>(
        slot: u64,
        payload: &'a [u8],
        field: &'static str,
    ) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(Self::bytes(slot, payload)).map_err(|_| DecodeError::BadText { field })
    }
}

/// A number that may have no sign, from its zigzag: negative ones are odd.
#[inline(always)]
pub(super) fn unsigned(zigzag: u64) -> Result<u64, Fault> {
    if zigzag & 1 == 1 {
        return Err(Fault::Value);
    }
    Ok(zigzag >> 1)
}

#[inline(always)]
fn number_of(number: Number, cursor: &mut Cursor<'_>) -> Result<f64, Fault> {
    Ok(match number {
        Number::Int => f64::from(cursor.int()?),
        Number::Long => cursor.long()? as f64,
        Number::Float => f64::from(f32::from_le_bytes(cursor.array()?)),
        Number::Double => f64::from_le_bytes(cursor.array()?),
    })
}

fn quantity(value: f64) -> Result<u64, Fault> {
    // Also false for NaN.
    if (0.0..=MAX_READING).contains(&value) {
        Ok(value.to_bits())
    } else {
        Err(Fault::Value)
    }
}

fn ratio(value: f64) -> Result<u64, Fault> {
    if (0.0..=1.0 + RATIO_ROUNDING).contains(&value) {
        Ok(value.min(1.0).to_bits())
    } else {
        Err(Fault::Value)
    }
}
