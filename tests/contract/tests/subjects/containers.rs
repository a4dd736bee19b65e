//! Docker and Podman, each in a private engine of its own.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::ensure;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Grace, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_tests::{
    binaries::source_root,
    daemon::{Daemon, run},
    world::{World, runner_script},
};
use serde_json::{Value, json};

use crate::scenarios::Place;

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of the machines: a busybox, and the simulator's runner.
const IMAGE: &str = "localhost/pacer-contract:latest";

/// An engine for one run.
pub struct Containers {
    name: &'static str,
    daemon: Daemon,
}

struct Direct {
    socket: PathBuf,
}

impl Containers {
    /// Why there is none, if there is none.
    pub fn start(name: &'static str, script: &str) -> Result<Self, String> {
        let daemon = Daemon::start(script)?;
        let files = tempfile::tempdir().map_err(|error| error.to_string())?;
        fs::copy(runner_script(), files.path().join("runner.sh")).map_err(|error| error.to_string())?;
        let image = source_root().join("tests/engines/image.sh");
        run(Command::new("sh").arg(image).arg(daemon.socket()).arg(IMAGE).arg(files.path()))?;
        Ok(Self { name, daemon })
    }

    pub fn subject(&self) -> Subject {
        Subject {
            name: self.name.to_owned(),
            component: super::component("docker"),
            settings: json!({}),
            pool: pool(&["sleep", "3600"]),
            endpoint: Endpoint {
                name: "engine".to_owned(),
                target: Target::Unix(self.daemon.socket().to_owned()),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({}),
            },
            bootstrap: BootstrapKind::JitConfig,
            runs: true,
            patience: PATIENCE,
            crowd: 5,
            pages: false,
            uses_up_names: false,
            grace: Some(Grace {
                listens: pool(&["sh", "-c", "trap 'exit 0' TERM; echo it listens; while :; do sleep 0.1; done"]),
                // What a kernel's first process does not trap it does not get.
                deaf: pool(&["sleep", "3600"]),
                ready: "it listens".to_owned(),
            }),
            at_once: 4,
            refusals: Refusal::of_json(),
            engine: Box::new(Direct { socket: self.daemon.socket().to_owned() }),
        }
    }
}

/// Machines that do this.
fn pool(command: &[&str]) -> Value {
    json!({ "image": IMAGE, "pull": "never", "network": "none", "command": command })
}

impl Place for Containers {
    fn subject(&self) -> Subject {
        Containers::subject(self)
    }

    fn pool(&self, _world: &World) -> Value {
        json!({ "image": IMAGE, "pull": "never", "network": "host", "command": ["/bin/sh", "/runner.sh"] })
    }

    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()> {
        Direct { socket: self.daemon.socket().to_owned() }.docker(&["kill", machine]).map(drop)
    }
}

impl Direct {
    fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn lines(&self, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        Ok(self.docker(arguments)?.lines().map(str::to_owned).collect())
    }
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        self.lines(&["ps", "--all", "--filter", &format!("label=pacer.owner={owner}"), "--format", "{{.Names}}"])
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.docker(&["run", "--detach", "--network", "none", "--name", name, IMAGE, "sleep", "3600"]).map(drop)
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.docker(&["rm", "--force", name]).map(drop)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for (what, arguments) in [
            ("container", ["ps", "--all", "--format", "{{.Names}}"].as_slice()),
            ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
            ("network", &["network", "ls", "--format", "{{.Name}}"]),
        ] {
            all.extend(self.lines(arguments)?.into_iter().map(|name| format!("{what} {name}")));
        }
        Ok(all)
    }
}
