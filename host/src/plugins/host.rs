//! The backends of the configuration, each with the component in force.

mod operations;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use wasmtime::component::Linker;

use super::{
    Compiler, PluginError,
    bindings::pacer::backend::model as wire,
    call::{About, Answer, CallInfo, Lane, OperationStats, Shared},
    convert,
    egress::Egress,
    engine,
    grant::{Grant, grants},
    load::{self, Linked, Loaded},
    model::{BackendError, Description, ErrorKind},
    state::{self, State},
};
use crate::{
    clock::SharedClock,
    config::{self, Config},
    routing::BackendName,
};

/// How long a component may take to introduce itself. It needs no endpoint for that.
const DESCRIBE: Duration = Duration::from_secs(30);

/// The plugin host. Dropping it ends nothing that is under way.
pub struct Host {
    shared: Arc<Shared>,
    linker: Linker<State>,
    slots: BTreeMap<BackendName, Arc<Slot>>,
    tasks: TaskTracker,
}

/// A backend of the configuration.
struct Slot {
    config: Arc<config::Backend>,
    lane: Lane,
    component: watch::Sender<Component>,
}

/// The component of a backend.
#[derive(Clone)]
enum Component {
    Loading,
    InForce(Arc<Loaded>),
    Refused(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", content = "reason", rename_all = "lowercase")]
pub enum Health {
    Loading,
    Ok,
    /// It works, and something is not as it should be.
    Degraded(String),
    /// It cannot be called.
    Down(String),
}

/// A backend, for people.
#[derive(Debug, Clone, Serialize)]
pub struct BackendStatus {
    pub name: BackendName,
    pub plugin: String,
    pub file: String,
    pub version: Option<String>,
    pub summary: Option<String>,
    pub digest: Option<String>,
    pub capabilities: Vec<String>,
    pub bootstraps: Vec<String>,
    pub grants: Vec<Grant>,
    pub health: Health,
    pub under_way: usize,
    pub operations: Vec<OperationStats>,
}

impl Host {
    /// Starts the engine and has every backend of the configuration load, beside whatever else starts. A backend
    /// that cannot be loaded says so in [`Host::status`] and in the error of every call; the others carry on.
    pub async fn start(config: &Arc<Config>, clock: SharedClock) -> Result<Arc<Self>, PluginError> {
        Self::start_with(config, clock, Compiler::current()?).await
    }

    /// As [`Host::start`], with another compiler.
    pub async fn start_with(
        config: &Arc<Config>,
        clock: SharedClock,
        compiler: Compiler,
    ) -> Result<Arc<Self>, PluginError> {
        let engine = engine::start()?;
        let linker = state::linker(&engine).map_err(PluginError::engine)?;
        let shared = Arc::new(Shared::new(engine, clock, config.plugins.limits.total_memory));
        let tasks = TaskTracker::new();
        let mut slots = BTreeMap::new();
        for (name, backend) in &config.backends {
            let egress = Egress::new(backend, &shared.clock, tasks.clone())?;
            let lane = Lane::new(name.clone(), backend.limits.clone(), egress);
            let (component, _) = watch::channel(Component::Loading);
            slots.insert(name.clone(), Arc::new(Slot { config: backend.clone(), lane, component }));
        }
        let host = Arc::new(Self { shared, linker, slots, tasks });
        let turn = Arc::new(Semaphore::new(1));
        for slot in host.slots.values() {
            let (host, config, compiler, turn) = (host.clone(), config.clone(), compiler.clone(), turn.clone());
            let slot = slot.clone();
            host.tasks.clone().spawn(async move {
                let outcome = host.load(&slot, &config, &compiler, &turn).await;
                slot.settle(outcome);
            });
        }
        Ok(host)
    }

    async fn load(
        &self,
        slot: &Slot,
        config: &Config,
        compiler: &Compiler,
        turn: &Semaphore,
    ) -> Result<Loaded, PluginError> {
        let path = config.plugins.dir.join(format!("{}.wasm", slot.config.plugin));
        let (limit, file) = (slot.lane.limits.file_size, path.clone());
        let wasm = tokio::task::spawn_blocking(move || load::read(&file, limit))
            .await
            .map_err(|error| PluginError::Engine(error.to_string()))??;
        load::check_digest(&wasm, slot.config.digest.as_deref())?;
        load::check_kind(&wasm)?;
        let component = load::compile(&self.shared.engine, compiler, &config.plugins.cache_dir, &wasm, turn).await?;
        let linked = load::link(&self.linker, &component, &wasm)?;
        let described = describe(&slot.lane, &self.shared, &linked).await;
        let description =
            described.map_err(|error| PluginError::Describe { path: path.clone(), reason: error.message })?;
        Ok(Loaded { linked, description: Arc::new(description) })
    }

    /// The backends as they are now, in the order of their names.
    pub fn status(&self) -> Vec<BackendStatus> {
        self.slots.values().map(|slot| slot.status()).collect()
    }

    /// Waits until every backend is loaded or refused.
    pub async fn settled(&self) {
        for slot in self.slots.values() {
            let mut component = slot.component.subscribe();
            // The sender lives as long as the slot.
            let _ = component.wait_for(|component| !matches!(component, Component::Loading)).await;
        }
    }

    /// Bytes that all calls under way hold, of `plugins.limits.total_memory`.
    pub fn memory_in_use(&self) -> u64 {
        self.shared.budget.used()
    }

    pub(super) fn slot_description(&self, name: &BackendName) -> Option<Arc<Description>> {
        match &*self.slots.get(name)?.component.borrow() {
            Component::InForce(loaded) => Some(loaded.description.clone()),
            Component::Loading | Component::Refused(_) => None,
        }
    }

    fn slot(&self, name: &BackendName) -> Result<&Arc<Slot>, BackendError> {
        self.slots.get(name).ok_or_else(|| BackendError {
            kind: ErrorKind::InvalidConfig,
            message: format!("backend `{name}` is not in the configuration any more"),
            retry_after: None,
            asked: false,
        })
    }

    /// Calls an operation of the component in force; waits for one that is still loading.
    pub(super) async fn invoke<R, W>(
        &self,
        name: &BackendName,
        operation: &'static str,
        runner: Option<String>,
        secrets: Vec<SecretString>,
        deadline: Duration,
        work: W,
    ) -> Result<R, BackendError>
    where
        R: Send,
        W: for<'a> FnOnce(
                &'a super::bindings::Backend,
                &'a mut wasmtime::Store<State>,
                wire::Context,
            ) -> BoxFuture<'a, wasmtime::Result<Answer<R>>>
            + Send,
    {
        let slot = self.slot(name)?;
        let loaded = slot.loaded(deadline).await?;
        let about = About { operation, runner, secrets, deadline };
        let settings = slot.config.settings.to_string();
        slot.lane
            .call(&self.shared, &loaded.linked, about, move |backend, store, info| {
                work(backend, store, context(info, settings))
            })
            .await
    }
}

fn context(info: CallInfo, settings: String) -> wire::Context {
    wire::Context {
        operation_id: info.operation_id,
        backend: info.backend,
        settings,
        deadline_ms: info.deadline_ms,
        attributes: Vec::new(),
    }
}

/// Has a component introduce itself.
pub(super) async fn describe(lane: &Lane, shared: &Shared, linked: &Linked) -> Result<Description, BackendError> {
    let about = About { operation: "describe", runner: None, secrets: Vec::new(), deadline: DESCRIBE };
    lane.call(shared, linked, about, |backend, store, _| {
        async move {
            let description = backend.pacer_backend_provisioner().call_describe(&mut *store).await?;
            Ok(match convert::description(description, |text| store.data().redact(text)) {
                Ok(description) => Answer::Fine(description),
                Err(what) => Answer::Nonsense(what),
            })
        }
        .boxed()
    })
    .await
}

impl Slot {
    fn settle(&self, outcome: Result<Loaded, PluginError>) {
        let name = &self.config.name;
        let component = match outcome {
            Ok(loaded) => {
                let description = &loaded.description;
                info!(
                    backend.name = %name, digest = %loaded.linked.digest,
                    "backend `{name}` is {} {}", description.name, description.version
                );
                for grant in
                    grants(&self.lane.egress, &description.endpoints).iter().filter(|grant| grant.target.is_none())
                {
                    warn!(
                        backend.name = %name,
                        "backend `{name}` wants the endpoint `{}` ({}), which `backends.{name}.endpoints` does not grant",
                        grant.endpoint, grant.purpose.as_deref().unwrap_or_default()
                    );
                }
                Component::InForce(Arc::new(loaded))
            }
            Err(refusal) => {
                error!(backend.name = %name, "backend `{name}` cannot be loaded: {}", refusal.chain());
                Component::Refused(refusal.chain().into())
            }
        };
        self.component.send_replace(component);
    }

    async fn loaded(&self, deadline: Duration) -> Result<Arc<Loaded>, BackendError> {
        let mut component = self.component.subscribe();
        let settled = component.wait_for(|component| !matches!(component, Component::Loading));
        let error = |kind, message: String| BackendError {
            kind,
            message: format!("backend `{}`: {message}", self.config.name),
            retry_after: None,
            asked: false,
        };
        match tokio::time::timeout(deadline, settled).await {
            Ok(Ok(component)) => match &*component {
                Component::InForce(loaded) => Ok(loaded.clone()),
                Component::Refused(reason) => {
                    Err(error(ErrorKind::Unavailable, format!("it could not be loaded: {reason}")))
                }
                Component::Loading => Err(error(ErrorKind::Unavailable, "it is still loading".to_owned())),
            },
            Ok(Err(_)) | Err(_) => Err(error(ErrorKind::Unavailable, "it is still loading".to_owned())),
        }
    }

    fn status(&self) -> BackendStatus {
        let component = self.component.borrow().clone();
        let loaded = match &component {
            Component::InForce(loaded) => Some(loaded),
            Component::Loading | Component::Refused(_) => None,
        };
        let wanted = loaded.map_or(&[][..], |loaded| &loaded.description.endpoints);
        let grants = grants(&self.lane.egress, wanted);
        let missing = grants.iter().find(|grant| grant.required && grant.target.is_none());
        let health = match (&component, self.lane.trouble(), missing) {
            (Component::Loading, _, _) => Health::Loading,
            (Component::Refused(reason), _, _) => Health::Down(reason.to_string()),
            (Component::InForce(_), Some((true, trouble)), _) => Health::Down(trouble),
            (Component::InForce(_), _, Some(grant)) => Health::Down(format!(
                "the endpoint `{}` it needs is not granted: add it under `backends.{}.endpoints`",
                grant.endpoint, self.config.name
            )),
            (Component::InForce(_), Some((false, trouble)), None) => Health::Degraded(trouble),
            (Component::InForce(_), None, None) => Health::Ok,
        };
        BackendStatus {
            name: self.config.name.clone(),
            plugin: self.config.plugin.clone(),
            file: format!("{}.wasm", self.config.plugin),
            version: loaded.map(|loaded| loaded.description.version.clone()),
            summary: loaded.map(|loaded| loaded.description.summary.clone()),
            digest: loaded.map(|loaded| loaded.linked.digest.to_string()),
            capabilities: loaded.map(|loaded| loaded.description.capabilities.clone()).unwrap_or_default(),
            bootstraps: loaded.map(|loaded| loaded.description.bootstraps.clone()).unwrap_or_default(),
            grants,
            health,
            under_way: self.lane.under_way(),
            operations: self.lane.stats(),
        }
    }
}
