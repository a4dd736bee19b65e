//! The backends of the configuration, each with the component in force.

mod loading;
mod operations;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wasmtime::component::Linker;

use self::loading::Watched;
use super::{
    Compiler, PluginError,
    bindings::pacer::backend::model as wire,
    call::{About, Answer, CallInfo, Lane, Shared},
    convert,
    egress::Egress,
    engine,
    grant::{Grant, grants},
    load::{Linked, Loaded},
    model::{BackendError, Description, ErrorKind},
    state::{self, State},
    stats::OperationStats,
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
    config: Arc<Config>,
    shared: Arc<Shared>,
    linker: Linker<State>,
    compiler: Compiler,
    /// Held by who compiles: compilers are large.
    compiling: Semaphore,
    slots: BTreeMap<BackendName, Arc<Slot>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    _stop: DropGuard,
}

/// A backend of the configuration.
struct Slot {
    config: Arc<config::Backend>,
    lane: Lane,
    component: watch::Sender<Component>,
    watched: tokio::sync::Mutex<Watched>,
    /// Why what is in force is not what lies in `plugins.dir`.
    kept: Mutex<Option<String>>,
    /// Why no component could be called, whatever it was.
    unusable: Option<PluginError>,
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
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let slot = |backend: &Arc<config::Backend>| Arc::new(Slot::new(backend, &shared.clock, &tasks));
        let slots = config.backends.iter().map(|(name, backend)| (name.clone(), slot(backend))).collect();
        let host = Arc::new(Self {
            config: config.clone(),
            shared,
            linker,
            compiler,
            compiling: Semaphore::new(1),
            slots,
            tasks,
            _stop: stopping.clone().drop_guard(),
            stopping,
        });
        host.begin();
        Ok(host)
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

    fn slot(&self, name: &BackendName) -> Result<&Arc<Slot>, BackendError> {
        self.slots.get(name).ok_or_else(|| BackendError {
            kind: ErrorKind::InvalidConfig,
            message: format!("backend `{name}` is not in the configuration any more"),
            retry_after: None,
            asked: false,
        })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A backend and its component, or why it has none.
    pub(super) fn loaded(&self, name: &BackendName) -> Result<(&Lane, Arc<Loaded>), String> {
        let slot = self.slots.get(name).ok_or("it is not known to this host")?;
        match &*slot.component.borrow() {
            Component::InForce(loaded) => Ok((&slot.lane, loaded.clone())),
            Component::Refused(reason) => Err(format!("it cannot be loaded: {reason}")),
            Component::Loading => Err("it is not loaded yet".to_owned()),
        }
    }

    /// A backend, its settings and its component; waits for one that is still loading.
    pub(super) async fn in_force(
        &self,
        name: &BackendName,
        deadline: Duration,
    ) -> Result<(&Lane, &serde_json::Value, Arc<Loaded>), BackendError> {
        let slot = self.slot(name)?;
        Ok((&slot.lane, &slot.config.settings, slot.loaded(deadline).await?))
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
        let (lane, settings, loaded) = self.in_force(name, deadline).await?;
        let about = About { operation, runner, secrets, deadline };
        let settings = settings.to_string();
        lane.call(&self.shared, &loaded.linked, about, move |backend, store, info| {
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
            Ok(match convert::description(description, &|text, longest| store.data().redact(text, longest)) {
                Ok(description) => Answer::Fine(description),
                Err(what) => Answer::Nonsense(what),
            })
        }
        .boxed()
    })
    .await
}

impl Slot {
    fn new(backend: &Arc<config::Backend>, clock: &SharedClock, tasks: &TaskTracker) -> Self {
        let (egress, unusable) = match Egress::new(backend, clock, tasks.clone()) {
            Ok(egress) => (egress, None),
            Err(reason) => (Egress::nothing(backend, tasks.clone()), Some(reason)),
        };
        Self {
            config: backend.clone(),
            lane: Lane::new(backend.name.clone(), backend.limits.clone(), Arc::new(egress)),
            component: watch::channel(Component::Loading).0,
            watched: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
            unusable,
        }
    }

    fn in_force(&self) -> Option<Arc<Loaded>> {
        match &*self.component.borrow() {
            Component::InForce(loaded) => Some(loaded.clone()),
            Component::Loading | Component::Refused(_) => None,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        let grants = loaded.map_or_else(|| grants(&self.lane.egress, &[]), |loaded| loaded.grants.clone());
        let missing = grants.iter().find(|grant| grant.required && grant.target.is_none());
        let trouble = loaded.and_then(|loaded| self.lane.trouble(&loaded.linked.memory));
        let health = match (&component, trouble, missing) {
            (Component::Loading, _, _) => Health::Loading,
            (Component::Refused(reason), _, _) => Health::Down(reason.to_string()),
            (Component::InForce(_), Some((true, trouble)), _) => Health::Down(trouble),
            (Component::InForce(_), _, Some(grant)) => Health::Down(format!(
                "the endpoint `{}` it needs is not granted: add it under `backends.{}.endpoints`",
                grant.endpoint, self.config.name
            )),
            (Component::InForce(_), Some((false, trouble)), None) => Health::Degraded(trouble),
            (Component::InForce(_), None, None) => self.kept().clone().map_or(Health::Ok, Health::Degraded),
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
