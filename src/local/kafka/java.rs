//! The Java that runs the broker: where it is, and whether it is new enough.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Kafka 4 runs on nothing older.
pub const OLDEST_VERSION: u32 = 17;

/// `java -version` takes some 50 ms; one that takes longer than this is no Java.
const VERSION_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum JavaError {
    #[error("no Java at {program}: Kafka needs a Java {OLDEST_VERSION} or newer (Debian, Ubuntu: openjdk-17-jre-headless)", program = .program.display())]
    Absent { program: PathBuf },
    #[error("{program} cannot be run", program = .program.display())]
    Unusable { program: PathBuf, source: io::Error },
    #[error("{program} does not say its version; it printed {printed:?}", program = .program.display())]
    NoVersion { program: PathBuf, printed: String },
    #[error("{program} is Java {version}, and Kafka needs {OLDEST_VERSION} or newer", program = .program.display())]
    TooOld { program: PathBuf, version: u32 },
}

/// A Java that has been run and is new enough.
#[derive(Debug)]
pub struct Java {
    pub program: PathBuf,
}

impl Java {
    /// The Java of `home`, else the one on the path.
    ///
    /// # Errors
    /// When there is none, or it is too old.
    pub async fn find(home: Option<&Path>) -> Result<Self, JavaError> {
        let program = home.map_or_else(|| PathBuf::from("java"), |home| home.join("bin/java"));
        let unusable = |source| JavaError::Unusable {
            program: program.clone(),
            source,
        };
        let asked = Command::new(&program)
            .arg("-version")
            .kill_on_drop(true)
            .output();
        let printed = match timeout(VERSION_DEADLINE, asked).await {
            Ok(Ok(output)) => {
                String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned()
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JavaError::Absent { program });
            }
            Ok(Err(source)) => return Err(unusable(source)),
            Err(_) => return Err(unusable(io::ErrorKind::TimedOut.into())),
        };
        Self::judge(program, printed)
    }

    fn judge(program: PathBuf, printed: String) -> Result<Self, JavaError> {
        match major_version(&printed) {
            None => Err(JavaError::NoVersion { program, printed }),
            Some(version) if version < OLDEST_VERSION => {
                Err(JavaError::TooOld { program, version })
            }
            Some(_) => Ok(Self { program }),
        }
    }

    /// A command of this Java for one of Kafka's classes.
    pub fn command<I>(&self, options: I, class_path: &str, class: &str) -> Command
    where
        I: IntoIterator<Item = OsString>,
    {
        let mut command = Command::new(&self.program);
        command
            // No file of statistics in the shared temporary folder.
            .arg("-XX:-UsePerfData")
            .args(options)
            .args(["-cp", class_path, class]);
        command
    }
}

/// The major version in what `java -version` prints: `openjdk version "17.0.15" 2025-04-15`, or
/// `java version "1.8.0_392"`, where the major version stands second.
fn major_version(printed: &str) -> Option<u32> {
    let (_, rest) = printed.split_once(" version \"")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_both_styles() {
        assert_eq!(
            major_version("openjdk version \"17.0.15\" 2025-04-15\n"),
            Some(17)
        );
        assert_eq!(
            major_version("Picked up _X: y\nopenjdk version \"25-ea\" 2025-09-16"),
            Some(25)
        );
        assert_eq!(major_version("java version \"1.8.0_392\""), Some(8));
        assert_eq!(major_version("command not found"), None);
    }

    #[tokio::test]
    async fn an_old_or_absent_java_is_refused_with_its_reason() {
        let judge = |printed: &str| Java::judge("java".into(), printed.to_owned());
        assert!(judge("openjdk version \"17.0.15\"").is_ok());
        let old = judge("java version \"11.0.2\"");
        assert!(matches!(old, Err(JavaError::TooOld { version: 11, .. })));

        let home = tempfile::tempdir().expect("a temporary folder");
        let absent = Java::find(Some(home.path())).await;
        assert!(matches!(absent, Err(JavaError::Absent { .. })));
        std::fs::create_dir(home.path().join("bin")).expect("a folder");
        std::os::unix::fs::symlink("/bin/echo", home.path().join("bin/java")).expect("a link");
        let other = Java::find(Some(home.path())).await;
        assert!(
            matches!(other, Err(JavaError::NoVersion { printed, .. }) if printed == "-version\n")
        );
    }
}
