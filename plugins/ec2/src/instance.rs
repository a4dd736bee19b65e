//! An instance as EC2 describes it, and as the host knows it.

use pacer_backend::{Instance, InstanceState, Price, http::encode, time};
use roxmltree::{Document, Node};

use crate::api::{items, text};

pub const OWNER: &str = "pacer:owner";
pub const NAME: &str = "pacer:name";
pub const LEASE: &str = "pacer:lease-until";
/// An operator's: the instance is to be kept.
pub const HOLD: &str = "pacer:hold";
/// Before the host's own tags.
pub const TAG: &str = "pacer:tag:";
/// Set where a launch template was made for this instance alone.
pub const TEMPLATE: &str = "pacer:template";
/// What the instance costs an hour, in millionths of a US dollar, as far as the pool's settings tell.
pub const PRICE: &str = "pacer:price";

/// What the host stores: which instance, and what is to be known of it while EC2 does not show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    pub id: String,
    pub created_at_ms: u64,
    pub has_template: bool,
    pub owner: String,
    pub name: String,
}

impl Handle {
    /// None for what was not made here.
    pub fn parse(handle: &str) -> Option<Self> {
        let mut parts = handle.split('/');
        let (id, created, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let (owner, name) = (decoded(parts.next()?)?, decoded(parts.next()?)?);
        let plain = id.starts_with("i-") && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let known = plain && parts.next().is_none() && matches!(kind, "i" | "t") && !owner.is_empty();
        let created_at_ms = created.parse().ok()?;
        known.then(|| Self { id: id.to_owned(), created_at_ms, has_template: kind == "t", owner, name })
    }

    /// An instance of which nothing but this is known.
    pub fn not_shown_yet(&self, state: InstanceState) -> Instance {
        Instance {
            handle: self.to_string(),
            name: self.name.clone(),
            owner: self.owner.clone(),
            state,
            addresses: vec![],
            created_at_ms: Some(self.created_at_ms),
            lease_until_ms: None,
            hold: false,
            price: None,
            attributes: vec![],
        }
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.has_template { 't' } else { 'i' };
        write!(f, "{}/{}/{kind}/{}/{}", self.id, self.created_at_ms, encode(&self.owner), encode(&self.name))
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
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
    addresses: Vec<String>,
    created_at_ms: u64,
    lease_until_ms: Option<u64>,
    hold: bool,
    has_template: bool,
    price: Option<u64>,
    attributes: Vec<(String, String)>,
}

impl Seen {
    pub fn into_instance(self) -> Instance {
        let handle = Handle {
            id: self.id,
            created_at_ms: self.created_at_ms,
            has_template: self.has_template,
            owner: self.owner,
            name: self.name,
        };
        Instance {
            handle: handle.to_string(),
            name: handle.name,
            owner: handle.owner,
            state: self.state,
            addresses: self.addresses,
            created_at_ms: Some(self.created_at_ms),
            lease_until_ms: self.lease_until_ms,
            hold: self.hold,
            price: self.price.map(|micros_per_hour| Price { micros_per_hour, currency: "USD".into() }),
            attributes: self.attributes,
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
pub fn seen(document: &Document<'_>) -> Vec<Seen> {
    let lists = document.descendants().filter(|node| node.has_tag_name("instancesSet"));
    lists.flat_map(|list| list.children().filter(|item| item.has_tag_name("item")).filter_map(one)).collect()
}

fn one(item: Node<'_, '_>) -> Option<Seen> {
    let id = text(item, "instanceId")?;
    let child = |name: &str| item.children().find(|child| child.has_tag_name(name));
    let state = text(child("instanceState")?, "name")?;
    let reason = child("stateReason");
    let reason = reason.map(|node| (text(node, "code").unwrap_or_default(), text(node, "message").unwrap_or_default()));
    let mut seen = Seen {
        id,
        owner: String::new(),
        name: String::new(),
        state: meaning(&state, reason.as_ref()),
        is_terminated: state == "terminated",
        addresses: ["ipAddress", "privateIpAddress"]
            .iter()
            .filter_map(|name| text(item, name))
            .filter(|a| !a.is_empty())
            .collect(),
        created_at_ms: text(item, "launchTime").and_then(|time| time::milliseconds(&time)).unwrap_or_default(),
        lease_until_ms: None,
        hold: false,
        has_template: false,
        price: None,
        attributes: vec![],
    };
    seen.attributes.extend(text(item, "instanceType").map(|kind| ("instance-type".into(), kind)));
    seen.attributes.extend(text(item, "instanceLifecycle").filter(|l| !l.is_empty()).map(|l| ("market".into(), l)));
    for tag in items(item, "tagSet") {
        let (Some(key), Some(value)) = (text(tag, "key"), text(tag, "value")) else { continue };
        match key.as_str() {
            OWNER => seen.owner = value,
            NAME => seen.name = value,
            LEASE => seen.lease_until_ms = value.parse().ok(),
            HOLD => seen.hold = true,
            TEMPLATE => seen.has_template = true,
            PRICE => seen.price = value.parse().ok(),
            _ => seen.attributes.extend(key.strip_prefix(TAG).map(|key| (key.to_owned(), value))),
        }
    }
    Some(seen)
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
