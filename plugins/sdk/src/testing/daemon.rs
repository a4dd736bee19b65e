//! A real engine for as long as tests want it.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// A variable of the test run's environment.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what it may use")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a command writes, or what it says that went wrong.
///
/// # Errors
///
/// When it cannot be run or fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// Says that the running test does not run, past the capture of its output and into the file that `PACER_NOT_RUN`
/// names. With `CI=true` it fails instead.
///
/// # Panics
///
/// With `CI=true`, and when the file cannot be written.
pub fn not_run(why: &str) {
    assert!(variable("CI").as_deref() != Some("true"), "CI needs what is missing here: {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("NOT RUN: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = variable("PACER_NOT_RUN") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes())).expect("the list of what did not run can be written");
    }
}

/// An engine that a script starts with `start DIR`, which prints the path of its socket, and ends with `stop DIR`.
#[derive(Debug)]
pub struct Daemon {
    pub socket: PathBuf,
    /// None for one that is not the test's own.
    own: Option<(PathBuf, String)>,
}

impl Daemon {
    /// Starts one of the test's own in a folder whose path is as short as a socket's has to be.
    ///
    /// # Errors
    ///
    /// What the script says.
    pub fn start(script: &Path) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = format!("/tmp/pacer-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // From here on it is stopped, also if it comes up only half.
        let mut daemon = Self { socket: PathBuf::new(), own: Some((script.to_owned(), dir.clone())) };
        daemon.socket = run(Command::new("bash").arg(script).args(["start", &dir]))?.into();
        Ok(daemon)
    }

    /// The one whose socket this variable of the environment names; without it one of the test's own.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`].
    pub fn named_by(name: &str, script: &Path) -> Result<Self, String> {
        match variable(name) {
            Some(socket) => Ok(Self { socket: socket.into(), own: None }),
            None => Self::start(script),
        }
    }
}

impl Daemon {
    /// The folder of one of the test's own.
    ///
    /// # Panics
    ///
    /// Where it is not.
    pub fn dir(&self) -> &str {
        self.own.as_ref().map(|(_, dir)| dir.as_str()).expect("the engine is the test's own")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((script, dir)) = &self.own {
            let _ = Command::new("bash").arg(script).args(["stop", dir]).status();
        }
    }
}

/// What the tests of a process share; it ends with the last of them.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    #[expect(clippy::new_without_default, reason = "it is made for a static")]
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// What is there, or what `make` makes. Without it the test is [`not_run`].
    ///
    /// # Panics
    ///
    /// As [`not_run`].
    pub fn get(&self, make: impl FnOnce() -> Result<T, String>) -> Option<Arc<T>> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = shared.upgrade() {
            return Some(held);
        }
        match make() {
            Ok(made) => {
                let made = Arc::new(made);
                *shared = Arc::downgrade(&made);
                Some(made)
            }
            Err(why) => {
                // Or whoever comes next would find a lock that panicked.
                drop(shared);
                not_run(&why);
                None
            }
        }
    }
}
