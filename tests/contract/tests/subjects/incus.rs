//! A private Incus with system containers.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

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
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, UnixListener},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::scenarios::Place;

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of the machines: a busybox whose first process waits to be stopped.
const IMAGE: &str = "pacer-contract";
/// The same, and it does not listen.
const DEAF_IMAGE: &str = "pacer-contract-deaf";

/// The image of the machines that run the simulator's runner.
const RUNNER_IMAGE: &str = "pacer-contract-runner";

/// What such a machine does: nothing outside can be reached but by what a proxy device shows on its loopback.
const START: &str = "ifconfig lo 127.0.0.1 up
until grep -q ' 0100007F:' /proc/net/tcp; do sleep 0.1; done
. /etc/pacer-runner.env
export ACTIONS_RUNNER_INPUT_JITCONFIG
sh /runner.sh
exit $?
";

/// A server for one run.
pub struct Incus {
    daemon: Daemon,
    /// Sockets in front of GitHubs; what forwards ends with it.
    folder: tempfile::TempDir,
    forwarders: Forwarders,
}

/// Tasks that end with this value.
#[derive(Default)]
struct Forwarders {
    tasks: TaskTracker,
    ending: CancellationToken,
}

impl Drop for Forwarders {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

struct Direct {
    socket: PathBuf,
    /// The client's own settings, away from the caller's.
    client: tempfile::TempDir,
}

impl Incus {
    /// Why there is none, if there is none.
    pub fn start() -> Result<Self, String> {
        let daemon = Daemon::start("incusd.sh")?;
        let image = |alias: &str, more: &[&Path]| {
            let script = source_root().join("tests/engines/incus-image.sh");
            run(Command::new("sh").arg(script).arg(daemon.socket()).arg(alias).args(more))
        };
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let root = folder.path().join("root");
        let starts_with = |start: &str| {
            let made = fs::create_dir_all(root.join("etc")).and_then(|()| fs::write(root.join("etc/start"), start));
            made.map_err(|error| error.to_string())
        };
        for (name, start) in
            [(IMAGE, "echo it listens\n"), (DEAF_IMAGE, "trap '' PWR INT TERM\n"), (RUNNER_IMAGE, START)]
        {
            starts_with(start)?;
            if name == RUNNER_IMAGE {
                fs::copy(runner_script(), root.join("runner.sh")).map_err(|error| error.to_string())?;
            }
            image(name, &[&root])?;
        }
        let forwarders = Forwarders::default();
        Ok(Self { daemon, folder, forwarders })
    }

    pub fn subject(&self) -> Subject {
        let socket = self.daemon.socket().to_owned();
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
            pages: false,
            uses_up_names: false,
            grace: Some(Grace {
                listens: json!({ "image": IMAGE }),
                deaf: json!({ "image": DEAF_IMAGE }),
                ready: "it listens".to_owned(),
            }),
            at_once: 3,
            refusals: Refusal::of_http("application/json", |status| {
                let error = format!("refused with {status}");
                json!({ "type": "error", "error": error, "error_code": status }).to_string()
            }),
            engine: Box::new(Direct { socket, client: tempfile::tempdir().expect("a folder for the client") }),
        }
    }
}

impl Place for Incus {
    fn subject(&self) -> Subject {
        Incus::subject(self)
    }

    fn pool(&self, world: &World) -> Value {
        let url = world.simulator.github_url.trim_start_matches("http://").to_owned();
        let port = url.rsplit(':').next().expect("it has a port").to_owned();
        let socket = self.folder.path().join(&port);
        let listener = UnixListener::bind(&socket).expect("every GitHub has a port of its own");
        let (tasks, ending) = (self.forwarders.tasks.clone(), self.forwarders.ending.clone());
        tasks.clone().spawn(async move {
            while let Some(Ok((mut near, _))) = ending.run_until_cancelled(listener.accept()).await {
                let (url, ending) = (url.clone(), ending.clone());
                tasks.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(&url).await else { return };
                    ending.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await;
                });
            }
        });
        let github = json!({
            "type": "proxy", "bind": "instance", "listen": format!("tcp:127.0.0.1:{port}"),
            "connect": format!("unix:{}", socket.display()),
        });
        json!({ "image": RUNNER_IMAGE, "devices": { "github": github } })
    }

    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()> {
        let client = tempfile::tempdir()?;
        Direct { socket: self.daemon.socket().to_owned(), client }.incus(&["stop", "--force", machine]).map(drop)
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
