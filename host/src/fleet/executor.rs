//! Does what the planner wants: registers runners, has their machines made and taken down.
//!
//! Every step is written down before it is taken, and its outcome after. A task that dies with the process leaves a
//! row with a state and a deadline, from which [`Executor::resume`] goes on. One task drives a runner at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    cost::Rate,
    intent,
    job::{Job, JobChange},
    machine::{Exchanging, Start, Way},
    plan::{Intent, timeouts},
    rerun,
    retry::{self, Trouble},
    runner::{Runner, RunnerChange, RunnerName, RunnerState, Target},
    world::World,
};
use crate::{
    callback::Tokens,
    clock::SharedClock,
    config::{BootstrapMode, Config, Pool, Project, RunnerGroup, Scope, Timeouts},
    github::{Deleted, GitHubApi, GitHubError, GitHubErrorKind, Registration, Rerun},
    ingest,
    plugins::{BackendError, Backends, Destruction, ErrorKind, Instance, InstanceState, Price, RunnerRequest},
    routing::{self, BackendName},
    store::{AuditEntry, Op, Store},
};

/// How long one question to a backend may take: listing, looking up.
const LOOK: Duration = Duration::from_secs(30);
/// How long an engine is given to show a machine whose `create` was cut off: requests that were received are acted on
/// within this, and what comes later is found by the sweep.
const SETTLE: Duration = Duration::from_secs(2);
/// How often a machine that is stopping is asked for.
const STOPPING_POLL: Duration = Duration::from_secs(1);
/// Waits between attempts that fail for reasons outside: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How much longer a runner may stay when GitHub could not be asked whether it has a job.
const UNANSWERED: Duration = Duration::from_secs(30);

/// What the fleet works with.
pub struct Parts {
    pub config: Arc<Config>,
    pub store: Store,
    pub github: Arc<dyn GitHubApi>,
    pub backends: Arc<dyn Backends>,
    pub clock: SharedClock,
    /// For machines that fetch their configuration.
    pub tokens: Arc<Tokens>,
    /// The same that deliveries are routed by.
    pub route: Arc<ingest::Route>,
}

pub(super) struct Executor {
    pub parts: Parts,
    pub route: Arc<ingest::Route>,
    world: Mutex<World>,
    tasks: Mutex<HashMap<RunnerName, CancellationToken>>,
    pub(super) exchanging: Mutex<Exchanging>,
    pub tracker: TaskTracker,
    /// No new work.
    pub stopping: CancellationToken,
    /// Work in flight ends here.
    pub abandoned: CancellationToken,
    /// Has the planner look again.
    pub wake: Notify,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking holder leaves behind is an image of the store, which the next change mends.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    pub fn new(parts: Parts) -> Arc<Self> {
        let route = parts.route.clone();
        let world = Mutex::new(World::new(parts.config.clone()));
        Arc::new(Self {
            parts,
            route,
            world,
            tasks: Mutex::default(),
            exchanging: Mutex::default(),
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            wake: Notify::new(),
        })
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.world)
    }

    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    pub fn runner(&self, name: &RunnerName) -> Option<Arc<Runner>> {
        self.world().runner(name).cloned()
    }

    /// Whether a task drives this runner.
    pub fn is_driven(&self, name: &RunnerName) -> bool {
        locked(&self.tasks).contains_key(name)
    }

    /// Acts on an intent whose changes are committed.
    pub fn act(self: &Arc<Self>, intent: Intent) {
        match intent {
            Intent::Start { runner, .. } => self.spawn_for(Arc::from(runner), Executor::drive),
            Intent::Stop { runner, .. } => {
                self.interrupt(&runner);
                self.spawn(&runner, Executor::take_down);
            }
            Intent::Retire { runner, error } => {
                self.spawn(&runner, move |this, runner| this.retire(runner, error));
            }
            Intent::Resume { runner } => self.spawn(&runner, Executor::resume),
            Intent::Rerun { job } => {
                let this = self.clone();
                self.tracker.spawn(async move { this.rerun(&job).await });
            }
            Intent::Pair { .. } | Intent::Unpair { .. } | Intent::Busy { .. } | Intent::Extend { .. } => {}
        }
    }

    /// Runs the task that drives a runner of the world from here on, unless there is one.
    pub fn spawn<F, W>(self: &Arc<Self>, name: &RunnerName, work: F)
    where
        F: FnOnce(Arc<Self>, Arc<Runner>) -> W + Send + 'static,
        W: Future<Output = ()> + Send,
    {
        if let Some(runner) = self.runner(name) {
            self.spawn_for(runner, work);
        }
    }

    fn spawn_for<F, W>(self: &Arc<Self>, runner: Arc<Runner>, work: F)
    where
        F: FnOnce(Arc<Self>, Arc<Runner>) -> W + Send + 'static,
        W: Future<Output = ()> + Send,
    {
        let (this, name, token) = (self.clone(), runner.name.clone(), self.abandoned.child_token());
        {
            let mut tasks = locked(&self.tasks);
            if tasks.get(&name).is_some_and(|running| !running.is_cancelled()) {
                return;
            }
            tasks.insert(name.clone(), token.clone());
        }
        self.tracker.spawn(async move {
            let finished = token.run_until_cancelled(work(this.clone(), runner)).await.is_some();
            if finished {
                let mut tasks = locked(&this.tasks);
                // Once interrupted, the entry is its successor's.
                if !token.is_cancelled() {
                    tasks.remove(&name);
                }
                drop(tasks);
                this.wake.notify_one();
            }
        });
    }

    fn interrupt(&self, name: &RunnerName) {
        if let Some(token) = locked(&self.tasks).get(name) {
            token.cancel();
        }
    }

    /// Writes until it is written: what happened in the world cannot be taken back.
    pub async fn record(&self, ops: Vec<Op>) {
        let mut wait = RETRY.0;
        while let Err(error) = self.parts.store.write(ops.clone()).await {
            warn!(%error, "an outcome cannot be stored, trying again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    pub(super) fn pool(&self, runner: &Runner) -> Option<(Arc<Project>, Arc<Pool>)> {
        let (project, pool) = self.parts.config.pool(&runner.project, &runner.pool)?;
        Some((project.clone(), pool.clone()))
    }

    fn timeouts(&self, runner: &Runner) -> Timeouts {
        timeouts(&self.world(), runner)
    }

    /// From `planned` to `booting`.
    async fn drive(self: Arc<Self>, runner: Arc<Runner>) {
        let Some((project, pool)) = self.pool(&runner) else { return };
        match self.bring_up(&runner, &project, &pool).await {
            Ok(instance) => self.created(&runner, &pool, instance).await,
            Err(failure) => {
                let trace = failure.trace();
                self.fail(&runner, failure).await;
                self.take_down_now(&runner.name, trace).await;
            }
        }
    }

    async fn bring_up(&self, runner: &Runner, project: &Project, pool: &Pool) -> Result<Instance, Failure> {
        let registration = self.registration(runner, project, pool);
        let way = self.way(runner, pool).await?;
        if matches!(way, Way::Script(_, BootstrapMode::Callback)) {
            return self.prepare_and_create(way, runner, pool, &registration).await;
        }
        let deadline = self.now() + pool.timeouts.register;
        // The name is journaled already, so the way to the backend need not wait for this commit.
        let (_, instance) = tokio::join!(
            self.note(runner, RunnerChange::Registering { deadline }),
            self.prepare_and_create(way, runner, pool, &registration),
        );
        instance
    }

    pub(super) fn registration(&self, runner: &Runner, project: &Project, pool: &Pool) -> Registration {
        Registration {
            target: runner.target.clone(),
            installation_id: runner.installation_id,
            name: runner.name.clone(),
            labels: routing::runner_labels(project, pool, &runner.target),
            group: match &project.scope {
                Scope::Repos(_) => RunnerGroup::Default,
                Scope::Org { runner_group, .. } => runner_group.clone(),
            },
        }
    }

    async fn prepare_and_create(
        &self,
        way: Way,
        runner: &Runner,
        pool: &Pool,
        registration: &Registration,
    ) -> Result<Instance, Failure> {
        let Start { github_runner_id, bootstrap, secrets } = self.prepare(way, runner, pool, registration).await?;
        let mut tags = vec![
            ("project".to_owned(), runner.project.to_string()),
            ("pool".to_owned(), runner.pool.to_string()),
            ("target".to_owned(), runner.target.to_string()),
        ];
        if runner.job.is_some_and(|key| self.world().wants_one_that_stays(key)) {
            tags.push(("market".to_owned(), "on-demand".to_owned()));
        }
        let request = Arc::new(RunnerRequest {
            name: runner.name.clone(),
            owner: self.parts.config.server.owner.clone(),
            labels: registration.labels.clone(),
            settings: pool.settings.clone(),
            bootstrap,
            secrets,
            lease_until: self.now() + longest_life(&pool.timeouts),
            tags,
        });
        self.measure_create(runner);
        let deadline = self.now() + pool.timeouts.create;
        let (_, instance) = tokio::join!(
            self.note(runner, RunnerChange::Creating { github_runner_id, deadline }),
            self.create(&runner.backend, request, deadline),
        );
        instance.map_err(Failure::Backend)
    }

    /// Has the machine made. Where only the answer was lost it may run already, with a job: so it is asked for once more,
    /// which by the contract gives the machine of that name, before anything is taken down.
    async fn create(
        &self,
        backend: &BackendName,
        request: Arc<RunnerRequest>,
        deadline: Timestamp,
    ) -> Result<Instance, BackendError> {
        let left = || Duration::try_from(deadline.duration_since(self.now())).unwrap_or_default();
        let first = self.parts.backends.create(backend, request.clone(), left()).await;
        match first {
            Err(error) if error.asked && error.kind == ErrorKind::Unavailable && left() > RETRY.0 => {
                debug!(runner.name = %request.name, "`{}` is asked for again: {error}", request.name);
                tokio::time::sleep(RETRY.0).await;
                self.parts.backends.create(backend, request, left()).await
            }
            first => first,
        }
    }

    fn measure_create(&self, runner: &Runner) {
        let received = runner.job.and_then(|key| self.world().job(key).map(|job| job.received_at));
        if let Some(received) = received {
            super::measure::since("pacer_job_create_seconds", received, self.now());
        }
    }

    /// Writes progress that a restart can do without: every state up to `creating` is resumed alike.
    async fn note(&self, runner: &Runner, change: RunnerChange) {
        if let Err(error) = self.parts.store.write(vec![Op::Runner { name: runner.name.clone(), change }]).await {
            warn!(runner.name = %runner.name, %error, "the progress of runner `{}` cannot be stored", runner.name);
        }
    }

    async fn created(&self, runner: &Runner, pool: &Pool, instance: Instance) {
        info!(
            runner.name = %runner.name, backend.name = %runner.backend, pool.name = %runner.pool,
            "runner `{}` has its machine", runner.name
        );
        metrics::counter!("pacer_runners_created_total", "project" => runner.project.to_string(),
            "pool" => runner.pool.to_string(), "backend" => runner.backend.to_string())
        .increment(1);
        let (price, since) = (instance.price.clone(), instance.created_at.unwrap_or_else(|| self.now()));
        let digest = self.parts.backends.digest(&runner.backend);
        let change = RunnerChange::Created {
            handle: instance.handle,
            digest: digest.as_deref().unwrap_or_default().to_owned(),
            deadline: self.now() + pool.timeouts.boot,
        };
        let mut ops = vec![Op::Runner { name: runner.name.clone(), change }];
        {
            let world = self.world();
            // Its job wants it still, or runs already; or the commit that planned it has not come round yet.
            let wanted = world.wanted_by(&runner.name).map(|job| job.key);
            let meant_for = wanted.or_else(|| world.runner(&runner.name).map_or(runner.job, |runner| runner.job));
            ops.extend(meant_for.map(|key| Op::Job { key, change: JobChange::Starting }));
            if world.pause(&runner.project, &runner.pool).is_some() {
                ops.push(Op::Pause { project: runner.project.clone(), pool: runner.pool.clone(), pause: None });
            }
        }
        self.record(ops).await;
        self.rate(runner, pool, price, since).await;
    }

    /// Writes what the machine costs. What cannot be learnt is not known: no job waits for it.
    async fn rate(&self, runner: &Runner, pool: &Pool, price: Option<Price>, since: Timestamp) {
        let backends = &self.parts.backends;
        let Ok(described) = backends.described(&runner.backend, LOOK).await else { return };
        let quotes = described.capabilities.iter().any(|word| word == "quote");
        let price = match price {
            None if quotes => backends.quote(&runner.backend, &pool.settings, LOOK).await.unwrap_or_else(|error| {
                debug!(runner.name = %runner.name, "what `{}` costs cannot be learnt: {error}", runner.name);
                None
            }),
            price => price,
        };
        let Some(Price { micros_per_hour, currency }) = price else { return };
        let billing = described.billing;
        let (granularity, minimum) = (billing.granularity_seconds, billing.minimum_seconds);
        let rate = Rate { micros_per_hour, currency, granularity, minimum, since };
        self.note(runner, RunnerChange::Rated { rate }).await;
    }

    /// Writes that a runner failed, what that means for its job, and how long its pool holds back.
    pub async fn fail(&self, runner: &Runner, failure: Failure) {
        let error = failure.to_string();
        warn!(
            runner.name = %runner.name, backend.name = %runner.backend, pool.name = %runner.pool,
            "runner `{}` is lost: {error}", runner.name
        );
        metrics::counter!("pacer_runners_lost_total", "backend" => runner.backend.to_string(), "reason" => failure.word())
            .increment(1);
        let now = self.now();
        let ops = {
            let world = self.world();
            let mut ops = intent::stop_failed(&world, runner, &error, failure.trouble(), now);
            let previous = world.pause(&runner.project, &runner.pool);
            let pause =
                retry::pause_after(failure.trouble(), &error, failure.retry_after(), previous, rand::random(), now);
            if pause.is_some() && pause.as_ref() != previous {
                ops.push(Op::Pause { project: runner.project.clone(), pool: runner.pool.clone(), pause });
            }
            ops
        };
        self.record(ops).await;
    }

    async fn take_down(self: Arc<Self>, runner: Arc<Runner>) {
        self.take_down_now(&runner.name, Trace::Perhaps).await;
    }

    /// From `stopping` to `gone`: GitHub first, then the machine, until the backend says that nothing is left.
    pub async fn take_down_now(&self, name: &RunnerName, trace: Trace) {
        let Some(runner) = self.runner(name) else { return };
        // A runner that did its job is removed by GitHub itself; asking would only cost budget.
        let did_its_job = runner.busy_at.is_some() && runner.error.is_none();
        if !did_its_job {
            self.deregister(&runner).await;
        }
        if trace != Trace::None {
            self.destroy(&runner, trace).await;
        }
        self.record(vec![Op::Runner { name: name.clone(), change: RunnerChange::Gone }]).await;
    }

    /// Removes what GitHub has registered. A failure is left to the sweep: the machine must go all the same.
    async fn deregister(&self, runner: &Runner) -> Option<Deleted> {
        match self.try_deregister(runner).await {
            Ok(deleted) => Some(deleted),
            Err(error) => {
                warn!(runner.name = %runner.name, %error, "the registration of `{}` could not be removed", runner.name);
                None
            }
        }
    }

    async fn try_deregister(&self, runner: &Runner) -> Result<Deleted, GitHubError> {
        let (target, installation) = (&runner.target, runner.installation_id);
        let github = &self.parts.github;
        let id = match runner.github_runner_id {
            Some(id) => id,
            None => match github.find_runner(target, installation, &runner.name).await? {
                Some(found) => found.id,
                None => return Ok(Deleted::Gone),
            },
        };
        github.delete_runner(target, installation, id).await
    }

    /// Calls `destroy` until the machine is gone. There is no other way out: a machine is never forgotten.
    async fn destroy(&self, runner: &Runner, trace: Trace) {
        let grace = self.timeouts(runner).stop;
        let mut wait = RETRY.0;
        loop {
            let outcome = match self.find_handle(runner, trace).await {
                Ok(None) => return,
                Ok(Some(handle)) => self.parts.backends.destroy(&runner.backend, &handle, grace, grace + LOOK).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Destruction::Gone) => return,
                Ok(Destruction::Stopping) => tokio::time::sleep(STOPPING_POLL).await,
                Err(error) => {
                    warn!(
                        runner.name = %runner.name, backend.name = %runner.backend,
                        "the machine of `{}` cannot be taken down yet: {error}", runner.name
                    );
                    tokio::time::sleep(error.retry_after.unwrap_or(wait).min(RETRY.1)).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
            let deadline = self.now() + grace;
            self.note(runner, RunnerChange::Extend { deadline }).await;
        }
    }

    /// The machine's handle. When it is not known the backend is asked by name, and again where `create` was cut off.
    async fn find_handle(&self, runner: &Runner, trace: Trace) -> Result<Option<String>, BackendError> {
        if let Some(handle) = self.runner(&runner.name).and_then(|runner| runner.handle.clone()) {
            return Ok(Some(handle));
        }
        if let Some(instance) = self.find_instance(runner).await? {
            return Ok(Some(instance.handle));
        }
        if trace == Trace::Refused {
            return Ok(None);
        }
        tokio::time::sleep(SETTLE).await;
        Ok(self.find_instance(runner).await?.map(|instance| instance.handle))
    }

    async fn find_instance(&self, runner: &Runner) -> Result<Option<Instance>, BackendError> {
        let owner = &self.parts.config.server.owner;
        let instances = self.parts.backends.list(&runner.backend, owner, LOOK).await?;
        Ok(instances.into_iter().find(|instance| instance.name == runner.name.as_str()))
    }

    /// Takes a runner out of service, unless GitHub gave it a job in the meantime.
    async fn retire(self: Arc<Self>, runner: Arc<Runner>, error: Option<String>) {
        let deadline = match self.try_deregister(&runner).await {
            Ok(Deleted::Gone) => {
                let Some(current) = self.runner(&runner.name) else { return };
                match error {
                    Some(error) => self.fail(&current, Failure::Lost(error)).await,
                    None => {
                        let ops = intent::stop(&self.world(), &current, self.now());
                        self.record(ops).await;
                    }
                }
                return self.take_down_now(&runner.name, Trace::Perhaps).await;
            }
            Ok(Deleted::Busy) => self.now() + self.timeouts(&runner).run,
            Err(error) => {
                warn!(runner.name = %runner.name, %error, "GitHub cannot be asked whether `{}` has a job", runner.name);
                self.now() + UNANSWERED
            }
        };
        let change = RunnerChange::Extend { deadline };
        self.record(vec![Op::Runner { name: runner.name.clone(), change }]).await;
    }

    /// Goes on with a runner that another process, or a task that ended, left where it is.
    pub async fn resume(self: Arc<Self>, runner: Arc<Runner>) {
        match runner.state {
            RunnerState::Planned | RunnerState::Registering | RunnerState::Creating => {
                // Its configuration is lost with the process that asked for it: either the machine has it, or none does.
                if let Some(instance) = self.settled_instance(&runner).await {
                    let Some((_, pool)) = self.pool(&runner) else { return };
                    info!(runner.name = %runner.name, "runner `{}` is taken over with its machine", runner.name);
                    return self.created(&runner, &pool, instance).await;
                }
                let error = "pacer was restarted before its machine existed".to_owned();
                self.fail(&runner, Failure::Restart(error)).await;
                self.take_down_now(&runner.name, Trace::Perhaps).await;
            }
            RunnerState::Stopping => self.take_down_now(&runner.name, Trace::Perhaps).await,
            RunnerState::Booting | RunnerState::Idle | RunnerState::Busy | RunnerState::Gone | RunnerState::Failed => {}
        }
    }

    /// The machine of a cut-off `create`, if it came to run. One that exists and does not run may lack its start,
    /// unless it boots by itself.
    async fn settled_instance(&self, runner: &Runner) -> Option<Instance> {
        let unfetched = self.is_unfetched(runner).await;
        let mut wait = RETRY.0;
        let mut settled = false;
        loop {
            match self.find_instance(runner).await {
                Ok(Some(instance)) if is_underway(&instance.state, unfetched) => return Some(instance),
                Ok(_) if settled => return None,
                Ok(_) => {
                    settled = true;
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    warn!(backend.name = %runner.backend, "cannot look for the machine of `{}`: {error}", runner.name);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Deals with a runner whose machine ended by itself.
    pub async fn ended(self: Arc<Self>, runner: Arc<Runner>, how: String, interrupted: bool) {
        let Some(runner) = self.runner(&runner.name).filter(|runner| !runner.state.is_final()) else { return };
        if runner.state == RunnerState::Busy {
            // GitHub concludes the job, from the runner's last word or from its silence.
            let ops = if interrupted {
                let mut ops = intent::stop(&self.world(), &runner, self.now());
                ops.extend(runner.job.map(|key| Op::Job { key, change: JobChange::Interrupted { reason: how } }));
                ops
            } else {
                intent::stop_ended(&self.world(), &runner, &how, self.now())
            };
            self.record(ops).await;
            if interrupted {
                // GitHub refuses as long as it takes the runner for busy; then it finds out by itself.
                self.deregister(&runner).await;
            }
            return self.take_down_now(&runner.name, Trace::Perhaps).await;
        }
        if interrupted {
            self.fail(&runner, Failure::Interrupted(how)).await;
            return self.take_down_now(&runner.name, Trace::Perhaps).await;
        }
        if self.is_unfetched(&runner).await {
            self.fail(&runner, Failure::Lost(how)).await;
            return self.take_down_now(&runner.name, Trace::Perhaps).await;
        }
        // It may have done a job of which the webhook is still on its way: then GitHub has removed it already.
        let found = self.parts.github.find_runner(&runner.target, runner.installation_id, &runner.name).await;
        match found {
            Ok(None) => {
                self.heal_job(&runner).await;
                let Some(current) = self.runner(&runner.name) else { return };
                let ops = intent::stop(&self.world(), &current, self.now());
                self.record(ops).await;
            }
            Ok(Some(found)) if found.busy => {
                let ops = intent::stop(&self.world(), &runner, self.now());
                self.record(ops).await;
            }
            Ok(Some(_)) | Err(_) => self.fail(&runner, Failure::Lost(how)).await,
        }
        self.take_down_now(&runner.name, Trace::Perhaps).await;
    }

    /// Has GitHub run a job again. That it was asked is written before: it is not asked twice for want of an answer.
    async fn rerun(&self, job: &Job) {
        let asked = self.parts.github.rerun_job(&job.repo, job.installation_id, job.key.id).await;
        let taken = "its machine was taken away";
        let change = match asked {
            Ok(Rerun::Asked) => {
                info!(job.id = %job.key, "job {} lost its machine and is run again", job.key);
                return;
            }
            Ok(Rerun::RunGoesOn) if !rerun::is_too_late(job, self.now()) => JobChange::RerunPutOff {
                reason: format!("{taken}; GitHub is asked to run it again as soon as the rest of its run is over"),
            },
            Ok(Rerun::RunGoesOn) => JobChange::RerunRefused {
                reason: format!(
                    "{taken}; its run is still going on after {} h, run it again by hand",
                    rerun::WINDOW.as_hours()
                ),
            },
            Err(error) => {
                warn!(job.id = %job.key, %error, "job {} lost its machine and cannot be run again", job.key);
                JobChange::RerunRefused { reason: format!("{taken}, and GitHub did not run it again: {error}") }
            }
        };
        self.record(vec![Op::Job { key: job.key, change }]).await;
    }

    /// Asks GitHub what became of the job a runner was meant for.
    async fn heal_job(&self, runner: &Runner) {
        let job = self.world().wanted_by(&runner.name).cloned();
        if let Some(job) = job {
            super::recover::ask_about(self, &job).await;
        }
    }

    pub fn audit(&self, action: &str, subject: &str, detail: String) -> Op {
        Op::Audit(AuditEntry {
            at: self.now(),
            actor: "pacer".to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: Some(detail),
        })
    }

    /// Removes an ownerless registration, then the machine. Whatever fails is found again by the next look.
    pub async fn sweep(&self, backend: &routing::BackendName, instance: &Instance, runner: Option<Arc<Runner>>) {
        warn!(backend.name = %backend, "machine `{}` belongs to no runner any more: removing it", instance.name);
        let target = instance.attributes.iter().find(|(key, _)| key == "target");
        let registration = match &runner {
            Some(runner) => Some((runner.target.clone(), runner.installation_id)),
            None => target.and_then(|(_, target)| target.parse::<Target>().ok()).map(|target| (target, None)),
        };
        if let Some((target, installation)) = registration {
            let name = RunnerName::new(instance.name.as_str());
            let github = &self.parts.github;
            match github.find_runner(&target, installation, &name).await {
                Ok(Some(found)) => match github.delete_runner(&target, installation, found.id).await {
                    Ok(Deleted::Gone) => {}
                    Ok(Deleted::Busy) => return,
                    Err(error) => return warn!(%error, "the registration of `{name}` could not be removed"),
                },
                Ok(None) => {}
                Err(error) => return warn!(%error, "GitHub cannot be asked about `{name}`"),
            }
        }
        let outcome = self.parts.backends.destroy(backend, &instance.handle, LOOK, LOOK * 2).await;
        match outcome {
            Ok(_) => {
                let detail = format!("machine of backend `{backend}` without a live runner");
                self.record(vec![self.audit("audit.machine.swept", &instance.name, detail)]).await;
            }
            Err(error) => warn!(backend.name = %backend, "machine `{}` cannot be removed yet: {error}", instance.name),
        }
    }
}

/// Whether a machine runs, or will without anybody's doing.
fn is_underway(state: &InstanceState, boots_by_itself: bool) -> bool {
    match state {
        InstanceState::Running => true,
        InstanceState::Creating => boots_by_itself,
        InstanceState::Stopping | InstanceState::Stopped | InstanceState::Failed(_) | InstanceState::Interrupted(_) => {
            false
        }
    }
}

/// From creation to the last deadline: when it is over the machine has no business being there.
pub(super) fn longest_life(timeouts: &Timeouts) -> Duration {
    timeouts.create + timeouts.boot + timeouts.idle + timeouts.run + timeouts.stop
}

pub(super) fn register_timeout(pool: &Pool) -> GitHubError {
    GitHubError {
        kind: GitHubErrorKind::Unavailable,
        message: format!("GitHub did not answer within the pool's `timeouts.register` of {:?}", pool.timeouts.register),
        retry_after: None,
    }
}

/// What an attempt to make a machine may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trace {
    /// The backend was never asked.
    None,
    /// It refused: one look is enough.
    Refused,
    /// Its answer may have been lost: what it was asked for may still appear.
    Perhaps,
}

/// Why a runner did not come to its job.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    GitHub(GitHubError),
    #[error("{0}")]
    Backend(BackendError),
    #[error("{0}")]
    Lost(String),
    /// Its provider took the machine away.
    #[error("{0}")]
    Interrupted(String),
    /// Nobody's fault: no pause, but counted.
    #[error("{0}")]
    Restart(String),
}

impl Failure {
    fn trouble(&self) -> Trouble {
        match self {
            Self::GitHub(error) => Trouble::GitHub(error.kind),
            Self::Backend(error) => Trouble::Backend(error.kind),
            Self::Lost(_) => Trouble::Lost,
            Self::Interrupted(_) => Trouble::Backend(ErrorKind::Interrupted),
            Self::Restart(_) => Trouble::Restart,
        }
    }

    /// What the attempt may have left at the backend.
    fn trace(&self) -> Trace {
        match self {
            Self::GitHub(_) => Trace::None,
            Self::Backend(error) if !error.asked => Trace::None,
            Self::Backend(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Interrupted | ErrorKind::Internal | ErrorKind::Other => {
                    Trace::Perhaps
                }
                ErrorKind::InvalidRequest
                | ErrorKind::InvalidConfig
                | ErrorKind::Unauthorized
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Capacity
                | ErrorKind::Quota
                | ErrorKind::RateLimited
                | ErrorKind::Unsupported => Trace::Refused,
            },
            Self::Lost(_) | Self::Interrupted(_) | Self::Restart(_) => Trace::Perhaps,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::GitHub(error) => error.retry_after,
            Self::Backend(error) => error.retry_after,
            Self::Lost(_) | Self::Interrupted(_) | Self::Restart(_) => None,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::GitHub(_) => "github",
            Self::Backend(error) => match error.kind {
                ErrorKind::Interrupted => "interrupted",
                ErrorKind::InvalidRequest
                | ErrorKind::InvalidConfig
                | ErrorKind::Unauthorized
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Capacity
                | ErrorKind::Quota
                | ErrorKind::RateLimited
                | ErrorKind::Unavailable
                | ErrorKind::Unsupported
                | ErrorKind::Internal
                | ErrorKind::Other => "backend",
            },
            Self::Lost(_) => "ended-early",
            Self::Interrupted(_) => "interrupted",
            Self::Restart(_) => "restart",
        }
    }
}
