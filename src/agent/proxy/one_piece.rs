//! How several slices are written: joined where they are short, as a head and a short body or the parts of a chunk are, since
//! one `send` costs the kernel less than a `writev`; else as they lie, without a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Up to this much in all is joined. To join so little costs less than the 300 ns by which a `writev` of two slices is dearer
/// than a `send` (on loopback).
const MAX_ONE_PIECE_BYTES: usize = 1024;

/// Writes what it can of the slices, in their order; gives how many bytes that is.
pub fn poll_write_slices(
    stream: Pin<&mut impl AsyncWrite>,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [slice] = slices {
        return stream.poll_write(context, slice);
    }
    let n_bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    if n_bytes > MAX_ONE_PIECE_BYTES {
        return stream.poll_write_vectored(context, slices);
    }
    let mut piece = [0; MAX_ONE_PIECE_BYTES];
    let mut n = 0;
    for slice in slices {
        piece[n..n + slice.len()].copy_from_slice(slice);
        n += slice.len();
    }
    stream.poll_write(context, &piece[..n])
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes as much at a time as it is told, and notes whether it came as slices.
    struct Sink {
        at_most: usize,
        written: Vec<u8>,
        is_vectored: bool,
    }

    impl Sink {
        fn take(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let n = all.len().min(self.at_most);
            self.written.extend_from_slice(&all[..n]);
            Poll::Ready(Ok(n))
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.take(&[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_vectored = true;
            self.take(slices)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_short_goes_in_one_piece_and_what_is_long_as_it_lies() {
        let bytes: Vec<u8> = (0..=u8::MAX)
            .cycle()
            .take(3 * MAX_ONE_PIECE_BYTES)
            .collect();
        for (lengths, is_vectored) in [
            (vec![200, 100], false),
            (vec![0, 5, 0], false),
            (vec![MAX_ONE_PIECE_BYTES - 1, 1], false),
            (vec![MAX_ONE_PIECE_BYTES, 1], true),
            (vec![100, 2 * MAX_ONE_PIECE_BYTES, 7], true),
            (vec![2 * MAX_ONE_PIECE_BYTES], false),
        ] {
            let (mut slices, mut rest) = (Vec::new(), &bytes[..]);
            for &length in &lengths {
                let (slice, behind) = rest.split_at(length);
                slices.push(IoSlice::new(slice));
                rest = behind;
            }
            let all = lengths.iter().sum();
            for at_most in [all, all / 2] {
                let mut sink = Sink {
                    at_most,
                    written: Vec::new(),
                    is_vectored: false,
                };
                let mut context = Context::from_waker(Waker::noop());
                let written = poll_write_slices(Pin::new(&mut sink), &mut context, &slices);
                assert!(matches!(written, Poll::Ready(Ok(n)) if n == at_most));
                assert_eq!(sink.written, bytes[..at_most], "{lengths:?}");
                assert_eq!(sink.is_vectored, is_vectored, "{lengths:?}");
            }
        }
    }
}
