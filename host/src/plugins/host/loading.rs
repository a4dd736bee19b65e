//! How a backend comes by its component: at the start, and whenever its file was replaced since.
//!
//! Everything is made and tried beside what is in force, and takes its place only when it is whole. Calls under way
//! end on what they began with.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::{fs, time::sleep};
use tracing::{error, info, warn};

use super::{
    super::{
        PluginError, compile,
        load::{self, Loaded},
    },
    Component, Host, Slot, describe,
};
use crate::routing::{shown, shown_up_to};

/// How often the files are looked at. What was written is taken when two looks in a row find the same.
const LOOK: Duration = Duration::from_secs(2);

/// Of what an endpoint is wanted for, in characters.
const PURPOSE: usize = 1_000;

/// What is known of a backend's file.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// What was loaded or refused.
    done: Option<Print>,
    /// What was found at the last look, if it is another.
    found: Option<Print>,
}

/// By what a file is taken for the same without being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Host {
    /// Has every backend load, and their files looked after for as long as the host is there.
    pub(super) fn begin(self: &Arc<Self>) {
        for slot in self.slots.values() {
            let (host, slot) = (self.clone(), slot.clone());
            self.tasks.spawn(async move { host.first(&slot).await });
        }
        let (host, stopping) = (Arc::downgrade(self), self.stopping.clone());
        self.tasks.spawn(async move {
            while stopping.run_until_cancelled(sleep(LOOK)).await.is_some() {
                let Some(host) = host.upgrade() else { return };
                host.look().await;
            }
        });
    }

    fn file(&self, slot: &Slot) -> PathBuf {
        self.config.plugins.dir.join(format!("{}.wasm", slot.config.plugin))
    }

    async fn first(&self, slot: &Slot) {
        let mut watched = slot.watched.lock().await;
        // What is replaced from here on is found to be another.
        watched.done = print(&self.file(slot)).await.ok();
        let outcome = match &slot.unusable {
            None => self.prepare(slot).await.map_err(|refusal| refusal.chain()),
            Some(reason) => Err(reason.chain()),
        };
        slot.settle(outcome);
    }

    /// Looks once whether files were replaced, and takes those that were.
    pub async fn look(&self) {
        for slot in self.slots.values() {
            self.look_at(slot).await;
        }
    }

    async fn look_at(&self, slot: &Slot) {
        let mut watched = slot.watched.lock().await;
        if slot.unusable.is_some() {
            return;
        }
        let file = self.file(slot);
        match print(&file).await {
            Err(error) => {
                watched.found = None;
                if watched.done.take().is_some() {
                    slot.keep(format!("{} is gone ({error}); put it back, or a newer one", file.display()));
                }
            }
            Ok(now) if watched.done == Some(now) => watched.found = None,
            Ok(now) if watched.found == Some(now) => {
                *watched = Watched { done: Some(now), found: None };
                self.replace(slot).await;
            }
            Ok(now) => watched.found = Some(now),
        }
    }

    async fn replace(&self, slot: &Slot) {
        let before = slot.in_force();
        match (self.prepare(slot).await, before) {
            (Ok(loaded), Some(before)) if loaded.linked.digest == before.linked.digest => slot.clear(),
            (Ok(loaded), Some(before)) => match self.newly_refused(slot, &before, &loaded).await {
                None => slot.settle(Ok(loaded)),
                Some(refusal) => slot.keep(refusal),
            },
            (Err(refusal), Some(_)) => slot.keep(refusal.chain()),
            (outcome, None) => slot.settle(outcome.map_err(|refusal| refusal.chain())),
        }
    }

    /// What a component has against the settings of the configuration that the one in force takes.
    async fn newly_refused(&self, slot: &Slot, before: &Loaded, after: &Loaded) -> Option<String> {
        let lane = slot.lane.beside();
        let known = self.judge(&lane, before, &self.config, &slot.config).await;
        let found = self.judge(&lane, after, &self.config, &slot.config).await;
        let refusal = found.into_iter().find(|finding| finding.is_error() && !known.contains(finding))?;
        Some(format!("{} refuses the settings in force: {refusal}", self.file(slot).display()))
    }

    /// A component that fits and introduces itself. Nothing of the next step before the last has passed.
    async fn prepare(&self, slot: &Slot) -> Result<Loaded, PluginError> {
        let (path, limit) = (self.file(slot), slot.lane.limits.file_size);
        let read = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || load::read(&path, limit))
        };
        let wasm = read.await.map_err(|error| PluginError::Engine(error.to_string()))??;
        load::check_digest(&wasm, slot.config.digest.as_deref())?;
        load::check_kind(&wasm)?;
        let cache = &self.config.plugins.cache_dir;
        let component = compile::compiled(&self.shared.engine, &self.compiler, cache, &wasm, &self.compiling).await?;
        let linked = load::link(&self.linker, &component, &wasm)?;
        let described = describe(&slot.lane.beside(), &self.shared, &linked).await;
        let description = described.map_err(|error| PluginError::Describe { path, reason: error.message })?;
        Ok(Loaded::new(linked, description, &slot.lane.egress))
    }
}

async fn print(file: &std::path::Path) -> std::io::Result<Print> {
    let meta = fs::metadata(file).await?;
    Ok(Print { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
}

impl Slot {
    fn settle(&self, outcome: Result<Loaded, String>) {
        let name = &self.config.name;
        let component = match outcome {
            Ok(loaded) => {
                let description = &loaded.description;
                info!(
                    backend.name = %name, digest = %loaded.linked.digest,
                    "backend `{name}` is {} {}", shown(&description.name), shown(&description.version)
                );
                for grant in loaded.grants.iter().filter(|grant| grant.target.is_none()) {
                    warn!(
                        backend.name = %name,
                        "backend `{name}` wants the endpoint `{}` ({}), which `backends.{name}.endpoints` does not grant",
                        shown(&grant.endpoint), shown_up_to(grant.purpose.as_deref().unwrap_or_default(), PURPOSE)
                    );
                }
                Component::InForce(Arc::new(loaded))
            }
            Err(refusal) => {
                error!(backend.name = %name, "backend `{name}` cannot be loaded: {refusal}");
                Component::Refused(refusal.into())
            }
        };
        self.component.send_replace(component);
        self.clear();
    }

    /// Goes on with what is in force, for a reason.
    fn keep(&self, reason: String) {
        let name = &self.config.name;
        if let Some(loaded) = self.in_force() {
            warn!(
                backend.name = %name, digest = %loaded.linked.digest,
                "backend `{name}` goes on with what it was loaded from before: {reason}"
            );
            *self.kept() = Some(format!("it goes on with what it was loaded from before: {reason}"));
        }
    }

    fn clear(&self) {
        *self.kept() = None;
    }
}
