//! The two shapes of a control group's files: one value, and lines of `key value`.

use std::path::Path;

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

/// The number behind this key.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}
