//! What Incus says of an instance, and what it means to pacer.

use std::collections::BTreeMap;

use pacer_backend::{Instance, InstanceState, time};
use serde::Deserialize;

/// Whose the instance is.
pub const OWNER: &str = "user.pacer.owner";
/// The runner it was made for.
pub const RUNNER: &str = "user.pacer.runner";
/// The end of its lease, in milliseconds since the epoch.
pub const LEASE: &str = "user.pacer.lease-until";
/// Not to be swept.
pub const HOLD: &str = "user.pacer.hold";
/// In front of every key of pacer's.
pub const PREFIX: &str = "user.pacer.";

/// An instance.
#[derive(Deserialize)]
pub struct Seen {
    /// Its name.
    pub name: String,
    status: String,
    /// Its own configuration, without its profiles'.
    config: BTreeMap<String, String>,
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    last_used_at: String,
}

/// How it is at the moment.
#[derive(Deserialize)]
pub struct State {
    network: Option<BTreeMap<String, Interface>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
    scope: String,
}

impl State {
    /// Those that others can reach it at.
    pub fn addresses(self) -> Vec<String> {
        let interfaces = self.network.unwrap_or_default().into_values();
        let all = interfaces.flat_map(|interface| interface.addresses);
        all.filter(|one| one.scope == "global").map(|one| one.address).collect()
    }
}

impl Seen {
    /// Whose it is; empty for what is not pacer's.
    pub fn owner(&self) -> &str {
        self.config.get(OWNER).map_or("", String::as_str)
    }

    /// Whether it was made and never started.
    pub fn is_new(&self) -> bool {
        self.status == "Stopped" && time::milliseconds(&self.last_used_at).is_none_or(|at| at == 0)
    }

    /// Whether processes of it exist.
    pub fn is_up(&self) -> bool {
        !matches!(self.status.as_str(), "Stopped" | "Error")
    }

    /// Whether its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        matches!(self.status.as_str(), "Frozen" | "Freezing")
    }

    pub fn into_instance(mut self) -> Instance {
        let state = match self.status.as_str() {
            "Stopped" if self.is_new() => InstanceState::Creating,
            // Incus keeps no exit code.
            "Stopped" => InstanceState::Stopped,
            "Starting" => InstanceState::Creating,
            "Running" | "Frozen" | "Freezing" | "Thawed" | "Ready" => InstanceState::Running,
            "Stopping" | "Aborting" => InstanceState::Stopping,
            other => InstanceState::Failed(format!("incus says `{other}`; see `incus info --show-log {}`", self.name)),
        };
        let hold = self.config.remove(HOLD).is_some_and(|value| value != "false") || self.is_frozen();
        Instance {
            handle: self.name.clone(),
            owner: self.config.remove(OWNER).unwrap_or_default(),
            name: self.config.remove(RUNNER).unwrap_or(self.name),
            state,
            addresses: vec![],
            created_at_ms: time::milliseconds(&self.created_at),
            lease_until_ms: self.config.remove(LEASE).and_then(|value| value.parse().ok()),
            hold,
            price: None,
            attributes: (self.config.into_iter())
                .filter_map(|(key, value)| key.strip_prefix(PREFIX).map(|tag| (tag.to_owned(), value)))
                .collect(),
        }
    }
}
