//! GitHub and an engine, as far as the executor asks them: what they answer is set by the test.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use futures::{FutureExt as _, future::BoxFuture};

use super::super::*;
use crate::{
    fleet::{job::JobFact, runner::Target},
    github::{Deleted, DeliveryPage, GitHubError, GitHubErrorKind, GitHubRunner, JitRunner, Registration, Rerun},
    plugins::{
        BackendError, Billing, Description, Destruction, ErrorKind, Instance, InstanceState, Price, RunnerRequest,
        Schema,
    },
    routing::{BackendName, RepoName},
};

pub fn github_error(kind: GitHubErrorKind) -> GitHubError {
    GitHubError { kind, message: format!("GitHub says {kind:?}"), retry_after: None }
}

pub fn backend_error(kind: ErrorKind, asked: bool) -> BackendError {
    BackendError { kind, message: format!("the engine says {kind}"), retry_after: None, asked }
}

#[derive(Default)]
pub struct GitHubState {
    pub runners: BTreeMap<String, GitHubRunner>,
    /// By id; a job that is not here is not known.
    pub jobs: HashMap<i64, JobFact>,
    /// Listing jobs fails with this.
    pub hides: Option<GitHubErrorKind>,
    /// No call about runners is ever answered.
    pub hangs: bool,
    /// Every call about runners fails with this.
    pub refuses: Option<GitHubErrorKind>,
    pub deleted: Vec<String>,
    /// What a request to run a job again is answered; then it is taken.
    pub reruns: VecDeque<GitHubErrorKind>,
    pub rerun: Vec<i64>,
}

#[derive(Default)]
pub struct FakeGitHub(pub Mutex<GitHubState>);

impl FakeGitHub {
    pub fn state(&self) -> MutexGuard<'_, GitHubState> {
        locked(&self.0)
    }

    fn runners(&self) -> Result<MutexGuard<'_, GitHubState>, GitHubError> {
        let state = self.state();
        state.refuses.map_or(Ok(()), |kind| Err(github_error(kind)))?;
        Ok(state)
    }

    pub fn set_busy(&self, name: &RunnerName) {
        self.state().runners.get_mut(name.as_str()).expect("it is registered").busy = true;
    }
}

impl GitHubApi for FakeGitHub {
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<JitRunner, GitHubError>> {
        async {
            let mut state = self.runners()?;
            let (id, name) = (state.runners.len() as i64 + 100, registration.name.to_string());
            let runner = GitHubRunner { id, name: name.clone(), online: false, busy: false };
            state.runners.insert(name, runner);
            Ok(JitRunner { id, config: "configuration".into() })
        }
        .boxed()
    }

    fn find_runner<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
        name: &'a RunnerName,
    ) -> BoxFuture<'a, Result<Option<GitHubRunner>, GitHubError>> {
        async { Ok(self.runners()?.runners.get(name.as_str()).cloned()) }.boxed()
    }

    fn list_runners<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<GitHubRunner>, GitHubError>> {
        async {
            if self.state().hangs {
                std::future::pending::<()>().await;
            }
            Ok(self.runners()?.runners.values().cloned().collect())
        }
        .boxed()
    }

    fn delete_runner<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Deleted, GitHubError>> {
        async move {
            let mut state = self.runners()?;
            let Some(found) = state.runners.values().find(|runner| runner.id == id).cloned() else {
                return Ok(Deleted::Gone);
            };
            if found.busy {
                return Ok(Deleted::Busy);
            }
            state.runners.remove(&found.name);
            state.deleted.push(found.name);
            Ok(Deleted::Gone)
        }
        .boxed()
    }

    fn delivery_log<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, Result<DeliveryPage, GitHubError>> {
        async { Ok(DeliveryPage { attempts: Vec::new(), next: None }) }.boxed()
    }

    fn delivery(&self, _: i64) -> BoxFuture<'_, Result<Option<Vec<u8>>, GitHubError>> {
        async { Ok(None) }.boxed()
    }

    fn repositories<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<Vec<RepoName>, GitHubError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn open_jobs<'a>(&'a self, _: &'a RepoName, _: Option<i64>) -> BoxFuture<'a, Result<Vec<JobFact>, GitHubError>> {
        async {
            let state = self.state();
            state.hides.map_or_else(|| Ok(state.jobs.values().cloned().collect()), |kind| Err(github_error(kind)))
        }
        .boxed()
    }

    fn job<'a>(
        &'a self,
        _: &'a RepoName,
        _: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Option<JobFact>, GitHubError>> {
        async move { Ok(self.state().jobs.get(&id).cloned()) }.boxed()
    }

    fn rerun_job<'a>(&'a self, _: &'a RepoName, _: Option<i64>, id: i64) -> BoxFuture<'a, Result<Rerun, GitHubError>> {
        async move {
            let mut state = self.state();
            state.rerun.push(id);
            state.reruns.pop_front().map_or(Ok(Rerun::Asked), |kind| Err(github_error(kind)))
        }
        .boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), GitHubError>> {
        async { Ok(()) }.boxed()
    }
}

/// What a `create` comes to.
#[derive(Clone)]
pub enum Create {
    /// There is a machine, and its answer arrives.
    Made,
    /// There is a machine, and this arrives instead.
    MadeBut(BackendError),
    Refused(BackendError),
    /// There is a machine, and no answer ever arrives.
    MadeAndHangs,
    /// There is none, and the host itself breaks.
    Breaks,
}

#[derive(Default)]
pub struct EngineState {
    pub machines: BTreeMap<String, Instance>,
    /// What the next calls of `create` come to; then each is made.
    pub creates: VecDeque<Create>,
    pub created: usize,
    /// Every other call fails with this.
    pub refuses: Option<ErrorKind>,
    pub destroyed: Vec<String>,
    pub renewed: Vec<(String, Timestamp)>,
    pub capabilities: Vec<String>,
    pub leases: Vec<Timestamp>,
}

#[derive(Default)]
pub struct FakeEngine(pub Mutex<EngineState>);

impl FakeEngine {
    pub fn state(&self) -> MutexGuard<'_, EngineState> {
        locked(&self.0)
    }

    fn answering(&self) -> Result<MutexGuard<'_, EngineState>, BackendError> {
        let state = self.state();
        state.refuses.map_or(Ok(()), |kind| Err(backend_error(kind, true)))?;
        Ok(state)
    }
}

pub fn machine(name: &str) -> Instance {
    Instance {
        handle: format!("handle-of-{name}"),
        name: name.to_owned(),
        owner: "app-1".to_owned(),
        state: InstanceState::Running,
        addresses: vec![],
        created_at: None,
        lease_until: None,
        hold: false,
        price: None,
        attributes: vec![],
    }
}

impl Backends for FakeEngine {
    fn create(
        &self,
        _: &BackendName,
        request: Arc<RunnerRequest>,
        _: Duration,
    ) -> BoxFuture<'_, Result<Instance, BackendError>> {
        let made = machine(request.name.as_str());
        let create = {
            let mut state = self.state();
            state.created += 1;
            state.leases.push(request.lease_until);
            let create = state.creates.pop_front().unwrap_or(Create::Made);
            if !matches!(create, Create::Refused(_) | Create::Breaks) {
                state.machines.insert(made.name.clone(), made.clone());
            }
            create
        };
        async move {
            match create {
                Create::Made => Ok(made),
                Create::MadeBut(error) | Create::Refused(error) => Err(error),
                Create::MadeAndHangs => std::future::pending().await,
                Create::Breaks => panic!("the test breaks the task"),
            }
        }
        .boxed()
    }

    fn get(&self, _: &BackendName, handle: &str, _: Duration) -> BoxFuture<'_, Result<Option<Instance>, BackendError>> {
        let handle = handle.to_owned();
        async move { Ok(self.answering()?.machines.values().find(|machine| machine.handle == handle).cloned()) }.boxed()
    }

    fn list(&self, _: &BackendName, _: &str, _: Duration) -> BoxFuture<'_, Result<Vec<Instance>, BackendError>> {
        async { Ok(self.answering()?.machines.values().cloned().collect()) }.boxed()
    }

    fn destroy(
        &self,
        _: &BackendName,
        handle: &str,
        _: Duration,
        _: Duration,
    ) -> BoxFuture<'_, Result<Destruction, BackendError>> {
        let handle = handle.to_owned();
        async move {
            let mut state = self.answering()?;
            state.machines.retain(|_, machine| machine.handle != handle);
            state.destroyed.push(handle);
            Ok(Destruction::Gone)
        }
        .boxed()
    }

    fn renew_lease(
        &self,
        _: &BackendName,
        handle: &str,
        until: Timestamp,
        _: Duration,
    ) -> BoxFuture<'_, Result<(), BackendError>> {
        let handle = handle.to_owned();
        async move {
            let mut state = self.answering()?;
            if let Some(machine) = state.machines.values_mut().find(|machine| machine.handle == handle) {
                machine.lease_until = Some(until);
            }
            state.renewed.push((handle, until));
            Ok(())
        }
        .boxed()
    }

    fn quote(
        &self,
        _: &BackendName,
        _: &serde_json::Value,
        _: Duration,
    ) -> BoxFuture<'_, Result<Option<Price>, BackendError>> {
        async { Ok(None) }.boxed()
    }

    fn console_log(
        &self,
        _: &BackendName,
        _: &str,
        _: u32,
        _: Duration,
    ) -> BoxFuture<'_, Result<String, BackendError>> {
        async { Ok(String::new()) }.boxed()
    }

    fn digest(&self, _: &BackendName) -> Option<Arc<str>> {
        None
    }

    fn fit(
        &self,
        backend: &BackendName,
        _: &serde_json::Value,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Description>, BackendError>> {
        self.described(backend, deadline)
    }

    fn described(&self, _: &BackendName, _: Duration) -> BoxFuture<'_, Result<Arc<Description>, BackendError>> {
        let capabilities = self.state().capabilities.clone();
        async {
            Ok(Arc::new(Description {
                name: "engine".to_owned(),
                version: "1".to_owned(),
                summary: String::new(),
                settings_schema: Schema::any(),
                pool_schema: Schema::any(),
                endpoints: vec![],
                capabilities,
                bootstraps: vec!["jit-config".to_owned()],
                billing: Billing { granularity_seconds: 1, minimum_seconds: 1 },
                attributes: vec![],
            }))
        }
        .boxed()
    }
}
