//! A real daemon for as long as tests want it, and one test's view of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Bootstrap, Destruction, Error, Instance,
    testing::{Daemon, Shared, Socket, not_run, run},
};
use serde_json::{Value, json};

use super::{call, request};
use crate::Machines;

/// No single thing takes a healthy daemon longer, even on a busy machine that emulates in software.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The volume that disks are copies of.
pub const BASE: &str = "base.qcow2";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines").join(name)
}

/// The daemon that the tests of this process share.
fn engine() -> Option<Arc<Daemon>> {
    static SHARED: Shared<Daemon> = Shared::new();
    SHARED.get(start)
}

fn start() -> Result<Daemon, String> {
    let engine = Daemon::start(&script("libvirtd.sh")).map_err(|why| format!("no libvirt daemon: {why}"))?;
    virsh(&engine, &["vol-create-as", "default", BASE, "64M", "--format", "qcow2"])?;
    Ok(engine)
}

fn virsh(engine: &Daemon, arguments: &[&str]) -> Result<String, String> {
    let uri = format!("qemu+unix:///session?socket={}", engine.socket.display());
    run(Command::new("virsh").args(["-q", "-c", &uri]).args(arguments))
}

/// One test's view of the daemon: an owner of its own, and all its machines removed in the end.
pub struct Fixture {
    pub engine: Arc<Daemon>,
    pub owner: String,
    pub settings: Value,
}

impl Fixture {
    pub fn new(owner: &str) -> Option<Self> {
        engine().map(|engine| Self::on(engine, owner))
    }

    /// With a daemon that no other test has machines in.
    pub fn alone(owner: &str) -> Option<Self> {
        Shared::new().get(start).map(|engine| Self::on(engine, owner))
    }

    fn on(engine: Arc<Daemon>, owner: &str) -> Self {
        // The machine is shared, and emulation needs no processor of its own.
        let settings = json!({ "uri": "qemu:///session", "cpu_overcommit": 1000, "memory_reserve": "1m" });
        Self { engine, owner: owner.to_owned(), settings }
    }

    pub fn with<T>(&self, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
        call(&Socket(self.engine.socket.clone()), &self.settings, PATIENCE, act)
    }

    /// A machine's name, unique among the tests that share a daemon.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.owner)
    }

    /// Settings of a machine that finds nothing to boot.
    pub fn pool(more: &Value) -> Value {
        let mut pool = json!({
            "base_image": BASE, "network": "none", "cpus": 1, "memory": "64m", "domain_type": "qemu",
        });
        pool.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        pool
    }

    pub fn create(&self, name: &str, more: &Value) -> Result<Instance, Error> {
        self.boot(name, more, Bootstrap::CloudInit("#cloud-config\n{}\n".into()))
    }

    pub fn boot(&self, name: &str, more: &Value, bootstrap: Bootstrap) -> Result<Instance, Error> {
        let request = request(&self.name(name), &self.owner, &Self::pool(more), bootstrap);
        self.with(|call| Machines::create(call, request))
    }

    pub fn get(&self, handle: &str) -> Option<Instance> {
        self.with(|call| Machines::get(call, handle)).expect("the daemon answers")
    }

    pub fn list(&self) -> Vec<Instance> {
        let page = self.with(|call| Machines::list(call, &self.owner, None)).expect("the daemon answers");
        assert_eq!(page.next, None);
        page.instances
    }

    pub fn destroy(&self, handle: &str, grace: Duration) -> Destruction {
        let grace = u64::try_from(grace.as_millis()).expect("a short grace");
        self.with(|call| Machines::destroy(call, handle, grace)).expect("the daemon answers")
    }

    pub fn log(&self, handle: &str, max: u32) -> String {
        self.with(|call| Machines::console_log(call, handle, max)).expect("the daemon answers")
    }

    /// Where the daemon keeps everything.
    pub fn dir(&self) -> &str {
        self.engine.dir()
    }

    /// libvirt's own client.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        virsh(&self.engine, arguments).expect("the daemon's own client succeeds")
    }

    /// This owner's machines and volumes, as libvirt's own client and the file system tell them.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self.virsh(&["list", "--all", "--name"]).lines().map(str::to_owned).collect();
        left.extend(self.virsh(&["vol-list", "default"]).lines().map(str::to_owned));
        let pool = Path::new(self.engine.dir()).join("pool");
        let files = std::fs::read_dir(pool).expect("the pool is a directory").flatten();
        left.extend(files.map(|file| file.file_name().to_string_lossy().into_owned()));
        left.retain(|name| name.contains(&self.owner));
        left
    }

    /// Makes the guest's kernel and returns a template that boots it; none if there is no kernel.
    pub fn guest(&self) -> Option<String> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = format!("{}/guest", self.engine.dir());
        let made = Path::new(&dir).join("vmlinuz").exists();
        if let Err(why) =
            if made { Ok(String::new()) } else { run(Command::new(script("guest.sh")).args(["build", &dir])) }
        {
            not_run(&why);
            return None;
        }
        Some(include_str!("guest.xml").replace("GUEST", &dir))
    }

    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "waiting for {what} took too long");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let listed = self.with(|call| Machines::list(call, &self.owner, None));
        for left in listed.map(|page| page.instances).unwrap_or_default() {
            let _ = self.with(|call| Machines::destroy(call, &left.handle, 0));
        }
        if !std::thread::panicking() {
            assert_eq!(self.left(), Vec::<String>::new(), "left at the daemon");
        }
    }
}
