//! How the heap is kept.

/// Blocks up to this many bytes come from the heap rather than from a mapping of their own.
const LARGEST_HEAP_BLOCK: libc::c_int = 1 << 30;

/// The heap's end is given back to the system beyond this many unused bytes.
const UNUSED_HEAP: libc::c_int = 256 << 20;

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
