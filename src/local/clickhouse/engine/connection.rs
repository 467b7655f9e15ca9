//! Sessions of the engine and what they give: answers, streams of blocks, inserts. Each handle is owned by one value
//! here and released when that is dropped. It refuses two statements at a time on one connection (`&mut self`).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use super::super::exception::Exception;
use super::EngineError;
use super::api::{Api, BoundQuery, RawAnalysis, RawConnection, RawInsert, RawResult};

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

/// One session of the engine.
pub struct Connection {
    api: &'static Api,
    raw: NonNull<RawConnection>,
}

// SAFETY: the engine ties a connection to no thread; `&mut self` keeps it to one at a time.
unsafe impl Send for Connection {}

impl Connection {
    pub(super) fn open(
        api: &'static Api,
        data: &Path,
        flags: &[&str],
    ) -> Result<Self, EngineError> {
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
