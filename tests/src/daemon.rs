//! A private engine in a folder of its own, started and ended by a script of `tests/engines`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::binaries::source_root;

/// A running engine; it ends with this value.
#[derive(Debug)]
pub struct Daemon {
    script: PathBuf,
    folder: TempDir,
    /// Nothing before it listens.
    socket: PathBuf,
}

impl Daemon {
    /// Starts it with `<script> start FOLDER`, which prints where it listens.
    pub fn start(script: &str) -> Result<Self, String> {
        Self::start_with(script, |_| {})
    }

    /// In a folder that is prepared first.
    pub fn start_with(script: &str, prepare: impl FnOnce(&Path)) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("pacer-engine-").tempdir().map_err(|error| error.to_string())?;
        prepare(folder.path());
        let script = source_root().join("tests/engines").join(script);
        // From here on it is stopped, also if it comes up only half.
        let mut daemon = Self { script, folder, socket: PathBuf::new() };
        daemon.socket = daemon.ask("start")?.into();
        Ok(daemon)
    }

    fn ask(&self, verb: &str) -> Result<String, String> {
        run(Command::new("bash").arg(&self.script).arg(verb).arg(self.folder.path()))
    }

    /// Where it listens, as it says itself.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(why) = self.ask("stop")
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
