//! A private engine in a folder of its own, started and ended by a script of `tests/engines`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pacer_tests::binaries::source_root;
use tempfile::TempDir;

/// A running engine; it ends with this value.
pub struct Daemon {
    script: PathBuf,
    folder: TempDir,
    socket: PathBuf,
}

impl Daemon {
    /// Starts it with `<script> start FOLDER`, which prints where it listens.
    pub fn start(script: &str) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("pacer-engine-").tempdir().map_err(|error| error.to_string())?;
        let script = source_root().join("tests/engines").join(script);
        let socket = run(Command::new("bash").arg(&script).arg("start").arg(folder.path()))?.into();
        Ok(Self { script, folder, socket })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let stopped = run(Command::new("bash").arg(&self.script).arg("stop").arg(self.folder.path()));
        if let Err(why) = stopped
            && !std::thread::panicking()
        {
            panic!("the engine does not stop: {why}");
        }
    }
}

/// What a command writes, or what it says that went wrong.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}
