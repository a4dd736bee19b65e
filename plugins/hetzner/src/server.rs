//! A server as Hetzner describes it, and as the host knows it.

use std::collections::BTreeMap;

use pacer_backend::{Instance, InstanceState, Price, time};
use serde_json::Value;

use crate::{api::not_the_api, labels, settings::Settings};

pub const OWNER: &str = "pacer-owner";
pub const LEASE: &str = "pacer-lease-until-ms";
/// An operator's: the server is to be kept.
pub const HOLD: &str = "pacer.hold";
/// Before the host's own tags.
pub const TAG: &str = "pacer-tag.";

pub struct Server {
    id: u64,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    status: String,
    rest: Value,
}

impl Server {
    pub fn read(server: &Value) -> Result<Self, pacer_backend::Error> {
        let text = |key: &str| server[key].as_str().map(str::to_owned).ok_or_else(|| not_the_api(key));
        let labels = server["labels"].as_object().into_iter().flatten();
        Ok(Self {
            id: server["id"].as_u64().ok_or_else(|| not_the_api("id"))?,
            name: text("name")?,
            status: text("status")?,
            labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            rest: server.clone(),
        })
    }

    pub fn is_up(&self) -> bool {
        matches!(self.status.as_str(), "running" | "initializing" | "starting" | "stopping")
    }

    pub fn is_being_deleted(&self) -> bool {
        self.status == "deleting"
    }

    pub fn into_instance(self, settings: &Settings) -> Instance {
        let state = match self.status.as_str() {
            "initializing" | "starting" => InstanceState::Creating,
            // Moved or rebuilt by hand: it is somebody's and it is there.
            "running" | "migrating" | "rebuilding" => InstanceState::Running,
            "stopping" | "deleting" => InstanceState::Stopping,
            "off" => InstanceState::Stopped,
            other => InstanceState::Failed(format!("Hetzner says `{other}`")),
        };
        let (kind, net) = (&self.rest["server_type"], &self.rest["public_net"]);
        // In the datacenter where the description is older than 2026.
        let places = [&self.rest["location"]["name"], &self.rest["datacenter"]["location"]["name"]];
        let location = places.into_iter().find_map(Value::as_str);
        let private = self.rest["private_net"].as_array().into_iter().flatten();
        let addresses = private.chain([&net["ipv4"], &net["ipv6"]]).filter_map(|one| one["ip"].as_str());
        let mut attributes: Vec<_> = labels::read(&self.labels, TAG).into_iter().collect();
        attributes.extend(kind["name"].as_str().map(|name| ("server-type".to_owned(), name.to_owned())));
        attributes.extend(location.map(|location| ("location".to_owned(), location.to_owned())));
        Instance {
            handle: self.id.to_string(),
            owner: self.labels.get(OWNER).cloned().unwrap_or_default(),
            state,
            addresses: addresses.map(str::to_owned).collect(),
            created_at_ms: self.rest["created"].as_str().and_then(time::milliseconds),
            lease_until_ms: self.labels.get(LEASE).and_then(|lease| lease.parse().ok()),
            hold: self.labels.contains_key(HOLD),
            price: price(kind, settings, |one| location == Some(one)),
            attributes,
            name: self.name,
        }
    }
}

/// What a server type costs in the dearest of the locations that fit.
pub fn price(kind: &Value, settings: &Settings, fits: impl Fn(&str) -> bool) -> Option<Price> {
    let amount = if settings.gross { "gross" } else { "net" };
    let prices = kind["prices"].as_array()?.iter().filter(|price| price["location"].as_str().is_some_and(&fits));
    prices
        .filter_map(|price| Price::per_hour(price["price_hourly"][amount].as_str()?, &settings.currency))
        .max_by_key(|price| price.micros_per_hour)
}
