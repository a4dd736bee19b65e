//! Settings, and the request for an instance that they become.

use std::collections::BTreeMap;

use pacer_backend::{
    Finding, RunnerRequest,
    bootstrap::user_data,
    settings::{pointer, schema},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::instance::{HOLD, LEASE, OWNER, PREFIX, RUNNER};

/// Where a machine's first start finds its instructions.
pub const USER_DATA: &str = "cloud-init.user-data";
/// The file with the just-in-time configuration, unless a pool says another: a directory that every image has.
const JIT_FILE: &str = "/etc/pacer-runner.env";

type Map = BTreeMap<String, String>;

/// The backend's own settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default = "default")]
    pub project: String,
}

/// What an instance is.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    #[default]
    Container,
    VirtualMachine,
}

/// A pool's settings; what they mean stands in [`pool_schema`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub image: String,
    #[serde(default, rename = "type")]
    pub kind: Kind,
    #[serde(default = "profiles")]
    pub profiles: Vec<String>,
    cpus: Option<u32>,
    memory: Option<String>,
    pub storage: Option<String>,
    disk: Option<String>,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default = "jit_file")]
    pub jit_file: String,
    #[serde(default)]
    config: Map,
    #[serde(default)]
    devices: BTreeMap<String, Map>,
}

fn default() -> String {
    "default".into()
}
fn profiles() -> Vec<String> {
    vec![default()]
}
fn jit_file() -> String {
    JIT_FILE.into()
}

/// JSON Schema of the backend's own settings.
pub fn backend_schema() -> String {
    schema(
        json!({ "project": { "type": "string", "minLength": 1, "default": "default",
            "description": "The project whose instances are the runners." } }),
        &[],
    )
}

/// JSON Schema of a pool's settings.
pub fn pool_schema() -> String {
    let size = "^[0-9]+ ?([kMGTPE]i?B|B)?$";
    let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let with = |mut schema: Value, text: &str| {
        schema["description"] = text.into();
        schema
    };
    schema(
        json!({
            "image": { "type": "string", "minLength": 1, "description": "The image: an alias on the server, or a whole fingerprint." },
            "type": { "enum": ["container", "virtual-machine"], "default": "container", "description": "What an instance is. Virtual machines take the bootstraps `start-script` and `cloud-init`." },
            "profiles": { "type": "array", "items": { "type": "string", "minLength": 1 }, "default": ["default"], "description": "Profiles to apply, in this order." },
            "cpus": { "type": "integer", "minimum": 1, "description": "Processors; default the profiles', else all." },
            "memory": { "type": "string", "pattern": size, "description": "Memory, for instance `4GiB`; default the profiles', else all." },
            "storage": { "type": "string", "minLength": 1, "description": "The storage pool of the root disk; default the profiles'." },
            "disk": { "type": "string", "pattern": size, "description": "Size of the root disk, for instance `20GiB`; needs `storage`." },
            "ephemeral": { "type": "boolean", "default": false, "description": "Whether an instance is deleted as soon as it stops, with its log." },
            "jit_file": { "type": "string", "pattern": "^/.*[^/]$", "default": JIT_FILE, "description": "The file in the machine that gets the just-in-time configuration; its directory must be in the image." },
            "config": with(map.clone(), "More configuration keys of the instance."),
            "devices": { "type": "object", "additionalProperties": map, "description": "More devices of the instance, by name." },
        }),
        &["image"],
    )
}

/// What the file holds: a line for a shell or for systemd's `EnvironmentFile`. A secret.
pub fn variable(jit: &str) -> String {
    format!("ACTIONS_RUNNER_INPUT_JITCONFIG={jit}\n")
}

impl Settings {
    pub fn findings(&self) -> Vec<Finding> {
        let empty = || Finding::error("/settings/project", "name a project, or leave it out for `default`");
        self.project.is_empty().then(empty).into_iter().collect()
    }
}

impl Pool {
    /// What will not work, and what works and is dangerous.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut error = |keys: &[&str], text: &str| found.push(Finding::error(pointer(keys), text));
        if self.image.is_empty() {
            error(&["pool", "image"], "an image is required");
        }
        if self.disk.is_some() && self.storage.is_none() {
            error(&["pool", "disk"], "say on which storage pool, `storage`");
        }
        if self.storage.is_some() && self.devices.contains_key("root") {
            error(&["pool", "devices", "root"], "`storage` and `disk` describe this device; use one or the other");
        }
        if !self.jit_file.starts_with('/') || self.jit_file.ends_with('/') {
            error(&["pool", "jit_file"], "must be the absolute path of a file");
        }
        for key in self.config.keys() {
            let instead = match key.as_str() {
                HOLD => continue,
                USER_DATA | "user.user-data" | "environment.ACTIONS_RUNNER_INPUT_JITCONFIG" => {
                    "pacer hands the bootstrap over itself; remove it"
                }
                "limits.cpu" if self.cpus.is_some() => "set by `cpus`",
                "limits.memory" if self.memory.is_some() => "set by `memory`",
                other if other.starts_with(PREFIX) => "keys that start with `user.pacer.` are pacer's own",
                _ => continue,
            };
            error(&["pool", "config", key], instead);
        }
        for (key, text) in [
            ("security.privileged", "jobs of this pool are root on the server"),
            ("raw.lxc", "this can give jobs of this pool the server"),
        ] {
            if self.config.get(key).is_some_and(|value| value != "false") {
                found.push(Finding::warning(pointer(&["pool", "config", key]), text));
            }
        }
        found
    }

    /// What identifies the image: a fingerprint is 64 hexadecimal digits.
    pub fn is_fingerprint(&self) -> bool {
        self.image.len() == 64 && self.image.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// The request for this runner's instance.
pub fn body(request: &RunnerRequest<Pool>) -> Value {
    let pool = &request.pool;
    let mut config = pool.config.clone();
    config.extend(pool.cpus.map(|cpus| ("limits.cpu".into(), cpus.to_string())));
    config.extend(pool.memory.clone().map(|memory| ("limits.memory".into(), memory)));
    config.extend(request.tags.iter().map(|(key, value)| (format!("{PREFIX}{key}"), value.clone())));
    config.insert(OWNER.into(), request.owner.clone());
    config.insert(RUNNER.into(), request.name.clone());
    config.insert(LEASE.into(), request.lease_until_ms.to_string());
    // None of a just-in-time configuration, which goes into a file.
    config.extend(user_data(&request.bootstrap).map(|data| (USER_DATA.into(), data)));
    let mut devices = pool.devices.clone();
    if let Some(storage) = &pool.storage {
        let mut root = Map::from([("type", "disk"), ("path", "/")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        root.insert("pool".into(), storage.clone());
        root.extend(pool.disk.clone().map(|size| ("size".into(), size)));
        devices.insert("root".into(), root);
    }
    let by = if pool.is_fingerprint() { "fingerprint" } else { "alias" };
    let kind = if pool.kind == Kind::Container { "container" } else { "virtual-machine" };
    json!({
        "name": request.name, "type": kind, "source": { "type": "image", by: pool.image },
        "profiles": pool.profiles, "ephemeral": pool.ephemeral, "config": config, "devices": devices,
    })
}
