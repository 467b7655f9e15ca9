//! The two shapes of a control group's files: one value, and lines of `key value`. A limit is read with more care than a
//! counter: that its file cannot be read must not look like there being none.

use std::io::ErrorKind;
use std::path::Path;

/// A limit's file is there and does not tell the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread;

/// The file's text without its end of line.
pub fn text(folder: &Path, file: &str) -> Option<String> {
    let mut text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.truncate(text.trim_end().len());
    Some(text)
}

/// The file's one number. `max` is no number.
pub fn number<T: std::str::FromStr>(folder: &Path, file: &str) -> Option<T> {
    text(folder, file)?.parse().ok()
}

/// A limit's file, without its end of line. None where there is no such file: no limit is set at this height.
pub fn limit(folder: &Path, file: &str) -> Result<Option<String>, Unread> {
    match std::fs::read_to_string(folder.join(file)) {
        Ok(mut text) => {
            text.truncate(text.trim_end().len());
            Ok(Some(text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(_) => Err(Unread),
    }
}

/// A limit that is one number.
pub fn limit_number<T: std::str::FromStr>(folder: &Path, file: &str) -> Result<Option<T>, Unread> {
    let text = limit(folder, file)?;
    text.map(|text| text.parse().map_err(|_| Unread))
        .transpose()
}

/// The number behind this key.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}
