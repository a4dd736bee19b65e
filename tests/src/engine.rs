//! A real container engine of the test's own: a private daemon on a private socket, ended with this value.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binaries::{self, source_root},
    process::{Said, run},
};

/// The image its runners boot from.
pub const RUNNER_IMAGE: &str = "pacer-test-runner:latest";

/// Why there is no engine here; none when there can be one.
pub fn unavailable() -> Option<String> {
    let dockerd = ["/usr/sbin/dockerd", "/usr/bin/dockerd", "/usr/local/bin/dockerd"];
    if !dockerd.iter().any(|path| Path::new(path).is_file()) {
        return Some("no dockerd is installed (on Debian: apt-get install docker.io)".into());
    }
    if !Path::new("/bin/busybox").is_file() && !Path::new("/usr/bin/busybox").is_file() {
        return Some("no busybox is installed (on Debian: apt-get install busybox-static)".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("a private dockerd needs root".into());
    }
    None
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    folder: TempDir,
}

impl Engine {
    /// Starts a daemon and gives it the runner's image.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("pacer-engine-").tempdir().expect("a folder for the engine");
        let engine = Self { folder };
        let said = engine.script("start");
        assert_eq!(said.code, 0, "dockerd does not start:\n{}", said.all());
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// What goes into `backends.<name>.endpoints.engine`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs a command of the engine's own client.
    pub fn docker(&self, arguments: &[&str]) -> Said {
        let host = self.endpoint();
        let mut all = vec!["--host", host.as_str()];
        all.extend(arguments);
        run("docker", &all, self.folder.path())
    }

    /// Makes the image that the simulator's runner boots from: busybox and the runner's script.
    pub fn build_runner_image(&self, runner_script: &Path) {
        let root = self.folder.path().join("image");
        fs::create_dir_all(&root).expect("a folder for the image");
        fs::copy(runner_script, root.join("runner.sh")).expect("the runner can be copied");
        let script = source_root().join("tests/engines/image.sh");
        let socket = self.socket();
        let words = [script.as_path(), socket.as_path(), Path::new(RUNNER_IMAGE), root.as_path()];
        let words: Vec<&str> = words.iter().map(|path| path.to_str().expect("plain names")).collect();
        let said = run("bash", &words, self.folder.path());
        assert_eq!(said.code, 0, "the image cannot be made: {}", said.all());
    }

    /// Every container there is, running or not.
    pub fn containers(&self) -> Vec<Value> {
        let said = self.docker(&["ps", "--all", "--no-trunc", "--format", "{{json .}}"]);
        assert_eq!(said.code, 0, "the engine does not list: {}", said.all());
        said.out.lines().map(|line| serde_json::from_str(line).expect("docker writes JSON")).collect()
    }

    /// Everything the engine knows about a container.
    pub fn inspect(&self, container: &str) -> Value {
        let said = self.docker(&["inspect", container]);
        serde_json::from_str::<Value>(&said.out).map(|mut all| all[0].take()).unwrap_or_default()
    }

    /// Takes the daemon away, its containers with it.
    pub fn stop(&self) {
        let said = self.script("stop");
        assert_eq!(said.code, 0, "dockerd does not stop:\n{}", said.all());
    }

    /// Brings the daemon back.
    pub fn restart(&self) {
        let said = self.script("start");
        assert_eq!(said.code, 0, "dockerd does not start again:\n{}", said.all());
    }

    fn script(&self, verb: &str) -> Said {
        let script = source_root().join("tests/engines/dockerd.sh");
        let folder = self.folder.path().to_str().expect("temporary folders have plain names");
        run("bash", &[script.to_str().expect("plain names"), verb, folder], self.folder.path())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let said = self.script("stop");
        if said.code != 0 && !std::thread::panicking() {
            panic!("dockerd does not stop:\n{}", said.all());
        }
    }
}

/// Says loudly that a test did not run for want of an engine; on CI that is a failure. `make test` counts these lines.
pub fn not_run(test: &str, why: &str) {
    assert!(!binaries::in_ci(), "CI=true, and {test} cannot run: {why}");
    note(&format!("NOT RUN: {test}: {why}\n"));
}

/// Says that a test is left to `make test-engines`, on CI as well. `make test` shows these lines.
pub fn left_out(test: &str, why: &str) {
    note(&format!("LEFT TO `make test-engines`: {test}: {why}\n"));
}

fn note(line: &str) {
    eprint!("{line}");
    if let Some(list) = binaries::variable("PACER_NOT_RUN") {
        use std::io::Write;
        let list = fs::OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes())).expect("the list of what did not run can be written");
    }
}
