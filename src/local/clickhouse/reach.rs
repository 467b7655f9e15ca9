//! Whether a statement reaches for the machine: what the engine's grants (`access`) do not hold back, read off its
//! tokens. It refuses by name and place, and rather too much than too little: a column called `file` must be qualified.

use super::access::TABLE_ENGINES;
use super::exception::{Exception, code};
use super::lexer::{Lexer, Token};

/// Functions that no grant holds back: the scalar `file` reads any path. A function is also called by its bare name
/// (`arrayMap(file, …)`, `APPLY file`), so the name alone is refused. Function names know capitals.
const SCALAR_FUNCTIONS: &[&str] = &["file", "catboostEvaluate", "executable"];

/// Table functions that reach for files, programs or the network, or run SQL from a string. Grants refuse most of
/// them, some only after they have touched what they name. In small letters.
const TABLE_FUNCTIONS: &[&str] = &[
    "arrowflight",
    "arrowstream",
    "azureblobstorage",
    "azureblobstoragecluster",
    "cluster",
    "clusterallreplicas",
    "cosn",
    "deltalake",
    "deltalakeazure",
    "deltalakeazurecluster",
    "deltalakecluster",
    "deltalakelocal",
    "deltalakes3",
    "deltalakes3cluster",
    "disk",
    "eval",
    "filecluster",
    "filesystem",
    "gcs",
    "hdfs",
    "hdfscluster",
    "hudi",
    "hudicluster",
    "iceberg",
    "icebergazure",
    "icebergazurecluster",
    "icebergcluster",
    "iceberghdfs",
    "iceberghdfscluster",
    "iceberglocal",
    "iceberglocalcluster",
    "icebergs3",
    "icebergs3cluster",
    "jdbc",
    "mongodb",
    "mysql",
    "odbc",
    "oss",
    "paimon",
    "paimonazure",
    "paimonazurecluster",
    "paimoncluster",
    "paimonhdfs",
    "paimonhdfscluster",
    "paimonlocal",
    "paimons3",
    "paimons3cluster",
    "postgresql",
    "redis",
    "remote",
    "remotesecure",
    "s3",
    "s3cluster",
    "sqlite",
    "url",
    "urlcluster",
    "ytsaurus",
];

/// # Errors
/// Code 497, naming what was refused.
pub fn refuse(sql: &[u8]) -> Result<(), Exception> {
    refuse_tokens(sql, &Lexer::new(sql).collect::<Vec<_>>())
}

/// # Errors
/// Code 497, naming what was refused.
pub fn refuse_tokens(sql: &[u8], tokens: &[Token]) -> Result<(), Exception> {
    let defines = tokens.first().is_some_and(|t| {
        ["CREATE", "ALTER", "ATTACH", "REPLACE"]
            .iter()
            .any(|verb| t.is_word(sql, verb))
    });
    for (at, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.is_name())
    {
        let Some(name) = token.content(sql) else {
            return Err(Exception::new(
                code::SYNTAX_ERROR,
                "a quoted name is not text",
            ));
        };
        let here = Place {
            sql,
            before: &tokens[..at],
            after: &tokens[at + 1..],
        };
        let is_refused = here.calls(&name)
            || here.is_file_clause(&name)
            || here.sets_parameter(&name)
            || (defines
                && (here.has_foreign_engine(&name) || here.is_name_parameter_of_view(&name)));
        if is_refused {
            let message = format!(
                "{name} here reaches outside the database, which this server refuses (a column of that name: t.{name})"
            );
            return Err(Exception::new(code::ACCESS_DENIED, message));
        }
    }
    Ok(())
}

/// Refuses a parameter that would name such a function: `arrayMap({f:Identifier}, …)`.
///
/// # Errors
/// Code 497.
pub fn refuse_params(sql: &[u8], params: &[(String, String)]) -> Result<(), Exception> {
    let has_identifier = sql
        .windows(10)
        .any(|window| window.eq_ignore_ascii_case(b"identifier"));
    match params
        .iter()
        .find(|(_, value)| has_identifier && names_function(value))
    {
        None => Ok(()),
        Some((name, _)) => Err(Exception::new(
            code::ACCESS_DENIED,
            format!("parameter {name} names what reaches outside the database"),
        )),
    }
}

/// Quotes around a name are trimmed, and one with escapes is not trusted, so that nothing hides in either.
fn names_function(value: &str) -> bool {
    let bare = value.trim_matches(|c: char| !c.is_alphanumeric());
    SCALAR_FUNCTIONS.contains(&bare) || value.contains('\\')
}

/// A name with what stands around it.
struct Place<'a> {
    sql: &'a [u8],
    before: &'a [Token],
    after: &'a [Token],
}

impl Place<'_> {
    fn follows(&self, word: &str) -> bool {
        self.before
            .last()
            .is_some_and(|t| t.is_word(self.sql, word))
    }

    fn calls(&self, name: &str) -> bool {
        let is_called = self.after.first().is_some_and(|next| next.is_sign(b'('));
        // `t.file` is a column and `file.a` a table's; a function's name has no dot on either side.
        let is_qualified = [self.before.last(), self.after.first()]
            .into_iter()
            .flatten()
            .any(|t| t.is_sign(b'.'));
        if SCALAR_FUNCTIONS.contains(&name) {
            return is_called || !is_qualified;
        }
        // `INSERT INTO url (a, b)` lists a table's columns.
        is_called
            && !is_qualified
            && !self.follows("INTO")
            && TABLE_FUNCTIONS.contains(&name.to_ascii_lowercase().as_str())
    }

    /// `INTO OUTFILE`, `FROM INFILE`
    fn is_file_clause(&self, name: &str) -> bool {
        (name.eq_ignore_ascii_case("OUTFILE") && self.follows("INTO"))
            || (name.eq_ignore_ascii_case("INFILE") && self.follows("FROM"))
    }

    /// `param_x = 'file'`, in `SET` or `SETTINGS`.
    fn sets_parameter(&self, name: &str) -> bool {
        let [equals, value, ..] = self.after else {
            return false;
        };
        name.starts_with("param_")
            && equals.is_sign(b'=')
            && value
                .content(self.sql)
                .is_none_or(|value| names_function(&value))
    }

    /// `ENGINE = Executable(…)`: engines without a source of their own need no grant.
    fn has_foreign_engine(&self, name: &str) -> bool {
        // In a list of columns it is a column.
        if self.follows("SELECT")
            || self
                .before
                .last()
                .is_some_and(|t| t.is_sign(b',') || t.is_sign(b'.'))
        {
            return false;
        }
        let rest = match self.after {
            [equals, rest @ ..] if equals.is_sign(b'=') => rest,
            rest => rest,
        };
        let Some(engine) = rest.first().filter(|_| name.eq_ignore_ascii_case("ENGINE")) else {
            return false;
        };
        let is_known = engine
            .content(self.sql)
            .is_some_and(|engine| TABLE_ENGINES.contains(&engine.as_str()));
        (engine.is_name() || engine.is_sign(b'{')) && !is_known
    }

    /// A view's `{f:Identifier}` is filled by whoever reads it: `v(f = 'file')`.
    fn is_name_parameter_of_view(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case("Identifier")
            && self.before.last().is_some_and(|t| t.is_sign(b':'))
            && self
                .before
                .iter()
                .any(|t| t.is_word(self.sql, "SELECT") || t.is_word(self.sql, "WITH"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_where_they_reach_and_not_elsewhere() {
        let refused = |sql: &str| refuse(sql.as_bytes()).is_err();
        for sql in [
            "SELECT `fil\\x65`('/etc/passwd')",
            "SELECT arrayMap(file, x)",
            "SELECT * FROM URL ('http://x')",
            "SELECT 1 INTO -- x\n OUTFILE 'x'",
            "SET param_f = '`file`'",
            "CREATE TABLE t (a String) ENGINE QueryRunner",
            "CREATE VIEW v AS SELECT arrayMap({f:Identifier}, x)",
            "CREATE TABLE t (a String) ENGINE = `Executable`('id', 'CSV')",
        ] {
            assert!(refused(sql), "{sql}");
        }
        for sql in [
            "SELECT t.file, file.a, 'file(', \"a file\" FROM t -- file(",
            "INSERT INTO url (a, b) SELECT 1, 2",
            "CREATE TABLE {t:Identifier} (a String) ENGINE = AggregatingMergeTree ORDER BY a",
            "SELECT engine FROM system.tables WHERE engine = 'File' AND engine = name",
            "CREATE VIEW v AS SELECT engine FROM system.tables",
            "SELECT domain(url), URLHash(url) FROM t",
        ] {
            assert!(!refused(sql), "{sql}");
        }
    }

    #[test]
    fn parameters_are_refused_as_names_only() {
        let params = [("f".to_owned(), "file".to_owned())];
        assert!(refuse_params(b"SELECT arrayMap({f:Identifier}, x)", &params).is_err());
        assert!(refuse_params(b"SELECT {f:String}", &params).is_ok());
    }
}
