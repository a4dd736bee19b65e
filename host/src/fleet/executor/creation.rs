//! From a runner that is planned to one that has its machine.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{Executor, Failure, LOOK, LOST_ANSWER, RETRY, Trace};
use crate::{
    config::{BootstrapMode, Pool, Project, RunnerGroup, Scope},
    fleet::{
        cost::Rate,
        intent,
        job::JobChange,
        machine::{Start, Way},
        measure,
        runner::{Runner, RunnerChange},
    },
    github::{GitHubError, GitHubErrorKind, Registration},
    plugins::{ErrorKind, Instance, Price, RunnerRequest},
    routing::{self, BackendName},
    store::{Op, Proof},
};

impl Executor {
    /// From `planned` to `booting`.
    pub(super) async fn drive(self: Arc<Self>, runner: Arc<Runner>) {
        let Some((project, pool)) = self.pool(&runner) else { return };
        match self.bring_up(&runner, &project, &pool).await {
            Ok(instance) => self.created(&runner, instance).await,
            Err(failure) => self.settle(&runner, failure, LOST_ANSWER).await,
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

    pub(in crate::fleet) fn registration(&self, runner: &Runner, project: &Project, pool: &Pool) -> Registration {
        Registration {
            target: runner.target.clone(),
            installation_id: runner.installation_id,
            name: runner.name.clone(),
            labels: routing::runner_labels(project, pool, &runner.target),
            group: match &project.scope {
                Scope::Repos(_) => RunnerGroup::Default,
                Scope::Org { runner_group, .. } => runner_group.clone(),
            },
            within: pool.timeouts.register,
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
            lease_until: self.now() + pool.max_life(),
            tags,
        });
        self.measure_create(runner);
        let deadline = self.now() + pool.timeouts.create;
        let change = RunnerChange::Creating { github_runner_id, deadline };
        let (_, instance) = tokio::join!(
            self.record(vec![Op::Runner { name: runner.name.clone(), change }]),
            self.create(&runner.backend, request, deadline),
        );
        instance
    }

    /// Has the machine made. Where only the answer was lost it may run already, with a job: so it is asked for once more,
    /// which by the contract gives the machine of that name, before anything is taken down.
    async fn create(
        &self,
        backend: &BackendName,
        request: Arc<RunnerRequest>,
        deadline: Timestamp,
    ) -> Result<Instance, Failure> {
        let left = || Duration::try_from(deadline.duration_since(self.now())).unwrap_or_default();
        let first = self.parts.backends.create(backend, request.clone(), left()).await;
        match first {
            Err(error) if error.asked && error.kind == ErrorKind::Unavailable && left() > RETRY.0 => {
                debug!(runner.name = %request.name, "`{}` is asked for again: {error}", request.name);
                tokio::time::sleep(RETRY.0).await;
                let second = self.parts.backends.create(backend, request, left()).await;
                // Whatever is said now, the first call may have made one.
                second.map_err(|error| Failure::Backend { error, trace: Trace::Perhaps })
            }
            first => Ok(first?),
        }
    }

    fn measure_create(&self, runner: &Runner) {
        let received = runner.job.and_then(|key| self.world().job(key).map(|job| job.received_at));
        if let Some(received) = received {
            measure::since("pacer_job_create_seconds", received, self.now());
        }
    }

    /// Writes progress that a restart can do without: every state up to `creating` is resumed alike.
    pub(super) async fn note(&self, runner: &Runner, change: RunnerChange) {
        if let Err(error) = self.parts.store.write(vec![Op::Runner { name: runner.name.clone(), change }]).await {
            warn!(runner.name = %runner.name, %error, "the progress of runner `{}` cannot be stored", runner.name);
        }
    }

    pub(in crate::fleet) async fn created(&self, runner: &Runner, instance: Instance) {
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
            deadline: self.now() + self.timeouts(runner).boot,
        };
        let mut ops = vec![Op::Runner { name: runner.name.clone(), change }];
        {
            let world = self.world();
            // Its job wants it still, or runs already; or the commit that planned it has not come round yet.
            let wanted = world.wanted_by(&runner.name).map(|job| job.key);
            let meant_for = wanted.or_else(|| world.runner(&runner.name).map_or(runner.job, |runner| runner.job));
            ops.extend(meant_for.map(|key| Op::Job { key, change: JobChange::Starting }));
            ops.extend(intent::let_go(&world, runner, Proof::Machine));
        }
        self.record(ops).await;
        if let Some((_, pool)) = self.pool(runner) {
            self.rate(runner, &pool, price, since).await;
        }
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
}

pub(in crate::fleet) fn register_timeout(pool: &Pool) -> GitHubError {
    GitHubError {
        kind: GitHubErrorKind::Unavailable,
        message: format!("GitHub did not answer within the pool's `timeouts.register` of {:?}", pool.timeouts.register),
        retry_after: None,
    }
}
