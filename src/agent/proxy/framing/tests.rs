//! The framing against a corpus of heads that were used to smuggle, and against whatever proptest finds.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 4096;

fn head(bytes: &str) -> Head {
    read_head(bytes.as_bytes(), LIMIT)
}

#[test]
fn what_two_parsers_could_read_in_two_ways_is_refused() {
    let start = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (rest, refusal) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::AmbiguousLength,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            Refusal::AmbiguousLength,
        ),
        (
            "content-length:4\r\ntransfer-encoding:\tchunked\r\n\r\n",
            Refusal::AmbiguousLength,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
            Refusal::AmbiguousLength,
        ),
        ("Content-Length: 5, 5\r\n\r\n", Refusal::AmbiguousLength),
        ("Content-Length: +5\r\n\r\n", Refusal::AmbiguousLength),
        ("Content-Length: 0x5\r\n\r\n", Refusal::AmbiguousLength),
        ("Content-Length: -1\r\n\r\n", Refusal::AmbiguousLength),
        ("Content-Length:\r\n\r\n", Refusal::AmbiguousLength),
        (
            "Content-Length: 9999999999999999999\r\n\r\n",
            Refusal::AmbiguousLength,
        ),
        (
            "Transfer-Encoding: xchunked\r\n\r\n",
            Refusal::UnknownCoding,
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            Refusal::UnknownCoding,
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n\r\n",
            Refusal::UnknownCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::UnknownCoding,
        ),
        (
            "Transfer-Encoding: \"chunked\"\r\n\r\n",
            Refusal::UnknownCoding,
        ),
        ("Transfer-Encoding : chunked\r\n\r\n", Refusal::Malformed),
        (" Transfer-Encoding: chunked\r\n\r\n", Refusal::Malformed),
        (
            "X: y\r\n Transfer-Encoding: chunked\r\n\r\n",
            Refusal::Malformed,
        ),
        (
            "X: y\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::Malformed,
        ),
        (
            "X: y\rTransfer-Encoding: chunked\r\n\r\n",
            Refusal::Malformed,
        ),
        ("X: a\0b\r\n\r\n", Refusal::Malformed),
        ("Content-Length: 5\n\n", Refusal::Malformed),
        (": empty\r\n\r\n", Refusal::Malformed),
        ("no colon\r\n\r\n", Refusal::Malformed),
    ] {
        assert_eq!(
            head(&format!("{start}{rest}")),
            Head::Refused(refusal),
            "{rest:?}"
        );
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old), Head::Refused(Refusal::AmbiguousLength));
}

#[test]
fn plain_heads_say_what_follows() {
    for (text, place) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Place::Head),
        ("\r\nGET / HTTP/1.0\r\n\r\n", Place::Head),
        ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Place::Head),
        (
            "POST / HTTP/1.1\r\ncontent-length: 12\r\n\r\n",
            Place::Length(12),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Place::CHUNK,
        ),
        (
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            Place::Undecided,
        ),
        ("PRI * HTTP/2.0\r\n\r\n", Place::Opaque),
    ] {
        assert_eq!(head(text), Head::Whole(text.len(), place), "{text:?}");
    }
}

#[test]
fn a_head_has_a_size() {
    let line = format!("GET /{} HTTP/1.1\r\n", "x".repeat(LIMIT));
    assert_eq!(head(&line), Head::Refused(Refusal::HeadTooLarge));
    assert_eq!(
        head(&line[..LIMIT + 1]),
        Head::Refused(Refusal::HeadTooLarge)
    );
    assert_eq!(head(&line[..LIMIT]), Head::Partial);
    let many = |n| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert_eq!(
        head(&many(HEADERS)),
        Head::Whole(many(HEADERS).len(), Place::Head)
    );
    assert_eq!(
        head(&many(HEADERS + 1)),
        Head::Refused(Refusal::HeadTooLarge)
    );
}

/// The bytes of a chunked body, and where it ends; or the refusal.
fn chunked(bytes: &[u8], piece: usize) -> Result<Option<usize>, Refusal> {
    let (mut place, mut at) = (Place::CHUNK, 0);
    for part in bytes.chunks(piece) {
        at += place.skip_body(part)?;
        if place == Place::Head {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

#[test]
fn chunks_have_one_form() {
    for bad in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
    ] {
        assert_eq!(chunked(bad.as_bytes(), 3), Err(Refusal::Chunk), "{bad:?}");
    }
    for good in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00A;ext=\"1\"\r\n0123456789\r\n0\r\nX: y\r\nZ: w\r\n\r\n",
    ] {
        let more = format!("{good}GET / HTTP/1.1");
        assert_eq!(
            chunked(more.as_bytes(), 4),
            Ok(Some(good.len())),
            "{good:?}"
        );
    }
}

proptest! {
    #[test]
    fn where_bytes_are_cut_changes_nothing(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
        broken in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        piece in 1..64_usize,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        if let Some((at, byte)) = broken {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        } else {
            prop_assert_eq!(chunked(&bytes, piece), Ok(Some(bytes.len())));
        }
        prop_assert_eq!(chunked(&bytes, piece), chunked(&bytes, bytes.len()));
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_head(&bytes, 200);
        let _ = chunked(&bytes, 7);
    }
}

#[test]
fn trailers_are_headers_and_nothing_else() {
    let through = |trailers: &str| {
        let bytes = format!("0\r\n{trailers}\r\nGET");
        let mut place = Place::CHUNK;
        place
            .skip_body(bytes.as_bytes())
            .map(|n| (bytes.len() - n, place))
    };
    for right in ["", "x: y\r\n", "X-Sum:\r\na: \tb c\u{e9}\r\n"] {
        assert_eq!(through(right), Ok((3, Place::Head)), "{right:?}");
    }
    // the library refuses each, with the body unfinished
    for wrong in [
        "x\r\n",
        ": y\r\n",
        " x: y\r\n",
        "x : y\r\n",
        "x,: y\r\n",
        "x/: y\r\n",
        "x: \u{b}\r\n",
        "x: y\n",
        "x: y\rz\r\n",
        "\n",
    ] {
        assert_eq!(through(wrong), Err(Refusal::Chunk), "{wrong:?}");
    }
    assert_eq!(
        through(&format!("x: {}\r\n", "y".repeat(9000))),
        Err(Refusal::Chunk)
    );
}

#[test]
fn trailers_are_as_many_as_the_library_takes() {
    let with = |n_lines: u8| {
        let lines = "a:\r\n".repeat(usize::from(n_lines));
        chunked(format!("0\r\n{lines}\r\n").as_bytes(), 1)
    };
    assert!(matches!(with(TRAILER_LINES), Ok(Some(_))));
    assert_eq!(with(TRAILER_LINES + 1), Err(Refusal::Chunk));
}
