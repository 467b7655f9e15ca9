//! One query on a connection of its own or of its session, from settings to answer.
//! It owns the order of things: settings and database are put on and taken off again, data goes to the engine only
//! whole, and what `input()` reads is a temporary table that only this connection sees.

use std::io::Read;

use bytes::Bytes;

use super::engine::{Answer, Class, Connection, Counts, Param};
use super::exception::{Exception, code};
use super::plan::{Plan, repeated_header};
use super::spool::body_error;
use super::statement::{DataClause, InputCall, StatementKind};

/// Data is handed to the engine in pieces of this size.
const APPEND_BYTES: usize = 1 << 20;

/// The temporary table that stands for `input()`; the connection runs one statement at a time, so one name is enough.
const INPUT_TABLE: &str = "_modelmeter_input";

/// Where an answer goes. What it gets first may still be taken back, if the sink has not passed it on.
pub trait Sink {
    /// # Errors
    /// When nobody reads any more, or the answer is too large to be held.
    fn take(&mut self, block: &[u8]) -> Result<(), Exception>;
}

/// Runs the plan and leaves the connection as it found it.
///
/// # Errors
/// What the engine says, or why the statement may not run.
pub fn run(
    connection: &mut Connection,
    plan: Plan,
    sink: &mut dyn Sink,
    is_session: bool,
) -> Result<Counts, Exception> {
    let restore = if is_session {
        Restore::read(connection, &plan)?
    } else {
        Restore::default()
    };
    let verb = plan.statement.verb.clone();
    let result = prepare(connection, &plan).and_then(|()| perform(connection, plan, sink));
    restore.apply(connection, &verb);
    result
}

/// What a session had before a request's own settings and database.
#[derive(Default)]
struct Restore {
    database: Option<String>,
    settings: Vec<(String, Option<String>)>,
    external: Vec<String>,
}

impl Restore {
    fn read(connection: &mut Connection, plan: &Plan) -> Result<Self, Exception> {
        let mut restore = Self {
            external: plan
                .external
                .iter()
                .map(|table| table.name.clone())
                .collect(),
            ..Self::default()
        };
        if plan.request.database.is_some() {
            restore.database = Some(current_database(connection)?);
        }
        for (name, _) in &plan.request.settings {
            let sql = "SELECT value FROM system.settings WHERE name = {name:String} AND changed";
            let param = ("name".to_owned(), name.clone());
            let answer = connection.query(sql.as_bytes(), "RawBLOB", &[param])?;
            let value = String::from_utf8_lossy(answer.bytes()).into_owned();
            restore
                .settings
                .push((name.clone(), Some(value).filter(|value| !value.is_empty())));
        }
        Ok(restore)
    }

    /// `SET` and `USE` of the query itself stay.
    fn apply(self, connection: &mut Connection, verb: &str) {
        let mut put_back = Vec::new();
        if let Some(database) = self.database.filter(|_| verb != "USE") {
            put_back.push(format!("USE {}", quoted(&database, '`')));
        }
        for (name, value) in self.settings {
            let value = value.map_or_else(|| "DEFAULT".to_owned(), |value| quoted(&value, '\''));
            put_back.push(format!("SET {name} = {value}"));
        }
        let drops = self
            .external
            .iter()
            .map(|name| format!("DROP TEMPORARY TABLE IF EXISTS {}", quoted(name, '`')));
        for sql in put_back.into_iter().chain(drops) {
            if let Err(error) = connection.query(sql.as_bytes(), "Null", &[]) {
                tracing::warn!(error = %error, "a session keeps a request's setting");
            }
        }
    }
}

/// The database that unqualified names mean.
///
/// # Errors
/// What the engine says.
pub fn current_database(connection: &mut Connection) -> Result<String, Exception> {
    let answer = connection.query(b"SELECT currentDatabase()", "RawBLOB", &[])?;
    Ok(String::from_utf8_lossy(answer.bytes()).into_owned())
}

fn prepare(connection: &mut Connection, plan: &Plan) -> Result<(), Exception> {
    if let Some(database) = &plan.request.database
        && database != "default"
    {
        connection.query(
            format!("USE {}", quoted(database, '`')).as_bytes(),
            "Null",
            &[],
        )?;
    }
    let settings = &plan.request.settings;
    if !settings.is_empty() {
        let pairs: Vec<_> = settings
            .iter()
            .map(|(name, value)| format!("{name} = {}", quoted(value, '\'')))
            .collect();
        connection.query(format!("SET {}", pairs.join(", ")).as_bytes(), "Null", &[])?;
    }
    for table in &plan.external {
        create_temporary(connection, &table.name, &table.structure)?;
        let sql = format!("INSERT INTO {}", quoted(&table.name, '`'));
        append(
            connection,
            sql.as_bytes(),
            &table.format,
            &[],
            &mut &table.data[..],
        )?;
    }
    Ok(())
}

fn perform(
    connection: &mut Connection,
    plan: Plan,
    sink: &mut dyn Sink,
) -> Result<Counts, Exception> {
    let class = allowed(connection, &plan)?;
    let params = &plan.request.params;
    match plan.statement.kind {
        StatementKind::InsertData { data: clause, .. } => {
            let mut data = plan.data.expect("a data clause has data").into_reader()?;
            append(
                connection,
                &plan.sql[..clause.head_end],
                &clause.format,
                params,
                &mut data,
            )
        }
        StatementKind::InsertInput {
            data: clause,
            input,
            ..
        } => {
            let mut data = plan.data.expect("a data clause has data").into_reader()?;
            insert_from_input(connection, &plan.sql, params, &clause, &input, &mut data)
        }
        StatementKind::Other if plan.is_streamed && class == Class::ReadOnly => {
            stream(connection, &plan.sql, &plan.format, params, sink)
        }
        StatementKind::Other | StatementKind::InsertSelect { .. } => {
            let answer = connection.query(&plan.sql, &plan.format, params)?;
            if class == Class::Unparsed {
                // The client's own commands (`quit`) are nothing to a server.
                return Err(Exception::new(
                    code::SYNTAX_ERROR,
                    "Syntax error (SYNTAX_ERROR)",
                ));
            }
            sink.take(answer.bytes())?;
            Ok(answer.counts())
        }
    }
}

/// One statement, and no writing one where only reading is asked for.
fn allowed(connection: &mut Connection, plan: &Plan) -> Result<Class, Exception> {
    if plan.statement.verb.is_empty() {
        return Err(Exception::new(
            code::SYNTAX_ERROR,
            "Empty query. (SYNTAX_ERROR)",
        ));
    }
    let (n_statements, class) = connection.classify(&plan.sql);
    if n_statements > 1 {
        return Err(Exception::new(
            code::SYNTAX_ERROR,
            "Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)",
        ));
    }
    let is_of_the_session =
        class == Class::Control && matches!(plan.statement.verb.as_str(), "SET" | "USE");
    if plan.request.is_readonly
        && !matches!(class, Class::ReadOnly | Class::Unparsed)
        && !is_of_the_session
    {
        let message = "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. \
                       You should use method POST for modifying queries. (READONLY)";
        return Err(Exception::new(code::READONLY, message));
    }
    Ok(class)
}

fn append(
    connection: &mut Connection,
    sql: &[u8],
    format: &str,
    params: &[Param],
    data: &mut dyn Read,
) -> Result<Counts, Exception> {
    let mut insert = connection.insert(sql, format, params)?;
    let mut piece = vec![0; APPEND_BYTES];
    loop {
        // An error here drops the insert, which cancels it.
        let n = data.read(&mut piece).map_err(|error| body_error(&error))?;
        if n == 0 || !insert.append(&piece[..n]) {
            return insert.finish();
        }
    }
}

/// The engine reads nothing from `input()` with data behind the statement. So the data becomes a temporary table,
/// which reads back in the blocks it came in, and the statement reads that: one part for one block still, and
/// no grant on files is needed.
fn insert_from_input(
    connection: &mut Connection,
    sql: &Bytes,
    params: &[Param],
    clause: &DataClause,
    input: &InputCall,
    data: &mut dyn Read,
) -> Result<Counts, Exception> {
    create_temporary(connection, INPUT_TABLE, &input.structure)?;
    let mut fill = format!("INSERT INTO {INPUT_TABLE}").into_bytes();
    if let Some(start) = input.settings_start {
        fill.extend_from_slice(b" SETTINGS ");
        fill.extend_from_slice(&sql[start..clause.head_end]);
    }
    let filled = append(connection, &fill, &clause.format, params, data);
    let result = filled.and_then(|_| {
        let statement = [
            &sql[..input.start],
            INPUT_TABLE.as_bytes(),
            &sql[input.end..clause.head_end],
        ]
        .concat();
        connection
            .query(&statement, "Null", params)
            .map(|answer: Answer| answer.counts())
    });
    let drop = format!("DROP TEMPORARY TABLE IF EXISTS {INPUT_TABLE}");
    connection.query(drop.as_bytes(), "Null", &[])?;
    result
}

fn create_temporary(
    connection: &mut Connection,
    name: &str,
    structure: &str,
) -> Result<(), Exception> {
    let sql = format!(
        "CREATE TEMPORARY TABLE {} ({structure}) ENGINE = Memory",
        quoted(name, '`')
    );
    connection.query(sql.as_bytes(), "Null", &[]).map(drop)
}

fn stream(
    connection: &mut Connection,
    sql: &[u8],
    format: &str,
    params: &[Param],
    sink: &mut dyn Sink,
) -> Result<Counts, Exception> {
    let mut stream = connection.stream(sql, format, params)?;
    let mut counts = Counts::default();
    let mut is_first = true;
    while let Some(block) = stream.next_block()? {
        let document = block.bytes();
        let skip = if is_first {
            0
        } else {
            repeated_header(format, document)
        };
        is_first = false;
        let of_block = block.counts();
        counts.result_rows += of_block.result_rows;
        counts.result_bytes += of_block.result_bytes;
        counts.read_rows = counts.read_rows.max(of_block.read_rows);
        counts.read_bytes = counts.read_bytes.max(of_block.read_bytes);
        sink.take(&document[skip..])?;
    }
    Ok(counts)
}

/// A name or a value as SQL writes it.
fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    out
}
