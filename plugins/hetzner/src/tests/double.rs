//! Hetzner Cloud's servers, as their API's description has them: names, labels, states, paging, refusals.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    time::Duration,
};

use pacer_backend::{
    Error,
    http::{Request, Response, Transport},
};
use serde_json::{Value, json};

use crate::labels::is_value;

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

#[derive(Clone)]
struct Machine {
    name: String,
    kind: String,
    location: String,
    status: &'static str,
    labels: BTreeMap<String, String>,
}

#[derive(Default)]
pub struct Double {
    machines: RefCell<BTreeMap<u64, Machine>>,
    next: Cell<u64>,
    full: RefCell<BTreeSet<(String, String)>>,
    shut_down: RefCell<Vec<String>>,
    refuse: RefCell<Option<(u16, String)>>,
    lose: Cell<bool>,
}

type Answer = Result<(u16, Value), (u16, &'static str)>;

impl Double {
    pub fn left(&self) -> usize {
        self.machines.borrow().len()
    }

    pub fn exists(&self, handle: &str) -> bool {
        self.machines.borrow().contains_key(&handle.parse().unwrap())
    }

    pub fn full(&self, kind: &str, location: &str) {
        self.full.borrow_mut().insert((kind.into(), location.into()));
    }

    pub fn refuse(&self, status: u16, code: &str) {
        *self.refuse.borrow_mut() = Some((status, code.into()));
    }

    /// The next server is made and nobody hears of it.
    pub fn lose_next(&self) {
        self.lose.set(true);
    }

    pub fn label(&self, handle: &str, key: &str, value: &str) {
        let mut machines = self.machines.borrow_mut();
        machines.get_mut(&handle.parse().unwrap()).unwrap().labels.insert(key.into(), value.into());
    }

    pub fn asked_to_shut_down(&self) -> Vec<String> {
        self.shut_down.borrow().clone()
    }

    pub fn stranger(&self, name: &str) -> String {
        let labels = BTreeMap::from([("pacer".to_owned(), "no".to_owned())]);
        self.add(Machine { name: name.into(), kind: "cx23".into(), location: "fsn1".into(), status: "running", labels })
    }

    fn add(&self, machine: Machine) -> String {
        self.next.set(self.next.get() + 1);
        self.machines.borrow_mut().insert(self.next.get(), machine);
        self.next.get().to_string()
    }

    fn kind(name: &str) -> Value {
        json!({ "id": 1, "name": name, "prices": [
            { "location": "fsn1", "price_hourly": { "net": "0.0056000000", "gross": "0.0066640000000000" } },
            { "location": "nbg1", "price_hourly": { "net": "0.0059", "gross": "0.0070" } },
        ] })
    }

    fn shown(id: u64, machine: &Machine) -> Value {
        json!({
            "id": id, "name": machine.name, "status": machine.status, "created": "2026-11-23T10:00:00+00:00",
            "labels": machine.labels, "server_type": Self::kind(&machine.kind), "private_net": [],
            "public_net": { "ipv4": { "ip": "192.0.2.7" }, "ipv6": null },
            "datacenter": { "location": { "name": machine.location } },
        })
    }

    fn create(&self, body: &Value) -> Answer {
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
        if self.machines.borrow().values().any(|machine| machine.name == name) {
            return Err((409, "uniqueness_error"));
        }
        let location = text("location").unwrap_or("fsn1").to_owned();
        if self.full.borrow().contains(&(kind.to_owned(), location.clone())) {
            return Err((412, "resource_unavailable"));
        }
        let machine = Machine { name: name.into(), kind: kind.into(), location, status: "initializing", labels };
        let id = self.next.get() + 1;
        let shown = Self::shown(id, &machine);
        self.add(machine);
        Ok((201, json!({ "server": shown, "action": { "id": 1, "status": "running" }, "root_password": null })))
    }

    /// Time passes between a request and the next.
    fn tick(&self) {
        let mut machines = self.machines.borrow_mut();
        machines.retain(|_, machine| machine.status != "deleting");
        for machine in machines.values_mut() {
            machine.status = match machine.status {
                "initializing" => "running",
                "stopping" => "off",
                status => status,
            };
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let machines = self.machines.borrow();
        let selector = query.get("label_selector").map(|selector| selector.split_once('=').expect("key=value"));
        let found: Vec<Value> = machines
            .iter()
            .filter(|(_, machine)| query.get("name").is_none_or(|name| machine.name == *name))
            .filter(|(_, machine)| {
                selector.is_none_or(|(key, value)| machine.labels.get(key).is_some_and(|v| v == value))
            })
            .map(|(id, machine)| Self::shown(*id, machine))
            .collect();
        let number = |key: &str, default: usize| query.get(key).map_or(default, |text| text.parse().expect("a number"));
        let (page, size) = (number("page", 1), number("per_page", 25).min(50));
        let part: Vec<Value> = found.iter().skip((page - 1) * size).take(size).cloned().collect();
        let next = (found.len() > page * size).then_some(page + 1);
        Ok((200, json!({ "servers": part, "meta": { "pagination": { "page": page, "next_page": next } } })))
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%3A", ":")))
            .collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let id = |text: &str| text.parse::<u64>().map_err(|_| (404, "not_found"));
        match (request.method, parts.as_slice()) {
            ("POST", ["servers"]) => self.create(&body),
            ("GET", ["servers"]) => self.list(&query),
            ("GET", ["server_types"]) => Ok((200, json!({ "server_types": [Self::kind(&query["name"])] }))),
            ("GET", ["servers", one]) => {
                let machines = self.machines.borrow();
                let machine = machines.get(&id(one)?).ok_or((404, "not_found"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("PUT", ["servers", one]) => {
                let mut machines = self.machines.borrow_mut();
                let machine = machines.get_mut(&id(one)?).ok_or((404, "not_found"))?;
                machine.labels = serde_json::from_value(body["labels"].clone()).map_err(|_| (422, "invalid_input"))?;
                Ok((200, json!({ "server": Self::shown(id(one)?, machine) })))
            }
            ("POST", ["servers", one, "actions", "shutdown"]) => {
                let mut machines = self.machines.borrow_mut();
                machines.get_mut(&id(one)?).ok_or((404, "not_found"))?.status = "stopping";
                self.shut_down.borrow_mut().push((*one).to_owned());
                Ok((201, json!({ "action": { "id": 2, "status": "running" } })))
            }
            ("DELETE", ["servers", one]) => {
                let mut machines = self.machines.borrow_mut();
                machines.get_mut(&id(one)?).ok_or((404, "not_found"))?.status = "deleting";
                Ok((200, json!({ "action": { "id": 3, "status": "running" } })))
            }
            _ => Err((404, "not_found")),
        }
    }
}

impl Transport for Double {
    fn send(&self, request: &Request, _: Duration) -> Result<Response, Error> {
        assert_eq!(request.endpoint, "hetzner");
        assert!(request.headers.iter().all(|(name, _)| name != "authorization"), "the token is the host's");
        if let Some((status, code)) = self.refuse.borrow().clone() {
            let body = if code.is_empty() {
                "<html>".to_owned()
            } else {
                json!({ "error": { "code": code, "message": "no" } }).to_string()
            };
            return Ok(Response::new(request.to_string(), status, vec![], Box::new(Cursor::new(body))));
        }
        if request.method == "GET" {
            self.tick();
        }
        let (status, body) = match self.answer(request) {
            Ok(answer) => answer,
            Err((status, code)) => {
                (status, json!({ "error": { "code": code, "message": format!("because of {code}") } }))
            }
        };
        if self.lose.take() {
            return Err(Error::unavailable("the connection was reset"));
        }
        Ok(Response::new(request.to_string(), status, vec![], Box::new(Cursor::new(body.to_string()))))
    }
}
