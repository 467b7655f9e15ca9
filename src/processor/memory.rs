//! Which flush gives the windows' memory back, and how the heap is kept.

use crate::core::delta::FlushKind;

/// Blocks up to this many bytes come from the heap rather than from a mapping of their own.
const LARGEST_HEAP_BLOCK: libc::c_int = 1 << 30;

/// The heap's end is given back to the system beyond this many unused bytes.
const UNUSED_HEAP: libc::c_int = 256 << 20;

/// The flush that a limit on `bytes` asks for, of which `fine_bytes` are the finest tier's. Where that is most of them it goes
/// alone: coarser windows that stay open take more of the log in, and become fewer rows. Where it gives too little back,
/// since each of its windows has become one of a minute, the next flush is a full one.
pub fn wanted_flush(bytes: usize, fine_bytes: usize, limit: usize) -> Option<FlushKind> {
    let kind = if fine_bytes > bytes / 2 {
        FlushKind::Fine
    } else {
        FlushKind::Full
    };
    (bytes >= limit).then_some(kind)
}

/// Keeps memory that was used: a flush frees its columns and the next one allocates them again, and with glibc's defaults
/// each time the kernel would have to find and clear the pages, a tenth of the processor's time under load.
pub fn keep_what_was_used() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes plain numbers, and glibc allows it at any time.
    let is_set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED_HEAP) == 1
    };
    #[cfg(not(target_env = "gnu"))]
    let is_set = false;
    if !is_set {
        tracing::debug!("the allocator keeps its own thresholds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finest_tier_goes_alone_where_it_is_most_of_it() {
        assert_eq!(wanted_flush(99, 99, 100), None);
        assert_eq!(wanted_flush(100, 51, 100), Some(FlushKind::Fine));
        assert_eq!(wanted_flush(100, 50, 100), Some(FlushKind::Full));
        assert_eq!(wanted_flush(100, 0, 100), Some(FlushKind::Full));
    }
}
