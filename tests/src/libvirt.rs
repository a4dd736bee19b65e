//! A real libvirt daemon of the test's own, without root and hardware, and a tiny guest for it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    binaries::source_root,
    process::{Said, run},
    world::runner_script,
};

/// The volume that the machines' disks are copies of.
pub const BASE: &str = "base.qcow2";

/// This host's loopback interface, as QEMU's own network shows it to machines.
pub const HOST: &str = "10.0.2.2";

/// The simulator's runner, told where the host is in QEMU's own network.
const RUN: &str = "#!/bin/sh
config=$(echo \"$ACTIONS_RUNNER_INPUT_JITCONFIG\" | base64 -d | sed 's/127\\.0\\.0\\.1/10.0.2.2/')
ACTIONS_RUNNER_INPUT_JITCONFIG=$(echo \"$config\" | base64 | tr -d '\\n')
export ACTIONS_RUNNER_INPUT_JITCONFIG
exec sh /runner.sh
";

/// Why there is no daemon here; none when there can be one.
pub fn unavailable() -> Option<String> {
    let packages = "apt-get install -y --no-install-recommends libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients \
                    qemu-system-x86 qemu-utils busybox-static";
    let programs = ["/usr/sbin/libvirtd", "/usr/bin/virsh", "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img"];
    let missing = programs.iter().find(|path| !Path::new(path).is_file());
    missing.map(|path| format!("there is no {path} (on Debian: {packages})"))
}

/// A running daemon; its machines end with it.
#[derive(Debug)]
pub struct Libvirtd {
    dir: PathBuf,
}

impl Libvirtd {
    /// Starts it with an empty disk to copy and a guest that has these files and runs its user-data.
    pub fn start(files: &Path) -> Self {
        // The sockets of QEMU lie deep below, and a socket's path is short.
        let dir = PathBuf::from(format!("/tmp/pacer-lv-{}", crate::process::free_port()));
        let daemon = Self { dir };
        let said = daemon.script("libvirtd.sh", &["start", daemon.dir()]);
        assert_eq!(said.code, 0, "libvirtd does not start:\n{}", said.all());
        let said = daemon.virsh(&["vol-create-as", "default", BASE, "64M", "--format", "qcow2"]);
        assert_eq!(said.code, 0, "there is no base image:\n{}", said.all());
        let files = files.to_str().expect("plain names");
        let said = daemon.script("guest.sh", &["fetch"]);
        assert_eq!(said.code, 0, "there is no kernel for the guest:\n{}", said.all());
        let said = daemon.script("guest.sh", &["build", &format!("{}/guest", daemon.dir()), files]);
        assert_eq!(said.code, 0, "there is no guest:\n{}", said.all());
        daemon
    }

    /// As [`Libvirtd::start`], with a guest that has no runner in its image and does not hear its power button.
    pub fn with_deaf_guest() -> Self {
        let files = tempfile::tempdir().expect("a folder for the test");
        let etc = files.path().join("etc");
        fs::create_dir(&etc).and_then(|()| fs::write(etc.join("deaf"), "")).expect("the folder is writable");
        Self::start(files.path())
    }

    /// As [`Libvirtd::start`], with a guest that has the simulator's runner in its image.
    pub fn with_runner() -> Self {
        let files = tempfile::tempdir().expect("a folder for the test");
        let runner = files.path().join("opt/actions-runner");
        let run = runner.join("run.sh");
        fs::create_dir_all(&runner).and_then(|()| fs::write(&run, RUN)).expect("the folder is writable");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).expect("a file of the test's own");
        fs::copy(runner_script(), files.path().join("runner.sh")).expect("the runner can be copied");
        Self::start(files.path())
    }

    /// What goes into `backends.<name>.endpoints.libvirt`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("libvirt-sock")
    }

    /// A pool's settings: machines that run their user-data.
    pub fn pool(&self) -> Value {
        json!({
            "base_image": BASE, "network": "none", "cpus": 1, "memory": "192m", "domain_type": "qemu",
            "template": self.template(),
        })
    }

    /// Boots the guest.
    fn template(&self) -> String {
        let template = fs::read_to_string(source_root().join("plugins/libvirt/src/tests/guest.xml"));
        template.expect("the tree has it").replace("GUEST", &format!("{}/guest", self.dir()))
    }

    /// libvirt's own client.
    pub fn virsh(&self, arguments: &[&str]) -> Said {
        let uri = format!("qemu+unix:///session?socket={}/libvirt-sock", self.dir());
        let mut all = vec!["-q", "-c", uri.as_str()];
        all.extend(arguments);
        run("virsh", &all, Path::new("/"))
    }

    /// Machines that are on.
    pub fn machines(&self) -> Vec<String> {
        let said = self.virsh(&["list", "--all", "--name"]);
        assert_eq!(said.code, 0, "the daemon does not list:\n{}", said.all());
        said.out.split_whitespace().map(str::to_owned).collect()
    }

    /// Why a machine is over, as the daemon wrote it down: `shutdown` when it powered itself off, `destroyed` when it was
    /// ended from outside. None while it is on.
    pub fn ending(&self, machine: &str) -> Option<String> {
        let log = self.dir.join(format!("cache/libvirt/qemu/log/{machine}.log"));
        let log = fs::read_to_string(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let (_, reason) = log.rsplit_once("shutting down, reason=")?;
        reason.split_whitespace().next().map(str::to_owned)
    }

    /// What a machine wrote to its serial console. The log goes with the machine's volumes.
    pub fn console(&self, machine: &str) -> String {
        let files = fs::read_dir(self.dir.join("pool")).expect("the pool is a folder").flatten();
        let mut logs = files.map(|file| file.path()).filter(|path| path.to_string_lossy().contains(machine));
        let log =
            logs.find(|path| path.to_string_lossy().ends_with(".console.log")).expect("the machine has a console");
        String::from_utf8_lossy(&fs::read(log).expect("the console can be read")).into_owned()
    }

    /// Machines, and volumes but the base image.
    pub fn left(&self) -> Vec<String> {
        let (machines, volumes) = (self.virsh(&["list", "--all", "--name"]), self.virsh(&["vol-list", "default"]));
        let lines = machines.out.lines().chain(volumes.out.lines()).map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with(BASE)).map(str::to_owned).collect()
    }

    fn dir(&self) -> &str {
        self.dir.to_str().expect("plain names")
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Said {
        let script = source_root().join("tests/engines").join(name);
        let mut words = vec![script.to_str().expect("plain names")];
        words.extend(arguments);
        run("sh", &words, Path::new("/"))
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let said = self.script("libvirtd.sh", &["stop", self.dir()]);
        if said.code != 0 && !std::thread::panicking() {
            panic!("libvirtd does not stop:\n{}", said.all());
        }
    }
}
