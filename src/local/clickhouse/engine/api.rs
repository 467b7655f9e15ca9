//! The C functions of `libchdb.so`, found by name when the library is opened. It refuses to be used by anything but its
//! neighbours, which keep the handles straight.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use libloading::Library;

pub(super) type RawConnection = *mut c_void;
pub(super) type RawResult = *mut c_void;
pub(super) type RawInsert = *mut c_void;

/// The C functions, in the shape of `chdb.h` of 26.7.
pub(super) struct Api {
    pub(super) connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    pub(super) close: unsafe extern "C" fn(*mut RawConnection),
    pub(super) query: BoundQuery,
    pub(super) stream: BoundQuery,
    pub(super) fetch: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    pub(super) cancel: unsafe extern "C" fn(RawConnection, RawResult),
    pub(super) destroy: unsafe extern "C" fn(RawResult),
    pub(super) buffer: unsafe extern "C" fn(RawResult) -> *const u8,
    pub(super) length: unsafe extern "C" fn(RawResult) -> usize,
    pub(super) error: unsafe extern "C" fn(RawResult) -> *const c_char,
    pub(super) counts: [unsafe extern "C" fn(RawResult) -> u64; 6],
    pub(super) insert: BoundQuery,
    pub(super) append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    pub(super) done: unsafe extern "C" fn(RawInsert) -> RawResult,
    pub(super) insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    pub(super) destroy_insert: unsafe extern "C" fn(RawInsert),
    pub(super) classify: unsafe extern "C" fn(
        RawConnection,
        *const u8,
        usize,
        *const u8,
        usize,
        *mut RawAnalysis,
    ) -> c_int,
}

/// A query with its format and parameters, each by pointer and length.
pub(super) type BoundQuery = unsafe extern "C" fn(
    RawConnection,
    *const u8,
    usize,
    *const u8,
    usize,
    *const *const u8,
    *const usize,
    *const *const u8,
    *const usize,
    usize,
) -> *mut c_void;

#[repr(C)]
pub(super) struct RawAnalysis {
    pub(super) struct_size: u32,
    pub(super) n_statements: u32,
    pub(super) flags: u32,
    pub(super) class: u32,
}

impl Api {
    pub(super) fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the library's initialisers are those of the ClickHouse engine, which is what is asked for; it is
        // leaked, so that no function pointer outlives it.
        let library: &'static Library = Box::leak(Box::new(unsafe { Library::new(path) }?));
        // SAFETY: the types are those of chdb.h, of the release that deploy/local/package.json pins.
        unsafe {
            let no_signals: unsafe extern "C" fn(c_int) =
                *library.get(b"chdb_set_signal_handlers_enabled\0")?;
            // Signals are this program's own business: SIGTERM drains.
            no_signals(0);
            Ok(Self {
                connect: *library.get(b"chdb_connect\0")?,
                close: *library.get(b"chdb_close_conn\0")?,
                query: *library.get(b"chdb_query_with_params_n\0")?,
                stream: *library.get(b"chdb_stream_query_with_params_n\0")?,
                fetch: *library.get(b"chdb_stream_fetch_result\0")?,
                cancel: *library.get(b"chdb_stream_cancel_query\0")?,
                destroy: *library.get(b"chdb_destroy_query_result\0")?,
                buffer: *library.get(b"chdb_result_buffer\0")?,
                length: *library.get(b"chdb_result_length\0")?,
                error: *library.get(b"chdb_result_error\0")?,
                counts: [
                    *library.get(b"chdb_result_storage_rows_read\0")?,
                    *library.get(b"chdb_result_storage_bytes_read\0")?,
                    *library.get(b"chdb_result_rows_written\0")?,
                    *library.get(b"chdb_result_bytes_written\0")?,
                    *library.get(b"chdb_result_rows_read\0")?,
                    *library.get(b"chdb_result_bytes_read\0")?,
                ],
                insert: *library.get(b"chdb_stream_insert_with_params_n\0")?,
                append: *library.get(b"chdb_stream_append\0")?,
                done: *library.get(b"chdb_stream_done\0")?,
                insert_error: *library.get(b"chdb_stream_insert_error\0")?,
                destroy_insert: *library.get(b"chdb_destroy_insert_stream\0")?,
                classify: *library.get(b"chdb_classify_query_n\0")?,
            })
        }
    }
}
