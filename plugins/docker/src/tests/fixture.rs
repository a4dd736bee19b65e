//! A real engine for as long as tests want it, and one test's view of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Destruction, Error, Instance, InstanceState,
    http::{Request, Transport, encode},
    testing::{Daemon, Memory, Shared, Socket, run},
};
use serde_json::{Value, json};

use super::{call, request};
use crate::Docker;

/// The image of these tests: a busybox and nothing else.
pub const IMAGE: &str = "localhost/pacer-test:1";
/// No single thing takes a healthy engine longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines").join(name)
}

/// The engine that the tests of this process share.
fn engine() -> Option<Arc<Daemon>> {
    static SHARED: Shared<Daemon> = Shared::new();
    SHARED.get(|| {
        let engine = Daemon::named_by("PACER_TEST_DOCKER", &script("dockerd.sh"));
        let engine = engine.map_err(|why| format!("no container engine: {why}"))?;
        run(Command::new("sh").arg(script("image.sh")).arg(&engine.socket).arg(IMAGE))?;
        Ok(engine)
    })
}

/// One test's view of the engine: an owner of its own, and all its containers removed in the end.
pub struct Fixture {
    pub engine: Arc<Daemon>,
    pub memory: Memory,
    pub owner: String,
}

impl Fixture {
    pub fn new(owner: &str) -> Option<Self> {
        Some(Self { engine: engine()?, memory: Memory::default(), owner: format!("{owner}-{}", std::process::id()) })
    }

    pub fn with<T>(&self, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
        self.within(PATIENCE, act)
    }

    pub fn within<T>(&self, deadline: Duration, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
        let socket = Socket(self.engine.socket.clone());
        act(&call(&socket, &self.memory, deadline))
    }

    /// A container's name, unique among the tests that share an engine.
    pub fn name(&self, name: &str) -> String {
        format!("pacer-{}-{name}", self.owner)
    }

    pub fn create(&self, name: &str, more: Value) -> Result<Instance, Error> {
        let mut pool = json!({ "image": IMAGE, "network": "none", "pull": "never" });
        pool.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.with(|call| Docker::create(call, request(&self.name(name), &self.owner, &pool)))
    }

    pub fn shell(&self, name: &str, text: &str) -> Instance {
        self.create(name, json!({ "command": ["sh", "-c", text] })).expect("it is created")
    }

    pub fn get(&self, handle: &str) -> Option<Instance> {
        self.with(|call| Docker::get(call, handle)).expect("the engine answers")
    }

    pub fn log(&self, handle: &str, max: u32) -> String {
        self.with(|call| Docker::console_log(call, handle, max)).expect("the engine answers")
    }

    pub fn list(&self) -> Vec<Instance> {
        let page = self.with(|call| Docker::list(call, &self.owner, None)).expect("the engine answers");
        assert_eq!(page.next, None);
        page.instances
    }

    pub fn destroy(&self, handle: &str, grace: Duration) -> Destruction {
        let grace = u64::try_from(grace.as_millis()).expect("a short grace");
        self.with(|call| Docker::destroy(call, handle, grace)).expect("the engine answers")
    }

    /// What the engine itself says of a container.
    pub fn raw(&self, handle: &str) -> Value {
        let get = Request::get("engine", format!("/containers/{}/json", encode(handle)));
        Socket(self.engine.socket.clone()).send(&get, PATIENCE).and_then(|r| r.json()).expect("the engine answers")
    }

    /// Podman words several refusals as faults of its own, and knows no memory kills under every runtime.
    pub fn is_podman(&self) -> bool {
        self.docker(&["version", "--format", "{{json .Server.Components}}"]).contains("Podman")
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.engine.socket.display());
        run(Command::new("docker").args(["-H", &host]).args(arguments)).expect("the engine's client succeeds")
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

    /// Waits until it is no longer running, and compares what `get` and `list` say.
    pub fn ended(&self, handle: &str) -> Instance {
        let found = self.until("the container's end", || {
            self.get(handle).filter(|it| !matches!(it.state, InstanceState::Running | InstanceState::Stopping))
        });
        let listed = self.list().into_iter().find(|it| it.handle == handle).expect("it is listed");
        assert_eq!(format!("{:?}", listed.state), format!("{:?}", found.state));
        found
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let listed = self.with(|call| Docker::list(call, &self.owner, None));
        for left in listed.map(|page| page.instances).unwrap_or_default() {
            let _ = self.with(|call| Docker::destroy(call, &left.handle, 0));
        }
    }
}
