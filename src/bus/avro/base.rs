//! A writer's types without their logical meaning: what resolution goes by.

use apache_avro::schema::{InnerDecimalSchema, Schema, UuidSchema};

use super::plan::Number;

/// A type as it stands on the wire, without what a logical type adds.
pub(super) enum Base {
    Null,
    Boolean,
    Int,
    Long,
    Number(Number),
    Counted,
    Fixed(usize),
    Other,
}

impl Base {
    pub(super) fn of(schema: &Schema) -> Self {
        match schema {
            Schema::Null => Self::Null,
            Schema::Boolean => Self::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Self::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Self::Long,
            Schema::Float => Self::Number(Number::Float),
            Schema::Double => Self::Number(Number::Double),
            Schema::Bytes | Schema::String | Schema::BigDecimal => Self::Counted,
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Self::Fixed(fixed.size),
            Schema::Uuid(_) => Self::Counted,
            Schema::Fixed(fixed) | Schema::Duration(fixed) => Self::Fixed(fixed.size),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Self::Counted,
                InnerDecimalSchema::Fixed(fixed) => Self::Fixed(fixed.size),
            },
            _ => Self::Other,
        }
    }

    /// How an int or long is read where a double stands.
    pub(super) fn number(&self) -> Number {
        match self {
            Self::Int => Number::Int,
            _ => Number::Long,
        }
    }
}

/// Whether a writer's time is in microseconds, or says nothing of its unit.
pub(super) fn counts_micros(schema: &Schema) -> bool {
    matches!(schema, Schema::Int | Schema::Long | Schema::TimestampMicros)
}
