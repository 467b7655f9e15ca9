//! ClickHouse's tokens, as far as finding clauses and names needs them: comments and literals are recognised exactly,
//! so that nothing hides in them. It refuses to parse: what a statement means is the engine's business.
//!
//! Read off the engine, 26.7: `/* */` nests; `--`, `//`, `# ` and `#!` run to the newline and not to a carriage
//! return; `'` `"` and backtick escape by backslash and by doubling; “ ” quote identifiers and ‘ ’ strings;
//! `$tag$ … $tag$` is a string.

use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword, a name or a number.
    Word,
    /// A name in backticks, double quotes or “ ”.
    Quoted,
    Text,
    /// One byte of punctuation.
    Sign(u8),
    /// A comment or literal without an end: the engine refuses such a statement.
    Open,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub span: Range<usize>,
}

impl Token {
    pub fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && sql[self.span.clone()].eq_ignore_ascii_case(word.as_bytes())
    }

    pub fn is_sign(&self, sign: u8) -> bool {
        self.kind == Kind::Sign(sign)
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }

    /// A name without its quotes, or a string's content; `None` where it is neither.
    pub fn content(&self, sql: &[u8]) -> Option<String> {
        let raw = &sql[self.span.clone()];
        let inner = match (self.kind, raw.first()?) {
            (Kind::Word, _) => return Some(String::from_utf8_lossy(raw).into_owned()),
            (Kind::Quoted | Kind::Text, b'\'' | b'"' | b'`') => &raw[1..raw.len() - 1],
            // “ ” ‘ ’ are three bytes each.
            (Kind::Quoted | Kind::Text, 0xE2) => {
                return Some(String::from_utf8_lossy(&raw[3..raw.len() - 3]).into_owned());
            }
            (Kind::Text, b'$') => {
                let tag = raw[1..].iter().position(|b| *b == b'$')? + 2;
                return Some(String::from_utf8_lossy(&raw[tag..raw.len() - tag]).into_owned());
            }
            _ => return None,
        };
        unescape(inner, raw[0])
    }
}

/// Undoes doubling and backslashes; `None` for bytes that are no UTF-8 afterwards or an escape cut short.
fn unescape(inner: &[u8], quote: u8) -> Option<String> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next()? {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                b'0' => out.push(0),
                b'a' => out.push(7),
                b'b' => out.push(8),
                b'v' => out.push(11),
                b'f' => out.push(12),
                b'e' => out.push(27),
                b'x' => {
                    let digits = [bytes.next()?, bytes.next()?];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                }
                other => out.push(other),
            },
            byte if byte == quote => {
                bytes.next();
                out.push(byte);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// The tokens of `sql`, in order. The caller stops where data begins, which need not be text.
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0 }
    }

    /// Past whitespace and comments; `false` when a comment has no end.
    fn skip_blank(&mut self) -> bool {
        loop {
            let rest = &self.sql[self.at..];
            match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, ..] => self.at += 1,
                [b'-', b'-', ..] | [b'/', b'/', ..] | [b'#', b' ' | b'!', ..] => {
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                [b'/', b'*', ..] => match comment_length(rest) {
                    Some(length) => self.at += length,
                    None => return false,
                },
                _ => return true,
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let closed = self.skip_blank();
        let start = self.at;
        let rest = &self.sql[start..];
        let (&first, end) = (rest.first()?, rest.len());
        let (kind, length) = if closed {
            first_token(rest, first)
        } else {
            (Kind::Open, end)
        };
        self.at += length;
        Some(Token {
            kind,
            span: start..self.at,
        })
    }
}

fn first_token(rest: &[u8], first: u8) -> (Kind, usize) {
    let or_open = |kind, length: Option<usize>| {
        length.map_or((Kind::Open, rest.len()), |length| (kind, length))
    };
    match first {
        b'\'' => or_open(Kind::Text, quoted_length(rest)),
        b'"' | b'`' => or_open(Kind::Quoted, quoted_length(rest)),
        0xE2 if rest.starts_with("‘".as_bytes()) => {
            or_open(Kind::Text, until(rest, "’".as_bytes(), 3))
        }
        0xE2 if rest.starts_with("“".as_bytes()) => {
            or_open(Kind::Quoted, until(rest, "”".as_bytes(), 3))
        }
        b'$' => match heredoc_length(rest) {
            Some(length) => (Kind::Text, length),
            None => (Kind::Word, word_length(rest)),
        },
        byte if is_word_byte(byte) => (Kind::Word, word_length(rest)),
        byte => (Kind::Sign(byte), 1),
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

fn word_length(rest: &[u8]) -> usize {
    rest.iter()
        .position(|b| !is_word_byte(*b))
        .unwrap_or(rest.len())
}

fn quoted_length(rest: &[u8]) -> Option<usize> {
    let quote = rest[0];
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match *byte {
            b'\\' => at += 2,
            byte if byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

fn until(rest: &[u8], end: &[u8], from: usize) -> Option<usize> {
    rest.get(from..)?
        .windows(end.len())
        .position(|window| window == end)
        .map(|at| from + at + end.len())
}

fn heredoc_length(rest: &[u8]) -> Option<usize> {
    let name = rest[1..]
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || *b == b'_'))?;
    let tag = rest.get(..name + 2).filter(|tag| tag.ends_with(b"$"))?;
    until(rest, tag, tag.len())
}

fn comment_length(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<String> {
        Lexer::new(sql.as_bytes())
            .map(|token| sql[token.span].to_owned())
            .collect()
    }

    #[test]
    fn comments_are_the_engines() {
        assert_eq!(words("a/* /* x */ ' */b"), ["a", "b"]);
        assert_eq!(words("a--x'\r\nb // c\nd# e\nf#!g"), ["a", "b", "d", "f"]);
        assert_eq!(words("1 - 2 #x"), ["1", "-", "2", "#", "x"]);
        assert_eq!(
            Lexer::new(b"a /* b").last().map(|t| t.kind),
            Some(Kind::Open)
        );
    }

    #[test]
    fn literals_end_where_the_engine_ends_them() {
        assert_eq!(
            words(r"'a\'b' 'c''d' `e\`f` x"),
            [r"'a\'b'", "'c''d'", r"`e\`f`", "x"]
        );
        assert_eq!(words("$t$ ' $$ $t$ b $x"), ["$t$ ' $$ $t$", "b", "$x"]);
        assert_eq!(words("“a b” ‘c'd’"), ["“a b”", "‘c'd’"]);
        assert_eq!(Lexer::new(b"'a").next().map(|t| t.kind), Some(Kind::Open));
    }

    #[test]
    fn content_is_unescaped() {
        let content = |sql: &str| {
            Lexer::new(sql.as_bytes())
                .next()
                .and_then(|t| t.content(sql.as_bytes()))
        };
        assert_eq!(content(r"`fil\x65`").as_deref(), Some("file"));
        assert_eq!(content("'a''b'").as_deref(), Some("a'b"));
        assert_eq!(content("“file”").as_deref(), Some("file"));
        assert_eq!(content("$t$a$t$").as_deref(), Some("a"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_covered_without_panic(sql in proptest::collection::vec(0_u8.., 0..200)) {
            let mut end = 0;
            for token in Lexer::new(&sql) {
                proptest::prop_assert!(token.span.start >= end && token.span.end > token.span.start);
                end = token.span.end;
                token.content(&sql);
            }
            proptest::prop_assert!(end <= sql.len());
        }
    }
}
