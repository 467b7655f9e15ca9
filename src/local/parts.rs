//! Where the real parts for one machine are. It finds them and says how to get what is missing;
//! it fetches nothing itself: `make local-parts` does.

use std::io;
use std::path::{Path, PathBuf};

/// The folder that `make local-parts` fills.
#[derive(Debug, Clone, clap::Args)]
pub struct PartsArgs {
    /// The folder with the local parts, as `make local-parts` fills it.
    #[arg(
        long,
        env = "MODELMETER_PARTS",
        default_value = "deploy/local/parts",
        value_name = "DIR"
    )]
    pub parts: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    #[error("{what} is not in {folder}: run `make local-parts`, or name its folder by --parts", folder = .folder.display())]
    Missing { what: &'static str, folder: PathBuf },
    #[error("the local parts in {folder} cannot be read", folder = .folder.display())]
    Unreadable { folder: PathBuf, source: io::Error },
}

/// The jar with `kafka.Kafka`; its presence tells a filled folder from an empty one.
const BROKER_JAR: &str = "kafka_2.13-";

impl PartsArgs {
    /// The class path of the Kafka broker: every jar of `<parts>/kafka`.
    ///
    /// # Errors
    /// When the folder is not there, cannot be read, or has no broker in it.
    pub fn kafka_class_path(&self) -> Result<String, PartsError> {
        let folder = self.absolute("kafka")?;
        let missing = || PartsError::Missing {
            what: "the Kafka broker",
            folder: folder.clone(),
        };
        let names = match std::fs::read_dir(&folder) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| PartsError::Unreadable {
                    folder: folder.clone(),
                    source,
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(source) => return Err(PartsError::Unreadable { folder, source }),
        };
        if !names
            .iter()
            .any(|name| name.to_string_lossy().starts_with(BROKER_JAR))
        {
            return Err(missing());
        }
        // The JVM itself expands the star, so that the command line stays readable.
        Ok(format!("{}/*", folder.display()))
    }

    fn absolute(&self, name: &str) -> Result<PathBuf, PartsError> {
        std::path::absolute(self.parts.join(name)).map_err(|source| PartsError::Unreadable {
            folder: Path::new(name).to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_told_from_a_filled_one() {
        let parts = tempfile::tempdir().expect("a temporary folder");
        let args = PartsArgs {
            parts: parts.path().to_owned(),
        };
        assert!(matches!(
            args.kafka_class_path(),
            Err(PartsError::Missing { .. })
        ));
        let kafka = parts.path().join("kafka");
        std::fs::create_dir(&kafka).expect("a folder");
        assert!(matches!(
            args.kafka_class_path(),
            Err(PartsError::Missing { .. })
        ));
        std::fs::write(kafka.join("kafka_2.13-4.3.1.jar"), b"").expect("a file");
        assert_eq!(
            args.kafka_class_path().ok(),
            Some(format!("{}/*", kafka.display()))
        );
    }
}
