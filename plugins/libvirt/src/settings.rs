//! Settings: their schemas, and their judgement beyond them.
//!
//! What libvirt would refuse late, at a runner's start, is refused here as far as it can be told without libvirt.

use pacer_backend::{Error, Finding, Severity};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::template;

/// Kept free for the host itself: a Debian with libvirtd and little else uses half of that.
const RESERVE_KIB: u64 = 512 * 1024;
/// Smallest memory: below, no current distribution boots.
const MEMORY_MIN_KIB: u64 = 32 * 1024;
/// More processors than any driver gives one machine.
const CPUS_MAX: u32 = 512;
/// Bytes of a domain template; libvirt's own documents are a tenth of that.
const TEMPLATE_MAX: usize = 64 * 1024;

/// The backend's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The driver behind the socket.
    #[serde(default = "system")]
    pub uri: String,
    /// Virtual processors that may be given away for each real one.
    #[serde(default = "one")]
    pub cpu_overcommit: f64,
    /// Memory that machines never get.
    #[serde(default)]
    pub memory_reserve: Option<String>,
}

/// How a machine is emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainType {
    /// With the processor's help.
    #[default]
    Kvm,
    /// In software: slow, and works everywhere.
    Qemu,
    /// libvirt's own driver for tests, which runs nothing.
    Test,
}

impl DomainType {
    pub fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Test => "test",
        }
    }
}

/// What a machine boots from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    #[default]
    Bios,
    Efi,
}

/// A pool's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub base_image: String,
    #[serde(default = "default_name")]
    pub storage_pool: String,
    pub base_pool: Option<String>,
    #[serde(default = "default_name")]
    pub network: String,
    #[serde(default = "two")]
    pub cpus: u32,
    #[serde(default = "two_gigabytes")]
    pub memory: String,
    pub disk: Option<String>,
    #[serde(default)]
    pub domain_type: DomainType,
    pub arch: Option<String>,
    pub machine: Option<String>,
    pub cpu: Option<String>,
    #[serde(default)]
    pub firmware: Firmware,
    pub template: Option<String>,
}

fn system() -> String {
    "qemu:///system".into()
}
fn one() -> f64 {
    1.0
}
fn two() -> u32 {
    2
}
fn two_gigabytes() -> String {
    "2g".into()
}
fn default_name() -> String {
    "default".into()
}

/// How a machine is attached to the world.
#[derive(Debug, PartialEq)]
pub enum Network<'a> {
    /// A network of libvirt's.
    Named(&'a str),
    /// A bridge of the host's.
    Bridge(&'a str),
    /// Translated by QEMU itself, without privileges.
    User,
    None,
}

fn text(default: Option<&str>, description: &str) -> Value {
    let mut one = json!({ "type": "string", "minLength": 1, "description": description });
    if let Some(default) = default {
        one["default"] = default.into();
    }
    one
}

fn size(default: Option<&str>, description: &str) -> Value {
    let mut one = text(default, description);
    one["pattern"] = "^[0-9]+ ?[kKmMgGtT]?[bB]?$".into();
    one
}

/// JSON Schema of the backend's own settings.
pub fn backend_schema() -> Value {
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
    "properties": {
        "uri": text(Some("qemu:///system"), "The driver behind the endpoint, as libvirt's connection URI without a host."),
        "cpu_overcommit": { "type": "number", "exclusiveMinimum": 0, "default": 1,
            "description": "Virtual processors that all machines together may have for each processor of the host." },
        "memory_reserve": size(Some("512m"), "Memory of the host that machines never get."),
    } })
}

/// JSON Schema of a pool's settings.
pub fn pool_schema() -> Value {
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
    "required": ["base_image"],
    "properties": {
        "base_image": text(None, "The volume each machine's disk is a copy-on-write copy of."),
        "storage_pool": text(Some("default"), "The storage pool for what is made for a machine; it must be of files."),
        "base_pool": text(None, "The storage pool of `base_image`; default `storage_pool`."),
        "network": text(Some("default"), "A network of libvirt's, `bridge:NAME`, `user` (QEMU's own) or `none`."),
        "cpus": { "type": "integer", "minimum": 1, "maximum": CPUS_MAX, "default": 2, "description": "Virtual processors." },
        "memory": size(Some("2g"), "Memory, for instance `4g`."),
        "disk": size(None, "Size of the disk, at least the base image's; default the base image's."),
        "domain_type": { "enum": ["kvm", "qemu", "test"], "default": "kvm",
            "description": "`kvm`, or `qemu` for emulation in software; `test` is libvirt's own driver for tests." },
        "arch": text(None, "The architecture, `x86_64` or `aarch64`; default the host's."),
        "machine": text(None, "The machine type, for instance `q35`; default the engine's."),
        "cpu": text(None, "`host-passthrough`, `host-model`, `maximum` or the name of a model; default \
            `host-passthrough` with `kvm`, else the engine's."),
        "firmware": { "enum": ["bios", "efi"], "default": "bios", "description": "What the machine boots with." },
        "template": text(None, "A whole domain document instead of the one made from these settings, with placeholders."),
    } })
}

/// Bytes of `512m`, `4g`, `1024`; powers of two.
pub fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    number.trim_end().parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(1 << shift)
}

/// A name of libvirt's that no path, document or other name can be made of by accident.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.starts_with('.')
        && !text.contains(|c: char| c == '/' || c.is_control())
}

/// A word such as a machine type or a processor model.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

impl Settings {
    pub fn reserve_kib(&self) -> u64 {
        self.memory_reserve.as_deref().and_then(bytes).map_or(RESERVE_KIB, |bytes| bytes / 1024)
    }

    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let plain = self.uri.split_once("://").filter(|(scheme, _)| is_word(scheme) && !scheme.contains('+'));
        if plain.is_none_or(|(_, rest)| !rest.starts_with('/') || rest.contains(['?', '#'])) {
            found.push(Finding::error(
                "/settings/uri",
                "is not a driver's URI without host and transport, such as `qemu:///system`; where libvirt is, is the \
                 endpoint's business",
            ));
        }
        if !(self.cpu_overcommit > 0.0 && self.cpu_overcommit.is_finite()) {
            found.push(Finding::error("/settings/cpu_overcommit", "must be more than 0"));
        }
        if self.memory_reserve.as_deref().is_some_and(|text| bytes(text).is_none()) {
            found.push(Finding::error("/settings/memory_reserve", "is no size; write for instance `512m`"));
        }
        found
    }
}

impl Pool {
    pub fn base_pool(&self) -> &str {
        self.base_pool.as_deref().unwrap_or(&self.storage_pool)
    }

    pub fn network(&self) -> Network<'_> {
        match self.network.as_str() {
            "none" => Network::None,
            "user" => Network::User,
            other => other.strip_prefix("bridge:").map_or(Network::Named(other), Network::Bridge),
        }
    }

    pub fn memory_kib(&self) -> u64 {
        bytes(&self.memory).unwrap_or_default() / 1024
    }

    pub fn disk_bytes(&self) -> Option<u64> {
        self.disk.as_deref().and_then(bytes)
    }

    /// What will not work, and what works and is probably not meant.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut error = |key: &str, text: String| found.push(Finding::error(format!("/pool/{key}"), text));
        let names = [
            ("base_image", Some(&self.base_image)),
            ("storage_pool", Some(&self.storage_pool)),
            ("base_pool", self.base_pool.as_ref()),
            ("network", Some(&self.network)),
        ];
        for (key, name) in names {
            if name.is_some_and(|name| !is_name(name)) {
                error(key, "is not a name: no `/`, no control characters, no leading `.`".into());
            }
        }
        if self.network == "bridge:" {
            error("network", "names no bridge; write `bridge:br0`".into());
        }
        for (key, word) in [("arch", &self.arch), ("machine", &self.machine), ("cpu", &self.cpu)] {
            if word.as_ref().is_some_and(|word| !is_word(word)) {
                error(key, "is made of other characters than letters, digits and `-_.+`".into());
            }
        }
        for (key, size) in [("memory", Some(&self.memory)), ("disk", self.disk.as_ref())] {
            if let Some(size) = size.filter(|size| bytes(size).is_none()) {
                error(key, format!("`{size}` is no size; write for instance `4g` or `512m`"));
            }
        }
        if bytes(&self.memory).is_some() && self.memory_kib() < MEMORY_MIN_KIB {
            error("memory", format!("is less than {} MiB", MEMORY_MIN_KIB / 1024));
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            error("cpus", format!("is not from 1 to {CPUS_MAX}"));
        }
        if let Some(template) = &self.template {
            if template.len() > TEMPLATE_MAX {
                error("template", format!("is longer than {TEMPLATE_MAX} bytes"));
            } else {
                template::judge(template).into_iter().for_each(|text| error("template", text));
            }
        }
        self.warnings(&mut found);
        found
    }

    fn warnings(&self, found: &mut Vec<Finding>) {
        let mut warning = |key: &str, text: &str| found.push(Finding::warning(format!("/pool/{key}"), text));
        if self.domain_type == DomainType::Qemu {
            warning("domain_type", "emulation in software is many times slower than `kvm`");
        }
        if self.domain_type == DomainType::Test {
            warning("domain_type", "libvirt's driver for tests runs nothing: no job will ever start");
        }
        if self.domain_type != DomainType::Kvm && self.cpu.as_deref().is_some_and(|cpu| cpu.starts_with("host-")) {
            warning("cpu", "`host-passthrough` and `host-model` need the domain type `kvm`");
        }
        if self.network() == Network::None {
            warning("network", "a runner without a network does not reach GitHub");
        }
        if self.template.is_some() {
            for (key, set) in [
                ("machine", self.machine.is_some()),
                ("cpu", self.cpu.is_some()),
                ("arch", self.arch.is_some()),
                ("firmware", self.firmware != Firmware::Bios),
            ] {
                if set {
                    warning(key, "has no effect beside `template`, which says it itself");
                }
            }
        }
    }

    /// The first thing that will not work, as an error.
    pub fn check(&self) -> Result<(), Error> {
        match self.findings().into_iter().find(|finding| finding.severity == Severity::Error) {
            None => Ok(()),
            Some(bad) => Err(Error::invalid_config(format!("`{}`: {}", bad.path, bad.message))),
        }
    }
}
