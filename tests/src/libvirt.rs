//! A real libvirt daemon of the test's own, without root and hardware, and a tiny guest for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    binaries::source_root,
    process::{Said, run},
};

/// The volume that the machines' disks are copies of.
pub const BASE: &str = "base.qcow2";

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

    /// What goes into `backends.<name>.endpoints.libvirt`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}/libvirt-sock", self.dir())
    }

    /// A pool's setting `template`: boots the guest.
    pub fn template(&self) -> String {
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
