//! What the engine says of a container, and the instance it means.

use std::collections::BTreeMap;

use pacer_backend::{Error, Instance, InstanceState, time};
use serde::Deserialize;

/// Whose the container is.
pub const OWNER: &str = "pacer.owner";
/// The runner it was made for.
pub const RUNNER: &str = "pacer.runner";
/// The end of its lease, in milliseconds since the epoch.
pub const LEASE: &str = "pacer.lease-until";
/// Not to be swept.
pub const HOLD: &str = "pacer.hold";
/// The pool's own grace in seconds. Podman says 0 of a container that was made without one, so the engine's word for it
/// cannot be used.
pub const STOP: &str = "pacer.stop-timeout";
/// In front of every label of pacer's.
pub const PREFIX: &str = "pacer.";
/// Characters kept of the engine's reason.
const REASON_MAX: usize = 500;

type Labels = BTreeMap<String, String>;

/// A container as it is inspected.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Seen {
    /// The engine's id.
    pub id: String,
    #[serde(default)]
    created: String,
    config: Config,
    state: State,
    #[serde(default)]
    host_config: HostConfig,
    #[serde(default)]
    network_settings: Option<Networking>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<Labels>,
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    runtime: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Networking {
    networks: Option<BTreeMap<String, Attached>>,
}

#[derive(Deserialize)]
struct Attached {
    #[serde(default, rename = "IPAddress")]
    address: String,
}

/// A container as it is listed: without exit code.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// The engine's id.
    pub id: String,
    labels: Option<Labels>,
    #[serde(default)]
    created: u64,
    #[serde(default)]
    state: String,
}

impl Seen {
    fn label(&self, key: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Whose it is.
    pub fn owner(&self) -> &str {
        self.label(OWNER).unwrap_or_default()
    }

    /// Whether it was made with exactly this variable.
    pub fn has_variable(&self, assignment: &str) -> bool {
        self.config.env.iter().flatten().any(|one| one == assignment)
    }

    /// The runtime that the engine starts it with.
    pub fn runtime(&self) -> &str {
        &self.host_config.runtime
    }

    /// Whether it was made and never started.
    pub fn is_new(&self) -> bool {
        is_new(&self.state.status) && self.state.error.is_empty()
    }

    /// Whether processes of it exist.
    pub fn is_up(&self) -> bool {
        matches!(self.state.status.as_str(), "running" | "paused" | "restarting" | "stopping")
    }

    /// Whether its processes are frozen.
    pub fn is_paused(&self) -> bool {
        self.state.status == "paused"
    }

    /// The pool's own grace, in seconds.
    pub fn stop_timeout(&self) -> Option<u64> {
        self.label(STOP)?.parse().ok()
    }

    pub fn into_instance(self) -> Instance {
        let State { status, exit_code, oom_killed, error } = self.state;
        let mut found = instance(self.id, self.config.labels, &status);
        found.created_at_ms = time::milliseconds(&self.created);
        found.state = state(&status, exit_code, oom_killed, &error);
        let networks = self.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        found.addresses = networks.into_values().map(|one| one.address).filter(|one| !one.is_empty()).collect();
        found
    }
}

impl Listed {
    /// Whose it is.
    pub fn owner(&self) -> &str {
        self.labels.as_ref().and_then(|labels| labels.get(OWNER)).map_or("", String::as_str)
    }

    /// Whether only an inspection tells how it is: its exit code, or why it did not start.
    pub fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "paused" | "restarting" | "stopping" | "removing")
    }

    /// One of which the engine refuses to say more: how it ended, or why it did not start.
    pub fn into_unknown(self, refusal: &Error) -> Instance {
        if is_new(&self.state) {
            return self.into_instance();
        }
        let failed = InstanceState::Failed(format!("it is `{}`; {}", self.state, refusal.message));
        Instance { state: failed, ..self.into_instance() }
    }

    pub fn into_instance(self) -> Instance {
        let mut found = instance(self.id, self.labels, &self.state);
        found.created_at_ms = self.created.checked_mul(1000);
        found.state = state(&self.state, 0, false, "");
        found
    }
}

/// The parts that the labels tell. Labels cannot change, so the way to hold a container that exists is to pause it.
fn instance(id: String, labels: Option<Labels>, status: &str) -> Instance {
    let mut labels = labels.unwrap_or_default();
    labels.remove(STOP);
    let hold = labels.remove(HOLD).is_some_and(|value| value != "false") || status == "paused";
    Instance {
        handle: id,
        name: labels.remove(RUNNER).unwrap_or_default(),
        owner: labels.remove(OWNER).unwrap_or_default(),
        state: InstanceState::Creating,
        addresses: vec![],
        created_at_ms: None,
        lease_until_ms: labels.remove(LEASE).and_then(|value| value.parse().ok()),
        hold,
        price: None,
        attributes: labels
            .into_iter()
            .filter_map(|(key, value)| key.strip_prefix(PREFIX).map(|tag| (tag.to_owned(), value)))
            .collect(),
    }
}

/// Made and not started: Docker's word, then Podman's.
fn is_new(status: &str) -> bool {
    matches!(status, "created" | "configured" | "initialized")
}

fn state(status: &str, code: i64, oom: bool, error: &str) -> InstanceState {
    let reason = |text: String| match error {
        "" => text,
        said => format!("{text}: {}", said.chars().take(REASON_MAX).collect::<String>()),
    };
    match status {
        _ if is_new(status) && !error.is_empty() => InstanceState::Failed(reason("it did not start".into())),
        _ if is_new(status) => InstanceState::Creating,
        "running" | "paused" | "restarting" => InstanceState::Running,
        "removing" | "stopping" => InstanceState::Stopping,
        "exited" | "stopped" if oom => {
            InstanceState::Failed(reason(format!("exit code {code}, killed for exceeding its memory")))
        }
        "exited" | "stopped" if code == 0 => InstanceState::Stopped,
        "exited" | "stopped" => InstanceState::Failed(reason(format!("exit code {code}"))),
        other => InstanceState::Failed(reason(format!("the engine says `{other}`"))),
    }
}
