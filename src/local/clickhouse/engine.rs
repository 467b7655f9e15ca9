//! The real ClickHouse engine, `libchdb.so`, opened at run time: every C call and every `unsafe` of this part is here.
//! It owns handles and their lifetimes. It refuses to know HTTP, SQL or policy.
//!
//! A connection is a session (settings, current database, temporary tables) and runs one statement at a time,
//! which `&mut self` enforces; several connections run in parallel. One costs 0.2 ms, so that every request gets its
//! own. The engine boots with the first connection and shuts down with the last, so one is kept until the end; the
//! library is never unloaded, since its threads outlive every call.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::slice;
use std::sync::Mutex;

use libloading::Library;

use super::exception::Exception;

type RawConnection = *mut c_void;
type RawResult = *mut c_void;
type RawInsert = *mut c_void;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "the ClickHouse engine {path} is not there; fetch it with `make local-parts`, or name its folder with --parts"
    )]
    Missing { path: PathBuf },
    #[error("the ClickHouse engine {path} cannot be opened")]
    Load {
        path: PathBuf,
        #[source]
        source: libloading::Error,
    },
    #[error("the ClickHouse engine does not open {0} (its own words are on stderr)")]
    Connect(PathBuf),
    #[error("the path {0} holds a NUL byte")]
    Path(PathBuf),
    #[error("the ClickHouse engine is closed")]
    Closed,
}

/// The C functions, in the shape of `chdb.h` of 26.7.
struct Api {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    close: unsafe extern "C" fn(*mut RawConnection),
    query: BoundQuery,
    stream: BoundQuery,
    fetch: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    cancel: unsafe extern "C" fn(RawConnection, RawResult),
    destroy: unsafe extern "C" fn(RawResult),
    buffer: unsafe extern "C" fn(RawResult) -> *const u8,
    length: unsafe extern "C" fn(RawResult) -> usize,
    error: unsafe extern "C" fn(RawResult) -> *const c_char,
    counts: [unsafe extern "C" fn(RawResult) -> u64; 6],
    insert: BoundQuery,
    append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    done: unsafe extern "C" fn(RawInsert) -> RawResult,
    insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    destroy_insert: unsafe extern "C" fn(RawInsert),
    classify: unsafe extern "C" fn(
        RawConnection,
        *const u8,
        usize,
        *const u8,
        usize,
        *mut RawAnalysis,
    ) -> c_int,
}

/// A query with its format and parameters, each by pointer and length.
type BoundQuery = unsafe extern "C" fn(
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
struct RawAnalysis {
    struct_size: u32,
    n_statements: u32,
    flags: u32,
    class: u32,
}

/// What a statement does, by the engine's own parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    ReadOnly,
    Mutating,
    /// `SET`, `USE`, temporary tables, `KILL` and other statements of the session.
    Control,
    Unparsed,
}

/// Rows and bytes, as the `X-ClickHouse-Summary` header counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
    pub result_rows: u64,
    pub result_bytes: u64,
}

/// A query parameter: the engine binds it, it never becomes SQL text.
pub type Param = (String, String);

/// The engine on one directory.
pub struct Engine {
    api: &'static Api,
    data: PathBuf,
    /// The connection that keeps the engine up; taken at the end.
    keeper: Mutex<Option<Connection>>,
}

impl Engine {
    /// Loads the library and boots the engine on `data`, with the server's configuration file `config`.
    ///
    /// # Errors
    /// When the library is missing or foreign, or the engine refuses the directory.
    pub fn open(library: &Path, data: &Path, config: &Path) -> Result<Self, EngineError> {
        if !library.is_file() {
            return Err(EngineError::Missing {
                path: library.to_owned(),
            });
        }
        // SAFETY: the variable is written once, before the library's first use, and this program's own code reads the
        // environment only through clap at its start; the engine takes its time zone from here and nowhere else.
        unsafe { std::env::set_var("TZ", "UTC") };
        let api = Api::load(library).map_err(|source| EngineError::Load {
            path: library.to_owned(),
            source,
        })?;
        let api: &'static Api = Box::leak(Box::new(api));
        let config_flag = format!("--config-file={}", config.display());
        let keeper = Connection::open(api, data, &[&config_flag])?;
        Ok(Self {
            api,
            data: data.to_owned(),
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// A session of its own.
    ///
    /// # Errors
    /// When the engine is closed or refuses.
    pub fn connect(&self) -> Result<Connection, EngineError> {
        // Held while connecting, so that closing cannot boot the engine anew with this connection as its first.
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if keeper.is_none() {
            return Err(EngineError::Closed);
        }
        Connection::open(self.api, &self.data, &[])
    }

    /// Shuts the engine down once the sessions still open are closed. Nothing connects any more.
    pub fn close(&self) {
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        drop(keeper);
    }
}

impl Api {
    fn load(path: &Path) -> Result<Self, libloading::Error> {
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

/// One session of the engine.
pub struct Connection {
    api: &'static Api,
    raw: NonNull<RawConnection>,
}

// SAFETY: the engine ties a connection to no thread; `&mut self` keeps it to one at a time.
unsafe impl Send for Connection {}

impl Connection {
    fn open(api: &'static Api, data: &Path, flags: &[&str]) -> Result<Self, EngineError> {
        let path = format!("--path={}", data.display());
        // What the command-line client turns on and a server has off.
        let as_a_server = [
            "clickhouse",
            path.as_str(),
            "--implicit_select=0",
            "--allow_introspection_functions=0",
        ];
        let arguments = as_a_server
            .iter()
            .chain(flags)
            .map(|argument| CString::new(*argument).map_err(|_| EngineError::Path(data.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*mut c_char> =
            arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let n = c_int::try_from(pointers.len()).expect("a handful of arguments");
        // SAFETY: `n` NUL-terminated strings, alive for the call, which copies them and writes none.
        let raw = unsafe { (api.connect)(n, pointers.as_mut_ptr()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { api, raw }),
            None => Err(EngineError::Connect(data.to_owned())),
        }
    }

    fn handle(&self) -> RawConnection {
        // SAFETY: `chdb_connect` returned it and only `drop` closes it.
        unsafe { *self.raw.as_ptr() }
    }

    /// Runs one statement and holds the whole answer, in `format` unless the statement names another.
    ///
    /// # Errors
    /// What the engine says.
    pub fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[Param],
    ) -> Result<Answer, Exception> {
        Answer::checked(self.api, self.bound(self.api.query, sql, format, params))
    }

    /// Begins one `SELECT` whose answer arrives block by block, each formatted as a document of its own.
    ///
    /// # Errors
    /// What the engine says before the first block.
    pub fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[Param],
    ) -> Result<Stream<'_>, Exception> {
        let result = self.bound(self.api.stream, sql, format, params);
        Ok(Stream {
            head: Answer::checked(self.api, result)?,
            connection: self,
        })
    }

    /// Begins an `INSERT` (without its `FORMAT` and data) whose data follows by `append`.
    ///
    /// # Errors
    /// What the engine says before the first byte of data.
    pub fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[Param],
    ) -> Result<Insert<'_>, Exception> {
        let raw = self.bound(self.api.insert, sql, format, params);
        let insert = Insert {
            raw,
            connection: self,
        };
        // SAFETY: the handle is live; an error is a NUL-terminated string that lives as long as it.
        match unsafe { text(((insert.connection.api).insert_error)(raw)) } {
            Some(error) => Err(Exception::from_engine(&error)),
            None => Ok(insert),
        }
    }

    /// How many statements `sql` holds and what they do. Nothing runs.
    pub fn classify(&mut self, sql: &[u8]) -> (u32, Class) {
        let mut analysis = RawAnalysis {
            struct_size: size_of::<RawAnalysis>() as u32,
            n_statements: 0,
            flags: 0,
            class: 4,
        };
        // SAFETY: the text is passed by length, the report has the size it names, no target database is asked about.
        let state = unsafe {
            (self.api.classify)(
                self.handle(),
                sql.as_ptr(),
                sql.len(),
                std::ptr::null(),
                0,
                &raw mut analysis,
            )
        };
        let class = match analysis.class {
            0 => Class::ReadOnly,
            1 | 2 => Class::Mutating,
            3 => Class::Control,
            _ => Class::Unparsed,
        };
        if state == 0 {
            (analysis.n_statements, class)
        } else {
            (0, Class::Unparsed)
        }
    }

    fn bound(
        &mut self,
        call: BoundQuery,
        sql: &[u8],
        format: &str,
        params: &[Param],
    ) -> *mut c_void {
        let pointers = |side: fn(&Param) -> &str| -> (Vec<*const u8>, Vec<usize>) {
            params
                .iter()
                .map(|param| (side(param).as_ptr(), side(param).len()))
                .unzip()
        };
        let (names, name_lengths) = pointers(|param| &param.0);
        let (values, value_lengths) = pointers(|param| &param.1);
        // SAFETY: every text is passed by pointer and length, the four arrays have `params.len()` entries each, and
        // all of it outlives the call, which copies what it keeps.
        unsafe {
            call(
                self.handle(),
                sql.as_ptr(),
                sql.len(),
                format.as_ptr(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                params.len(),
            )
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened by `chdb_connect`, closed here and nowhere else; streams and inserts borrow the connection.
        unsafe { (self.api.close)(self.raw.as_ptr()) };
    }
}

/// A whole answer, in the engine's memory.
pub struct Answer {
    api: &'static Api,
    raw: RawResult,
}

// SAFETY: an answer is a buffer that nothing writes any more.
unsafe impl Send for Answer {}

impl Answer {
    fn checked(api: &'static Api, raw: RawResult) -> Result<Self, Exception> {
        let answer = Self { api, raw };
        if raw.is_null() {
            return Err(Exception::from_engine("the engine gave no answer"));
        }
        // SAFETY: a live result; its error is a NUL-terminated string that lives as long as it.
        match unsafe { text((api.error)(raw)) } {
            Some(error) => Err(Exception::from_engine(&error)),
            None => Ok(answer),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a live result; buffer and length belong together and nothing changes them.
        unsafe {
            let (buffer, length) = ((self.api.buffer)(self.raw), (self.api.length)(self.raw));
            if buffer.is_null() || length == 0 {
                &[]
            } else {
                slice::from_raw_parts(buffer, length)
            }
        }
    }

    pub fn counts(&self) -> Counts {
        // SAFETY: a live result; the functions read one number each.
        let [
            read_rows,
            read_bytes,
            written_rows,
            written_bytes,
            result_rows,
            result_bytes,
        ] = self.api.counts.map(|count| unsafe { count(self.raw) });
        Counts {
            read_rows,
            read_bytes,
            written_rows,
            written_bytes,
            result_rows,
            result_bytes,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: a result of this library, destroyed once.
            unsafe { (self.api.destroy)(self.raw) };
        }
    }
}

/// A `SELECT` under way. Dropped before its end, it is cancelled.
pub struct Stream<'c> {
    head: Answer,
    connection: &'c mut Connection,
}

impl Stream<'_> {
    /// The next block, `None` after the last.
    ///
    /// # Errors
    /// What the engine says in the middle of the answer.
    pub fn next_block(&mut self) -> Result<Option<Answer>, Exception> {
        let api = self.connection.api;
        // SAFETY: the connection and the stream's handle are live, and `&mut self` keeps the fetches apart.
        let raw = unsafe { (api.fetch)(self.connection.handle(), self.head.raw) };
        let block = Answer::checked(api, raw)?;
        Ok((!block.bytes().is_empty()).then_some(block))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: both handles are live; cancelling a finished stream does nothing. The handle itself goes with `head`.
        unsafe { (self.connection.api.cancel)(self.connection.handle(), self.head.raw) };
    }
}

/// An `INSERT` under way. Dropped before `finish`, it is cancelled.
pub struct Insert<'c> {
    raw: RawInsert,
    connection: &'c mut Connection,
}

impl Insert<'_> {
    /// Hands over data. `false`: the engine takes no more, and `finish` says why.
    pub fn append(&mut self, data: &[u8]) -> bool {
        // SAFETY: a live handle; the engine copies the bytes.
        unsafe { (self.connection.api.append)(self.raw, data.as_ptr().cast(), data.len()) == 0 }
    }

    /// Ends the data and commits.
    ///
    /// # Errors
    /// What the engine says of data or commit.
    pub fn finish(self) -> Result<Counts, Exception> {
        // SAFETY: a live handle, finished once, since `self` is consumed.
        let raw = unsafe { (self.connection.api.done)(self.raw) };
        Ok(Answer::checked(self.connection.api, raw)?.counts())
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: required for every handle, once; it cancels what is not finished.
        unsafe { (self.connection.api.destroy_insert)(self.raw) };
    }
}

/// # Safety
/// `pointer` is NULL or a NUL-terminated string that lives for the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: as promised by the caller.
    (!pointer.is_null()).then(|| {
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned()
    })
}
