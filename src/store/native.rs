//! ClickHouse's Native format: one block of columns.
//!
//! A chunk holds the columns of some rows; chunks of several partitions are joined by appending column to column. In a
//! block a column's values follow one another without any prefix, aggregate states too.

use super::columns::Column;

/// Appends an unsigned LEB128 number.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a String value.
pub fn put_string(text: &str, out: &mut Vec<u8>) {
    put_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// The columns of some rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    n_rows: usize,
    columns: Vec<Vec<u8>>,
    /// The Map column, whose offsets run over the whole block.
    map: MapColumn,
}

/// A `Map(UInt16, UInt64)` column in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct MapColumn {
    /// Entries of each row.
    lengths: Vec<u32>,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Chunk {
    pub fn new(n_columns: usize) -> Self {
        Self {
            n_rows: 0,
            columns: vec![Vec::new(); n_columns],
            map: MapColumn::default(),
        }
    }

    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_bytes(&self) -> usize {
        self.columns.iter().map(Vec::len).sum::<usize>()
            + self.map.lengths.len() * 8
            + self.map.keys.len()
            + self.map.values.len()
    }

    /// Begins a row: every column is then written once, in order.
    pub fn row(&mut self) -> RowWriter<'_> {
        self.n_rows += 1;
        RowWriter {
            columns: self.columns.iter_mut(),
            map: &mut self.map,
        }
    }

    /// Appends another chunk's rows of the same table.
    pub fn append(&mut self, mut other: Self) {
        self.n_rows += other.n_rows;
        for (mine, theirs) in self.columns.iter_mut().zip(&mut other.columns) {
            if mine.is_empty() {
                std::mem::swap(mine, theirs);
            } else {
                mine.append(theirs);
            }
        }
        self.map.lengths.append(&mut other.map.lengths);
        self.map.keys.append(&mut other.map.keys);
        self.map.values.append(&mut other.map.values);
    }

    /// The block in Native format.
    pub fn encode(&self, columns: &[Column]) -> Vec<u8> {
        assert_eq!(
            columns.len(),
            self.columns.len(),
            "a chunk has the columns of its table"
        );
        let mut out = Vec::with_capacity(self.n_bytes() + columns.len() * 64);
        put_varint(columns.len() as u64, &mut out);
        put_varint(self.n_rows as u64, &mut out);
        for (column, data) in columns.iter().zip(&self.columns) {
            put_string(&column.name, &mut out);
            put_string(column.type_name, &mut out);
            if column.type_name.starts_with("Map(") {
                self.map.encode(&mut out);
            } else {
                out.extend_from_slice(data);
            }
        }
        out
    }
}

impl MapColumn {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut end = 0_u64;
        for &length in &self.lengths {
            end += u64::from(length);
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&self.values);
    }
}

/// Writes one row, column by column.
pub struct RowWriter<'a> {
    columns: std::slice::IterMut<'a, Vec<u8>>,
    map: &'a mut MapColumn,
}

impl RowWriter<'_> {
    /// The next column's bytes.
    #[inline]
    pub fn column(&mut self) -> &mut Vec<u8> {
        self.columns
            .next()
            .expect("a row has as many values as its table has columns")
    }

    pub fn string(&mut self, text: &str) {
        put_string(text, self.column());
    }

    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.column().extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.column().extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.column().extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub fn f64(&mut self, value: f64) {
        self.column().extend_from_slice(&value.to_le_bytes());
    }

    /// A `Map(UInt16, UInt64)`.
    pub fn map(&mut self, entries: impl Iterator<Item = (u16, u64)>) {
        self.column();
        let mut n = 0;
        for (key, value) in entries {
            n += 1;
            self.map.keys.extend_from_slice(&key.to_le_bytes());
            self.map.values.extend_from_slice(&value.to_le_bytes());
        }
        self.map.lengths.push(n);
    }

    /// Checks that the row is whole.
    pub fn end(self) {
        assert_eq!(
            self.columns.len(),
            0,
            "a row has as many values as its table has columns"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(rows: &[(&str, &[(u16, u64)])]) -> Chunk {
        let mut chunk = Chunk::new(2);
        for (text, entries) in rows {
            let mut row = chunk.row();
            row.string(text);
            row.map(entries.iter().copied());
            row.end();
        }
        chunk
    }

    #[test]
    fn joined_chunks_are_the_block_of_all_their_rows() {
        let columns = [
            Column {
                name: "a".to_owned(),
                type_name: "String",
            },
            Column {
                name: "m".to_owned(),
                type_name: "Map(UInt16, UInt64)",
            },
        ];
        let rows: [(&str, &[(u16, u64)]); 3] =
            [("x", &[(200, 5)]), ("yy", &[]), ("z", &[(1, 2), (3, 4)])];
        let mut joined = chunk(&rows[..1]);
        joined.append(chunk(&rows[1..]));
        assert_eq!(joined.encode(&columns), chunk(&rows).encode(&columns));
        assert_eq!(joined.n_rows(), 3);
    }
}
