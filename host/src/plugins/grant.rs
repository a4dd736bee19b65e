//! What backends are granted, for people: where each endpoint leads, and how the host proves who asks there. Never what
//! it proves it with.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::{PluginError, egress::Egress, model::EndpointRequest};
use crate::{clock::SharedClock, config::Config, routing::BackendName};

/// An endpoint that is granted, asked for, or both.
#[derive(Debug, Clone, Serialize)]
pub struct Grant {
    pub endpoint: String,
    /// Where it leads; none when it is asked for and not granted. Without secrets.
    pub target: Option<String>,
    /// What the host proves its identity with there, each by its kind. A component sees none of it.
    pub credentials: Vec<&'static str>,
    /// The proxy on the way there.
    pub proxy: Option<String>,
    /// What the component wants it for; none when it does not ask for it.
    pub purpose: Option<String>,
    pub required: bool,
    /// Whoever may use it controls the machine behind it, as root.
    pub root_equivalent: bool,
}

impl Grant {
    /// How it is reached and as whom, for people; empty where nothing is to be said.
    pub fn manner(&self) -> String {
        let credentials = (!self.credentials.is_empty()).then(|| format!(" with {}", self.credentials.join(" and ")));
        let proxy = self.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}"));
        credentials.unwrap_or_default() + &proxy.unwrap_or_default()
    }
}

/// What a backend is granted and what its component wants, each once.
pub(super) fn grants(egress: &Egress, wanted: &[EndpointRequest]) -> Vec<Grant> {
    let mut grants: Vec<Grant> = egress
        .grants()
        .map(|granted| {
            let asked = wanted.iter().find(|asked| asked.name == granted.name.as_str());
            Grant {
                endpoint: granted.name.to_string(),
                target: Some(granted.target.to_owned()),
                credentials: granted.credentials.to_vec(),
                proxy: granted.proxy,
                purpose: asked.map(|asked| asked.purpose.clone()),
                required: asked.is_some_and(|asked| asked.required),
                root_equivalent: is_root_equivalent(granted.target),
            }
        })
        .collect();
    let is_granted = |name: &str| egress.grants().any(|granted| granted.name.as_str() == name);
    grants.extend(wanted.iter().filter(|asked| !is_granted(&asked.name)).map(|asked| Grant {
        endpoint: asked.name.clone(),
        target: None,
        credentials: Vec::new(),
        proxy: None,
        purpose: Some(asked.purpose.clone()),
        required: asked.required,
        root_equivalent: false,
    }));
    grants
}

/// What the backends that use a plugin are granted, by backend. Nothing is connected to.
pub fn granted(
    config: &Config,
    plugin: &str,
    wanted: &[EndpointRequest],
    clock: &SharedClock,
) -> Result<BTreeMap<BackendName, Vec<Grant>>, PluginError> {
    let users = config.backends.values().filter(|backend| backend.plugin == plugin);
    users
        .map(|backend| {
            let egress = Egress::new(backend, clock, TaskTracker::new())?;
            Ok((backend.name.clone(), grants(&egress, wanted)))
        })
        .collect()
}

/// Sockets whose owner is root on that machine to whoever may use them.
fn is_root_equivalent(target: &str) -> bool {
    ["docker.sock", "podman.sock", "containerd.sock", "libvirt-sock", "incus", "lxd"]
        .iter()
        .any(|name| target.contains(name))
}
