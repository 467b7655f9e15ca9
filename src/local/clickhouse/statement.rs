//! What the face must know of a statement before the engine sees it: whether data follows and where it begins, which
//! table an `INSERT` writes, which format the answer has, and whether it reaches for the machine.
//! It refuses to judge syntax: what it does not recognise goes to the engine as it stands.

use super::exception::{Exception, code};
use super::lexer::{Kind, Lexer, Token};
use super::reach;

/// One statement, cut where its data begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    pub kind: StatementKind,
    /// `FORMAT` of the answer, where the statement names one.
    pub output_format: Option<String>,
    /// Totals and extremes follow the rows, so the answer is no plain sequence of blocks.
    pub has_totals: bool,
    /// The first keyword, in capitals.
    pub verb: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// `INSERT INTO t … FORMAT f` or `VALUES`, with data behind it.
    InsertData {
        target: Option<Target>,
        data: DataClause,
    },
    /// `INSERT INTO t SELECT … FROM input('structure') … FORMAT f`, with data behind it.
    InsertInput {
        target: Option<Target>,
        data: DataClause,
        input: InputCall,
    },
    InsertSelect {
        target: Option<Target>,
    },
    Other,
}

/// The table an `INSERT` names; the database is the current one where it names none.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub database: Option<Name>,
    pub table: Name,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    Plain(String),
    /// `{x:Identifier}`
    Param(String),
}

#[derive(Debug, PartialEq, Eq)]
pub struct DataClause {
    /// The statement without `FORMAT` and data ends here.
    pub head_end: usize,
    pub format: String,
    /// Data begins here; it may go on in the body.
    pub data_start: usize,
}

/// `input('structure')` and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct InputCall {
    pub start: usize,
    pub end: usize,
    pub structure: String,
    /// Behind the word `SETTINGS` of the statement: they hold for reading the data as well, and go on to `FORMAT`.
    pub settings_start: Option<usize>,
}

impl Statement {
    /// Reads the statement at the beginning of `sql`; what follows its data clause is not looked at.
    ///
    /// # Errors
    /// When it reaches for the machine, or uses `input` in a way that the face cannot serve.
    pub fn parse(sql: &[u8]) -> Result<Self, Exception> {
        let scan = Scan::new(sql);
        reach::refuse_tokens(sql, &scan.tokens)?;
        let verb = scan
            .tokens
            .first()
            .and_then(|t| t.content(sql))
            .unwrap_or_default()
            .to_ascii_uppercase();
        let kind = match scan.insert {
            None => StatementKind::Other,
            Some(insert) => {
                let target = target(sql, &scan.tokens[insert + 1..]);
                match (scan.data, input_call(sql, &scan.tokens)?) {
                    (Some(data), Some(input)) => StatementKind::InsertInput {
                        target,
                        data,
                        input,
                    },
                    (Some(data), None) if !scan.has_select => {
                        StatementKind::InsertData { target, data }
                    }
                    (None, Some(_)) => {
                        return Err(Exception::new(
                            code::BAD_ARGUMENTS,
                            "input() needs FORMAT and data behind the statement",
                        ));
                    }
                    _ => StatementKind::InsertSelect { target },
                }
            }
        };
        Ok(Self {
            has_totals: scan.tokens.iter().any(|t| t.is_word(sql, "TOTALS")),
            output_format: scan.output_format,
            kind,
            verb,
        })
    }

    pub fn target(&self) -> Option<&Target> {
        match &self.kind {
            StatementKind::InsertData { target, .. }
            | StatementKind::InsertInput { target, .. }
            | StatementKind::InsertSelect { target } => target.as_ref(),
            StatementKind::Other => None,
        }
    }
}

/// One pass over the tokens, ended by the data of an `INSERT`.
struct Scan {
    tokens: Vec<Token>,
    /// The token `INSERT`, when it opens the statement (a `WITH` may stand before it).
    insert: Option<usize>,
    has_select: bool,
    data: Option<DataClause>,
    output_format: Option<String>,
}

impl Scan {
    fn new(sql: &[u8]) -> Self {
        let mut scan = Self {
            tokens: Vec::new(),
            insert: None,
            has_select: false,
            data: None,
            output_format: None,
        };
        let mut depth = 0_usize;
        let mut lexer = Lexer::new(sql);
        while let Some(token) = lexer.next() {
            match token.kind {
                Kind::Sign(b'(' | b'[' | b'{') => depth += 1,
                Kind::Sign(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            let outside = depth == 0 && token.kind == Kind::Word;
            if outside && scan.clause(sql, &token, &mut lexer) {
                break;
            }
            scan.tokens.push(token);
        }
        scan
    }

    /// Notes a keyword outside parentheses. `true`: data follows, nothing behind it is SQL.
    fn clause(&mut self, sql: &[u8], token: &Token, lexer: &mut Lexer<'_>) -> bool {
        let first_is = |word| {
            self.tokens
                .first()
                .is_none_or(|first| first.is_word(sql, word))
        };
        if token.is_word(sql, "INSERT")
            && (self.tokens.is_empty() || first_is("WITH"))
            && self.insert.is_none()
        {
            self.insert = Some(self.tokens.len());
        } else if token.is_word(sql, "SELECT") || token.is_word(sql, "WITH") {
            self.has_select |= self.insert.is_some();
        } else if token.is_word(sql, "VALUES")
            && self.insert.is_some_and(|at| self.tokens.len() > at + 1)
            && !self.has_select
        {
            self.data = Some(DataClause {
                head_end: token.span.start,
                format: "Values".to_owned(),
                data_start: token.span.end,
            });
            return true;
        } else if token.is_word(sql, "FORMAT") && !self.is_a_name_here(sql) {
            return self.format_clause(sql, token, lexer);
        }
        false
    }

    /// `FORMAT` directly behind these is a column or table of that name.
    fn is_a_name_here(&self, sql: &[u8]) -> bool {
        self.tokens.last().is_none_or(|last| {
            matches!(last.kind, Kind::Sign(b',' | b'.'))
                || ["SELECT", "AS", "BY", "WHERE", "INTO"]
                    .iter()
                    .any(|w| last.is_word(sql, w))
        })
    }

    fn format_clause(&mut self, sql: &[u8], token: &Token, lexer: &mut Lexer<'_>) -> bool {
        let Some(name) = lexer.next() else {
            return false;
        };
        let format = (name.kind == Kind::Word)
            .then(|| name.content(sql))
            .flatten();
        let end = name.span.end;
        let Some(format) = format else { return false };
        if self.insert.is_none() {
            self.output_format = Some(format);
            return false;
        }
        let is_values = format.eq_ignore_ascii_case("Values");
        self.data = Some(DataClause {
            head_end: token.span.start,
            format,
            data_start: if is_values { end } else { data_start(sql, end) },
        });
        true
    }
}

/// Behind the format's name, blanks and then one newline are not data.
fn data_start(sql: &[u8], end: usize) -> usize {
    let mut at = end;
    while matches!(sql.get(at), Some(b' ' | b'\t' | 0x0C)) {
        at += 1;
    }
    if sql.get(at) == Some(&b'\r') {
        at += 1;
    }
    if sql.get(at) == Some(&b'\n') {
        at += 1;
    }
    at
}

/// The table behind `INSERT [INTO] [TABLE]`; `None` for `FUNCTION` and what is no name.
fn target(sql: &[u8], tokens: &[Token]) -> Option<Target> {
    let mut rest = tokens;
    for word in ["INTO", "TABLE"] {
        // A table may be called so itself.
        if rest.first()?.is_word(sql, word)
            && rest
                .get(1)
                .is_some_and(|next| next.is_name() || next.is_sign(b'{'))
        {
            rest = &rest[1..];
        }
    }
    if rest.first()?.is_word(sql, "FUNCTION") && rest.get(1).is_some_and(Token::is_name) {
        return None;
    }
    let (first, rest) = name(sql, rest)?;
    match rest.first() {
        Some(dot) if dot.is_sign(b'.') => Some(Target {
            database: Some(first),
            table: name(sql, &rest[1..])?.0,
        }),
        _ => Some(Target {
            database: None,
            table: first,
        }),
    }
}

fn name<'t>(sql: &[u8], tokens: &'t [Token]) -> Option<(Name, &'t [Token])> {
    let first = tokens.first()?;
    if first.is_sign(b'{') {
        let param = tokens.get(1)?.content(sql)?;
        let close = tokens.iter().position(|t| t.is_sign(b'}'))?;
        return Some((Name::Param(param), &tokens[close + 1..]));
    }
    first.is_name().then(|| {
        first
            .content(sql)
            .map(|plain| (Name::Plain(plain), &tokens[1..]))
    })?
}

fn input_call(sql: &[u8], tokens: &[Token]) -> Result<Option<InputCall>, Exception> {
    let mut calls = tokens.windows(4).filter(|t| {
        t[0].is_word(sql, "input")
            && t[1].is_sign(b'(')
            && t[2].kind == Kind::Text
            && t[3].is_sign(b')')
    });
    let Some(call) = calls.next() else {
        return Ok(None);
    };
    if calls.next().is_some() {
        return Err(Exception::new(
            code::BAD_ARGUMENTS,
            "one statement reads input() once",
        ));
    }
    let structure = call[2].content(sql).ok_or_else(|| {
        Exception::new(code::BAD_ARGUMENTS, "the structure of input() is not text")
    })?;
    reach::refuse(structure.as_bytes())?;
    // Where its SELECT is the last one, SETTINGS are the statement's own.
    let settings = tokens
        .iter()
        .rposition(|t| t.is_word(sql, "SETTINGS"))
        .filter(|at| tokens[at + 1..].iter().all(|t| !t.is_word(sql, "SELECT")))
        .map(|at| tokens[at].span.end);
    Ok(Some(InputCall {
        start: call[0].span.start,
        end: call[3].span.end,
        structure,
        settings_start: settings,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> Statement {
        Statement::parse(sql.as_bytes()).expect("nothing refused")
    }

    fn data_of(sql: &str) -> (String, &str, &str) {
        let statement = parse(sql);
        match statement.kind {
            StatementKind::InsertData { data, .. } | StatementKind::InsertInput { data, .. } => {
                (data.format, &sql[..data.head_end], &sql[data.data_start..])
            }
            other => panic!("{sql} is {other:?}"),
        }
    }

    #[test]
    fn data_begins_where_the_engine_begins_it() {
        let of = |sql| data_of(sql);
        assert_eq!(
            of("INSERT INTO t FORMAT TSV\n\n1"),
            ("TSV".to_owned(), "INSERT INTO t ", "\n1")
        );
        assert_eq!(
            of("insert into t (a, b) format CSV 1,2"),
            ("CSV".to_owned(), "insert into t (a, b) ", "1,2")
        );
        assert_eq!(
            of("INSERT INTO t VALUES (1)"),
            ("Values".to_owned(), "INSERT INTO t ", " (1)")
        );
        let input =
            "INSERT INTO t SELECT a FROM input('a UInt8') SETTINGS x = 1 FORMAT Native\nxyz";
        assert_eq!(of(input).2, "xyz");
        let with = "WITH 1 AS w INSERT INTO t SELECT a FROM input('a UInt8') FORMAT Native\nxyz";
        assert_eq!(of(with).2, "xyz");
    }

    #[test]
    fn the_table_is_found_however_it_is_written() {
        let plain = |name: &str| Name::Plain(name.to_owned());
        let of = |sql: &str| {
            let statement = parse(sql);
            statement
                .target()
                .map(|target| format!("{:?}.{:?}", target.database, target.table))
        };
        let wanted = |database: Option<&str>, table: Name| {
            Some(format!("{:?}.{table:?}", database.map(plain)))
        };
        assert_eq!(of("INSERT INTO t VALUES"), wanted(None, plain("t")));
        assert_eq!(
            of("INSERT INTO TABLE d . `t\\x61` SELECT 1"),
            wanted(Some("d"), plain("ta"))
        );
        assert_eq!(
            of("/* x */ insert t (a) FORMAT TSV"),
            wanted(None, plain("t"))
        );
        assert_eq!(
            of("INSERT INTO \"a b\".{t:Identifier} SELECT 1"),
            wanted(Some("a b"), Name::Param("t".to_owned()))
        );
        assert_eq!(of("INSERT INTO FUNCTION null('a UInt8') SELECT 1"), None);
        assert_eq!(of("SELECT 'INSERT INTO t'"), None);
    }

    #[test]
    fn a_column_named_format_is_no_clause() {
        assert_eq!(parse("SELECT format, 1 FROM t").output_format, None);
        assert_eq!(
            parse("SELECT (SELECT 1 FORMAT x) FORMAT JSON SETTINGS a = 1")
                .output_format
                .as_deref(),
            Some("JSON")
        );
    }

    #[test]
    fn input_brings_its_structure_and_settings() {
        let sql = "INSERT INTO t SELECT * FROM input('a Enum(\\'x\\' = 1)') WHERE a = 1 SETTINGS limit = 0, b = {} FORMAT Native\n";
        let StatementKind::InsertInput { input, data, .. } = parse(sql).kind else {
            panic!("no input")
        };
        let settings = &sql[input.settings_start.expect("settings")..data.head_end];
        assert_eq!(
            (input.structure.as_str(), settings.trim()),
            ("a Enum('x' = 1)", "limit = 0, b = {}")
        );
        assert!(Statement::parse(b"INSERT INTO t SELECT * FROM input('a UInt8')").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_without_panic(sql in proptest::collection::vec(0_u8.., 0..200), words in "(INSERT |INTO |t |FORMAT |input\\('a'\\) |SELECT |VALUES |SETTINGS |[{}().]){0,12}") {
            drop(Statement::parse(&sql));
            drop(Statement::parse(words.as_bytes()));
        }
    }
}
