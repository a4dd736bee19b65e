//! Looks at a file without granting it anything: what it is, what it wants, and why it would be refused.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{
    Compiler, PluginError,
    bindings::CONTRACT,
    call::{Lane, Shared},
    compile,
    egress::Egress,
    engine, host, load,
    model::Description,
    state,
};
use crate::{
    clock::{SharedClock, SystemClock},
    config::{self, Config, PluginLimits},
};

/// What is known of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub file: PathBuf,
    pub size: u64,
    /// SHA-256, in hex: what `backends.<name>.digest` pins.
    pub digest: String,
    /// The contract this pacer speaks.
    pub contract: String,
    /// What it imports, by name.
    pub imports: Vec<String>,
    /// Of these, what this host does not offer.
    pub not_offered: Vec<String>,
    /// What it says of itself, if it could be asked.
    pub description: Option<Description>,
    /// Why it would not be loaded.
    pub refused: Option<String>,
}

/// A file in `plugins.dir`.
#[derive(Debug, Clone, Serialize)]
pub struct AvailablePlugin {
    /// The stem: what a backend's `plugin` names.
    pub plugin: String,
    pub file: PathBuf,
    /// Backends of the configuration that use it. One without any can do nothing.
    pub used_by: Vec<String>,
}

/// Inspects a file. Fails only if it cannot be read at all.
pub async fn inspect(
    path: &Path,
    limits: &PluginLimits,
    cache_dir: &Path,
    compiler: Compiler,
) -> Result<Inspection, PluginError> {
    let wasm = load::read(path, limits.file_size)?;
    let mut inspection = Inspection {
        file: path.to_owned(),
        size: wasm.bytes.len() as u64,
        digest: wasm.digest.to_string(),
        contract: CONTRACT.to_owned(),
        imports: Vec::new(),
        not_offered: Vec::new(),
        description: None,
        refused: None,
    };
    if let Err(error) = look_inside(&wasm, limits, cache_dir, compiler, &mut inspection).await {
        inspection.refused = Some(error.chain());
    }
    Ok(inspection)
}

async fn look_inside(
    wasm: &load::Wasm,
    limits: &PluginLimits,
    cache_dir: &Path,
    compiler: Compiler,
    inspection: &mut Inspection,
) -> Result<(), PluginError> {
    load::check_kind(wasm)?;
    let engine = engine::start()?;
    let linker = state::linker(&engine).map_err(PluginError::engine)?;
    let component = compile::compiled(&engine, &compiler, cache_dir, wasm, &Semaphore::new(1)).await?;
    inspection.imports = load::imports(&engine, &component);
    inspection.not_offered = inspection.imports.iter().filter(|name| !load::is_offered(name)).cloned().collect();
    let linked = load::link(&linker, &component, wasm)?;
    let lane = nobody(limits)?;
    let shared = Shared::new(engine, Arc::new(SystemClock), limits.total_memory);
    let described = host::describe(&lane, &shared, &linked).await;
    let refused = |reason| PluginError::Describe { path: wasm.path.clone(), reason };
    inspection.description = Some(described.map_err(|error| refused(error.message))?);
    Ok(())
}

/// A backend that was granted nothing.
fn nobody(limits: &PluginLimits) -> Result<Lane, PluginError> {
    let name: crate::routing::BackendName = "inspected"
        .parse()
        .map_err(|_| PluginError::Engine("the name of the inspected backend is no name".to_owned()))?;
    let backend = config::Backend {
        name: name.clone(),
        plugin: String::new(),
        digest: None,
        endpoints: std::collections::BTreeMap::new(),
        settings: serde_json::json!({}),
        limits: limits.clone(),
        poll: std::time::Duration::from_secs(60),
    };
    let clock: SharedClock = Arc::new(SystemClock);
    let egress = Egress::new(&backend, &clock, TaskTracker::new())?;
    Ok(Lane::new(name, limits.clone(), Arc::new(egress)))
}

/// The files in `plugins.dir`, by name, with who uses them.
pub fn available(config: &Config) -> Result<Vec<AvailablePlugin>, PluginError> {
    let dir = &config.plugins.dir;
    let io = || PluginError::io(format!("list {}", dir.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io())? {
        let file = entry.map_err(io())?.path();
        let stem = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !stem.starts_with('.'));
        let (Some(plugin), true) = (stem, file.extension().is_some_and(|extension| extension == "wasm")) else {
            continue;
        };
        let users = config.backends.values().filter(|backend| backend.plugin == plugin);
        let used_by = users.map(|backend| backend.name.to_string()).collect();
        found.push(AvailablePlugin { plugin: plugin.to_owned(), file: file.clone(), used_by });
    }
    found.sort_by(|a, b| a.plugin.cmp(&b.plugin));
    Ok(found)
}
