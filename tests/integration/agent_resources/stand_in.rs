//! A library of GPUs for one test: `tests/nvml/nvml.c`, built once, copied beside a state file of its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use modelmeter::agent::gpu::GpuArgs;
use tempfile::TempDir;

use crate::support::root;

pub struct StandIn {
    folder: TempDir,
}

impl StandIn {
    pub fn new(state: &str) -> Self {
        let stand_in = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        stand_in.set(state);
        std::fs::copy(built(), stand_in.library()).expect("the library is copied");
        stand_in
    }

    /// Takes effect at the next call into the library.
    pub fn set(&self, state: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, state).expect("the state is written");
        std::fs::rename(new, self.folder.path().join("state")).expect("the state is in place");
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    pub fn args(&self) -> GpuArgs {
        GpuArgs {
            library: Some(self.library()),
            ..GpuArgs::default()
        }
    }
}

fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("nvml-{}.so", std::process::id()));
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(root().join("tests/nvml/nvml.c"))
            .status()
            .expect("cc runs");
        assert!(status.success(), "the stand-in is built");
        library
    })
}
