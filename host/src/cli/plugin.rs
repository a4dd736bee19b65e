//! `pacer plugin`: what the backends' components say of themselves.

use std::{io::Write, sync::Arc};

use super::{Outcome, PluginCommand};
use crate::{config::Config, plugins};

pub(super) fn run(
    load: impl FnOnce() -> anyhow::Result<Arc<Config>>,
    command: &PluginCommand,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    match command {
        PluginCommand::List { json } => list(&*load()?, *json, out),
        PluginCommand::Compile { output } => {
            plugins::compile_child_main(&[output.into()])?;
            Ok(Outcome::Fine)
        }
        PluginCommand::Inspect { .. } => {
            anyhow::bail!("the plugin host is not part of this build")
        }
    }
}

fn list(config: &Config, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let rows: Vec<_> = config
        .backends
        .values()
        .map(|backend| {
            let file = config.plugins.dir.join(format!("{}.wasm", backend.plugin));
            (backend.name.as_str(), backend.plugin.as_str(), file.is_file(), file)
        })
        .collect();
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, plugin, present, file)| {
                serde_json::json!({"name": name, "plugin": plugin, "file": file, "present": present})
            })
            .collect();
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        for (name, plugin, present, file) in &rows {
            let sign = if *present { '✓' } else { '✗' };
            writeln!(out, "{sign} {name:<20} {plugin:<20} {}", file.display())?;
        }
    }
    Ok(if rows.iter().all(|(_, _, present, _)| *present) { Outcome::Fine } else { Outcome::Problem })
}
