//! A client's connection, looked at before the HTTP library sees it: a head with both `Content-Length` and
//! `Transfer-Encoding` is how one request is smuggled behind another, and the library would quietly drop the former.
//!
//! It follows heads and bodies of known length. After a chunked body it looks no further: the answer closes such a
//! connection (see `exchange`), so that no other request can follow on it. HTTP/2 has no such ambiguity.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head that is longer is refused by the library with 431; here it is only no longer looked at.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
content-length: 72\r\n\r\nContent-Length and Transfer-Encoding in one request are not taken here.\n";

enum At {
    /// In a head; its bytes so far.
    Head(Vec<u8>),
    /// In a body with this many bytes left.
    Body(u64),
    /// Not followed any more.
    Opaque,
    /// Refused; what is left to be written of the answer.
    Refused(&'static [u8]),
}

/// The connection.
pub struct Guarded<S> {
    stream: S,
    at: At,
}

impl<S> Guarded<S> {
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            at: At::Head(Vec::new()),
        }
    }
}

impl At {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self {
                Self::Head(head) => {
                    let searched = head.len().saturating_sub(3);
                    head.extend_from_slice(bytes);
                    let found = head[searched..]
                        .windows(4)
                        .position(|window| window == b"\r\n\r\n");
                    let Some(end) = found.map(|at| searched + at + 4) else {
                        if head.len() > MAX_HEAD_BYTES {
                            *self = Self::Opaque;
                        }
                        return;
                    };
                    let n_after = head.len() - end;
                    bytes = &bytes[bytes.len() - n_after..];
                    let next = after_head(&head[..end]);
                    *self = next;
                }
                Self::Body(left) => {
                    let n = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        *self = Self::Head(Vec::new());
                    }
                }
                Self::Opaque | Self::Refused(_) => return,
            }
        }
    }
}

fn after_head(head: &[u8]) -> At {
    if head == HTTP2_PREFACE {
        return At::Opaque;
    }
    let (mut length, mut is_chunked, mut is_upgrade) = (None, false, false);
    for line in head.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|value| value.parse().ok())
                    .unwrap_or(0),
            );
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            is_upgrade = true;
        }
    }
    match (length, is_chunked) {
        (Some(_), true) => At::Refused(REFUSAL),
        (None, true) => At::Opaque,
        // what follows may be another protocol
        (None, false) if is_upgrade => At::Opaque,
        (None | Some(0), false) => At::Head(Vec::new()),
        (Some(length), false) => At::Body(length),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        if !matches!(this.at, At::Refused(_)) {
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            this.at.follow(&buffer.filled()[before..]);
        }
        if let At::Refused(rest) = &mut this.at {
            // the library must not see the head; the answer is ours, and the connection ends
            buffer.set_filled(before);
            while !rest.is_empty() {
                let n = ready!(Pin::new(&mut this.stream).poll_write(context, rest))?;
                *rest = &rest[n..];
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refuses(pieces: &[&[u8]]) -> bool {
        let mut at = At::Head(Vec::new());
        for piece in pieces {
            at.follow(piece);
        }
        matches!(at, At::Refused(_))
    }

    const PLAIN: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    const SMUGGLING: &[u8] =
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    #[test]
    fn the_answer_has_the_length_that_it_says() {
        let text = String::from_utf8_lossy(REFUSAL);
        let (_, body) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body.len(), 72);
    }

    proptest! {
        #[test]
        fn a_smuggling_head_is_found_wherever_it_is_cut(n_before in 0..4_usize, cuts in prop::collection::vec(1..40_usize, 0..20)) {
            let mut bytes = PLAIN.repeat(n_before);
            bytes.extend_from_slice(SMUGGLING);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            prop_assert!(refuses(&pieces));
            prop_assert!(!refuses(&[&PLAIN.repeat(n_before + 1)]));
        }

        #[test]
        fn any_bytes_are_followed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            refuses(&[&bytes]);
        }
    }
}
