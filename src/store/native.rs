//! ClickHouse's Native format: one block of columns.
//!
//! [`Columns`] takes rows; the [`Chunk`] that it becomes is shared and never copied again: a block joins the chunks of
//! several partitions column by column, as [`Frames`] that go to the socket as they are. In a block a column's values
//! follow one another without any prefix, aggregate states too.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::columns::Column;

/// What a sketch of a few values takes, for the first reservation.
const TYPICAL_STATE_BYTES: usize = 96;

/// What an id takes, likewise.
const TYPICAL_STRING_BYTES: usize = 24;

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

/// The columns of some rows of one table, while rows are added.
pub struct Columns {
    n_rows: usize,
    columns: Vec<Vec<u8>>,
    /// The Map column, whose offsets run over the whole block.
    map: MapColumn,
}

/// The columns of some rows of one table. A clone shares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    n_rows: usize,
    columns: Vec<Bytes>,
    map_lengths: Vec<u32>,
    map_keys: Bytes,
    map_values: Bytes,
}

/// A `Map(UInt16, UInt64)` column in parts.
#[derive(Default)]
struct MapColumn {
    /// Entries of each row.
    lengths: Vec<u32>,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Columns {
    /// Columns of these types with room for `n_rows`.
    pub fn new(columns: &[Column], n_rows: usize) -> Self {
        let columns = columns
            .iter()
            .map(|column| Vec::with_capacity(n_rows * typical_bytes(column.type_name)));
        Self {
            n_rows: 0,
            columns: columns.collect(),
            map: MapColumn::default(),
        }
    }

    /// Begins a row: every column is then written once, in order.
    pub fn row(&mut self) -> RowWriter<'_> {
        self.n_rows += 1;
        RowWriter {
            columns: self.columns.iter_mut(),
            map: &mut self.map,
        }
    }

    /// Fills the last columns of `n_rows` rows that were left out: each is as many bytes of one kind a row.
    pub fn fill_last(&mut self, n_rows: usize, fill: &[(usize, u8)]) {
        let first = self.columns.len() - fill.len();
        for (column, &(n_bytes, byte)) in self.columns[first..].iter_mut().zip(fill) {
            column.resize(column.len() + n_rows * n_bytes, byte);
        }
    }

    /// No more rows. Room that was reserved in vain is given back: a chunk waits for its turn, and chunks are many.
    pub fn finish(mut self) -> Chunk {
        self.columns.iter_mut().for_each(Vec::shrink_to_fit);
        Chunk {
            n_rows: self.n_rows,
            columns: self.columns.into_iter().map(Bytes::from).collect(),
            map_lengths: self.map.lengths,
            map_keys: Bytes::from(self.map.keys),
            map_values: Bytes::from(self.map.values),
        }
    }
}

fn typical_bytes(type_name: &str) -> usize {
    match type_name {
        "UInt64" | "Float64" => 8,
        "UInt32" | "Int32" | "DateTime('UTC')" => 4,
        "String" => TYPICAL_STRING_BYTES,
        name if name.starts_with("Map(") => 0,
        _ => TYPICAL_STATE_BYTES,
    }
}

impl Chunk {
    /// A column's values one after the other.
    #[cfg(test)]
    pub fn column(&self, index: usize) -> &[u8] {
        &self.columns[index]
    }

    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_bytes(&self) -> usize {
        let map = self.map_lengths.len() * 8 + self.map_keys.len() + self.map_values.len();
        self.columns.iter().map(Bytes::len).sum::<usize>() + map
    }
}

/// One block of all the chunks' rows.
pub fn block(columns: &[Column], chunks: &[&Chunk]) -> Frames {
    let mut frames = Frames::default();
    let mut head = Vec::new();
    put_varint(columns.len() as u64, &mut head);
    put_varint(
        chunks.iter().map(|chunk| chunk.n_rows as u64).sum(),
        &mut head,
    );
    for (index, column) in columns.iter().enumerate() {
        put_string(&column.name, &mut head);
        put_string(column.type_name, &mut head);
        if column.type_name.starts_with("Map(") {
            put_map_ends(chunks, &mut head);
            frames.push(Bytes::from(std::mem::take(&mut head)));
            chunks
                .iter()
                .for_each(|chunk| frames.push(chunk.map_keys.clone()));
            chunks
                .iter()
                .for_each(|chunk| frames.push(chunk.map_values.clone()));
        } else {
            frames.push(Bytes::from(std::mem::take(&mut head)));
            chunks
                .iter()
                .for_each(|chunk| frames.push(chunk.columns[index].clone()));
        }
    }
    frames
}

/// A Map is three runs: where each row's entries end, counted over the block; the keys; the values.
fn put_map_ends(chunks: &[&Chunk], out: &mut Vec<u8>) {
    let mut end = 0_u64;
    for length in chunks.iter().flat_map(|chunk| &chunk.map_lengths) {
        end += u64::from(*length);
        out.extend_from_slice(&end.to_le_bytes());
    }
}

/// A request's body in pieces of known total length. A clone shares the pieces.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    pieces: VecDeque<Bytes>,
    n_bytes: u64,
}

impl Frames {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.n_bytes += piece.len() as u64;
            self.pieces.push_back(piece);
        }
    }

    /// Bytes of all pieces.
    pub const fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        Poll::Ready(piece.map(|piece| {
            self.n_bytes -= piece.len() as u64;
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.n_bytes)
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

    /// Ends the row; `n_left` columns are filled later, by [`Columns::fill_last`].
    pub fn end(self, n_left: usize) {
        assert_eq!(
            self.columns.len(),
            n_left,
            "a row has as many values as its table has columns"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> [Column; 3] {
        [
            ("a", "String"),
            ("m", "Map(UInt16, UInt64)"),
            ("n", "UInt32"),
        ]
        .map(|(name, type_name)| Column {
            name: name.to_owned(),
            type_name,
        })
    }

    fn chunk(rows: &[(&str, &[(u16, u64)])]) -> Chunk {
        let mut building = Columns::new(&columns(), rows.len());
        for (text, entries) in rows {
            let mut row = building.row();
            row.string(text);
            row.map(entries.iter().copied());
            row.end(1);
        }
        building.fill_last(rows.len(), &[(4, 0xFF)]);
        building.finish()
    }

    fn bytes(frames: Frames) -> Vec<u8> {
        let all = frames.pieces.iter().flatten().copied().collect::<Vec<u8>>();
        assert_eq!(all.len() as u64, frames.n_bytes());
        all
    }

    #[test]
    fn joined_chunks_are_the_block_of_all_their_rows() {
        let rows: [(&str, &[(u16, u64)]); 3] =
            [("x", &[(200, 5)]), ("yy", &[]), ("z", &[(1, 2), (3, 4)])];
        let (first, others, all) = (chunk(&rows[..1]), chunk(&rows[1..]), chunk(&rows));
        assert_eq!(
            bytes(block(&columns(), &[&first, &others])),
            bytes(block(&columns(), &[&all]))
        );
        assert_eq!((all.n_rows(), first.n_rows() + others.n_rows()), (3, 3));
    }

    #[test]
    fn a_block_begins_with_its_columns_and_rows() {
        let all = bytes(block(&columns(), &[&chunk(&[("x", &[])])]));
        assert_eq!(all[..2], [3, 1]);
        assert_eq!(all[all.len() - 4..], [0xFF; 4]);
    }
}
