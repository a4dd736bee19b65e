//! Hetzner Cloud's servers, as their API's published description has them: names, labels, states, paging, refusals. No
//! machine is behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a request for a server may hold.
const FIELDS: [&str; 10] = [
    "name",
    "server_type",
    "image",
    "user_data",
    "labels",
    "start_after_create",
    "public_net",
    "location",
    "ssh_keys",
    "networks",
];

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
}

#[derive(Debug, Default)]
struct Inner {
    machines: BTreeMap<u64, Machine>,
    last: u64,
    full: BTreeSet<(String, String)>,
    shut_down: Vec<String>,
    refuse: Option<(u16, String)>,
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

    /// Answers a request: the status, and the body.
    pub fn answer(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut inner = self.inner();
        if let Some((status, code)) = inner.refuse.clone() {
            let error = json!({ "error": { "code": code, "message": "no" } });
            return (status, if code.is_empty() { "<html>".to_owned() } else { error.to_string() });
        }
        if method == "GET" {
            inner.tick();
        }
        match inner.answer(method, path, body) {
            Ok((status, body)) => (status, body.to_string()),
            Err((status, code)) => {
                let error = json!({ "error": { "code": code, "message": format!("because of {code}") } });
                (status, error.to_string())
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
    let (status, body) = hetzner.answer(method.as_str(), path, &body);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
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
        json!({ "id": 1, "name": name, "prices": [
            { "location": "fsn1", "price_hourly": { "net": "0.0056000000", "gross": "0.0066640000000000" } },
            { "location": "nbg1", "price_hourly": { "net": "0.0059", "gross": "0.0070" } },
        ] })
    }

    fn shown(id: u64, machine: &Machine) -> Value {
        json!({
            "id": id, "name": machine.name, "status": machine.status, "created": machine.created,
            "labels": machine.labels, "server_type": Self::kind(&machine.kind), "private_net": [],
            "public_net": { "ipv4": { "ip": "192.0.2.7" }, "ipv6": null },
            "datacenter": { "location": { "name": machine.location } },
        })
    }

    fn create(&mut self, body: &Value) -> Answer {
        let object = body.as_object().ok_or((400, "json_error"))?;
        if object.keys().any(|key| !FIELDS.contains(&key.as_str())) {
            return Err((422, "invalid_input"));
        }
        let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(name), Some(kind), Some(_)) = (text("name"), text("server_type"), text("image")) else {
            return Err((422, "invalid_input"));
        };
        if name.len() > 63 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
            return Err((422, "invalid_input"));
        }
        if text("user_data").is_some_and(|data| data.len() > 32 * 1024) {
            return Err((422, "invalid_input"));
        }
        let labels: BTreeMap<String, String> =
            serde_json::from_value(object["labels"].clone()).map_err(|_| (422, "invalid_input"))?;
        if !labels.iter().all(|(key, value)| is_value(key) && (value.is_empty() || is_value(value))) {
            return Err((422, "invalid_input"));
        }
        if self.machines.values().any(|machine| machine.name == name) {
            return Err((409, "uniqueness_error"));
        }
        let location = text("location").unwrap_or("fsn1").to_owned();
        if self.full.contains(&(kind.to_owned(), location.clone())) {
            return Err((412, "resource_unavailable"));
        }
        let user_data = text("user_data").unwrap_or_default().to_owned();
        let (name, kind) = (name.to_owned(), kind.to_owned());
        let machine = Machine { name, kind, location, status: "initializing", labels, user_data, created: now() };
        let shown = Self::shown(self.last + 1, &machine);
        self.add(machine);
        Ok((201, json!({ "server": shown, "action": { "id": 1, "status": "running" }, "root_password": null })))
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
        let selector = query.get("label_selector").and_then(|selector| selector.split_once('='));
        let found: Vec<Value> = self
            .machines
            .iter()
            .filter(|(_, machine)| query.get("name").is_none_or(|name| machine.name == *name))
            .filter(|(_, machine)| {
                selector.is_none_or(|(key, value)| machine.labels.get(key).is_some_and(|v| v == value))
            })
            .map(|(id, machine)| Self::shown(*id, machine))
            .collect();
        let number = |key: &str, default| query.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
        let (page, size): (usize, usize) = (number("page", 1).max(1), number("per_page", 25).clamp(1, 50));
        let part: Vec<Value> = found.iter().skip((page - 1) * size).take(size).cloned().collect();
        let next = (found.len() > page * size).then_some(page + 1);
        Ok((200, json!({ "servers": part, "meta": { "pagination": { "page": page, "next_page": next } } })))
    }

    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%3A", ":")))
            .collect();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let id = |text: &str| text.parse::<u64>().map_err(|_| (404, "not_found"));
        match (method, parts.as_slice()) {
            ("POST", ["servers"]) => self.create(&body),
            ("GET", ["servers"]) => self.list(&query),
            ("GET", ["server_types"]) => {
                Ok((200, json!({ "server_types": [Self::kind(query.get("name").map_or("", String::as_str))] })))
            }
            ("GET", ["servers", one]) => {
                let machine = self.machines.get(&id(one)?).ok_or((404, "not_found"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("PUT", ["servers", one]) => {
                let machine = self.machines.get_mut(&id(one)?).ok_or((404, "not_found"))?;
                machine.labels = serde_json::from_value(body["labels"].clone()).map_err(|_| (422, "invalid_input"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("POST", ["servers", one, "actions", "shutdown"]) => {
                self.machines.get_mut(&id(one)?).ok_or((404, "not_found"))?.status = "stopping";
                self.shut_down.push((*one).to_owned());
                Ok((201, json!({ "action": { "id": 2, "status": "running" } })))
            }
            ("DELETE", ["servers", one]) => {
                self.machines.get_mut(&id(one)?).ok_or((404, "not_found"))?.status = "deleting";
                Ok((200, json!({ "action": { "id": 3, "status": "running" } })))
            }
            _ => Err((404, "not_found")),
        }
    }
}
