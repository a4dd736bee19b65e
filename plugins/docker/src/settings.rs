//! A pool's settings: their schema, their judgement, and the engine's request they become.
//!
//! What is not set stays the engine's own default. Syntax that the engine would refuse late, at a runner's start, is
//! refused here, when the configuration is checked.

use std::collections::BTreeMap;

use pacer_backend::{Error, Finding, Severity};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::container::{HOLD, PREFIX};

/// Where the runner looks for its just-in-time configuration.
pub const JIT: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";

pub type Map = BTreeMap<String, String>;

/// The backend itself has none: where the engine is, is the endpoint's business.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// When the image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// When the engine has none.
    #[default]
    Missing,
    /// Before each container.
    Always,
    /// Never: what the engine does not have is an error.
    Never,
}

/// Declares each setting once: its name, its type, its schema, its explanation.
macro_rules! pool {
    ($($name:ident: $type:ty, $schema:expr, $text:literal;)*) => {
        /// A pool's settings.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Pool {
            #[doc = "The image."]
            pub image: String,
            $(#[doc = $text] #[serde(default)] pub $name: $type,)*
        }

        /// JSON Schema of a pool's settings.
        pub fn pool_schema() -> Value {
            let mut properties = serde_json::Map::new();
            let image = json!({ "type": "string", "minLength": 1, "description": "The image, for instance `ghcr.io/actions/actions-runner:latest`." });
            properties.insert("image".into(), image);
            $( let mut one: Value = $schema; one["description"] = $text.into(); properties.insert(stringify!($name).into(), one); )*
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                "additionalProperties": false, "required": ["image"], "properties": properties })
        }
    };
}

fn text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}
fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
}
fn map() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}
fn flag() -> Value {
    json!({ "type": "boolean" })
}
fn size() -> Value {
    json!({ "type": "string", "pattern": "^([0-9]+ ?([kKmMgGtT]?[bB]?)|-1)$" })
}
fn count(minimum: u32) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": u32::MAX })
}

pool! {
    pull: Pull, json!({ "enum": ["missing", "always", "never"], "default": "missing" }), "When the image is pulled: `missing`, `always` (before each container) or `never`.";
    platform: Option<String>, text(), "The platform of the image, for instance `linux/arm64`; default the engine's.";
    command: Option<Vec<String>>, texts(), "The command and its arguments; default the image's.";
    entrypoint: Option<Vec<String>>, texts(), "The entry point; default the image's.";
    env: Map, map(), "More environment variables, name to value.";
    user: Option<String>, text(), "The user, `name`, `uid` or `uid:gid`; default the image's.";
    group_add: Vec<String>, texts(), "More groups for the user.";
    workdir: Option<String>, text(), "The working directory, absolute; default the image's.";
    hostname: Option<String>, text(), "The host name; default the container's short id.";
    network: Option<String>, text(), "The network: a name, `none`, `host`; default the engine's own.";
    dns: Vec<String>, texts(), "Name servers, as addresses.";
    extra_hosts: Vec<String>, texts(), "More lines of the hosts file, as `name:address`.";
    cpus: Option<f64>, json!({ "type": "number", "exclusiveMinimum": 0 }), "Processors, for instance `1.5`; default unlimited.";
    cpuset_cpus: Option<String>, text(), "The processors it may use, for instance `0-3,7`.";
    memory: Option<String>, size(), "Memory at most, for instance `4g` or `512m`; default unlimited.";
    memory_swap: Option<String>, size(), "Memory and swap together; `-1` for unlimited swap.";
    pids_limit: Option<u32>, count(1), "Processes at most; default the engine's.";
    shm_size: Option<String>, size(), "The size of `/dev/shm`; default the engine's, 64 MiB.";
    ulimits: Vec<String>, texts(), "Limits of a process, as `nofile=1024` or `nofile=1024:2048` (soft:hard).";
    volumes: Vec<String>, texts(), "Binds, as `/source:/target[:options]` or `volume:/target[:options]`.";
    tmpfs: Map, map(), "File systems in memory, target to options, for instance `/tmp: \"size=64m\"`.";
    devices: Vec<String>, texts(), "Devices of the host, as `/dev/kvm[:/dev/kvm[:rwm]]`.";
    read_only: bool, flag(), "Whether the root file system is read-only.";
    cap_add: Vec<String>, texts(), "Capabilities to add.";
    cap_drop: Vec<String>, texts(), "Capabilities to drop, for instance `ALL`.";
    security_opt: Vec<String>, texts(), "Security options, for instance `no-new-privileges:true`.";
    privileged: bool, flag(), "Whether it has all powers of the host. Jobs are root there.";
    runtime: Option<String>, text(), "The runtime, for instance `runsc` or `sysbox-runc`; default the engine's.";
    init: Option<bool>, flag(), "Whether an init process reaps what jobs leave; default the engine's.";
    stop_signal: Option<String>, text(), "The signal that asks it to stop; default the image's, `SIGTERM`.";
    stop_timeout: Option<u32>, count(0), "Seconds between that signal and the kill, at most pacer's own grace (`timeouts.stop`).";
    labels: Map, map(), "More labels. `pacer.hold: \"true\"` keeps each of the pool's containers from being swept.";
}

/// JSON Schema of the backend's own settings.
pub fn backend_schema() -> Value {
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
        "additionalProperties": false, "properties": {} })
}

/// The bootstrap as the container gets it. A secret.
pub fn bootstrap(jit: &str) -> String {
    format!("{JIT}={jit}")
}

/// An image without a tag would mean all of its tags to a pull.
pub fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// Bytes of `512m`, `4g`, `1024`; powers of two, as the engine's own client reads them.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    number.trim_end().parse::<i64>().ok().filter(|n| *n > 0)?.checked_mul(1 << shift)
}

/// Name, soft and hard limit.
fn ulimit(text: &str) -> Option<(&str, i64, i64)> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (soft.parse().ok()?, hard.parse().ok()?);
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    (named && soft >= -1 && hard >= -1 && (hard == -1 || (soft != -1 && soft <= hard))).then_some((name, soft, hard))
}

/// The device on the host, the one in the container, and what may be done with it.
fn device(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.split(':');
    let host = parts.next()?;
    let inside = parts.next().unwrap_or(host);
    let allowed = parts.next().unwrap_or("rwm");
    let permitted = !allowed.is_empty() && allowed.bytes().all(|b| b"rwm".contains(&b));
    let paths = host.starts_with("/dev/") && inside.starts_with("/dev/");
    (parts.next().is_none() && paths && permitted).then_some((host, inside, allowed))
}

fn is_volume(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    let named = |name: &str| {
        name.len() >= 2
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    match parts.as_slice() {
        [source, target] | [source, target, _] => {
            (source.starts_with('/') || named(source)) && target.starts_with('/') && *target != "/"
        }
        _ => false,
    }
}

/// One step of a JSON pointer.
fn step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

impl Pool {
    /// What will not work, and what works and is dangerous.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.errors(&mut |path: String, text: String| found.push(Finding::error(format!("/pool/{path}"), text)));
        self.warnings(&mut |path: String, text: &str| found.push(Finding::warning(format!("/pool/{path}"), text)));
        found
    }

    fn errors(&self, error: &mut dyn FnMut(String, String)) {
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            error("image".into(), "an image is required, without white space".into());
        }
        for (key, value) in [("memory", &self.memory), ("memory_swap", &self.memory_swap), ("shm_size", &self.shm_size)]
        {
            if let Some(v) = value.as_ref().filter(|v| bytes(v).is_none() && !(key == "memory_swap" && *v == "-1")) {
                error(key.into(), format!("`{v}` is no size; write for instance `4g` or `512m`"));
            }
        }
        if self.cpus.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
            error("cpus".into(), "must be more than 0".into());
        }
        for key in self.env.keys() {
            if key == JIT {
                error(format!("env/{JIT}"), "pacer sets this variable; remove it".into());
            } else if key.is_empty() || key.contains(['=', '\0']) {
                // `NAME=x` as a name would set `NAME`, whatever that is.
                error(format!("env/{}", step(key)), "is no name of a variable".into());
            }
        }
        let mut each = |key: &str, values: &[String], fits: &dyn Fn(&str) -> bool, form: &str| {
            for (at, value) in values.iter().enumerate().filter(|(_, value)| !fits(value)) {
                error(format!("{key}/{at}"), format!("`{value}` is not of the form {form}"));
            }
        };
        each("volumes", &self.volumes, &is_volume, "`/source:/target[:options]` or `volume:/target[:options]`");
        each("devices", &self.devices, &|v| device(v).is_some(), "`/dev/kvm[:/dev/kvm[:rwm]]`");
        each("ulimits", &self.ulimits, &|v| ulimit(v).is_some(), "`name=soft[:hard]`, soft not above hard");
        each("extra_hosts", &self.extra_hosts, &|v| v.split_once([':', '=']).is_some(), "`name:address`");
        for target in self.tmpfs.keys().filter(|t| !t.starts_with('/') || *t == "/") {
            error(format!("tmpfs/{}", step(target)), "must be an absolute path below `/`".into());
        }
        if self.workdir.as_ref().is_some_and(|path| !path.starts_with('/')) {
            error("workdir".into(), "must be an absolute path".into());
        }
        for key in self.labels.keys().filter(|key| key.starts_with(PREFIX) && *key != HOLD) {
            error(format!("labels/{}", step(key)), "labels that start with `pacer.` are pacer's own".into());
        }
    }

    fn warnings(&self, warning: &mut dyn FnMut(String, &str)) {
        if self.privileged {
            warning("privileged".into(), "jobs of this pool are root on the engine's host");
        }
        if self.network.as_deref() == Some("host") {
            warning("network".into(), "jobs of this pool share the host's network, its loopback services included");
        }
        for (at, volume) in self.volumes.iter().enumerate() {
            if volume.contains("docker.sock") || volume.contains("podman.sock") {
                warning(format!("volumes/{at}"), "jobs that reach the engine are root on its host");
            }
        }
    }

    /// The engine's request for a container with these labels.
    pub fn body(&self, jit: &str, labels: Map) -> Result<Value, Error> {
        if let Some(bad) = self.findings().into_iter().find(|f| f.severity == Severity::Error) {
            return Err(Error::invalid_config(format!("`{}`: {}", bad.path, bad.message)));
        }
        let mut env: Vec<_> = self.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        env.push(bootstrap(jit));
        let size = |v: &Option<String>| v.as_deref().map(|v| bytes(v).unwrap_or(-1));
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and the engine refuses absurd numbers")]
        let nano = self.cpus.map(|c| (c * 1e9).round() as i64);
        let ulimits: Vec<_> = (self.ulimits.iter().filter_map(|text| ulimit(text)))
            .map(|(name, soft, hard)| json!({ "Name": name, "Soft": soft, "Hard": hard }))
            .collect();
        let devices: Vec<_> = (self.devices.iter().filter_map(|text| device(text)))
            .map(|(host, inside, allowed)| {
                json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": allowed })
            })
            .collect();
        let mut host = json!({
            "Binds": self.volumes, "Tmpfs": self.tmpfs, "Devices": devices, "Ulimits": ulimits,
            "CapAdd": self.cap_add, "CapDrop": self.cap_drop, "SecurityOpt": self.security_opt,
            "Privileged": self.privileged, "ReadonlyRootfs": self.read_only, "Init": self.init,
            "ExtraHosts": self.extra_hosts, "Dns": self.dns, "GroupAdd": self.group_add,
            "NetworkMode": self.network, "Runtime": self.runtime, "NanoCpus": nano, "CpusetCpus": self.cpuset_cpus,
            "Memory": size(&self.memory), "MemorySwap": size(&self.memory_swap), "ShmSize": size(&self.shm_size),
            "PidsLimit": self.pids_limit,
        });
        let mut body = json!({
            "Image": self.image, "Env": env, "Labels": labels, "Cmd": self.command, "Entrypoint": self.entrypoint,
            "User": self.user, "WorkingDir": self.workdir, "Hostname": self.hostname,
            "StopTimeout": self.stop_timeout, "StopSignal": self.stop_signal,
        });
        for part in [&mut host, &mut body] {
            if let Value::Object(fields) = part {
                fields.retain(|_, v| !(v.is_null() || v.as_array().is_some_and(Vec::is_empty)));
            }
        }
        body["HostConfig"] = host;
        Ok(body)
    }
}
