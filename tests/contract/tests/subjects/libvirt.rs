//! A private libvirt daemon: machines that QEMU emulates in software and that find nothing to boot.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Subject,
    proxy::{Protocol, Target},
};
use pacer_tests::{
    daemon::{Daemon, run},
    libvirt::{HOST, Libvirtd},
    world::World,
};
use serde_json::{Value, json};

use crate::scenarios::Place;

/// No single thing takes it longer, even on a busy machine that emulates in software.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a volume is written to at most, and how often is looked whether it still is.
const WRITING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// The volume that disks are copies of.
const BASE: &str = "base.qcow2";

/// A daemon for one run.
pub struct Libvirt(Daemon);

struct Direct {
    socket: PathBuf,
}

impl Libvirt {
    /// Why there is none, if there is none.
    pub fn start() -> Result<Self, String> {
        Self::start_with(|_| {})
    }

    /// In a folder that is prepared first.
    pub fn start_with(prepare: impl FnOnce(&Path)) -> Result<Self, String> {
        let daemon = Daemon::start_with("libvirtd.sh", prepare)?;
        let direct = Direct { socket: daemon.socket().to_owned() };
        direct.virsh(&["vol-create-as", "default", BASE, "64M", "--format", "qcow2"])?;
        Ok(Self(daemon))
    }

    pub fn subject(&self) -> Subject {
        subject(self.0.socket().to_owned())
    }

    /// A pool's settings: machines that find nothing to boot.
    pub fn pool() -> Value {
        json!({ "base_image": BASE, "network": "none", "cpus": 1, "memory": "64m", "domain_type": "qemu" })
    }

    pub fn socket(&self) -> &Path {
        self.0.socket()
    }

    pub fn folder(&self) -> &Path {
        self.0.folder()
    }
}

impl Place for Libvirtd {
    fn subject(&self) -> Subject {
        subject(self.socket())
    }

    fn pool(&self, _world: &World) -> Value {
        self.pool()
    }

    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()> {
        Direct { socket: self.socket() }.lines(&["destroy", machine]).map(drop)
    }

    fn host(&self) -> &'static str {
        HOST
    }

    /// Each is emulated, and boots for seconds.
    fn limits(&self) -> (usize, &'static str) {
        (2, "120s")
    }

    fn too_large(&self) -> Option<(&'static str, &'static str)> {
        Some(("\"memory\":\"192m\"", "\"memory\":\"900t\""))
    }

    /// Of the calls that are made for a machine, from the connection's first to its start.
    fn lost_answers(&self) -> &'static [usize] {
        &[2, 9, 16]
    }
}

fn subject(socket: PathBuf) -> Subject {
    Subject {
        name: "libvirt".to_owned(),
        component: super::component("libvirt"),
        // The machine is shared, and emulation needs no processor of its own.
        settings: json!({ "uri": "qemu:///session", "cpu_overcommit": 1000, "memory_reserve": "1m" }),
        pool: Libvirt::pool(),
        endpoint: Endpoint {
            name: "libvirt".to_owned(),
            target: Target::Unix(socket.clone()),
            protocol: Protocol::Stream,
            base_path: String::new(),
            more: json!({}),
        },
        bootstrap: BootstrapKind::CloudInit,
        runs: true,
        patience: PATIENCE,
        crowd: 3,
        pages: false,
        uses_up_names: true,
        grace: None,
        at_once: 3,
        refusals: Vec::new(),
        engine: Box::new(Direct { socket }),
    }
}

impl Direct {
    fn virsh(&self, arguments: &[&str]) -> Result<String, String> {
        let uri = format!("qemu+unix:///session?socket={}", self.socket.display());
        run(Command::new("virsh").args(["-q", "-c", &uri]).args(arguments))
    }

    fn lines(&self, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let said = self.virsh(arguments).map_err(anyhow::Error::msg)?;
        Ok(said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
    }
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        let all = self.lines(&["list", "--all", "--name"])?;
        // One that ended meanwhile is none.
        let mine = |name: &String| self.virsh(&["dumpxml", name]).is_ok_and(|document| document.contains(owner));
        Ok(all.into_iter().filter(mine).collect())
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        let document = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os>\
             <features><acpi/></features></domain>"
        );
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, document.as_bytes())?;
        self.lines(&["create", &file.path().display().to_string()]).map(drop)
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.lines(&["destroy", name]).map(drop)
    }

    fn hold(&self, name: &str) -> anyhow::Result<bool> {
        self.lines(&["metadata", name, "urn:pacer:hold:1", "--key", "hold", "--set", "<hold/>", "--live"])?;
        Ok(true)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        // The daemon looks into its pool only when it is told to, and not while a volume of it is being written.
        let asked = Instant::now();
        while let Err(error) = self.lines(&["pool-refresh", "default"]) {
            ensure!(error.to_string().contains("asynchronous jobs") && asked.elapsed() < WRITING, "{error:#}");
            std::thread::sleep(POLL);
        }
        let machines = self.lines(&["list", "--all", "--name"])?;
        let volumes = self.lines(&["vol-list", "default"])?;
        let machines = machines.into_iter().map(|name| format!("machine {name}"));
        let volume = |line: String| format!("volume {}", line.split_whitespace().next().unwrap_or_default());
        Ok(machines.chain(volumes.into_iter().map(volume)).collect())
    }
}
