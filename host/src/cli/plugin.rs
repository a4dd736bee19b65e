//! `pacer plugin`: the components in `plugins.dir`, and what they say of themselves.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Outcome, PluginCommand, check::Tools};
use crate::{
    config::Config,
    plugins::{self, BackendStatus, Grant, Health, Inspection},
    routing::shown_up_to,
};

/// Of a text that a component gives, in characters. It may not steer the terminal, nor fill it.
const LONGEST: usize = 1_000;

fn shown(text: &str) -> String {
    shown_up_to(text, LONGEST)
}

pub(super) fn run(
    load: impl FnOnce() -> anyhow::Result<Arc<Config>>,
    command: &PluginCommand,
    tools: impl FnOnce() -> anyhow::Result<Tools>,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    match command {
        PluginCommand::List { json } => list(&load()?, *json, tools()?, out),
        PluginCommand::Inspect { file, json } => {
            let (file, config) = find(load, file)?;
            inspect(&file, config.as_deref(), *json, tools()?, out)
        }
        PluginCommand::Compile { output } => {
            plugins::compile_child_main(&[output.into()]).map_err(|error| anyhow::anyhow!(error.chain()))?;
            Ok(Outcome::Fine)
        }
    }
}

fn list(config: &Arc<Config>, json: bool, tools: Tools, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let status = super::block_on(async {
        let host = plugins::Host::start_with(config, tools.clock, tools.compiler).await?;
        host.settled().await;
        Ok(host.status())
    })?;
    let unused: Vec<_> = match plugins::available(config) {
        Ok(available) => available.into_iter().filter(|plugin| plugin.used_by.is_empty()).collect(),
        // Every backend says for itself that its file is not there.
        Err(_) => Vec::new(),
    };
    let fine = status.iter().all(|backend| !matches!(backend.health, Health::Down(_)));
    if json {
        serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "backends": status, "unused": unused }))?;
        writeln!(out)?;
    } else {
        for backend in &status {
            row(backend, out)?;
        }
        for plugin in &unused {
            writeln!(out, "  {:<20} used by no backend, so it can do nothing", plugin.plugin)?;
        }
    }
    Ok(if fine { Outcome::Fine } else { Outcome::Problem })
}

fn row(backend: &BackendStatus, out: &mut dyn Write) -> std::io::Result<()> {
    let (sign, health) = match &backend.health {
        Health::Ok | Health::Loading => ('✓', String::new()),
        Health::Degraded(reason) => ('⚠', shown(reason)),
        Health::Down(reason) => ('✗', shown(reason)),
    };
    let version = shown(backend.version.as_deref().unwrap_or("-"));
    writeln!(out, "{sign} {:<20} {} {version}", backend.name.as_str(), backend.plugin)?;
    if let Some(digest) = &backend.digest {
        writeln!(out, "    sha256 {digest}")?;
    }
    for grant in &backend.grants {
        writeln!(out, "    {}", told(grant))?;
    }
    if !health.is_empty() {
        writeln!(out, "    {health}")?;
    }
    Ok(())
}

fn told(grant: &Grant) -> String {
    match &grant.target {
        Some(target) => format!("granted `{}`: {target}{}", grant.endpoint, grant.manner()),
        None => {
            let purpose = shown(grant.purpose.as_deref().unwrap_or_default());
            format!("not granted `{}`: {purpose}", shown(&grant.endpoint))
        }
    }
}

/// The file that is meant: one of this path, or the one in `plugins.dir` that a backend would name so. Only for a name
/// a configuration is needed, and given back.
fn find(
    load: impl FnOnce() -> anyhow::Result<Arc<Config>>,
    named: &Path,
) -> anyhow::Result<(PathBuf, Option<Arc<Config>>)> {
    let is_name = named.components().count() == 1 && named.extension().is_none();
    let (true, false, Some(name)) = (is_name, named.exists(), named.to_str()) else {
        return Ok((named.to_owned(), None));
    };
    let name = shown(name);
    let config = match load() {
        Ok(config) => config,
        Err(error) => {
            anyhow::bail!("`{name}` is no file, and whether it is the name of a plugin is not known: {error:#}")
        }
    };
    let dir = &config.plugins.dir;
    let file = dir.join(format!("{name}.wasm"));
    if !file.exists() {
        anyhow::bail!(
            "`{name}` is neither a file nor a plugin in {}: `pacer plugin list` shows those that are there",
            dir.display()
        );
    }
    Ok((file, Some(config)))
}

/// Needs no configuration: nothing is granted, and what is compiled is thrown away. With one it also says what the
/// backends of that plugin are granted.
fn inspect(
    file: &Path,
    config: Option<&Config>,
    json: bool,
    tools: Tools,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let cache = tempfile::tempdir()?;
    let limits = config.map_or_else(crate::config::PluginLimits::default, |config| config.plugins.limits.clone());
    let inspection = super::block_on(async {
        let inspected = plugins::inspect(file, &limits, &cache.path().join("code"), tools.compiler).await;
        inspected.map_err(|error| anyhow::anyhow!(error.chain()))
    })?;
    let wanted = inspection.description.as_ref().map_or(&[][..], |description| &description.endpoints);
    let granted = match (config, file.file_stem().and_then(OsStr::to_str)) {
        (Some(config), Some(plugin)) => plugins::granted(config, plugin, wanted, &tools.clock),
        _ => Ok(BTreeMap::new()),
    };
    let granted = granted.map_err(|error| anyhow::anyhow!(error.chain()))?;
    if json {
        let mut whole = serde_json::to_value(&inspection)?;
        whole["granted"] = serde_json::to_value(&granted)?;
        serde_json::to_writer_pretty(&mut *out, &whole)?;
        writeln!(out)?;
    } else {
        show(&inspection, out)?;
        for (backend, grants) in &granted {
            writeln!(out, "backend `{backend}` of the configuration")?;
            for grant in grants {
                writeln!(out, "  {}", told(grant))?;
            }
        }
    }
    Ok(if inspection.refused.is_none() { Outcome::Fine } else { Outcome::Problem })
}

fn show(inspection: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", inspection.file.display())?;
    writeln!(out, "  size    {} bytes", inspection.size)?;
    writeln!(out, "  sha256  {}", inspection.digest)?;
    if let Some(description) = &inspection.description {
        writeln!(
            out,
            "  backend {} {}: {}",
            shown(&description.name),
            shown(&description.version),
            shown(&description.summary)
        )?;
        writeln!(out, "  takes   {}", shown(&description.bootstraps.join(", ")))?;
        writeln!(out, "  can     {}", shown(&description.capabilities.join(", ")))?;
        writeln!(out, "wants")?;
        for endpoint in &description.endpoints {
            let need = if endpoint.required { "needed" } else { "optional" };
            writeln!(
                out,
                "  `{}` ({need}): {}, for instance {}",
                shown(&endpoint.name),
                shown(&endpoint.purpose),
                shown(&endpoint.example)
            )?;
        }
        for (title, schema) in [
            ("settings of the backend", description.settings_schema.json()),
            ("settings of a pool", description.pool_schema.json()),
        ] {
            writeln!(out, "{title}")?;
            settings(schema, out)?;
        }
    }
    if !inspection.imports.is_empty() {
        writeln!(out, "imports")?;
        for import in &inspection.imports {
            let offered = if inspection.not_offered.contains(import) { "  (not offered by this host)" } else { "" };
            writeln!(out, "  {}{offered}", shown(import))?;
        }
    }
    match &inspection.refused {
        Some(reason) => writeln!(out, "✗ it would be refused: {}", shown(reason)),
        None => writeln!(out, "✓ it fits this pacer ({})", inspection.contract),
    }
}

/// The keys of a schema, a line each.
fn settings(schema: &serde_json::Value, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty()) else {
        return writeln!(out, "  none");
    };
    let required = schema["required"].as_array();
    for (key, property) in properties {
        let needed = required.is_some_and(|keys| keys.iter().any(|required| required == key));
        let default = property.get("default").filter(|default| !default.is_null());
        let default = default.map(|default| format!(" (default {default})")).unwrap_or_default();
        let description = property["description"].as_str().unwrap_or_default();
        let line = format!("{key}{}: {description}{default}", if needed { ", required" } else { "" });
        writeln!(out, "  {}", shown(&line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, plugins::Compiler};

    fn tools() -> Tools {
        Tools { compiler: Compiler::InProcess, clock: Arc::new(SystemClock) }
    }

    #[test]
    fn what_is_no_component_is_inspected_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.wasm");
        std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        let mut out = Vec::new();
        assert_eq!(inspect(&file, None, false, tools(), &mut out).unwrap(), Outcome::Problem);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("✗ it would be refused: ") && text.contains("core module"), "{text}");
        let missing =
            inspect(&dir.path().join("none.wasm"), None, false, tools(), &mut Vec::new()).unwrap_err().to_string();
        assert!(missing.contains("none.wasm"), "{missing}");
    }

    #[test]
    fn settings_are_listed_with_what_is_needed_and_what_they_default_to() {
        let schema = serde_json::json!({ "required": ["image"], "properties": {
            "image": { "description": "what to run" }, "pull": { "description": "when to pull", "default": "missing" },
        }});
        let mut out = Vec::new();
        settings(&schema, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "  image, required: what to run\n  pull: when to pull (default \"missing\")\n");
    }
}
