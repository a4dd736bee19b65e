//! Hetzner Cloud's servers, as their API's published description has them.
//!
//! Fields and their types, names, labels, states, locks, paging, limits, refusals. No machine is behind them, and what the
//! description leaves open is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whether a value is one that a field takes.
type Fits = fn(&Value) -> bool;

/// What a request for a server may hold.
const FIELDS: [(&str, Fits); 15] = [
    ("automount", Value::is_boolean),
    ("datacenter", Value::is_string),
    ("firewalls", |all| each(all, |one| one.as_object().is_some_and(|one| one.len() == 1 && one["firewall"].is_u64()))),
    ("image", Value::is_string),
    ("labels", |all| all.as_object().is_some_and(|all| all.iter().all(|(key, value)| is_label(key, value)))),
    ("location", Value::is_string),
    ("name", |name| name.as_str().is_some_and(is_host_name)),
    ("networks", |all| each(all, Value::is_u64)),
    ("placement_group", Value::is_u64),
    ("public_net", is_public_net),
    ("server_type", Value::is_string),
    ("ssh_keys", |all| each(all, Value::is_string)),
    ("start_after_create", Value::is_boolean),
    ("user_data", |data| data.as_str().is_some_and(|data| data.len() <= USER_DATA_MAX)),
    ("volumes", |all| each(all, Value::is_u64)),
];
const USER_DATA_MAX: usize = 32 * 1024;
/// Server types, and where there are any.
const TYPES: [(&str, &[&str]); 3] =
    [("cx23", &["fsn1", "nbg1", "hel1"]), ("cpx22", &["fsn1", "nbg1", "ash"]), ("cpx11", &["ash"])];

fn each(list: &Value, fits: Fits) -> bool {
    list.as_array().is_some_and(|list| list.iter().all(fits))
}

/// As RFC 1123 has it.
fn is_host_name(name: &str) -> bool {
    let part = |part: &str| {
        let inner = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !part.is_empty() && part.len() <= 63 && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label(key: &str, value: &Value) -> bool {
    is_value(key) && value.as_str().is_some_and(|value| value.is_empty() || is_value(value))
}

fn is_public_net(net: &Value) -> bool {
    let fits = |(key, value): (&String, &Value)| match key.as_str() {
        "enable_ipv4" | "enable_ipv6" => value.is_boolean(),
        "ipv4" | "ipv6" => value.is_u64() || value.is_null(),
        _ => false,
    };
    net.as_object().is_some_and(|net| net.iter().all(fits))
}

/// A server.
#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    kind: String,
    location: String,
    pub status: &'static str,
    pub labels: BTreeMap<String, String>,
    pub user_data: String,
    created: String,
    /// Actions of it that are refused because another one is under way.
    locked: usize,
    firewalls: Value,
}

#[derive(Debug, Default)]
struct Inner {
    machines: BTreeMap<u64, Machine>,
    last: u64,
    full: BTreeSet<(String, String)>,
    shut_down: Vec<String>,
    refuse: Option<(u16, String)>,
    /// In how many seconds the limit of requests is full again.
    full_again: u64,
}

/// The project that the servers are in.
#[derive(Debug, Clone, Default)]
pub struct Hetzner(Arc<Mutex<Inner>>);

type Answer = Result<(u16, Value), (u16, &'static str)>;

impl Hetzner {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every server, by its id.
    pub fn machines(&self) -> BTreeMap<u64, Machine> {
        let mut inner = self.inner();
        inner.tick();
        inner.machines.clone()
    }

    /// A type that a location has no room for.
    pub fn full(&self, kind: &str, location: &str) {
        self.inner().full.insert((kind.into(), location.into()));
    }

    /// From now on this instead of any answer; a body that is not the API's without a code.
    pub fn refuse(&self, status: u16, code: &str) {
        self.inner().refuse = Some((status, code.into()));
    }

    /// The next actions of a server find another one under way.
    pub fn lock(&self, id: u64, times: usize) {
        if let Some(machine) = self.inner().machines.get_mut(&id) {
            machine.locked = times;
        }
    }

    /// When the limit of requests is full again, as every answer says.
    pub fn full_again_in(&self, seconds: u64) {
        self.inner().full_again = seconds;
    }

    pub fn label(&self, id: u64, key: &str, value: &str) {
        if let Some(machine) = self.inner().machines.get_mut(&id) {
            machine.labels.insert(key.into(), value.into());
        }
    }

    /// Ids, as often as it was asked.
    pub fn asked_to_shut_down(&self) -> Vec<String> {
        self.inner().shut_down.clone()
    }

    /// A server of nobody's.
    pub fn stranger(&self, name: &str) -> u64 {
        let labels = BTreeMap::from([("pacer".to_owned(), "no".to_owned())]);
        let (kind, location) = ("cx23".to_owned(), "fsn1".to_owned());
        let machine = Machine {
            name: name.into(),
            kind,
            location,
            status: "running",
            labels,
            user_data: String::new(),
            created: now(),
            locked: 0,
            firewalls: json!([]),
        };
        self.inner().add(machine)
    }

    /// What becomes of a server without anybody asking: it powers off, or is gone.
    pub fn power_off(&self, id: u64) {
        if let Some(machine) = self.inner().machines.get_mut(&id) {
            machine.status = "off";
        }
    }

    pub fn remove(&self, id: u64) {
        self.inner().machines.remove(&id);
    }

    /// Answers a request: the status, what it says of the limit of requests, and the body.
    pub fn answer(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<(String, String)>, String) {
        let mut inner = self.inner();
        let full_again = crate::github::now().as_second().unsigned_abs() + inner.full_again;
        let limits = [("RateLimit-Limit", 3600), ("RateLimit-Remaining", 3600 - inner.full_again.min(3600))];
        let limits = limits.into_iter().chain([("RateLimit-Reset", full_again)]);
        let headers = limits.map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        if let Some((status, code)) = inner.refuse.clone() {
            let error = json!({ "error": { "code": code, "message": "no" } });
            return (status, headers, if code.is_empty() { "<html>".to_owned() } else { error.to_string() });
        }
        if method == "GET" {
            inner.tick();
        }
        match inner.answer(method, path, body) {
            Ok((status, body)) => (status, headers, body.to_string()),
            Err((status, code)) => {
                let error = json!({ "error": { "code": code, "message": format!("because of {code}") } });
                (status, headers, error.to_string())
            }
        }
    }

    /// Serves the API on a port of the loopback until the token is cancelled. Whoever asks needs a bearer token.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn serve(&self, tasks: &TaskTracker, ending: CancellationToken) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(over_http).with_state(self.clone());
        tasks.spawn(async move {
            // It ends with the token; a server on the loopback has no other end.
            let _ = axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned()).await;
        });
        Ok(address)
    }
}

async fn over_http(
    State(hetzner): State<Hetzner>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !bearer.is_some_and(|value| value.starts_with("Bearer ")) {
        let error = json!({ "error": { "code": "unauthorized", "message": "unable to authenticate" } });
        return (StatusCode::UNAUTHORIZED, Json(error)).into_response();
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (status, limits, body) = hetzner.answer(method.as_str(), path, &body);
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let limits = limits.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
    response.headers_mut().extend(limits.map(|(name, value): (HeaderName, HeaderValue)| (name, value)));
    response
}

/// In the form of the API's own examples.
fn now() -> String {
    crate::github::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

/// What Hetzner takes as the value of a label.
fn is_value(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl Inner {
    fn add(&mut self, machine: Machine) -> u64 {
        self.last += 1;
        self.machines.insert(self.last, machine);
        self.last
    }

    fn kind(name: &str) -> Value {
        let price = |location: &&str| {
            let (net, gross) =
                if *location == "fsn1" { ("0.0056000000", "0.0066640000000000") } else { ("0.0059", "0.0070") };
            json!({ "location": location, "price_hourly": { "net": net, "gross": gross } })
        };
        let places = TYPES.iter().find(|(one, _)| *one == name).map_or(&[][..], |(_, places)| *places);
        json!({ "id": 1, "name": name, "prices": places.iter().map(price).collect::<Vec<_>>() })
    }

    fn shown(id: u64, machine: &Machine) -> Value {
        json!({
            "id": id, "name": machine.name, "status": machine.status, "created": machine.created, "locked": machine.locked > 0,
            "labels": machine.labels, "server_type": Self::kind(&machine.kind), "private_net": [],
            "public_net": { "ipv4": { "ip": "192.0.2.7" }, "ipv6": null, "firewalls": machine.firewalls },
            "datacenter": { "location": { "name": machine.location } },
        })
    }

    fn create(&mut self, body: &Value) -> Answer {
        let object = body.as_object().ok_or((400, "json_error"))?;
        let fits = |(key, value): (&String, &Value)| FIELDS.iter().any(|(name, fits)| key == name && fits(value));
        let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(name), Some(kind), Some(_)) = (text("name"), text("server_type"), text("image")) else {
            return Err((422, "invalid_input"));
        };
        let places = TYPES.iter().find(|(name, _)| *name == kind).map(|(_, places)| *places);
        let location = text("location").or_else(|| places?.first().copied());
        // A type that does not exist, a location that does not exist, and a pair that does not exist are refused alike.
        let exists = location.is_some_and(|place| places.is_some_and(|places| places.contains(&place)));
        let (Some(location), true, true) = (location, exists, object.iter().all(fits)) else {
            return Err((422, "invalid_input"));
        };
        if self.machines.values().any(|machine| machine.name == name) {
            return Err((409, "uniqueness_error"));
        }
        if self.full.contains(&(kind.to_owned(), location.to_owned())) {
            return Err((412, "resource_unavailable"));
        }
        let applied = object.get("firewalls").and_then(Value::as_array).into_iter().flatten();
        let applied = applied.map(|one| json!({ "id": one["firewall"], "status": "pending" }));
        let machine = Machine {
            name: name.to_owned(),
            kind: kind.to_owned(),
            location: location.to_owned(),
            status: "initializing",
            labels: serde_json::from_value(object.get("labels").cloned().unwrap_or_else(|| json!({})))
                .map_err(|_| (422, "invalid_input"))?,
            user_data: text("user_data").unwrap_or_default().to_owned(),
            created: now(),
            locked: 0,
            firewalls: applied.collect(),
        };
        let shown = Self::shown(self.last + 1, &machine);
        self.add(machine);
        Ok((201, json!({ "server": shown, "action": { "id": 1, "status": "running" }, "root_password": null })))
    }

    /// A server that is to be acted on.
    fn act(&mut self, id: u64) -> Result<&mut Machine, (u16, &'static str)> {
        let machine = self.machines.get_mut(&id).ok_or((404, "not_found"))?;
        if machine.locked > 0 {
            machine.locked -= 1;
            return Err((423, "locked"));
        }
        Ok(machine)
    }

    /// Time passes from one look to the next.
    fn tick(&mut self) {
        self.machines.retain(|_, machine| machine.status != "deleting");
        for machine in self.machines.values_mut() {
            machine.status = match machine.status {
                "initializing" => "running",
                "stopping" => "off",
                status => status,
            };
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        const KNOWN: [&str; 6] = ["name", "label_selector", "sort", "status", "page", "per_page"];
        let number = |key: &str, default: usize, most: usize| match query.get(key).map(|text| text.parse()) {
            None => Ok(default),
            Some(Ok(number)) if (1..=most).contains(&number) => Ok(number),
            Some(_) => Err((422, "invalid_input")),
        };
        let (page, size) = (number("page", 1, usize::MAX)?, number("per_page", 25, 50)?);
        let sort = query.get("sort").map_or("id", String::as_str);
        let sorts = matches!(sort, "id" | "id:asc" | "id:desc" | "name" | "name:asc" | "name:desc");
        let selector = query.get("label_selector").map(|selector| selector.split_once('='));
        if !sorts || selector == Some(None) || query.keys().any(|key| !KNOWN.contains(&key.as_str())) {
            return Err((422, "invalid_input"));
        }
        let is_selected = |machine: &Machine| match selector.flatten() {
            None => true,
            Some((key, value)) => machine.labels.get(key).is_some_and(|label| label == value.trim_start_matches('=')),
        };
        let found: Vec<Value> = self
            .machines
            .iter()
            .filter(|(_, machine)| query.get("name").is_none_or(|name| machine.name == *name) && is_selected(machine))
            .map(|(id, machine)| Self::shown(*id, machine))
            .collect();
        let part: Vec<Value> = found.iter().skip((page - 1) * size).take(size).cloned().collect();
        let next = (found.len() > page * size).then_some(page + 1);
        let total = found.len();
        let pagination = json!({ "page": page, "per_page": size, "previous_page": null, "next_page": next,
            "last_page": total.div_ceil(size).max(1), "total_entries": total });
        Ok((200, json!({ "servers": part, "meta": { "pagination": pagination } })))
    }

    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let uri: Uri = path.parse().map_err(|_| (400, "invalid_input"))?;
        let query = Query::<BTreeMap<String, String>>::try_from_uri(&uri).map_err(|_| (422, "invalid_input"))?.0;
        let body: Value = match body {
            [] => Value::Null,
            body => serde_json::from_slice(body).map_err(|_| (400, "json_error"))?,
        };
        let parts: Vec<&str> = uri.path().trim_start_matches("/v1/").split('/').collect();
        let id = |text: &str| text.parse::<u64>().map_err(|_| (404, "not_found"));
        match (method, parts.as_slice()) {
            ("POST", ["servers"]) => self.create(&body),
            ("GET", ["servers"]) => self.list(&query),
            ("GET", ["server_types"]) => {
                let wanted = |name: &str| query.get("name").is_none_or(|wanted| wanted == name);
                let found = TYPES.iter().filter(|(name, _)| wanted(name)).map(|(name, _)| Self::kind(name));
                Ok((200, json!({ "server_types": found.collect::<Vec<_>>() })))
            }
            ("GET", ["servers", one]) => {
                let machine = self.machines.get(&id(one)?).ok_or((404, "not_found"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("PUT", ["servers", one]) => {
                let machine = self.machines.get_mut(&id(one)?).ok_or((404, "not_found"))?;
                let labels = body["labels"].as_object().ok_or((422, "invalid_input"))?;
                if body.as_object().is_some_and(|body| body.len() != 1) || !labels.iter().all(|(k, v)| is_label(k, v)) {
                    return Err((422, "invalid_input"));
                }
                machine.labels = serde_json::from_value(body["labels"].clone()).map_err(|_| (422, "invalid_input"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("POST", ["servers", one, "actions", "shutdown"]) => {
                self.act(id(one)?)?.status = "stopping";
                self.shut_down.push((*one).to_owned());
                Ok((201, json!({ "action": { "id": 2, "status": "running" } })))
            }
            ("DELETE", ["servers", one]) => {
                self.act(id(one)?)?.status = "deleting";
                Ok((200, json!({ "action": { "id": 3, "status": "running" } })))
            }
            _ => Err((404, "not_found")),
        }
    }
}
