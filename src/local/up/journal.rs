//! The log file of one part: what its process prints, kept within a bound. It interprets nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A log past this size becomes `NAME.log.old`, in place of the one before: a part keeps at most
/// twice this much.
const LARGEST_LOG_BYTES: u64 = 32 << 20;

/// How much of a log's end is looked at for its last lines.
const TAIL_BYTES: u64 = 8 << 10;

/// How many of them are shown: a reason and its chain, not a flood.
const TAIL_LINES: usize = 15;

#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    pub fn new(folder: &Path, name: &str) -> Self {
        Self {
            path: folder.join(format!("{name}.log")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for a process to write to, and where its words will begin.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(&self) -> io::Result<(File, u64)> {
        self.trim()?;
        // Appending makes it safe that several processes write it and that `trim` cuts it.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        let begins_at = file.metadata()?.len();
        Ok((file, begins_at))
    }

    /// Sets a log aside that has grown too large. Lines written meanwhile may be lost.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn trim(&self) -> io::Result<()> {
        let size = match fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if size > LARGEST_LOG_BYTES {
            fs::copy(&self.path, self.path.with_extension("log.old"))?;
            OpenOptions::new()
                .write(true)
                .open(&self.path)?
                .set_len(0)?;
        }
        Ok(())
    }

    /// The last lines written from `begins_at` on; empty where there are none.
    pub fn last_lines(&self, begins_at: u64) -> Vec<String> {
        let text = self.tail(begins_at).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(TAIL_LINES);
        lines[skipped..]
            .iter()
            .map(|&line| line.to_owned())
            .collect()
    }

    fn tail(&self, begins_at: u64) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let size = file.metadata()?.len();
        // A log that was cut meanwhile is shorter than where the words began.
        let from = if begins_at > size { 0 } else { begins_at };
        file.seek(SeekFrom::Start(from.max(size.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn last_lines_are_those_of_this_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::new(folder.path(), "part");
        let (mut first, _) = journal.open().expect("a file");
        writeln!(first, "of the first run").expect("written");
        let (mut second, begins_at) = journal.open().expect("a file");
        assert_eq!(journal.last_lines(begins_at), Vec::<String>::new());
        for n in 0..100 {
            writeln!(second, "line {n}").expect("written");
        }
        let lines = journal.last_lines(begins_at);
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 99"));
    }

    #[test]
    fn a_large_log_is_set_aside_under_its_writer() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::new(folder.path(), "part");
        let (mut writer, _) = journal.open().expect("a file");
        writer.set_len(LARGEST_LOG_BYTES + 1).expect("grown");
        journal.trim().expect("trimmed");
        writeln!(writer, "after").expect("written");
        assert_eq!(fs::read_to_string(journal.path()).expect("read"), "after\n");
        let old = fs::metadata(folder.path().join("part.log.old")).expect("set aside");
        assert_eq!(old.len(), LARGEST_LOG_BYTES + 1);
    }
}
