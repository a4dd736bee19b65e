//! A real Incus for as long as tests want it, and one test's view of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Bootstrap, Destruction, Error, Instance, InstanceState,
    testing::{Daemon, Memory, Shared, Socket, run},
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

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines").join(name)
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

/// The server that the tests of this process share.
fn server() -> Option<Arc<Daemon>> {
    static SHARED: Shared<Daemon> = Shared::new();
    SHARED.get(|| {
        let server = Daemon::named_by("PACER_TEST_INCUS", &script("incusd.sh"));
        let server = server.map_err(|why| format!("no Incus: {why}"))?;
        build_image(&server.socket)?;
        Ok(server)
    })
}

/// One test's view of the server: an owner of its own, and all its instances removed in the end.
pub struct Fixture {
    pub server: Arc<Daemon>,
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

    /// Waits until it is no longer running, as `get` and as `list` say. Incus calls a container that ended by itself
    /// `Stopped`, then `Running` again for as long as its own stop hook is at work, then `Stopped` for good.
    pub fn ended(&self, handle: &str) -> Instance {
        let over = |it: &Instance| !matches!(it.state, InstanceState::Running | InstanceState::Stopping);
        self.until("the instance's end", || {
            let listed = self.list().into_iter().find(|it| it.handle == handle).expect("it is listed");
            let found = self.get(handle).filter(over)?;
            (format!("{:?}", listed.state) == format!("{:?}", found.state)).then_some(found)
        })
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
