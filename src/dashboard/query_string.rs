//! The parameters of a request, parsed whole before anything is asked. It refuses names that it does not know and names
//! given twice, so that a misspelt one is told instead of ignored.

use super::error::ApiError;
use super::range::{Asked, Preset};
use crate::rfc3339::rfc3339_us;

/// Ids are at most this long on the wire too.
const MAX_ID_BYTES: usize = 128;

/// The longest range is a preset's name or two times; ids are the longest values. All of it stays well below this.
const MAX_QUERY_BYTES: usize = 2048;

/// What a panel is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct PanelQuery {
    pub deployment: String,
    pub asked: Asked,
}

impl PanelQuery {
    /// # Errors
    /// What is wrong with which parameter.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut given = Given::parse(query)?;
        let deployment = given.take("deployment").ok_or_else(|| {
            ApiError::bad(
                "deployment",
                "is missing: an id as /api/v1/deployments lists them",
            )
        })?;
        if !is_id(&deployment) {
            let why = format!("an id is 1 to {MAX_ID_BYTES} letters, digits and any of . _ : -");
            return Err(ApiError::bad("deployment", why));
        }
        let (range, start, stop) = (given.take("range"), given.take("start"), given.take("stop"));
        given.refuse_others("deployment, range, start, stop")?;
        let asked = match (range, start, stop) {
            (Some(name), None, None) => Asked::Last(Preset::named(&name)?),
            (None, None, None) => Asked::Last(Preset::DEFAULT),
            (None, Some(start), Some(stop)) => Asked::Between {
                start: seconds("start", &start)?,
                stop: seconds("stop", &stop)?,
            },
            (Some(_), _, _) => {
                return Err(ApiError::bad("range", "stands alone, or start and stop do"));
            }
            (None, None, Some(_)) => return Err(ApiError::bad("start", "is missing beside stop")),
            (None, Some(_), None) => return Err(ApiError::bad("stop", "is missing beside start")),
        };
        Ok(Self { deployment, asked })
    }
}

/// # Errors
/// When there is any parameter.
pub fn refuse_all(query: &str) -> Result<(), ApiError> {
    Given::parse(query)?.refuse_others("none")
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

struct Given(Vec<(String, String)>);

impl Given {
    fn parse(query: &str) -> Result<Self, ApiError> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(ApiError::bad(
                "query",
                format!("is longer than {MAX_QUERY_BYTES} bytes"),
            ));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::bad(&name, "is given twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn refuse_others(&self, known: &str) -> Result<(), ApiError> {
        match self.0.first() {
            Some((name, _)) => Err(ApiError::bad(
                name,
                format!("is no parameter here; there are: {known}"),
            )),
            None => Ok(()),
        }
    }
}

fn decode(text: &str) -> Result<String, ApiError> {
    let bad = || ApiError::bad("query", "is not percent-encoded UTF-8");
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    bytes
                        .next()
                        .and_then(|b| char::from(b).to_digit(16))
                        .ok_or_else(bad)
                };
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).expect("two hexadecimal digits are a byte")
            }
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// Seconds since 1970, or `2026-11-24T05:00:00Z`.
fn seconds(name: &str, text: &str) -> Result<u32, ApiError> {
    text.parse().ok().or_else(|| rfc3339(text)).ok_or_else(|| {
        ApiError::bad(
            name,
            "a time is seconds since 1970 or YYYY-MM-DDThh:mm:ssZ, before 2106",
        )
    })
}

/// Only UTC, only whole seconds, no leap second: that is how the page writes times.
fn rfc3339(text: &str) -> Option<u32> {
    let is_plain = matches!(text.as_bytes(), [.., b'T', _, _, b':', _, _, b':', b'0'..=b'5', _, b'Z'] if text.len() == 20);
    let us = is_plain.then(|| rfc3339_us(text)).flatten()?;
    u32::try_from(us / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        PanelQuery::parse(query).expect_err(query).to_string()
    }

    #[test]
    fn a_panel_is_a_deployment_and_a_range() {
        let parsed = PanelQuery::parse("deployment=a%3Ab&range=1h").expect("good");
        assert_eq!(parsed.deployment, "a:b");
        assert_eq!(
            parsed.asked,
            Asked::Last(Preset::named("1h").expect("known"))
        );
        let parsed =
            PanelQuery::parse("start=100&deployment=d&stop=2026-11-24T05:00:00Z").expect("good");
        assert_eq!(
            parsed.asked,
            Asked::Between {
                start: 100,
                stop: 1_795_496_400
            }
        );
        let parsed = PanelQuery::parse("deployment=d").expect("good");
        assert_eq!(parsed.asked, Asked::Last(Preset::DEFAULT));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, name) in [
            ("", "deployment"),
            ("deployment=", "deployment"),
            ("deployment=a'b", "deployment"),
            ("deployment=%", "query"),
            ("deployment=%FF", "query"),
            ("deployment=d&deployment=e", "deployment"),
            ("deployment=d&range=2h", "range"),
            ("deployment=d&rnage=1h", "rnage"),
            ("deployment=d&range=1h&start=1", "range"),
            ("deployment=d&start=1", "stop"),
            ("deployment=d&stop=1", "start"),
            ("deployment=d&start=-1&stop=5", "start"),
            ("deployment=d&start=1&stop=2026-13-01T00:00:00Z", "stop"),
        ] {
            assert!(
                refused(query).starts_with(&format!("{name}: ")),
                "{query}: {}",
                refused(query)
            );
        }
        assert!(refused(&format!("deployment={}", "a".repeat(129))).starts_with("deployment: "));
        assert!(refused(&"a".repeat(5000)).starts_with("query: "));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000)),
            ("2106-02-07T06:28:16Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2023-11-14 22:13:20Z", None),
            ("2023-11-14T22:13:60Z", None),
            ("2023-11-14T22:13:20.5Z", None),
            ("2023-02-29T00:00:00Z", None),
        ] {
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }
}
