//! Passing over what only the writer knows: fields that were added after this program was built,
//! of any type.
//!
//! Types whose values all take the same number of bytes are folded into that number when the
//! schema is compiled. What is left takes at least a byte a value, so the work is bounded by the
//! payload's length: an array of 2^60 nulls is one multiplication, not a loop.

use std::collections::HashMap;

use apache_avro::schema::{
    InnerDecimalSchema, Name, NamesRef, RecordSchema, Schema, UnionSchema, UuidSchema,
};

use super::cursor::Cursor;
use super::error::Fault;
use super::limits::MAX_SKIP_DEPTH;

/// One type to pass over; others are named by their place in the [`Skipper`].
#[derive(Debug, Clone, PartialEq)]
enum Skip {
    Bytes(usize),
    Varint,
    /// A string, or bytes: a length and as many bytes.
    Counted,
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
    /// A named type that is still being compiled: replaced once it is.
    Pending,
}

/// The types that one writer's schema makes us pass over.
#[derive(Debug, Default)]
pub(super) struct Skipper {
    types: Vec<Skip>,
    named: HashMap<Name, usize>,
}

impl Skipper {
    /// Compiles a type and gives its place. Errors are a name that the schema does not define.
    pub(super) fn compile(
        &mut self,
        schema: &Schema,
        names: &NamesRef<'_>,
    ) -> Result<usize, String> {
        if let Schema::Ref { name } = schema {
            if let Some(&place) = self.named.get(name) {
                return Ok(place);
            }
            let defined = names
                .get(name)
                .ok_or_else(|| format!("{name} is not defined"))?;
            return self.compile(defined, names);
        }
        // The place is taken before the type's parts are compiled, since they may name it.
        let place = self.types.len();
        self.types.push(Skip::Pending);
        if let Some(name) = schema.name() {
            self.named.insert(name.clone(), place);
        }
        self.types[place] = self.fold(schema, names)?;
        Ok(place)
    }

    fn fold(&mut self, schema: &Schema, names: &NamesRef<'_>) -> Result<Skip, String> {
        Ok(match schema {
            Schema::Null => Skip::Bytes(0),
            Schema::Boolean => Skip::Bytes(1),
            Schema::Float => Skip::Bytes(4),
            Schema::Double => Skip::Bytes(8),
            Schema::Fixed(fixed) | Schema::Duration(fixed) => Skip::Bytes(fixed.size),
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Skip::Bytes(fixed.size),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Fixed(fixed) => Skip::Bytes(fixed.size),
                InnerDecimalSchema::Bytes => Skip::Counted,
            },
            Schema::Bytes | Schema::String | Schema::BigDecimal | Schema::Uuid(_) => Skip::Counted,
            Schema::Int
            | Schema::Long
            | Schema::Enum(_)
            | Schema::Date
            | Schema::TimeMillis
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Skip::Varint,
            Schema::Array(array) => Skip::Array(self.compile(&array.items, names)?),
            Schema::Map(map) => Skip::Map(self.compile(&map.types, names)?),
            Schema::Union(union) => self.fold_union(union, names)?,
            Schema::Record(record) => self.fold_record(record, names)?,
            Schema::Ref { name } => return Err(format!("{name} names itself")),
        })
    }

    fn fold_union(&mut self, union: &UnionSchema, names: &NamesRef<'_>) -> Result<Skip, String> {
        let branches: Result<_, _> = union
            .variants()
            .iter()
            .map(|branch| self.compile(branch, names))
            .collect();
        Ok(Skip::Union(branches?))
    }

    fn fold_record(&mut self, record: &RecordSchema, names: &NamesRef<'_>) -> Result<Skip, String> {
        let mut places = Vec::with_capacity(record.fields.len());
        let mut same_bytes = Some(0_usize);
        for field in &record.fields {
            let place = self.compile(&field.schema, names)?;
            same_bytes = match (same_bytes, &self.types[place]) {
                (Some(sum), Skip::Bytes(bytes)) => sum.checked_add(*bytes),
                _ => None,
            };
            // A field without bytes costs nothing and must not cost a step either.
            if self.types[place] != Skip::Bytes(0) {
                places.push(place);
            }
        }
        Ok(match same_bytes {
            Some(bytes) => Skip::Bytes(bytes),
            None => Skip::Record(places),
        })
    }

    /// Moves the cursor past one value of the type at `place`.
    pub(super) fn skip(&self, place: usize, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.skip_nested(place, cursor, 0)
    }

    fn skip_nested(&self, place: usize, cursor: &mut Cursor<'_>, depth: u32) -> Result<(), Fault> {
        if depth > MAX_SKIP_DEPTH {
            return Err(Fault::Depth);
        }
        match &self.types[place] {
            Skip::Bytes(bytes) => cursor.skip(*bytes),
            Skip::Varint => cursor.varint().map(drop),
            Skip::Counted => {
                let bytes = cursor.length()?;
                cursor.skip(bytes)
            }
            Skip::Array(items) => self.skip_items(false, *items, cursor, depth),
            Skip::Map(values) => self.skip_items(true, *values, cursor, depth),
            Skip::Union(branches) => {
                let branch = cursor.length()?;
                let branch = *branches.get(branch).ok_or(Fault::Malformed)?;
                self.skip_nested(branch, cursor, depth + 1)
            }
            Skip::Record(fields) => fields
                .iter()
                .try_for_each(|field| self.skip_nested(*field, cursor, depth + 1)),
            // A record that holds itself without a union, array or map between: no finite value.
            Skip::Pending => Err(Fault::Malformed),
        }
    }

    fn skip_items(
        &self,
        keyed: bool,
        items: usize,
        cursor: &mut Cursor<'_>,
        depth: u32,
    ) -> Result<(), Fault> {
        while let Some(block) = cursor.block()? {
            if let Some(bytes) = block.bytes {
                cursor.skip(bytes)?;
                continue;
            }
            if !keyed && let Skip::Bytes(each) = self.types[items] {
                let bytes = usize::try_from(block.count)
                    .ok()
                    .and_then(|count| count.checked_mul(each))
                    .ok_or(Fault::Truncated)?;
                cursor.skip(bytes)?;
                continue;
            }
            for _ in 0..block.count {
                if keyed {
                    let key = cursor.length()?;
                    cursor.skip(key)?;
                }
                self.skip_nested(items, cursor, depth + 1)?;
            }
        }
        Ok(())
    }
}
