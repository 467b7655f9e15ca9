//! ClickHouse's Native format: one block of columns.
//!
//! A chunk holds the columns of some rows; a block joins the chunks of several
//! partitions, column by column. In a
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
}

/// One block of all the chunks' rows, in Native format.
pub fn encode_block(columns: &[Column], chunks: &[&Chunk]) -> Vec<u8> {
    let n_bytes: usize = chunks.iter().map(|chunk| chunk.n_bytes()).sum();
    let n_rows: usize = chunks.iter().map(|chunk| chunk.n_rows).sum();
    let mut out = Vec::with_capacity(n_bytes + columns.len() * 128);
    put_varint(columns.len() as u64, &mut out);
    put_varint(n_rows as u64, &mut out);
    for (index, column) in columns.iter().enumerate() {
        put_string(&column.name, &mut out);
        put_string(column.type_name, &mut out);
        if column.type_name.starts_with("Map(") {
            encode_map(chunks, &mut out);
        } else {
            for chunk in chunks {
                out.extend_from_slice(&chunk.columns[index]);
            }
        }
    }
    out
}

/// A Map is three runs: where each row's entries end, counted over the block; the keys; the values.
fn encode_map(chunks: &[&Chunk], out: &mut Vec<u8>) {
    let mut end = 0_u64;
    for length in chunks.iter().flat_map(|chunk| &chunk.map.lengths) {
        end += u64::from(*length);
        out.extend_from_slice(&end.to_le_bytes());
    }
    for chunk in chunks {
        out.extend_from_slice(&chunk.map.keys);
    }
    for chunk in chunks {
        out.extend_from_slice(&chunk.map.values);
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
        let (first, others, all) = (chunk(&rows[..1]), chunk(&rows[1..]), chunk(&rows));
        assert_eq!(
            encode_block(&columns, &[&first, &others]),
            encode_block(&columns, &[&all])
        );
        assert_eq!(all.n_rows(), 3);
    }
}
