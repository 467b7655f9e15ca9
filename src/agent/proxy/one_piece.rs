//! How a head and what follows it are written: in one piece where they are short, as most are, since the kernel takes one
//! piece for less than it takes a list of them for; else as they lie, without a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Up to this much in all is joined: a head and a short body.
const ONE_PIECE_BYTES: usize = 1024;

/// Writes what it can of the slices, in their order; gives how many bytes that is.
pub fn poll_write_slices(
    stream: Pin<&mut impl AsyncWrite>,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [slice] = slices {
        return stream.poll_write(context, slice);
    }
    let mut piece = [0; ONE_PIECE_BYTES];
    let mut n = 0;
    for slice in slices {
        let Some(room) = piece.get_mut(n..n + slice.len()) else {
            return stream.poll_write_vectored(context, slices);
        };
        room.copy_from_slice(slice);
        n += slice.len();
    }
    stream.poll_write(context, &piece[..n])
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes as much at a time as it is told, and notes in how many slices it came.
    struct Sink {
        at_most: usize,
        written: Vec<u8>,
        n_slices: usize,
    }

    impl Sink {
        fn take(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.n_slices = slices.len();
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
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * ONE_PIECE_BYTES).collect();
        for (lengths, n_slices) in [
            (vec![200, 100], 1),
            (vec![0, 5, 0], 1),
            (vec![ONE_PIECE_BYTES - 1, 1], 1),
            (vec![ONE_PIECE_BYTES, 1], 2),
            (vec![100, 2 * ONE_PIECE_BYTES, 7], 3),
            (vec![2 * ONE_PIECE_BYTES], 1),
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
                    n_slices: 0,
                };
                let mut context = Context::from_waker(Waker::noop());
                let written = poll_write_slices(Pin::new(&mut sink), &mut context, &slices);
                assert!(matches!(written, Poll::Ready(Ok(n)) if n == at_most));
                assert_eq!(sink.written, bytes[..at_most], "{lengths:?}");
                assert_eq!(sink.n_slices, n_slices, "{lengths:?}");
            }
        }
    }
}
