//! What a column must say, and whether what the engine said is that.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// A row's columns by name.
pub type Row = BTreeMap<String, Expect>;
/// Rows by their step, seconds since 1970.
pub type Rows = BTreeMap<i64, Row>;

/// The sketch's promise.
const SKETCH_ERROR: f64 = 0.01;
/// Sums of doubles in another order differ by this much at most.
const ROUNDING: f64 = 1e-9;
/// Reading a double's decimal digits may miss it by its last bit.
const LAST_BIT: f64 = 4.0 * f64::EPSILON;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    Null,
    /// A count, to the last one.
    Count(u64),
    /// A reading that was passed on, not calculated with.
    Exactly(f64),
    /// Something calculated, to rounding.
    Mean(f64),
    /// An amount that the view divides by its `seconds`.
    PerSecond(f64),
    /// A quantile that lies between two order statistics.
    Percentile {
        low: f64,
        high: f64,
    },
}

impl Expect {
    pub fn in_milliseconds(self) -> Self {
        match self {
            Self::Percentile { low, high } => Self::Percentile {
                low: low / 1e3,
                high: high / 1e3,
            },
            other => other,
        }
    }

    /// Whether `got` is what is expected of a row that spans so many seconds.
    pub fn met_by(&self, got: &Json, seconds: f64) -> bool {
        let close = |a: f64, b: f64| (a - b).abs() <= ROUNDING * a.abs().max(b.abs());
        match (self, got) {
            (Self::Null, Json::Null) => true,
            (Self::Count(n), got) => got.as_u64() == Some(*n),
            (Self::Exactly(v), got) => got
                .as_f64()
                .is_some_and(|got| (got - v).abs() <= LAST_BIT * v.abs()),
            (Self::Mean(v), got) => got.as_f64().is_some_and(|got| close(got, *v)),
            (Self::PerSecond(v), got) => got.as_f64().is_some_and(|got| close(got, *v / seconds)),
            (Self::Percentile { low, high }, got) => got.as_f64().is_some_and(|got| {
                got >= low * (1.0 - SKETCH_ERROR - ROUNDING)
                    && got <= high * (1.0 + SKETCH_ERROR + ROUNDING)
            }),
            (Self::Null, _) => false,
        }
    }
}

/// Compares a row with what it must say; every column named must be there.
///
/// # Errors
/// The first column that differs, in words.
pub fn compare(
    got: &serde_json::Map<String, Json>,
    expected: &Row,
    seconds: f64,
) -> Result<(), String> {
    for (column, expect) in expected {
        let value = got
            .get(column)
            .ok_or_else(|| format!("no column {column}"))?;
        if !expect.met_by(value, seconds) {
            return Err(format!(
                "{column}: {value}, expected {expect:?} over {seconds} s"
            ));
        }
    }
    Ok(())
}
