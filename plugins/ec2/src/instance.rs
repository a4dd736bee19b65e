//! An instance as EC2 describes it, and as the host knows it.

use pacer_backend::{
    Instance, InstanceState, Price,
    http::{decode, encode},
    time,
};
use roxmltree::Node;

use crate::api::{items, text};

pub const OWNER: &str = "pacer:owner";
pub const NAME: &str = "pacer:name";
pub const LEASE: &str = "pacer:lease-until";
/// An operator's: the instance is to be kept.
pub const HOLD: &str = "pacer:hold";
/// Before the host's own tags.
pub const TAG: &str = "pacer:tag:";
/// In a handle, where there is no instance.
const NO_ID: &str = "-";
/// What the instance costs an hour, in millionths of a US dollar, as far as the pool's settings tell.
pub const PRICE: &str = "pacer:price";

/// What the host stores: which instance, and what is to be known of it while EC2 does not show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// None where only leftovers are there.
    pub id: Option<String>,
    pub created_at_ms: u64,
    pub owner: String,
    pub name: String,
}

impl Handle {
    /// None for what was not made here.
    pub fn parse(handle: &str) -> Option<Self> {
        let mut parts = handle.split('/');
        let (id, created) = (parts.next()?, parts.next()?);
        let (owner, name) = (decode(parts.next()?)?, decode(parts.next()?)?);
        let plain = id.starts_with("i-") && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let known = (plain || id == NO_ID) && parts.next().is_none() && !owner.is_empty() && !name.is_empty();
        let created_at_ms = created.parse().ok()?;
        known.then(|| Self { id: plain.then(|| id.to_owned()), created_at_ms, owner, name })
    }

    /// An instance of which nothing but this is known.
    pub fn bare(&self, state: InstanceState) -> Instance {
        Instance {
            handle: self.to_string(),
            name: self.name.clone(),
            owner: self.owner.clone(),
            state,
            addresses: vec![],
            created_at_ms: Some(self.created_at_ms).filter(|_| self.id.is_some()),
            lease_until_ms: None,
            hold: false,
            price: None,
            attributes: vec![],
        }
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id.as_deref().unwrap_or(NO_ID);
        write!(f, "{id}/{}/{}/{}", self.created_at_ms, encode(&self.owner), encode(&self.name))
    }
}

/// What EC2 says of an instance.
#[derive(Debug)]
pub struct Seen {
    pub id: String,
    pub owner: String,
    pub name: String,
    pub state: InstanceState,
    /// For good; what is stopped still has its volumes.
    pub is_terminated: bool,
    pub instance_type: Option<String>,
    pub is_spot: bool,
    pub zone: Option<String>,
    pub price: Option<Price>,
    addresses: Vec<String>,
    created_at_ms: u64,
    lease_until_ms: Option<u64>,
    hold: bool,
    tags: Vec<(String, String)>,
}

impl Seen {
    pub fn into_instance(self) -> Instance {
        let handle =
            Handle { id: Some(self.id), created_at_ms: self.created_at_ms, owner: self.owner, name: self.name };
        let mut attributes = self.tags;
        attributes.extend(self.instance_type.map(|kind| ("instance-type".into(), kind)));
        attributes.extend(self.is_spot.then(|| ("market".into(), "spot".into())));
        Instance {
            addresses: self.addresses,
            lease_until_ms: self.lease_until_ms,
            hold: self.hold,
            price: self.price,
            attributes,
            ..handle.bare(self.state)
        }
    }

    /// Whether it is terminated, and there is nothing to tell of how.
    pub fn is_over(&self) -> bool {
        self.is_terminated && matches!(self.state, InstanceState::Stopped)
    }

    /// Whether it may still run a job.
    pub fn is_alive(&self) -> bool {
        matches!(self.state, InstanceState::Creating | InstanceState::Running)
    }
}

/// The instances of an answer, in its reservations or, after a launch, at its top.
pub fn seen(root: Node<'_, '_>) -> Vec<Seen> {
    let lists = root.descendants().filter(|node| node.has_tag_name("instancesSet"));
    lists.flat_map(|list| list.children().filter(|item| item.has_tag_name("item")).filter_map(one)).collect()
}

fn one(item: Node<'_, '_>) -> Option<Seen> {
    let child = |name: &str| item.children().find(|child| child.has_tag_name(name));
    let state = text(child("instanceState")?, "name")?;
    let reason = child("stateReason");
    let reason = reason.map(|node| (text(node, "code").unwrap_or_default(), text(node, "message").unwrap_or_default()));
    let addresses = ["ipAddress", "privateIpAddress"].iter().filter_map(|name| text(item, name));
    let mut seen = Seen {
        state: meaning(&state, reason.as_ref()),
        is_terminated: state == "terminated",
        instance_type: text(item, "instanceType"),
        is_spot: text(item, "instanceLifecycle").is_some_and(|market| market == "spot"),
        zone: child("placement").and_then(|placement| text(placement, "availabilityZone")),
        addresses: addresses.filter(|address| !address.is_empty()).collect(),
        created_at_ms: text(item, "launchTime").and_then(|time| time::milliseconds(&time)).unwrap_or_default(),
        id: text(item, "instanceId")?,
        owner: String::new(),
        name: String::new(),
        price: None,
        lease_until_ms: None,
        hold: false,
        tags: vec![],
    };
    for (key, value) in tags(item) {
        match key.as_str() {
            OWNER => seen.owner = value,
            NAME => seen.name = value,
            LEASE => seen.lease_until_ms = value.parse().ok(),
            HOLD => seen.hold = true,
            PRICE => {
                let micros = value.parse().ok();
                seen.price = micros.map(|micros_per_hour| Price { micros_per_hour, currency: "USD".into() });
            }
            _ => seen.tags.extend(key.strip_prefix(TAG).map(|key| (key.to_owned(), value))),
        }
    }
    Some(seen)
}

/// The tags of anything.
pub fn tags(item: Node<'_, '_>) -> impl Iterator<Item = (String, String)> {
    items(item, "tagSet").into_iter().filter_map(|tag| Some((text(tag, "key")?, text(tag, "value")?)))
}

/// The contract's state. Codes of reasons are from the documentation of `StateReason`.
fn meaning(state: &str, reason: Option<&(String, String)>) -> InstanceState {
    let (code, message) = reason.map_or(("", ""), |(code, message)| (code.as_str(), message.as_str()));
    let said = if message.is_empty() { code } else { message };
    match (state, code) {
        (_, "Server.SpotInstanceTermination" | "Server.SpotInstanceShutdown") => {
            InstanceState::Interrupted(said.into())
        }
        ("pending", _) => InstanceState::Creating,
        ("running", _) => InstanceState::Running,
        ("stopping" | "shutting-down", _) => InstanceState::Stopping,
        // The machine's or somebody's own will; everything else is a reason.
        (
            "stopped" | "terminated",
            "" | "Client.InstanceInitiatedShutdown" | "Client.UserInitiatedShutdown" | "Client.UserInitiatedHibernate",
        ) => InstanceState::Stopped,
        ("stopped" | "terminated", "Server.ScheduledStop") => InstanceState::Interrupted(said.into()),
        ("stopped" | "terminated", _) => InstanceState::Failed(said.into()),
        (other, _) => InstanceState::Failed(format!("EC2 says `{other}`, a state that is not known here")),
    }
}
