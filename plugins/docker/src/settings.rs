//! A pool's settings: their schema, their judgement, and the engine's request they become.

use std::collections::BTreeMap;

use pacer_backend::{Error, Finding};
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the runner looks for its just-in-time configuration.
const JIT: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    #[default]
    Missing,
    Always,
    Never,
}

macro_rules! pool {
    ($($name:ident: $type:ty, $schema:expr, $text:literal;)*) => {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Pool { pub image: String, $(#[serde(default)] pub $name: $type,)* }

        pub fn schema() -> Value {
            let mut properties = serde_json::Map::new();
            properties.insert("image".into(), json!({ "type": "string", "minLength": 1, "description": "The image." }));
            $( let mut one: Value = $schema; one["description"] = $text.into(); properties.insert(stringify!($name).into(), one); )*
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                "additionalProperties": false, "required": ["image"], "properties": properties })
        }
    };
}

type Map = BTreeMap<String, String>;
fn text() -> Value {
    json!({ "type": "string" })
}
fn list() -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "default": [] })
}
fn map() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" }, "default": {} })
}
fn flag() -> Value {
    json!({ "type": "boolean", "default": false })
}
fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pool! {
    pull: Pull, json!({ "enum": ["missing", "always", "never"], "default": "missing" }), "When to pull the image.";
    network: Option<String>, text(), "The network; default the engine's.";
    command: Option<Vec<String>>, list(), "The command; default the image's.";
    entrypoint: Option<Vec<String>>, list(), "The entry point; default the image's.";
    env: Map, map(), "More environment.";
    cpus: Option<f64>, json!({ "type": "number", "exclusiveMinimum": 0 }), "Processors, for instance 1.5.";
    memory: Option<String>, text(), "Memory, for instance `4g`.";
    memory_swap: Option<String>, text(), "Memory and swap together.";
    pids_limit: Option<u32>, count(), "Processes at most.";
    shm_size: Option<String>, text(), "Size of /dev/shm.";
    volumes: Vec<String>, list(), "Binds, `source:/target[:options]`.";
    tmpfs: Map, map(), "Target to options.";
    user: Option<String>, text(), "User.";
    workdir: Option<String>, text(), "Working directory.";
    hostname: Option<String>, text(), "Host name.";
    cap_add: Vec<String>, list(), "Capabilities added.";
    cap_drop: Vec<String>, list(), "Capabilities dropped.";
    security_opt: Vec<String>, list(), "Security options.";
    privileged: bool, flag(), "All of the host's powers.";
    read_only: bool, flag(), "Root file system read-only.";
    init: bool, flag(), "An init process that reaps.";
    runtime: Option<String>, text(), "Runtime, for instance `runsc`.";
    extra_hosts: Vec<String>, list(), "`name:address` lines.";
    dns: Vec<String>, list(), "Name servers.";
    group_add: Vec<String>, list(), "More groups.";
    labels: Map, map(), "More labels, none of them `pacer.…`.";
    platform: Option<String>, text(), "Platform, for instance `linux/arm64`.";
    stop_timeout: Option<u32>, count(), "Seconds between the stop signal and the kill.";
    stop_signal: Option<String>, text(), "The stop signal.";
}

/// An image without a tag would mean all of its tags to a pull.
pub fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// Bytes of `512m`, `4g`, `1024`.
fn size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    number.parse::<i64>().ok().filter(|n| *n > 0)?.checked_mul(1 << shift)
}

impl Pool {
    fn sizes(&self) -> [(&'static str, &Option<String>); 3] {
        [("memory", &self.memory), ("memory_swap", &self.memory_swap), ("shm_size", &self.shm_size)]
    }

    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut error = |path: &str, text: String| found.push(Finding::error(format!("/pool/{path}"), text));
        if self.image.trim().is_empty() {
            error("image", "an image is required".into());
        }
        for (key, value) in self.sizes() {
            if let Some(v) = value.as_ref().filter(|v| size(v).is_none() && !(key == "memory_swap" && *v == "-1")) {
                error(key, format!("`{v}` is no size; write for instance `4g` or `512m`"));
            }
        }
        if self.cpus.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
            error("cpus", "must be more than 0".into());
        }
        if self.env.contains_key(JIT) {
            error(&format!("env/{JIT}"), "pacer sets this variable; remove it".into());
        }
        for (at, volume) in self.volumes.iter().enumerate() {
            if !volume.split(':').nth(1).is_some_and(|target| target.starts_with('/')) || volume.starts_with('.') {
                error(&format!("volumes/{at}"), format!("`{volume}` is not `source:/target` with an absolute path"));
            }
        }
        for target in self.tmpfs.keys().filter(|t| !t.starts_with('/')) {
            error(
                &format!("tmpfs/{}", target.replace('~', "~0").replace('/', "~1")),
                "must be an absolute path".into(),
            );
        }
        for key in self.labels.keys().filter(|k| k.starts_with("pacer.")) {
            error(&format!("labels/{key}"), "labels that start with `pacer.` are pacer's own".into());
        }
        if self.privileged {
            found.push(Finding::warning("/pool/privileged", "jobs of this pool are root on the engine's host"));
        }
        if self.network.as_deref() == Some("host") {
            found.push(Finding::warning("/pool/network", "jobs of this pool share the host's network"));
        }
        for (at, _) in
            self.volumes.iter().enumerate().filter(|(_, v)| v.contains("docker.sock") || v.contains("podman.sock"))
        {
            found.push(Finding::warning(
                format!("/pool/volumes/{at}"),
                "jobs that reach the engine are root on its host",
            ));
        }
        found
    }

    /// The engine's request.
    pub fn body(&self, jit: &str, labels: &Map) -> Result<Value, Error> {
        if let Some(bad) = self.findings().into_iter().find(|f| f.severity == pacer_backend::Severity::Error) {
            return Err(Error::invalid_config(format!("`{}`: {}", bad.path, bad.message)));
        }
        let mut env: Vec<_> = self.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        env.push(format!("{JIT}={jit}"));
        let bytes = |v: &Option<String>| v.as_deref().map(|v| size(v).unwrap_or(-1));
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and the engine refuses absurd numbers")]
        let nano = self.cpus.map(|c| (c * 1e9) as i64);
        let mut host = json!({
            "Binds": self.volumes, "Tmpfs": self.tmpfs, "CapAdd": self.cap_add, "CapDrop": self.cap_drop,
            "SecurityOpt": self.security_opt, "Privileged": self.privileged, "ReadonlyRootfs": self.read_only,
            "Init": self.init, "ExtraHosts": self.extra_hosts, "Dns": self.dns, "GroupAdd": self.group_add,
            "NetworkMode": self.network, "Runtime": self.runtime, "NanoCpus": nano, "Memory": bytes(&self.memory),
            "MemorySwap": bytes(&self.memory_swap), "ShmSize": bytes(&self.shm_size), "PidsLimit": self.pids_limit,
        });
        let mut body = json!({
            "Image": self.image, "Env": env, "Labels": labels, "Cmd": self.command, "Entrypoint": self.entrypoint,
            "User": self.user, "WorkingDir": self.workdir, "Hostname": self.hostname,
            "StopTimeout": self.stop_timeout, "StopSignal": self.stop_signal,
        });
        // What is not set stays the engine's own default.
        for part in [&mut host, &mut body] {
            if let Value::Object(fields) = part {
                fields.retain(|_, v| !v.is_null());
            }
        }
        body["HostConfig"] = host;
        Ok(body)
    }
}
