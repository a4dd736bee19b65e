//! A server as Hetzner describes it, and as the host knows it.

use std::collections::BTreeMap;

use pacer_backend::{Instance, InstanceState, Price, time};
use serde::Deserialize;

use crate::{
    labels::{self, HOLD, LEASE, OWNER, TAG},
    settings::Settings,
};

#[derive(Deserialize)]
pub struct Made {
    pub server: Server,
}

#[derive(Deserialize)]
pub struct One {
    pub server: Server,
}

#[derive(Deserialize)]
pub struct Servers {
    pub servers: Vec<Server>,
    pub meta: Option<Meta>,
}

#[derive(Deserialize)]
pub struct Meta {
    pub pagination: Pagination,
}

#[derive(Deserialize)]
pub struct Pagination {
    pub next_page: Option<u32>,
}

#[derive(Deserialize)]
pub struct Types {
    pub server_types: Vec<ServerType>,
}

#[derive(Deserialize)]
pub struct ServerType {
    pub name: String,
    #[serde(default)]
    prices: Vec<LocationPrice>,
}

#[derive(Deserialize)]
struct LocationPrice {
    location: String,
    price_hourly: Amount,
}

/// Decimal numbers in texts.
#[derive(Deserialize)]
struct Amount {
    net: String,
    gross: String,
}

impl ServerType {
    fn price(&self, settings: &Settings, fits: impl Fn(&str) -> bool) -> Option<Price> {
        let prices = self.prices.iter().filter(|price| fits(&price.location));
        let amounts =
            prices.map(|price| if settings.gross { &price.price_hourly.gross } else { &price.price_hourly.net });
        amounts
            .filter_map(|amount| Price::per_hour(amount, &settings.currency))
            .max_by_key(|price| price.micros_per_hour)
    }

    /// In the dearest of these locations; of all where none is named.
    pub fn highest_price(&self, locations: &[String], settings: &Settings) -> Option<Price> {
        self.price(settings, |location| locations.is_empty() || locations.iter().any(|one| one == location))
    }
}

#[derive(Deserialize)]
pub struct Server {
    id: u64,
    pub name: String,
    status: String,
    created: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    public_net: Option<PublicNet>,
    #[serde(default)]
    private_net: Vec<Address>,
    server_type: Option<ServerType>,
    datacenter: Option<Datacenter>,
    location: Option<Named>,
}

#[derive(Deserialize)]
struct PublicNet {
    ipv4: Option<Address>,
    ipv6: Option<Address>,
}

#[derive(Deserialize)]
struct Address {
    ip: String,
}

#[derive(Deserialize)]
struct Datacenter {
    location: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Server {
    pub fn owner(&self) -> Option<&str> {
        self.labels.get(OWNER).map(String::as_str)
    }

    pub fn is_up(&self) -> bool {
        matches!(self.status.as_str(), "running" | "initializing" | "starting" | "stopping")
    }

    pub fn is_being_deleted(&self) -> bool {
        self.status == "deleting"
    }

    fn state(&self) -> InstanceState {
        match self.status.as_str() {
            "initializing" | "starting" => InstanceState::Creating,
            // Moved or rebuilt by hand: it is somebody's and it is there.
            "running" | "migrating" | "rebuilding" => InstanceState::Running,
            "stopping" | "deleting" => InstanceState::Stopping,
            "off" => InstanceState::Stopped,
            other => InstanceState::Failed(format!("Hetzner says `{other}`")),
        }
    }

    pub fn into_instance(self, settings: &Settings) -> Instance {
        let state = self.state();
        let location = self.location.or(self.datacenter.map(|datacenter| datacenter.location)).map(|named| named.name);
        let price =
            self.server_type.as_ref().and_then(|kind| kind.price(settings, |one| location.as_deref() == Some(one)));
        let public = self.public_net.map(|net| [net.ipv4, net.ipv6]).into_iter().flatten().flatten();
        let mut attributes: Vec<_> = self
            .labels
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(TAG)?.to_owned(), labels::decode(value))))
            .collect();
        attributes.extend(self.server_type.map(|kind| ("server-type".to_owned(), kind.name)));
        attributes.extend(location.map(|location| ("location".to_owned(), location)));
        Instance {
            handle: self.id.to_string(),
            name: self.name,
            owner: self.labels.get(OWNER).cloned().unwrap_or_default(),
            state,
            addresses: self.private_net.into_iter().chain(public).map(|address| address.ip).collect(),
            created_at_ms: time::milliseconds(&self.created),
            lease_until_ms: self.labels.get(LEASE).and_then(|lease| lease.parse().ok()),
            hold: self.labels.contains_key(HOLD),
            price,
            attributes,
        }
    }
}
