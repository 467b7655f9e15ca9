//! From a writer's schema to a plan, by Avro's rules of schema resolution.
//!
//! Owns which writer types our fields accept. Looser than the letter in one thing: a nested
//! record, enum or fixed may have any name, since its shape decides. Stricter in one: a time in
//! other units than microseconds is refused, where plain resolution would read it 1,000 times off.

use apache_avro::schema::{
    EnumSchema, NamesRef, RecordField, RecordSchema, ResolvedSchema, Schema,
};
use serde_json::Value as Json;

use super::base::{Base, counts_micros};
use super::plan::{Level, Message, NONE, Plan, Read, Slots, Step};
use super::skip::Skipper;
use super::straight::Straight;

/// One field of ours: where it goes and what it may be. Its type and default stand in our
/// schema alone.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) slot: u8,
    pub(super) holds: Holds,
}

#[derive(Clone, Copy)]
pub(super) enum Holds {
    /// A long, any one: microseconds since 1970.
    Time,
    /// A long or int from 0 on.
    Unsigned,
    /// An int, any one.
    Status,
    /// A double from 0 on.
    Quantity,
    /// A double from 0 to 1.
    Ratio,
    Flag,
    Symbol,
    Text,
    Boot,
    /// An array of records.
    Rows(&'static [Field]),
    /// An array of our events, which there is a shorter way to read.
    Events(&'static [Field]),
}

impl Field {
    pub(super) const fn new(name: &'static str, slot: u8, holds: Holds) -> Self {
        Self { name, slot, holds }
    }
}

/// Compiles `writer` against our own schema of that message. The error says which field, and why.
pub(super) fn compile(
    message: Message,
    writer: &Schema,
    ours: &Schema,
    fields: &'static [Field],
) -> Result<Plan, String> {
    let writer_names = ResolvedSchema::try_from(writer).map_err(|e| e.to_string())?;
    let our_names = ResolvedSchema::try_from(ours).map_err(|e| e.to_string())?;
    let mut compiler = Compiler {
        names: writer_names.get_names(),
        our_names: our_names.get_names(),
        plan: Plan {
            message,
            levels: Vec::new(),
            branches: Vec::new(),
            symbols: Vec::new(),
            skipper: Skipper::default(),
        },
    };
    let (Schema::Record(writer), Schema::Record(ours)) = (writer, ours) else {
        return Err("it is not a record".to_owned());
    };
    compiler.record(writer, ours, fields)?;
    Ok(compiler.plan)
}

struct Compiler<'a> {
    names: &'a NamesRef<'a>,
    our_names: &'a NamesRef<'a>,
    plan: Plan,
}

impl<'a> Compiler<'a> {
    /// Compiles a record into a level and gives its place.
    fn record(
        &mut self,
        writer: &RecordSchema,
        ours: &RecordSchema,
        fields: &'static [Field],
    ) -> Result<u32, String> {
        let place = self.plan.levels.len();
        let mut level = Level::empty();
        self.plan.levels.push(Level::empty());
        for field in fields {
            let our_field = our_field(ours, field);
            level.names[field.slot as usize] = field.name;
            if !writer.fields.iter().any(|f| f.name == field.name) {
                let default = our_field
                    .default
                    .as_ref()
                    .ok_or_else(|| format!("it lacks {}, which has no default", field.name))?;
                self.set_default(default, our_field, field, &mut level.defaults)?;
            }
        }
        for theirs in &writer.fields {
            level
                .steps
                .push(match fields.iter().find(|f| f.name == theirs.name) {
                    Some(field) => self
                        .step(&theirs.schema, &our_field(ours, field).schema, field)
                        .map_err(|problem| format!("{}: {problem}", field.name))?,
                    None => Step {
                        read: Read::Skip,
                        slot: 0,
                        null_byte: Step::NO_UNION,
                        table: to_table(self.plan.skipper.compile(&theirs.schema, self.names)?),
                    },
                });
        }
        self.plan.levels[place] = level;
        Ok(to_table(place))
    }

    fn set_default(
        &self,
        default: &Json,
        our_field: &RecordField,
        field: &Field,
        slots: &mut Slots,
    ) -> Result<(), String> {
        let (_, ours) = self.nullable(&our_field.schema);
        let word = match (default, ours) {
            (Json::Null, _) => NONE,
            (Json::Bool(flag), _) => u64::from(*flag),
            (Json::String(symbol), Schema::Enum(ours)) => place_of(symbol, ours).unwrap_or(0),
            (Json::Number(number), _) => number.as_u64().unwrap_or(0),
            // An empty text lies at no place; an empty array adds no rows.
            (Json::String(text), _) if text.is_empty() => 0,
            (Json::Array(items), _) if items.is_empty() => 0,
            _ => return Err(format!("{}: a default of another kind", field.name)),
        };
        slots[field.slot as usize] = word;
        Ok(())
    }

    /// One field: unions first, then the plain types.
    fn step(&mut self, writer: &Schema, ours: &Schema, field: &Field) -> Result<Step, String> {
        let (null_is_ours, ours) = self.nullable(ours);
        let Schema::Union(union) = self.theirs(writer)? else {
            return self.plain(writer, null_is_ours, ours, field);
        };
        let branches: Vec<Result<Step, String>> = union
            .variants()
            .iter()
            .map(|branch| self.plain(branch, null_is_ours, ours, field))
            .collect();
        if branches.iter().all(|branch| branch.is_err()) {
            let all: Vec<String> = branches.into_iter().filter_map(Result::err).collect();
            return Err(all.join("; "));
        }
        if let [Ok(first), Ok(second)] = branches[..] {
            let null_at = match (first.read, second.read) {
                (Read::Null, _) => Some((0, second)),
                (_, Read::Null) => Some((2, first)),
                _ => None,
            };
            if let Some((null_byte, value)) = null_at {
                return Ok(Step { null_byte, ..value });
            }
        }
        let unfit = Step {
            read: Read::Unfit,
            slot: field.slot,
            null_byte: Step::NO_UNION,
            table: 0,
        };
        let branches = branches.into_iter().map(|branch| branch.unwrap_or(unfit));
        self.plan.branches.push(branches.collect());
        Ok(Step {
            read: Read::Branch,
            table: to_table(self.plan.branches.len() - 1),
            ..unfit
        })
    }

    fn plain(
        &mut self,
        writer: &Schema,
        null_is_ours: bool,
        ours: &Schema,
        field: &Field,
    ) -> Result<Step, String> {
        let theirs = self.theirs(writer)?;
        let mut table = 0;
        let read = match (field.holds, Base::of(theirs)) {
            (_, Base::Null) if null_is_ours => Read::Null,
            (Holds::Time, Base::Int | Base::Long) if counts_micros(theirs) => Read::Long,
            (Holds::Time, Base::Int | Base::Long) => {
                return Err("a time that is not in microseconds".to_owned());
            }
            (Holds::Unsigned, Base::Int) => Read::UnsignedInt,
            (Holds::Unsigned, Base::Long) if matches!(Base::of(ours), Base::Long) => Read::Unsigned,
            (Holds::Status, Base::Int) => Read::Status,
            (Holds::Quantity, Base::Number(number)) => Read::Quantity(number),
            (Holds::Ratio, Base::Number(number)) => Read::Ratio(number),
            (Holds::Quantity, base @ (Base::Int | Base::Long)) => Read::Quantity(base.number()),
            (Holds::Ratio, base @ (Base::Int | Base::Long)) => Read::Ratio(base.number()),
            (Holds::Flag, Base::Boolean) => Read::Flag,
            (Holds::Text, Base::Counted) => Read::Text,
            (Holds::Boot, Base::Fixed(16)) => Read::Boot,
            (Holds::Symbol, _)
                if let (Schema::Enum(theirs), Schema::Enum(ours)) = (theirs, ours) =>
            {
                self.plan.symbols.push(places_of(theirs, ours)?);
                table = to_table(self.plan.symbols.len() - 1);
                Read::Symbol
            }
            (Holds::Rows(fields) | Holds::Events(fields), _)
                if let (Schema::Array(theirs), Schema::Array(ours)) = (theirs, ours) =>
            {
                let Schema::Record(ours) = self.our(&ours.items) else {
                    return Err("our own items are no record".to_owned());
                };
                table = self.items(&theirs.items, ours, fields)?;
                if matches!(field.holds, Holds::Events(_)) {
                    let level = table as usize;
                    self.plan.levels[level].straight =
                        Straight::of(&self.plan, &self.plan.levels[level]);
                }
                Read::Rows
            }
            _ => return Err("a type that does not fit".to_owned()),
        };
        Ok(Step {
            read,
            slot: field.slot,
            null_byte: Step::NO_UNION,
            table,
        })
    }

    /// The items of an array of ours: records, or a union that holds some.
    fn items(
        &mut self,
        writer: &Schema,
        ours: &RecordSchema,
        fields: &'static [Field],
    ) -> Result<u32, String> {
        let union = match self.theirs(writer)? {
            Schema::Record(record) => return self.record(record, ours, fields),
            Schema::Union(union) => union,
            _ => return Err("items that are no records".to_owned()),
        };
        let mut branches = Vec::new();
        let mut problem = None;
        for branch in union.variants() {
            let level = match self.theirs(branch)? {
                Schema::Record(record) => self.record(record, ours, fields),
                _ => Err("items that are no records".to_owned()),
            };
            branches.push(Step {
                read: if level.is_ok() {
                    Read::Inline
                } else {
                    Read::Unfit
                },
                slot: 0,
                null_byte: Step::NO_UNION,
                table: *level.as_ref().unwrap_or(&0),
            });
            problem = level.err().or(problem);
        }
        if let Some(problem) = problem
            && branches.iter().all(|branch| branch.read == Read::Unfit)
        {
            return Err(problem);
        }
        self.plan.branches.push(branches);
        let mut level = Level::empty();
        level.names[0] = "items";
        level.steps.push(Step {
            read: Read::Branch,
            slot: 0,
            null_byte: Step::NO_UNION,
            table: to_table(self.plan.branches.len() - 1),
        });
        self.plan.levels.push(level);
        Ok(to_table(self.plan.levels.len() - 1))
    }

    /// The writer's type behind a name.
    fn theirs<'s>(&self, schema: &'s Schema) -> Result<&'s Schema, String>
    where
        'a: 's,
    {
        match schema {
            Schema::Ref { name } => self
                .names
                .get(name)
                .copied()
                .ok_or_else(|| format!("{name} is not defined")),
            other => Ok(other),
        }
    }

    fn our<'s>(&self, schema: &'s Schema) -> &'s Schema
    where
        'a: 's,
    {
        match schema {
            Schema::Ref { name } => self.our_names.get(name).copied().unwrap_or(schema),
            other => other,
        }
    }

    /// Whether our field may be null, and its type besides.
    fn nullable<'s>(&self, ours: &'s Schema) -> (bool, &'s Schema)
    where
        'a: 's,
    {
        if let Schema::Union(union) = ours
            && let [Schema::Null, value] = union.variants()
        {
            return (true, self.our(value));
        }
        (false, self.our(ours))
    }
}

fn our_field<'s>(ours: &'s RecordSchema, field: &Field) -> &'s RecordField {
    ours.fields
        .iter()
        .find(|ours| ours.name == field.name)
        .expect("each of our fields stands in our own schema, which a test compiles")
}

fn place_of(symbol: &str, ours: &EnumSchema) -> Option<u64> {
    let place = ours.symbols.iter().position(|ours| ours == symbol)?;
    u64::try_from(place).ok()
}

/// The writer's symbols as places among ours; one that we do not have becomes our default.
fn places_of(theirs: &EnumSchema, ours: &EnumSchema) -> Result<Vec<u8>, String> {
    let default = ours
        .default
        .as_ref()
        .and_then(|symbol| place_of(symbol, ours));
    theirs
        .symbols
        .iter()
        .map(|symbol| {
            place_of(symbol, ours)
                .or(default)
                .and_then(|place| u8::try_from(place).ok())
                .ok_or_else(|| format!("the symbol {symbol} is not known"))
        })
        .collect()
}

fn to_table(place: usize) -> u32 {
    u32::try_from(place).expect("a schema file has less than 2^32 bytes, and so fewer types")
}
