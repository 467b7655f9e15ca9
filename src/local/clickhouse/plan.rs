//! From a request and its whole body to what the engine is asked: statement, data behind it, format of the answer.
//! It refuses what must not run at all, before anything runs.

use std::io::{self, Read};

use bytes::Bytes;

use super::engine::Param;
use super::exception::{Exception, code};
use super::form::{self, ExternalTable, MAX_FORM_BYTES};
use super::reach;
use super::request::Request;
use super::spool::{Spool, SpoolFolder, body_error};
use super::statement::{DataClause, Name, Statement, StatementKind, Target};

/// The longest statement; data behind an `INSERT` does not count. (A server's default is 256 KiB.)
pub const MAX_QUERY_BYTES: usize = 4 << 20;

/// Formats whose documents, one a block, put together are the document of all blocks.
const STREAMED_FORMATS: &[&str] = &[
    "Native",
    "RowBinary",
    "RowBinaryWithNames",
    "RowBinaryWithNamesAndTypes",
    "TabSeparated",
    "TSV",
    "TabSeparatedRaw",
    "TSVRaw",
    "CSV",
    "JSONEachRow",
    "JSONLines",
    "NDJSON",
    "JSONCompactEachRow",
    "JSONStringsEachRow",
];

/// What is run.
pub struct Plan {
    pub request: Request,
    pub statement: Statement,
    /// The statement, without the data behind it.
    pub sql: Bytes,
    pub data: Option<Data>,
    pub external: Vec<ExternalTable>,
    /// The format of the answer.
    pub format: String,
    pub is_streamed: bool,
}

/// The data of an `INSERT`: what stood behind the statement in the URL, then the body.
pub struct Data {
    inline: Bytes,
    body: Spool,
    body_from: u64,
}

impl Data {
    pub fn into_reader(self) -> Result<Box<dyn Read + Send>, Exception> {
        let body = self
            .body
            .into_reader(self.body_from)
            .map_err(|error| body_error(&error))?;
        Ok(Box::new(io::Cursor::new(self.inline).chain(body)))
    }

    /// All of it, where it is in memory.
    fn in_memory(&self) -> Option<Vec<u8>> {
        match &self.body {
            Spool::Memory(bytes) => {
                let from = usize::try_from(self.body_from).ok()?.min(bytes.len());
                Some([&self.inline[..], &bytes[from..]].concat())
            }
            Spool::File { .. } => None,
        }
    }
}

impl Plan {
    /// # Errors
    /// With ClickHouse's code for what is wrong.
    pub fn new(mut request: Request, body: Spool, folder: &SpoolFolder) -> Result<Self, Exception> {
        let mut body = unpacked(body, &request, folder)?;
        let mut external = Vec::new();
        if let Some(boundary) = request.form_boundary.take() {
            let form = body
                .prefix(MAX_FORM_BYTES + 1)
                .map_err(|error| body_error(&error))?;
            if form.len() > MAX_FORM_BYTES {
                return Err(Exception::new(
                    code::QUERY_IS_TOO_LARGE,
                    format!("the form is larger than {MAX_FORM_BYTES} bytes"),
                ));
            }
            external = form::read(&form, &boundary, &mut request)?;
            body = Spool::Memory(Bytes::new());
        }
        let (head_length, text) = text(&request.query, &mut body)?;
        let statement = Statement::parse(&text)?;
        reach::refuse_params(&text, &request.params)?;
        for table in &external {
            reach::refuse(table.structure.as_bytes())?;
        }
        let (sql, data) = split(&statement, text, head_length, body)?;
        let format = statement
            .output_format
            .clone()
            .or_else(|| request.default_format.clone())
            .unwrap_or_else(|| "TabSeparated".to_owned());
        Ok(Self {
            is_streamed: is_streamed(&statement, &sql, &request.settings, &format),
            request,
            statement,
            sql,
            data,
            external,
            format,
        })
    }

    pub fn is_insert(&self) -> bool {
        self.statement.kind != StatementKind::Other
    }

    /// `database.table` of an `INSERT`, given the current database.
    pub fn table(&self, current_database: &str) -> Option<String> {
        let Target { database, table } = self.statement.target()?;
        let name = |name: &Name| match name {
            Name::Plain(plain) => Some(plain.clone()),
            Name::Param(param) => self
                .request
                .params
                .iter()
                .find(|(name, _)| name == param)
                .map(|(_, value)| value.clone()),
        };
        let database = match database {
            Some(database) => name(database)?,
            None => current_database.to_owned(),
        };
        Some(format!("{database}.{}", name(table)?))
    }
}

fn unpacked(mut body: Spool, request: &Request, folder: &SpoolFolder) -> Result<Spool, Exception> {
    for encoding in &request.body_encoding {
        // Unpacked whole before the engine sees any of it: a body broken at its end must leave no row.
        let mut writer = folder.writer();
        let mut unpack =
            |body: Spool| io::copy(&mut encoding.reader(body.into_reader(0)?)?, &mut writer);
        unpack(body).map_err(|error| body_error(&error))?;
        body = writer.finish();
    }
    Ok(body)
}

/// The URL's query, a newline and the body, as far as a statement may go; and how much of it was the URL's.
fn text(query: &str, body: &mut Spool) -> Result<(usize, Bytes), Exception> {
    let prefix = body
        .prefix(MAX_QUERY_BYTES + 1)
        .map_err(|error| body_error(&error))?;
    if query.is_empty() {
        return Ok((0, prefix));
    }
    let mut text = query.as_bytes().to_vec();
    if text.len() > MAX_QUERY_BYTES {
        return Err(too_long());
    }
    text.push(b'\n');
    let head_length = text.len();
    text.extend_from_slice(&prefix);
    Ok((head_length, text.into()))
}

fn too_long() -> Exception {
    Exception::new(
        code::SYNTAX_ERROR,
        format!("Max query size exceeded: {MAX_QUERY_BYTES} bytes"),
    )
}

/// Cuts the statement from its data.
fn split(
    statement: &Statement,
    text: Bytes,
    head_length: usize,
    body: Spool,
) -> Result<(Bytes, Option<Data>), Exception> {
    let clause = match &statement.kind {
        StatementKind::InsertData { data, .. } | StatementKind::InsertInput { data, .. } => data,
        StatementKind::InsertSelect { .. } | StatementKind::Other => {
            if body.n_bytes() > MAX_QUERY_BYTES as u64 {
                return Err(too_long());
            }
            return Ok((text, None));
        }
    };
    let start = clause.data_start;
    if start > MAX_QUERY_BYTES {
        return Err(too_long());
    }
    let data = Data {
        inline: text.slice(start.min(head_length)..head_length),
        body,
        body_from: start.saturating_sub(head_length) as u64,
    };
    refuse_machine_values(clause, &data)?;
    Ok((text.slice(..start), Some(data)))
}

/// `VALUES` are expressions, so they are looked at as a statement is.
fn refuse_machine_values(clause: &DataClause, data: &Data) -> Result<(), Exception> {
    if !clause.format.eq_ignore_ascii_case("Values") {
        return Ok(());
    }
    let Some(values) = data.in_memory() else {
        return Err(Exception::new(
            code::QUERY_IS_TOO_LARGE,
            "VALUES of this size: send the data in another format, RowBinary or JSONEachRow say",
        ));
    };
    reach::refuse(&values)
}

fn is_streamed(statement: &Statement, sql: &[u8], settings: &[Param], format: &str) -> bool {
    // Both add something before or behind the rows.
    let frames = |text: &[u8]| {
        ["extremes", "array_of_rows"]
            .iter()
            .any(|word| text.windows(word.len()).any(|w| w == word.as_bytes()))
    };
    statement.kind == StatementKind::Other
        && matches!(statement.verb.as_str(), "SELECT" | "WITH")
        && !statement.has_totals
        && STREAMED_FORMATS.contains(&format)
        && !frames(sql)
        && !settings.iter().any(|(name, _)| frames(name.as_bytes()))
}

/// The length of the header (names, and types where the format has them) that begins each block's document.
pub fn repeated_header(format: &str, document: &[u8]) -> usize {
    let lines_per_column = match format {
        "RowBinaryWithNames" => 1,
        "RowBinaryWithNamesAndTypes" => 2,
        _ => return 0,
    };
    let mut rest = document;
    let Some(n_columns) = varint(&mut rest) else {
        return 0;
    };
    for _ in 0..n_columns.saturating_mul(lines_per_column) {
        let text = varint(&mut rest).and_then(|length| rest.get(usize::try_from(length).ok()?..));
        let Some(after) = text else { return 0 };
        rest = after;
    }
    document.len() - rest.len()
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
