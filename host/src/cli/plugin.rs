//! `pacer plugin`: the components in `plugins.dir`, and what they say of themselves.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Outcome, PluginCommand};
use crate::{
    clock::SystemClock,
    config::Config,
    plugins::{self, BackendStatus, Compiler, Health, Inspection},
};

pub(super) fn run(
    load: impl FnOnce() -> anyhow::Result<Arc<Config>>,
    command: &PluginCommand,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    match command {
        PluginCommand::List { json } => list(&load()?, *json, out),
        PluginCommand::Inspect { file, json } => inspect(&found(file, load), *json, out),
        PluginCommand::Compile { output } => {
            plugins::compile_child_main(&[output.into()]).map_err(|error| anyhow::anyhow!(error.chain()))?;
            Ok(Outcome::Fine)
        }
    }
}

fn list(config: &Arc<Config>, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let status = super::block_on(async {
        let host = plugins::Host::start(config, Arc::new(SystemClock)).await?;
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
        Health::Degraded(reason) => ('⚠', reason.clone()),
        Health::Down(reason) => ('✗', reason.clone()),
    };
    let version = backend.version.as_deref().unwrap_or("-");
    writeln!(out, "{sign} {:<20} {} {version}", backend.name.as_str(), backend.plugin)?;
    if let Some(digest) = &backend.digest {
        writeln!(out, "    sha256 {digest}")?;
    }
    for grant in &backend.grants {
        match &grant.target {
            Some(target) => writeln!(out, "    granted `{}`: {target}", grant.endpoint)?,
            None => {
                writeln!(out, "    not granted `{}`: {}", grant.endpoint, grant.purpose.as_deref().unwrap_or_default())?
            }
        }
    }
    if !health.is_empty() {
        writeln!(out, "    {health}")?;
    }
    Ok(())
}

/// A file, or the file of this name in `plugins.dir`.
fn found(file: &Path, load: impl FnOnce() -> anyhow::Result<Arc<Config>>) -> PathBuf {
    let is_name = file.components().count() == 1 && file.extension().is_none();
    if file.exists() || !is_name {
        return file.to_owned();
    }
    // Without a configuration the error names what was asked for.
    load().map_or_else(|_| file.to_owned(), |config| config.plugins.dir.join(file).with_extension("wasm"))
}

/// Needs no configuration: nothing is granted, and what is compiled is thrown away.
fn inspect(file: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let cache = tempfile::tempdir()?;
    let limits = crate::config::PluginLimits::default();
    let inspection = super::block_on(async {
        let inspected = plugins::inspect(file, &limits, &cache.path().join("code"), Compiler::current()?).await;
        inspected.map_err(|error| anyhow::anyhow!(error.chain()))
    })?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &inspection)?;
        writeln!(out)?;
    } else {
        show(&inspection, out)?;
    }
    Ok(if inspection.refused.is_none() { Outcome::Fine } else { Outcome::Problem })
}

fn show(inspection: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", inspection.file.display())?;
    writeln!(out, "  size    {} bytes", inspection.size)?;
    writeln!(out, "  sha256  {}", inspection.digest)?;
    if let Some(description) = &inspection.description {
        writeln!(out, "  backend {} {}: {}", description.name, description.version, description.summary)?;
        writeln!(out, "  takes   {}", description.bootstraps.join(", "))?;
        writeln!(out, "  can     {}", description.capabilities.join(", "))?;
        writeln!(out, "wants")?;
        for endpoint in &description.endpoints {
            let need = if endpoint.required { "needed" } else { "optional" };
            writeln!(out, "  `{}` ({need}): {}, for instance {}", endpoint.name, endpoint.purpose, endpoint.example)?;
        }
        for (title, schema) in [
            ("settings of the backend", &description.settings_schema),
            ("settings of a pool", &description.pool_schema),
        ] {
            writeln!(out, "{title}")?;
            settings(schema, out)?;
        }
    }
    if !inspection.imports.is_empty() {
        writeln!(out, "imports")?;
        for import in &inspection.imports {
            let offered = if inspection.not_offered.contains(import) { "  (not offered by this host)" } else { "" };
            writeln!(out, "  {import}{offered}")?;
        }
    }
    match &inspection.refused {
        Some(reason) => writeln!(out, "✗ it would be refused: {reason}"),
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
        let default = &property["default"];
        let default = if default.is_null() { String::new() } else { format!(" (default {default})") };
        let description = property["description"].as_str().unwrap_or_default();
        writeln!(out, "  {key}{}: {description}{default}", if needed { ", required" } else { "" })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_inspected_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.wasm");
        std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        let mut out = Vec::new();
        assert_eq!(inspect(&file, false, &mut out).unwrap(), Outcome::Problem);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("✗ it would be refused: ") && text.contains("core module"), "{text}");
        let missing = inspect(&dir.path().join("none.wasm"), false, &mut Vec::new()).unwrap_err().to_string();
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
