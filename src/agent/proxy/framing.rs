//! Follows the bytes of an HTTP/1 connection so far that it knows where each head begins, and refuses what two parsers
//! could read in two ways. Does no I/O. It is stricter than the parser behind it: whatever it lets through has one
//! meaning only, so the two cannot come to disagree about where a message ends.

/// Header lines of a request; past it: 431. The library takes no more either.
const HEADERS: usize = 100;

/// How HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Content-Length together with Transfer-Encoding, two lengths, or a length that is no plain number.
    AmbiguousLength,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// A line that does not end in CR LF, a folded line, a header without a name.
    Malformed,
    /// A chunk whose size line is not hex digits and CR LF, or that does not end in CR LF.
    Chunk,
    HeadTooLarge,
    HeadTooSlow,
}

impl Refusal {
    pub const ALL: [Self; 6] = [
        Self::AmbiguousLength,
        Self::UnknownCoding,
        Self::Malformed,
        Self::Chunk,
        Self::HeadTooLarge,
        Self::HeadTooSlow,
    ];

    pub const fn status(self) -> u16 {
        match self {
            Self::AmbiguousLength | Self::Malformed | Self::Chunk => 400,
            Self::UnknownCoding => 501,
            Self::HeadTooLarge => 431,
            Self::HeadTooSlow => 408,
        }
    }

    pub const fn told(self) -> &'static str {
        match self {
            Self::AmbiguousLength => "the length of the request is not told once and plainly\n",
            Self::UnknownCoding => "the transfer coding is not supported\n",
            Self::Malformed => "the head of the request is malformed\n",
            Self::Chunk => "a chunk of the request is malformed\n",
            Self::HeadTooLarge => "the head of the request is too large\n",
            Self::HeadTooSlow => "the head of the request did not come in time\n",
        }
    }
}

/// Where in the stream the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At or inside a head.
    Head,
    /// So many bytes of a body of known length are left.
    Length(u64),
    ChunkSize {
        size: u64,
        n_digits: u8,
    },
    /// After the digits: CR was seen or an extension is being skipped.
    ChunkExtension {
        size: u64,
        n_skipped: u16,
    },
    ChunkSizeLf(u64),
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    /// In the trailers, so many bytes and lines of them in all.
    Trailer {
        part: TrailerPart,
        n_bytes: u16,
        n_lines: u8,
    },
    /// Behind a head that asks for an upgrade: what the bytes are depends on the answer.
    Undecided,
    /// Another protocol: HTTP/2, or what an upgrade led to.
    Opaque,
}

/// Where in a line of the trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailerPart {
    Start,
    Name,
    Value,
    /// CR has been seen; in a line without anything it is the end of all.
    Lf {
        is_last: bool,
    },
}

impl TrailerPart {
    /// None at the end of the trailers.
    fn step(self, byte: u8) -> Result<Option<Self>, Refusal> {
        Ok(Some(match (self, byte) {
            (Self::Start, b'\r') => Self::Lf { is_last: true },
            (Self::Name, b':') => Self::Value,
            (Self::Start | Self::Name, _) if is_token(byte) => Self::Name,
            (Self::Value, b'\r') => Self::Lf { is_last: false },
            (Self::Value, b'\t' | b' '..=b'~' | 0x80..) => Self::Value,
            (Self::Lf { is_last: true }, b'\n') => return Ok(None),
            (Self::Lf { is_last: false }, b'\n') => Self::Start,
            _ => return Err(Refusal::Chunk),
        }))
    }
}

/// Extensions are skipped, and no one uses them; trailers are few and short. Past these: 400.
const EXTENSION_BYTES: u16 = 256;
const TRAILER_BYTES: u16 = 8192;
/// The library takes no more either.
const TRAILER_LINES: u8 = 100;
/// Sixteen hex digits are 64 bits.
const SIZE_DIGITS: u8 = 15;

/// How much of the bytes a head takes.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    Partial,
    Whole(usize, Place),
    Refused(Refusal),
}

/// Reads one head from the start of `bytes`, and says what follows it.
pub fn read_head(bytes: &[u8], limit: usize) -> Head {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Head::Whole(HTTP2_PREFACE.len(), Place::Opaque);
    }
    let mut at = 0;
    // an empty line before a request is tolerated, as HTTP asks for
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    let mut facts = Facts::default();
    let mut n_lines = 0usize;
    loop {
        let rest = &bytes[at..];
        let Some(length) = rest.iter().position(|&b| b == b'\n') else {
            return if bytes.len() > limit {
                Head::Refused(Refusal::HeadTooLarge)
            } else {
                Head::Partial
            };
        };
        at += length + 1;
        if at > limit || n_lines > HEADERS + 1 {
            return Head::Refused(Refusal::HeadTooLarge);
        }
        let Some(line) = rest[..length].strip_suffix(b"\r") else {
            return Head::Refused(Refusal::Malformed);
        };
        if line.is_empty() {
            return match facts.place(n_lines) {
                Ok(place) => Head::Whole(at, place),
                Err(refusal) => Head::Refused(refusal),
            };
        }
        let taken = if n_lines == 0 {
            facts.take_request_line(line)
        } else {
            facts.take_header(line)
        };
        if let Err(refusal) = taken {
            return Head::Refused(refusal);
        }
        n_lines += 1;
    }
}

/// What a head says of the body.
#[derive(Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    old_version: bool,
}

impl Facts {
    fn take_request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.old_version = !line.ends_with(b" HTTP/1.1");
        if line.iter().any(|&b| b < b' ' || b == 0x7f) {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    fn take_header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let colon = line.iter().position(|&b| b == b':');
        let (name, value) = line.split_at(colon.ok_or(Refusal::Malformed)?);
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return Err(Refusal::Malformed);
        }
        if line.iter().any(|&b| matches!(b, b'\r' | 0)) {
            return Err(Refusal::Malformed);
        }
        let value = value[1..].trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = value.iter().all(u8::is_ascii_digit) && value.len() <= 18;
                let text = std::str::from_utf8(value).ok().filter(|_| digits);
                let length = text.and_then(|t| t.parse().ok());
                if self.length.is_some() || length.is_none() {
                    return Err(Refusal::AmbiguousLength);
                }
                self.length = length;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || self.chunked {
                    return Err(Refusal::UnknownCoding);
                }
                self.chunked = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => {}
        }
        Ok(())
    }

    fn place(&self, n_lines: usize) -> Result<Place, Refusal> {
        if n_lines == 0 {
            return Err(Refusal::Malformed);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refusal::AmbiguousLength),
            (None, true) if self.old_version => Err(Refusal::AmbiguousLength),
            (None, true) => Ok(Place::CHUNK),
            (None | Some(0), false) if self.upgrade => Ok(Place::Undecided),
            (None | Some(0), false) => Ok(Place::Head),
            (Some(length), false) => Ok(Place::Length(length)),
        }
    }
}

impl Place {
    const CHUNK: Self = Self::ChunkSize {
        size: 0,
        n_digits: 0,
    };

    const TRAILER: Self = Self::Trailer {
        part: TrailerPart::Start,
        n_bytes: 0,
        n_lines: 0,
    };

    pub const fn is_in_body(self) -> bool {
        !matches!(self, Self::Head | Self::Undecided | Self::Opaque)
    }

    /// Moves over body bytes and says how many belonged to the body; what is behind them is a head.
    pub fn skip_body(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.is_in_body() {
            match *self {
                Self::Length(left) | Self::ChunkData(left) => {
                    let n = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(n).expect("at most the bytes at hand");
                    *self = match *self {
                        Self::Length(_) if n == left => Self::Head,
                        Self::Length(_) => Self::Length(left - n),
                        _ if n == left => Self::ChunkCr,
                        _ => Self::ChunkData(left - n),
                    };
                }
                _ => {
                    *self = self.step(bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One byte of chunked framing.
    fn step(self, byte: u8) -> Result<Self, Refusal> {
        Ok(match (self, byte) {
            (Self::ChunkSize { size, n_digits }, _) if byte.is_ascii_hexdigit() => {
                if n_digits == SIZE_DIGITS {
                    return Err(Refusal::Chunk);
                }
                let digit = (byte as char).to_digit(16).expect("a hex digit");
                Self::ChunkSize {
                    size: size * 16 + u64::from(digit),
                    n_digits: n_digits + 1,
                }
            }
            (Self::ChunkSize { n_digits: 0, .. }, _) => return Err(Refusal::Chunk),
            (Self::ChunkSize { size, .. } | Self::ChunkExtension { size, .. }, b'\r') => {
                Self::ChunkSizeLf(size)
            }
            (Self::ChunkSize { size, .. }, b';') => Self::ChunkExtension { size, n_skipped: 0 },
            (Self::ChunkExtension { size, n_skipped }, b'\t' | b' '..=b'~')
                if n_skipped < EXTENSION_BYTES =>
            {
                Self::ChunkExtension {
                    size,
                    n_skipped: n_skipped + 1,
                }
            }
            (Self::ChunkSizeLf(0), b'\n') => Self::TRAILER,
            (Self::ChunkSizeLf(size), b'\n') => Self::ChunkData(size),
            (Self::ChunkCr, b'\r') => Self::ChunkLf,
            (Self::ChunkLf, b'\n') => Self::CHUNK,
            (
                Self::Trailer {
                    part,
                    n_bytes,
                    n_lines,
                },
                _,
            ) if n_bytes < TRAILER_BYTES => {
                let Some(next) = part.step(byte)? else {
                    return Ok(Self::Head);
                };
                let begins_line = part == TrailerPart::Start && next == TrailerPart::Name;
                if begins_line && n_lines == TRAILER_LINES {
                    return Err(Refusal::Chunk);
                }
                Self::Trailer {
                    part: next,
                    n_bytes: n_bytes + 1,
                    n_lines: n_lines + u8::from(begins_line),
                }
            }
            _ => return Err(Refusal::Chunk),
        })
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests;
