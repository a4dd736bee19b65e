//! `pacer plugin`: what the backends' components say of themselves.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;

use super::{Outcome, PluginCommand, block_on, check::Tools};
use crate::{
    config::{Config, PluginLimits},
    plugins::{self, AvailablePlugin, BackendStatus, Health, Host, Inspection},
    routing::shown_up_to,
};

/// Of a text that a component gives, in characters: a line on a terminal is shorter, a reason may be some lines.
const LONGEST: usize = 1_000;

pub(super) fn run(
    load: impl FnOnce() -> anyhow::Result<Arc<Config>>,
    command: &PluginCommand,
    tools: impl FnOnce() -> anyhow::Result<Tools>,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    match command {
        PluginCommand::List { json } => list(&load()?, *json, tools()?, out),
        PluginCommand::Inspect { file, json } => inspect(load(), file, *json, tools()?, out),
        // A child of the server, with an empty environment and limits: it reads no configuration.
        PluginCommand::Compile { output } => {
            plugins::compile_child_main(&[output.into()])?;
            Ok(Outcome::Fine)
        }
    }
}

#[derive(Serialize)]
struct Listing {
    backends: Vec<BackendStatus>,
    /// Files that no backend uses.
    available: Vec<AvailablePlugin>,
}

fn list(config: &Arc<Config>, json: bool, tools: Tools, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let backends = block_on(async {
        let host = Host::start_with(config, tools.clock, tools.compiler).await?;
        host.settled().await;
        Ok(host.status())
    })?;
    // Without the directory every backend has said so already; one that lists nothing has nothing to say.
    let mut available = if config.plugins.dir.is_dir() { plugins::available(config)? } else { Vec::new() };
    available.retain(|plugin| plugin.used_by.is_empty());
    let failed = backends.iter().any(|backend| matches!(backend.health, Health::Down(_)));
    let listing = Listing { backends, available };
    if json {
        serde_json::to_writer_pretty(&mut *out, &listing)?;
        writeln!(out)?;
    } else {
        table(&listing, &config.plugins.dir, out)?;
    }
    Ok(if failed { Outcome::Problem } else { Outcome::Fine })
}

/// How many characters of a digest tell files apart at a glance; `--json` and `inspect` have all of it.
const SHORT_DIGEST: usize = 12;

fn table(listing: &Listing, dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<[String; 5]> = listing
        .backends
        .iter()
        .map(|backend| {
            let (sign, health) = match &backend.health {
                Health::Ok => ("✓", "ok".to_owned()),
                Health::Loading => ("⚠", "it is still loading".to_owned()),
                Health::Degraded(reason) => ("⚠", shown_up_to(reason, LONGEST)),
                Health::Down(reason) => ("✗", shown_up_to(reason, LONGEST)),
            };
            let digest = backend.digest.as_deref().map_or("-", |digest| digest.get(..SHORT_DIGEST).unwrap_or(digest));
            let version = backend.version.as_deref().unwrap_or("-");
            [
                format!("{sign} {}", backend.name),
                backend.plugin.clone(),
                shown_up_to(version, LONGEST),
                digest.to_owned(),
                health,
            ]
        })
        .collect();
    let header = ["  BACKEND", "PLUGIN", "VERSION", "DIGEST", "HEALTH"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [a, b, c, d] = [width(0), width(1), width(2), width(3)];
    for [name, plugin, version, digest, health] in &rows {
        writeln!(out, "{name:<a$}  {plugin:<b$}  {version:<c$}  {digest:<d$}  {health}")?;
    }
    if !listing.available.is_empty() {
        writeln!(out, "\navailable in {}, used by no backend:", dir.display())?;
        for plugin in &listing.available {
            writeln!(out, "  {}", shown_up_to(&plugin.plugin, LONGEST))?;
        }
    }
    Ok(())
}

fn inspect(
    config: anyhow::Result<Arc<Config>>,
    named: &Path,
    json: bool,
    tools: Tools,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let file = find(config.as_ref().ok(), named);
    // A component can be looked at without a configuration. Its code is then kept nowhere.
    let nowhere;
    let (limits, cache) = match &config {
        Ok(config) => (config.plugins.limits.clone(), config.plugins.cache_dir.clone()),
        Err(_) => {
            nowhere = tempfile::tempdir().context("cannot make a directory for the compiled code")?;
            (PluginLimits::default(), nowhere.path().to_owned())
        }
    };
    if !file.exists() {
        match &config {
            Ok(config) => bail!(
                "`{}` is neither a file nor a plugin in {}: `pacer plugin list` shows those that are there",
                named.display(),
                config.plugins.dir.display()
            ),
            Err(error) => {
                bail!("`{}` is no file, and could not be looked up as the name of a plugin: {error}", named.display())
            }
        }
    }
    let inspection = block_on(async { Ok(plugins::inspect(&file, &limits, &cache, tools.compiler).await?) })?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &inspection)?;
        writeln!(out)?;
    } else {
        describe(&inspection, out)?;
    }
    Ok(if inspection.refused.is_some() { Outcome::Problem } else { Outcome::Fine })
}

/// A file, or the name of one in `plugins.dir` as the configuration writes it.
fn find(config: Option<&Arc<Config>>, named: &Path) -> PathBuf {
    let is_name = named.components().count() == 1 && named.extension().is_none();
    match (config, named.to_str()) {
        (Some(config), Some(name)) if is_name && !named.is_file() => config.plugins.dir.join(format!("{name}.wasm")),
        _ => named.to_owned(),
    }
}

fn describe(inspection: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let shown = |text: &str| shown_up_to(text, LONGEST);
    let line = |out: &mut dyn Write, title: &str, text: &str| writeln!(out, "{title:<12} {text}");
    if let Some(description) = &inspection.description {
        writeln!(
            out,
            "{} {}: {}\n",
            shown(&description.name),
            shown(&description.version),
            shown(&description.summary)
        )?;
    }
    line(out, "file", &inspection.file.display().to_string())?;
    line(out, "size", &format!("{} bytes", inspection.size))?;
    line(out, "digest", &format!("sha256:{}", inspection.digest))?;
    line(out, "host speaks", &inspection.contract)?;
    if !inspection.not_offered.is_empty() {
        line(out, "not offered", &shown(&inspection.not_offered.join(", ")))?;
    }
    if let Some(refused) = &inspection.refused {
        line(out, "refused", &shown(refused))?;
    }
    let Some(description) = &inspection.description else { return Ok(()) };
    line(out, "capabilities", &shown(&or_none(&description.capabilities)))?;
    line(out, "bootstraps", &shown(&or_none(&description.bootstraps)))?;
    writeln!(out, "\nendpoints")?;
    if description.endpoints.is_empty() {
        writeln!(out, "  none")?;
    }
    for endpoint in &description.endpoints {
        let need = if endpoint.required { "required" } else { "optional" };
        writeln!(out, "  {} ({need}): {}", shown(&endpoint.name), shown(&endpoint.purpose))?;
        if !endpoint.example.is_empty() {
            writeln!(out, "    for instance `{}`", shown(&endpoint.example))?;
        }
    }
    for (title, schema) in
        [("settings of the backend", &description.settings_schema), ("settings of a pool", &description.pool_schema)]
    {
        writeln!(out, "\n{title}")?;
        settings(schema, out)?;
    }
    Ok(())
}

fn or_none(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// The keys of a schema; whoever needs all of it takes `--json`.
fn settings(schema: &Value, out: &mut dyn Write) -> io::Result<()> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
        return writeln!(out, "  none");
    };
    let required = schema.get("required").and_then(Value::as_array);
    for (key, property) in properties {
        let must = required.is_some_and(|required| required.iter().any(|name| name == key));
        let mut facts = vec![kind(property)];
        if must {
            facts.push("required".to_owned());
        }
        if let Some(default) = property.get("default") {
            facts.push(format!("default `{default}`"));
        }
        facts.retain(|fact| !fact.is_empty());
        let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
        let about = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let line = format!("{key}{facts}: {about}");
        writeln!(out, "  {}", shown_up_to(line.trim_end_matches([':', ' ']), LONGEST))?;
    }
    Ok(())
}

fn kind(property: &Value) -> String {
    if let Some(words) = property.get("enum").and_then(Value::as_array) {
        return words
            .iter()
            .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("|");
    }
    match property.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => String::new(),
    }
}
