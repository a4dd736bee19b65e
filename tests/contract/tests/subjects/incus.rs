//! A private Incus with system containers.

use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use anyhow::ensure;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_tests::binaries::source_root;
use serde_json::{Value, json};

use super::daemon::{Daemon, run};

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of the machines: a busybox whose first process waits to be stopped.
const IMAGE: &str = "pacer-contract";

/// A server for one run.
pub struct Incus(Daemon);

struct Direct {
    socket: PathBuf,
    /// The client's own settings, away from the caller's.
    client: tempfile::TempDir,
}

impl Incus {
    /// Why there is none, if there is none.
    pub fn start() -> Result<Self, String> {
        let daemon = Daemon::start("incusd.sh")?;
        let script = source_root().join("tests/engines/incus-image.sh");
        run(Command::new("sh").arg(script).arg(daemon.socket()).arg(IMAGE))?;
        Ok(Self(daemon))
    }

    pub fn subject(&self) -> Subject {
        let socket = self.0.socket().to_owned();
        Subject {
            name: "incus".to_owned(),
            component: super::component("incus"),
            settings: json!({}),
            pool: json!({ "image": IMAGE }),
            endpoint: Endpoint {
                name: "incus".to_owned(),
                target: Target::Unix(socket.clone()),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({}),
            },
            bootstrap: BootstrapKind::JitConfig,
            runs: true,
            patience: PATIENCE,
            crowd: 3,
            at_once: 3,
            refusals: Refusal::of_http("application/json", |status| {
                let error = format!("refused with {status}");
                json!({ "type": "error", "error": error, "error_code": status }).to_string()
            }),
            engine: Box::new(Direct { socket, client: tempfile::tempdir().expect("a folder for the client") }),
        }
    }
}

impl Direct {
    fn incus(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("incus")
            .env("INCUS_SOCKET", &self.socket)
            .env("INCUS_CONF", self.client.path())
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "incus {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn query(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.incus(&["query", path])?)?)
    }
}

fn name(one: &Value) -> String {
    one["name"].as_str().unwrap_or_default().to_owned()
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        let all = self.query("/1.0/instances?recursion=1")?;
        Ok(all.iter().filter(|one| one["config"]["user.pacer.owner"] == owner).map(name).collect())
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.incus(&["launch", IMAGE, name, "--quiet"]).map(drop)
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.incus(&["delete", "--force", name]).map(drop)
    }

    fn hold(&self, name: &str) -> anyhow::Result<bool> {
        self.incus(&["config", "set", name, "user.pacer.hold=true"])?;
        Ok(true)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        let instances = self.query("/1.0/instances?recursion=1")?;
        let volumes = self.query("/1.0/storage-pools/default/volumes?recursion=1")?;
        // An image is unpacked into a volume when it is first used, and stays there for the next.
        let volumes = volumes.iter().filter(|one| one["type"] != "image");
        let named = instances.iter().map(|one| format!("instance {}", name(one)));
        Ok(named.chain(volumes.map(|one| format!("volume {}", name(one)))).collect())
    }
}
