//! A request's body, whole before the engine sees a byte of it: in memory up to a size, beyond it in a private file
//! that has no name any more. It refuses bodies past the cap; a body cut short never becomes a `Spool`.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::exception::{Exception, code};

/// Bodies up to this stay in memory: a flush of the processor is some MiB. Beyond it the file's page cache is the
/// memory, which the system can take back.
pub const MEMORY_BODY_BYTES: usize = 16 << 20;

/// A body past this is refused with 413 (code 229), before and after decompression: a machine of one team has disks,
/// not clusters.
pub const MAX_BODY_BYTES: u64 = 4 << 30;

/// Where private files are made.
#[derive(Debug, Clone)]
pub struct SpoolFolder {
    path: Arc<PathBuf>,
    serial: Arc<AtomicU64>,
}

impl SpoolFolder {
    /// Makes the folder; files of an earlier process that ended between making and unnaming one are removed.
    ///
    /// # Errors
    /// When the folder cannot be made or emptied.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
        std::fs::create_dir_all(path)?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            serial: Arc::default(),
        })
    }

    /// A folder that is not there: whatever is too large for memory is refused.
    pub fn nowhere() -> Self {
        Self {
            path: Arc::default(),
            serial: Arc::default(),
        }
    }

    pub fn writer(&self) -> SpoolWriter {
        SpoolWriter {
            folder: self.clone(),
            memory: Vec::new(),
            file: None,
            n_bytes: 0,
        }
    }

    fn file(&self) -> io::Result<File> {
        let path = self
            .path
            .join(self.serial.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}

/// A body that is still arriving.
pub struct SpoolWriter {
    folder: SpoolFolder,
    memory: Vec<u8>,
    file: Option<File>,
    n_bytes: u64,
}

impl SpoolWriter {
    pub fn finish(self) -> Spool {
        match self.file {
            Some(file) => Spool::File {
                file,
                n_bytes: self.n_bytes,
            },
            None => Spool::Memory(self.memory.into()),
        }
    }
}

impl Write for SpoolWriter {
    /// The file's writes go to the page cache, so that this is called from the network's thread too.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.n_bytes += data.len() as u64;
        if self.n_bytes > MAX_BODY_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.file.is_none() && self.memory.len() + data.len() > MEMORY_BODY_BYTES {
            let mut file = self.folder.file()?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(data)?,
            None => self.memory.extend_from_slice(data),
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole body.
#[derive(Debug)]
pub enum Spool {
    Memory(Bytes),
    File { file: File, n_bytes: u64 },
}

impl Spool {
    pub fn n_bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { n_bytes, .. } => *n_bytes,
        }
    }

    /// Its first bytes, at most `limit`: where a statement is looked for.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn prefix(&mut self, limit: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(..bytes.len().min(limit))),
            Self::File { file, .. } => {
                file.seek(SeekFrom::Start(0))?;
                let mut prefix = Vec::new();
                file.take(limit as u64).read_to_end(&mut prefix)?;
                Ok(prefix.into())
            }
        }
    }

    /// All of it from byte `from` on.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn into_reader(self, from: u64) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Memory(bytes) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                Ok(Box::new(Cursor::new(bytes.slice(from..))))
            }
            Self::File { mut file, .. } => {
                file.seek(SeekFrom::Start(from))?;
                Ok(Box::new(file))
            }
        }
    }
}

/// What reading or writing a body came to, as the client is told.
pub fn body_error(error: &io::Error) -> Exception {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Exception::new(
            code::QUERY_IS_TOO_LARGE,
            format!("the body is larger than {MAX_BODY_BYTES} bytes"),
        ),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other => Exception::new(
            code::CANNOT_DECOMPRESS,
            format!("the body cannot be decompressed: {error}"),
        ),
        _ => Exception::new(
            code::CANNOT_OPEN_FILE,
            format!("the body cannot be kept: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_becomes_a_file_past_its_size_and_reads_back_from_any_byte() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = SpoolFolder::create(&dir.path().join("spool")).expect("its folder");
        for n in [10, MEMORY_BODY_BYTES + 10] {
            let data: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let mut writer = folder.writer();
            data.chunks(1 << 20)
                .for_each(|chunk| writer.write_all(chunk).expect("written"));
            let mut spool = writer.finish();
            assert_eq!(matches!(spool, Spool::File { .. }), n > MEMORY_BODY_BYTES);
            assert_eq!(
                (spool.n_bytes(), &spool.prefix(4).expect("read")[..]),
                (n as u64, &data[..4])
            );
            let mut back = Vec::new();
            spool
                .into_reader(3)
                .expect("read")
                .read_to_end(&mut back)
                .expect("read");
            assert!(back == data[3..]);
        }
        assert_eq!(
            std::fs::read_dir(dir.path().join("spool"))
                .expect("listed")
                .count(),
            0
        );
    }
}
