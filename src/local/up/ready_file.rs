//! The file that tells other programs where everything is and whether it is up. It is replaced
//! whole at every change, so that a reader never sees half of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::addresses::Addresses;
use super::supervise::{Name, States};

#[derive(Debug, thiserror::Error)]
#[error("the ready file {path} cannot be written", path = .path.display())]
pub struct ReadyFileError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Serialize, PartialEq)]
struct Content {
    kafka: String,
    clickhouse: String,
    dashboard: String,
    processor: String,
    pids: Pids,
}

/// Null for a part that is down or not answering yet.
#[derive(Debug, Serialize, PartialEq)]
struct Pids {
    kafka: Option<u32>,
    clickhouse: Option<u32>,
    processor: Option<u32>,
    dashboard: Option<u32>,
}

#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// # Errors
    /// When an old file of that name cannot be removed: it would speak of processes that are gone.
    pub fn new(path: &Path) -> Result<Self, ReadyFileError> {
        let file = Self {
            path: path.to_owned(),
        };
        file.remove().map(|()| file)
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, addresses: &Addresses, states: &States) -> Result<(), ReadyFileError> {
        let content = Content {
            kafka: format!("127.0.0.1:{}", addresses.kafka),
            clickhouse: format!("http://127.0.0.1:{}", addresses.clickhouse),
            dashboard: format!("http://127.0.0.1:{}", addresses.dashboard),
            processor: format!("http://127.0.0.1:{}", addresses.processor),
            pids: Pids {
                kafka: states.pid(Name::Kafka),
                clickhouse: states.pid(Name::ClickHouse),
                processor: states.pid(Name::Processor),
                dashboard: states.pid(Name::Dashboard),
            },
        };
        let mut text = serde_json::to_vec_pretty(&content).expect("strings and numbers are JSON");
        text.push(b'\n');
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(".unfinished");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &self.path))
            .map_err(|source| ReadyFileError {
                path: self.path.clone(),
                source,
            })
    }

    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self) -> Result<(), ReadyFileError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ReadyFileError {
                path: self.path.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::supervise::State;
    use super::*;

    #[test]
    fn content_is_the_contract() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ready.json");
        fs::write(&path, "of a run before").expect("written");
        let file = ReadyFile::new(&path).expect("replaced");
        assert!(!path.exists());
        let mut states = States::default();
        states.set(Name::Kafka, State::Up { pid: 7 });
        let addresses = Addresses {
            kafka: 1,
            clickhouse: 2,
            processor: 3,
            dashboard: 4,
        };
        file.write(&addresses, &states).expect("written");
        let read: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        let expected = serde_json::json!({
            "kafka": "127.0.0.1:1", "clickhouse": "http://127.0.0.1:2", "dashboard": "http://127.0.0.1:4",
            "processor": "http://127.0.0.1:3",
            "pids": {"kafka": 7, "clickhouse": null, "processor": null, "dashboard": null},
        });
        assert_eq!(read, expected);
    }
}
