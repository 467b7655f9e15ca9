//! Compression both ways: HTTP's content encodings, and ClickHouse's own blocks (`compress=1`, `decompress=1`).
//! It refuses blocks whose checksum differs and sizes past a cap.
//!
//! A block of ClickHouse is: CityHash128 (v1.0.2) of the rest, 16 bytes; method, 1 byte (0x82 LZ4, 0x90 ZSTD,
//! 0x02 none); size of the block from the method on, u32; size of the data, u32; the compressed data.

use std::io::{self, BufRead, BufReader, Read, Write};

/// The largest data of one block that is accepted; ClickHouse writes 1 MiB, clients up to some tens.
const MAX_BLOCK_BYTES: u32 = 1 << 30;
/// The size of the blocks written: ClickHouse's own.
const BLOCK_BYTES: usize = 1 << 20;
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Lz4,
    Zstd,
    Gzip,
    Deflate,
    /// ClickHouse's own blocks.
    Blocks,
}

impl Encoding {
    /// By the name in `Content-Encoding`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name.trim() {
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The cheapest of those that `Accept-Encoding` names.
    pub fn accepted(header: &str) -> Option<Self> {
        let names: Vec<_> = header
            .split(',')
            .filter(|part| !part.replace(' ', "").ends_with(";q=0"))
            .filter_map(|part| Self::by_name(part.split(';').next()?))
            .collect();
        [Self::Lz4, Self::Zstd, Self::Gzip, Self::Deflate]
            .into_iter()
            .find(|encoding| names.contains(encoding))
    }

    /// Its name in `Content-Encoding`; ClickHouse's blocks have none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Lz4 => Some("lz4"),
            Self::Zstd => Some("zstd"),
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Blocks => None,
        }
    }

    /// The data packed in `packed`.
    ///
    /// # Errors
    /// When a ZSTD context cannot be made.
    pub fn reader<'r>(
        self,
        packed: Box<dyn Read + Send + 'r>,
    ) -> io::Result<Box<dyn Read + Send + 'r>> {
        Ok(match self {
            Self::Lz4 => Box::new(ToTheEnd(lz4_flex::frame::FrameDecoder::new(
                BufReader::new(packed),
            ))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(packed)?),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(ToTheEnd(flate2::bufread::ZlibDecoder::new(BufReader::new(
                packed,
            )))),
            Self::Blocks => Box::new(BlockReader {
                packed,
                block: io::Cursor::default(),
            }),
        })
    }
}

/// Decoders that end with the first stream of a body and report it as the body's end. What follows would be lost in
/// silence: clients do send one LZ4 frame a block.
trait OneStream: Read {
    /// Whether the body goes on.
    fn has_more(&mut self) -> io::Result<bool>;
    /// Whether reading on reads the next stream.
    const CONTINUES: bool;
}

impl<R: Read> OneStream for lz4_flex::frame::FrameDecoder<BufReader<R>> {
    const CONTINUES: bool = true;
    fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.get_mut().fill_buf()?.is_empty())
    }
}

impl<R: Read> OneStream for flate2::bufread::ZlibDecoder<BufReader<R>> {
    const CONTINUES: bool = false;
    fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.get_mut().fill_buf()?.is_empty())
    }
}

/// Reads stream after stream to the end of the body.
struct ToTheEnd<D>(D);

impl<D: OneStream> Read for ToTheEnd<D> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.0.read(out)?;
            if n > 0 || out.is_empty() || !self.0.has_more()? {
                return Ok(n);
            }
            if !D::CONTINUES {
                return Err(invalid("bytes follow the compressed data"));
            }
        }
    }
}

/// ClickHouse's blocks, read one after another.
struct BlockReader<R> {
    packed: R,
    block: io::Cursor<Vec<u8>>,
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.block.read(out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            match read_block(&mut self.packed)? {
                Some(data) => self.block = io::Cursor::new(data),
                None => return Ok(0),
            }
        }
    }
}

/// `None` at the end of the body; an end within a block is an error.
fn read_block(packed: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0_u8; 1];
    if packed.read(&mut first)? == 0 {
        return Ok(None);
    }
    let mut head = [0_u8; CHECKSUM_BYTES + HEADER_BYTES];
    head[0] = first[0];
    packed.read_exact(&mut head[1..])?;
    let (checksum, header) = head.split_at(CHECKSUM_BYTES);
    let size = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (n_block, n_data) = (size(1), size(5));
    if n_data > MAX_BLOCK_BYTES || n_block > MAX_BLOCK_BYTES || (n_block as usize) < HEADER_BYTES {
        return Err(invalid("a block's size is out of bounds"));
    }
    let mut block = header.to_vec();
    // Grown by what really arrives, so that a size alone reserves nothing.
    packed
        .take(u64::from(n_block) - HEADER_BYTES as u64)
        .read_to_end(&mut block)?;
    if block.len() != n_block as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if checksum != city_hash(&block) {
        return Err(invalid("a block's checksum differs"));
    }
    let data = &block[HEADER_BYTES..];
    let plain = match block[0] {
        0x02 => data.to_vec(),
        0x82 => lz4_flex::block::decompress(data, n_data as usize)
            .map_err(|error| invalid(&error.to_string()))?,
        0x90 => zstd::bulk::decompress(data, n_data as usize)?,
        method => {
            return Err(invalid(&format!(
                "method {method:#04x} is not LZ4, ZSTD or none"
            )));
        }
    };
    if plain.len() != n_data as usize {
        return Err(invalid("a block's data has another size than it says"));
    }
    Ok(Some(plain))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

/// As ClickHouse writes it: the low half first, each little-endian.
fn city_hash(block: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(block)
        .rotate_left(64)
        .to_le_bytes()
}

/// Packs an answer as it comes.
pub enum Encoder {
    Plain(Vec<u8>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Blocks(Vec<u8>),
}

impl Encoder {
    /// # Errors
    /// When a ZSTD context cannot be made.
    pub fn new(encoding: Option<Encoding>) -> io::Result<Self> {
        let out = Vec::new();
        let level = flate2::Compression::fast();
        Ok(match encoding {
            None => Self::Plain(out),
            Some(Encoding::Lz4) => Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(out))),
            Some(Encoding::Zstd) => Self::Zstd(zstd::stream::write::Encoder::new(out, 1)?),
            Some(Encoding::Gzip) => Self::Gzip(flate2::write::GzEncoder::new(out, level)),
            Some(Encoding::Deflate) => Self::Deflate(flate2::write::ZlibEncoder::new(out, level)),
            Some(Encoding::Blocks) => Self::Blocks(out),
        })
    }

    /// Takes plain data in, gives what is packed so far.
    ///
    /// # Errors
    /// When packing fails.
    pub fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        Ok(match self {
            Self::Plain(out) => {
                out.extend_from_slice(data);
                std::mem::take(out)
            }
            Self::Lz4(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Gzip(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Deflate(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Blocks(out) => {
                data.chunks(BLOCK_BYTES)
                    .for_each(|chunk| write_block(chunk, out));
                std::mem::take(out)
            }
        })
    }

    /// The end of the packed form.
    ///
    /// # Errors
    /// When packing fails.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(out) | Self::Blocks(out) => Ok(out),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
        }
    }
}

fn write_block(data: &[u8], out: &mut Vec<u8>) {
    let packed = lz4_flex::block::compress(data);
    let size = |n: usize| {
        u32::try_from(n)
            .expect("a block is at most 1 MiB")
            .to_le_bytes()
    };
    let mut block = vec![0x82];
    block.extend(size(HEADER_BYTES + packed.len()));
    block.extend(size(data.len()));
    block.extend(packed);
    out.extend(city_hash(&block));
    out.extend(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 5] = [
        Encoding::Lz4,
        Encoding::Zstd,
        Encoding::Gzip,
        Encoding::Deflate,
        Encoding::Blocks,
    ];

    fn unpack(encoding: Encoding, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        encoding
            .reader(Box::new(io::Cursor::new(packed.to_vec())))?
            .read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn pack(encoding: Encoding, parts: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::new(Some(encoding)).expect("a context");
        let mut packed: Vec<u8> = parts
            .iter()
            .flat_map(|part| encoder.push(part).expect("packed"))
            .collect();
        packed.extend(encoder.finish().expect("packed"));
        packed
    }

    #[test]
    fn what_is_packed_in_parts_unpacks_whole() {
        let large = vec![7_u8; 3 << 20];
        for encoding in ALL {
            let packed = pack(encoding, &[b"one", &large, b"two"]);
            assert!(
                unpack(encoding, &packed).expect("whole") == [b"one", &large[..], b"two"].concat()
            );
        }
    }

    #[test]
    fn streams_one_after_another_are_read_to_the_last_or_refused() {
        for encoding in ALL {
            let two = [pack(encoding, &[b"one"]), pack(encoding, &[b"two"])].concat();
            match unpack(encoding, &two) {
                Ok(plain) => assert_eq!(plain, b"onetwo", "{encoding:?}"),
                Err(_) => assert_eq!(encoding, Encoding::Deflate),
            }
        }
    }

    #[test]
    fn a_block_cut_or_changed_is_refused() {
        let packed = pack(Encoding::Blocks, &[b"some data, some data"]);
        for cut in 1..packed.len() {
            assert!(
                unpack(Encoding::Blocks, &packed[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x40;
            assert!(
                unpack(Encoding::Blocks, &changed).is_err(),
                "changed at {at}"
            );
        }
    }

    #[test]
    fn the_client_chooses_among_what_there_is() {
        assert_eq!(
            Encoding::accepted("gzip, zstd;q=0.5, br"),
            Some(Encoding::Zstd)
        );
        assert_eq!(Encoding::accepted("br, lz4;q=0"), None);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_end_in_an_error_and_not_in_a_panic(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            for encoding in ALL {
                drop(unpack(encoding, &bytes));
            }
        }
    }
}
