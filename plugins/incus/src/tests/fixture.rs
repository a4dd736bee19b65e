//! A real Incus for as long as tests want it, and one test's view of it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Bootstrap, Destruction, Error, Instance, InstanceState,
    testing::{Memory, Socket},
};
use serde_json::{Value, json};

use super::{PATIENCE, SECRET, call, request};
use crate::IncusBackend;

/// The image of these tests: a busybox whose first process shows the bootstrap's length and takes the signal to stop.
pub const IMAGE: &str = "pacer-test";
/// What an image does with the file it gets: reads it, and removes it before a job could.
const START: &str = "\
file=/etc/pacer-runner.env
if [ -f $file ]; then
    ls -ln $file | cut -c1-15
    . $file
    rm $file
    echo length ${#ACTIONS_RUNNER_INPUT_JITCONFIG}
fi
echo COLOUR $COLOUR
[ \"$DEAF\" = '' ] || trap '' PWR INT TERM
[ \"$BRIEF\" = '' ] || exit 0
";

/// A server for as long as some test holds it.
pub struct Server {
    pub socket: PathBuf,
    /// Where the private one lives; none for a foreign one.
    dir: Option<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = Command::new(script("incusd.sh")).args(["stop", dir]).status();
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines").join(name)
}

#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what it may use")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// Gives the server the test image.
fn build_image(socket: &Path) -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("pacer-incus-image-{}", std::process::id()));
    let start = folder.join("etc/start");
    let write = || {
        std::fs::create_dir_all(folder.join("etc"))?;
        std::fs::write(&start, START)
    };
    let built = write().map_err(|e| e.to_string());
    let built = built.and_then(|()| run(Command::new(script("incus-image.sh")).arg(socket).arg(IMAGE).arg(&folder)));
    let _ = std::fs::remove_dir_all(&folder);
    built.map(drop)
}

/// The server that the tests of this process share; it ends with the last of them.
fn server() -> Option<Arc<Server>> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return Some(server);
    }
    let (started, dir) = match variable("PACER_TEST_INCUS") {
        Some(socket) => (Ok(socket), None),
        None => {
            let dir = format!("/tmp/pacer-incus-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            (run(Command::new(script("incusd.sh")).args(["start", &dir])), Some(dir))
        }
    };
    let built = started.and_then(|socket| {
        let server = Server { socket: socket.into(), dir };
        build_image(&server.socket).map(|()| server)
    });
    match built {
        Ok(server) => {
            let server = Arc::new(server);
            *shared = Arc::downgrade(&server);
            Some(server)
        }
        Err(why) => {
            assert!(variable("CI").as_deref() != Some("true"), "no Incus, and CI needs one: {why}");
            // Past the capture of the test's output: what did not run must be seen.
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "NOT RUN: {name}: no Incus: {why}");
            None
        }
    }
}

/// One test's view of the server: an owner of its own, and all its instances removed in the end.
pub struct Fixture {
    pub server: Arc<Server>,
    pub memory: Memory,
    pub owner: String,
    /// The backend's settings.
    pub settings: String,
}

impl Fixture {
    pub fn new(owner: &str) -> Option<Self> {
        let owner = format!("{owner}-{}", std::process::id());
        Some(Self { server: server()?, memory: Memory::default(), owner, settings: "{}".into() })
    }

    pub fn with<T>(&self, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
        self.within(PATIENCE, act)
    }

    pub fn within<T>(&self, deadline: Duration, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
        let socket = Socket(self.server.socket.clone());
        act(&call(&socket, &self.memory, &self.settings, deadline))
    }

    /// An instance's name, unique among the tests that share a server.
    pub fn name(&self, name: &str) -> String {
        format!("pacer-{}-{name}", self.owner)
    }

    pub fn boot(&self, name: &str, more: Value, bootstrap: Bootstrap) -> Result<Instance, Error> {
        let mut pool = json!({ "image": IMAGE });
        pool.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.with(|call| IncusBackend::create(call, request(&self.name(name), &self.owner, &pool, bootstrap)))
    }

    pub fn create(&self, name: &str, more: Value) -> Result<Instance, Error> {
        self.boot(name, more, Bootstrap::JitConfig(SECRET.into()))
    }

    pub fn get(&self, handle: &str) -> Option<Instance> {
        self.with(|call| IncusBackend::get(call, handle)).expect("the server answers")
    }

    pub fn log(&self, handle: &str, max: u32) -> String {
        self.with(|call| IncusBackend::console_log(call, handle, max)).expect("the server answers")
    }

    pub fn list(&self) -> Vec<Instance> {
        let page = self.with(|call| IncusBackend::list(call, &self.owner, None)).expect("the server answers");
        assert_eq!(page.next, None);
        page.instances
    }

    pub fn destroy(&self, handle: &str, grace: Duration) -> Destruction {
        let grace = u64::try_from(grace.as_millis()).expect("a short grace");
        self.with(|call| IncusBackend::destroy(call, handle, grace)).expect("the server answers")
    }

    /// The server's own client.
    pub fn incus(&self, arguments: &[&str]) -> Result<String, String> {
        let dir = self.server.socket.parent().expect("a socket is in a directory");
        let conf = dir.join("../client");
        let mut command = Command::new("incus");
        let command = command.env("INCUS_DIR", dir).env("INCUS_CONF", conf).arg("--quiet").args(arguments);
        run(command.stdin(std::process::Stdio::null()))
    }

    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "waiting for {what} took too long");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has said this line, and returns all that it said: of a running container, each is told once.
    pub fn says(&self, handle: &str, line: &str) -> String {
        let mut said = String::new();
        self.until(line, || {
            said.push_str(&self.log(handle, 10_000));
            said.lines().any(|one| one.trim() == line).then(|| said.clone())
        })
    }

    /// Waits until it is no longer running, and compares what `get` and `list` say.
    pub fn ended(&self, handle: &str) -> Instance {
        let found = self.until("the instance's end", || {
            self.get(handle).filter(|it| !matches!(it.state, InstanceState::Running | InstanceState::Stopping))
        });
        let listed = self.list().into_iter().find(|it| it.handle == handle).expect("it is listed");
        assert_eq!(format!("{:?}", listed.state), format!("{:?}", found.state));
        found
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let listed = self.with(|call| IncusBackend::list(call, &self.owner, None));
        for left in listed.map(|page| page.instances).unwrap_or_default() {
            let _ = self.with(|call| IncusBackend::destroy(call, &left.handle, 0));
        }
    }
}
