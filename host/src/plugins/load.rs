//! From a file in `plugins.dir` to a component that can be called.
//!
//! In this order, and nothing of the next before the last has passed: size, pinned digest, compilation, linking, a
//! probe that instantiates it and has it introduce itself. What fails leaves whatever is in force as it is.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use super::{
    PluginError,
    bindings::{BackendPre, CONTRACT},
    egress::Egress,
    grant::{Grant, grants},
    memory::Memory,
    model::Description,
    state::State,
};

/// The bytes of a file and what identifies them.
pub(super) struct Wasm {
    pub path: PathBuf,
    pub bytes: Arc<[u8]>,
    /// SHA-256, in hex.
    pub digest: Arc<str>,
}

/// A component that links, in one backend. Cheap to clone.
#[derive(Clone)]
pub(super) struct Linked {
    pub pre: BackendPre<State>,
    pub digest: Arc<str>,
    pub memory: Memory,
}

/// A component in force.
pub(super) struct Loaded {
    pub linked: Linked,
    pub description: Arc<Description>,
    /// What it is granted and what it wants.
    pub grants: Vec<Grant>,
    /// Settings of pools that it was asked about and takes, as JSON.
    pub fit: Mutex<BTreeSet<String>>,
}

impl Loaded {
    pub fn new(linked: Linked, description: Description, egress: &Egress) -> Self {
        let grants = grants(egress, &description.endpoints);
        Self { linked, description: Arc::new(description), grants, fit: Mutex::default() }
    }
}

/// Reads a file once: the bytes that are hashed are the bytes that are compiled.
pub(super) fn read(path: &Path, limit: u64) -> Result<Wasm, PluginError> {
    let io = || PluginError::io(format!("read {}", path.display()));
    let file = File::open(path).map_err(io())?;
    let size = file.metadata().map_err(io())?.len();
    if size > limit {
        return Err(PluginError::TooLarge { path: path.to_owned(), size, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(limit).read_to_end(&mut bytes).map_err(io())?;
    let digest = hex::encode(Sha256::digest(&bytes)).into();
    Ok(Wasm { path: path.to_owned(), bytes: bytes.into(), digest })
}

/// Whether the bytes are those of a component: `\0asm` with the layer of components.
pub(super) fn check_kind(wasm: &Wasm) -> Result<(), PluginError> {
    let reason = match wasm.bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => return Ok(()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
            "it is a core module; build it for `wasm32-wasip2`, or wrap it with `wasm-tools component new`"
        }
        Some([0, b'a', b's', b'm', ..]) => "it is WebAssembly of a version that is not known",
        Some(_) | None => "it does not begin with the bytes of WebAssembly",
    };
    Err(PluginError::NotAComponent { path: wasm.path.clone(), reason })
}

pub(super) fn check_digest(wasm: &Wasm, pinned: Option<&str>) -> Result<(), PluginError> {
    match pinned {
        Some(pinned) if !pinned.eq_ignore_ascii_case(&wasm.digest) => Err(PluginError::Digest {
            path: wasm.path.clone(),
            found: wasm.digest.to_string(),
            pinned: pinned.to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Fits a component to what the host offers and expects.
pub(super) fn link(linker: &Linker<State>, component: &Component, wasm: &Wasm) -> Result<Linked, PluginError> {
    let refused = |reason: String| PluginError::Link { path: wasm.path.clone(), reason };
    if let Some(reason) = misfit(linker.engine(), component) {
        return Err(refused(reason));
    }
    let pre = linker.instantiate_pre(component).map_err(|error| refused(format!("{error:#}")))?;
    let pre = BackendPre::new(pre).map_err(|error| refused(format!("{error:#}")))?;
    Ok(Linked { pre, digest: wasm.digest.clone(), memory: Memory::default() })
}

/// What a component imports, by name.
pub(super) fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect()
}

/// The version of WASI that the host offers.
const WASI: &str = "0.2.12";

/// Interfaces a component may import, by package; what they hold is checked by linking.
const OFFERED: [(&str, &[&str]); 8] = [
    ("pacer:backend", &["model", "log", "connect", "cache"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:filesystem", &["types", "preopens"]),
    (
        "wasi:sockets",
        &["network", "instance-network", "tcp", "tcp-create-socket", "udp", "udp-create-socket", "ip-name-lookup"],
    ),
    ("wasi:http", &["types", "outgoing-handler"]),
];

/// Whether the host has something of this name to offer: `package/interface@version`.
pub(super) fn is_offered(import: &str) -> bool {
    let Some((package, interface)) = import.split_once('/') else { return false };
    let Some((interface, theirs)) = interface.split_once('@') else { return false };
    let offered = OFFERED.iter().find(|(name, _)| *name == package);
    let ours = if package.starts_with("wasi:") { Some(WASI) } else { CONTRACT.split_once('@').map(|(_, ours)| ours) };
    offered.is_some_and(|(_, interfaces)| interfaces.contains(&interface))
        && ours.is_some_and(|ours| compatible(ours, theirs))
}

/// Why a component cannot be a backend of this host, as far as names tell.
fn misfit(engine: &Engine, component: &Component) -> Option<String> {
    let exports: Vec<String> = component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
    let (name, ours) = CONTRACT.split_once('@')?;
    let provisioner = format!("{name}/provisioner");
    let exported = exports.iter().find(|export| export.split('@').next() == Some(provisioner.as_str()));
    let Some(exported) = exported else {
        return Some(format!(
            "it does not export `{provisioner}@{ours}`, so it is not a backend; build it against the world \
             `{CONTRACT}` of pacer's `wit` folder"
        ));
    };
    let theirs = exported.split_once('@').map_or("no version", |(_, version)| version);
    if !compatible(ours, theirs) {
        return Some(format!(
            "it is built against version {theirs} of the contract `{name}` and this pacer speaks {ours}; build it \
             against pacer's `wit` folder of version {ours}, or use the pacer it was built for"
        ));
    }
    let unknown: Vec<String> = imports(engine, component).into_iter().filter(|import| !is_offered(import)).collect();
    if !unknown.is_empty() {
        return Some(format!(
            "it imports {}, which this host does not offer; a backend may import the interfaces of the world \
             `{CONTRACT}` and WASI 0.2",
            unknown.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ));
    }
    None
}

/// Versions that the linker takes for one another: the same major, or below 1.0 the same minor.
fn compatible(ours: &str, theirs: &str) -> bool {
    let lead = |version: &str| {
        let mut parts = version.splitn(3, '.').map(str::to_owned);
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if major == "0" { (major, minor) } else { (major, String::new()) }
    };
    lead(ours) == lead(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_go_together_as_the_linker_sees_them() {
        assert!(compatible("0.1.0", "0.1.7"));
        assert!(!compatible("0.1.0", "0.2.0"));
        assert!(compatible("1.2.0", "1.0.0"));
        assert!(!compatible("1.2.0", "2.0.0"));
        assert!(!compatible("0.1.0", "no version"));
    }

    #[test]
    fn what_is_offered_is_told_by_interface_and_version() {
        for import in
            ["wasi:http/types@0.2.0", "wasi:http/types@0.2.99", "pacer:backend/log@0.1.0", "wasi:cli/exit@0.2.3"]
        {
            assert!(is_offered(import), "{import}");
        }
        for import in [
            "wasi:http/types@0.3.0",
            "wasi:http/types",
            "wasi:http/incoming-handler@0.2.12",
            "wasi:keyvalue/store@0.2.0",
            "pacer:backend/log@0.2.0",
            "pacer:backend/provisioner@0.1.0",
            "types",
        ] {
            assert!(!is_offered(import), "{import}");
        }
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let kind = |bytes: &[u8]| {
            let wasm = Wasm { path: "x.wasm".into(), bytes: bytes.into(), digest: "d".into() };
            check_kind(&wasm).map_err(|error| error.to_string())
        };
        assert!(kind(b"\0asm\x0d\0\x01\0").is_ok());
        assert!(kind(b"\0asm\x01\0\0\0").unwrap_err().contains("core module"));
        assert!(kind(b"\0asm\x09\0\0\0").unwrap_err().contains("version"));
        assert!(kind(b"#!/bin/sh").unwrap_err().contains("does not begin"));
        assert!(kind(b"").unwrap_err().contains("does not begin"));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        std::fs::write(&path, [0; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap().bytes.len(), 100);
        let error = read(&path, 99).err().unwrap().to_string();
        assert!(error.contains("`plugins.limits.file_size`"), "{error}");
        assert!(read(&dir.path().join("none.wasm"), 1).is_err());
    }

    #[test]
    fn a_pinned_digest_refuses_any_other() {
        let wasm = Wasm { path: "x.wasm".into(), bytes: [].into(), digest: "aa".into() };
        assert!(check_digest(&wasm, None).is_ok());
        assert!(check_digest(&wasm, Some("AA")).is_ok());
        assert!(check_digest(&wasm, Some("bb")).unwrap_err().to_string().contains("pins bb"));
    }
}
