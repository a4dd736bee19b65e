//! Settings: their schemas, and what a request for a server is made of.

use std::collections::BTreeMap;

use pacer_backend::{
    Finding, RunnerRequest, log,
    settings::{pointer, schema},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    labels,
    server::{LEASE, OWNER, TAG},
};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Of the project's prices.
    pub currency: String,
    /// With value added tax.
    pub gross: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { currency: "EUR".into(), gross: false }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub server_types: Vec<String>,
    pub image: String,
    #[serde(default)]
    pub locations: Vec<String>,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    #[serde(default)]
    pub networks: Vec<u64>,
    #[serde(default)]
    pub firewalls: Vec<u64>,
    #[serde(default = "yes")]
    pub ipv4: bool,
    #[serde(default = "yes")]
    pub ipv6: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

impl Pool {
    /// Each type in each location, in their order.
    pub fn places(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let anywhere = self.locations.is_empty().then_some(None);
        let locations = move || anywhere.into_iter().chain(self.locations.iter().map(|one| Some(one.as_str())));
        self.server_types.iter().flat_map(move |kind| locations().map(move |location| (kind.as_str(), location)))
    }

    /// The request for a server; what is none is left to Hetzner.
    pub fn body(&self, request: &RunnerRequest<Pool>, data: &str, kind: &str, location: Option<&str>) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(OWNER.to_owned(), request.owner.clone());
        labels.insert(LEASE.to_owned(), request.lease_until_ms.to_string());
        for (key, value) in &request.tags {
            if !labels::put(&mut labels, &format!("{TAG}{key}"), value) {
                log!(Warn, "the tag `{}` cannot be a label and stays away", key; "runner" => request.name);
            }
        }
        let firewalls: Vec<_> = self.firewalls.iter().map(|id| json!({ "firewall": id })).collect();
        let mut body = json!({
            "name": request.name, "server_type": kind, "image": self.image, "user_data": data, "labels": labels,
            "start_after_create": true, "public_net": { "enable_ipv4": self.ipv4, "enable_ipv6": self.ipv6 },
            "location": location, "ssh_keys": self.ssh_keys, "networks": self.networks, "firewalls": firewalls,
        });
        if let Some(all) = body.as_object_mut() {
            all.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
        }
        body
    }

    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.server_types.is_empty() {
            findings.push(Finding::error("/pool/server_types", "is empty: name at least one, such as `cx23`"));
        }
        if !self.ipv4 && !self.ipv6 && self.networks.is_empty() {
            findings.push(Finding::error("/pool/networks", "a server without public addresses needs a network"));
        }
        if self.ssh_keys.is_empty() {
            let why = "without a key Hetzner mails a root password for every server to the account's owner";
            findings.push(Finding::warning("/pool/ssh_keys", why));
        }
        for (key, value) in &self.labels {
            if key.starts_with("pacer") || !labels::is_value(key) || !labels::is_value(value) {
                let message =
                    "is no label of yours to set: at most 63 letters, digits, `.`, `_`, `-`, and not `pacer…`";
                findings.push(Finding::error(pointer(&["pool", "labels", key]), message));
            }
        }
        findings
    }
}

pub fn backend_schema() -> String {
    schema(
        json!({
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "default": "EUR", "description": "Of the project's prices." },
            "gross": { "type": "boolean", "default": false, "description": "Prices with value added tax." },
        }),
        &[],
    )
}

pub fn pool_schema() -> String {
    let strings = |description: &str| json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 20, "uniqueItems": true, "description": description });
    let ids = |description: &str| json!({ "type": "array", "items": { "type": "integer", "minimum": 1 }, "maxItems": 10, "uniqueItems": true, "description": description });
    schema(
        json!({
            "server_types": strings("Best first: the next is tried where one is not to be had."),
            "image": { "type": "string", "minLength": 1, "description": "Name or id of an image or snapshot." },
            "locations": strings("Best first, tried for each type; default: Hetzner's choice."),
            "ssh_keys": strings("Names or ids of SSH keys."),
            "networks": ids("Ids of private networks."),
            "firewalls": ids("Ids of firewalls."),
            "ipv4": { "type": "boolean", "default": true, "description": "A public IPv4 address, which costs extra." },
            "ipv6": { "type": "boolean", "default": true, "description": "A public IPv6 address." },
            "labels": { "type": "object", "additionalProperties": { "type": "string" }, "description": "More labels." },
        }),
        &["server_types", "image"],
    )
}
