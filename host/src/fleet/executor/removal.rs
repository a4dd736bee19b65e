//! Taking runners out of service: the registration first, then the machine, and both until they are gone.

use std::sync::Arc;

use tracing::warn;

use super::{Executor, Failure, LOOK, RETRY, SETTLE, STOPPING_POLL, Trace, UNANSWERED};
use crate::{
    fleet::{
        intent,
        plan::configured_targets,
        runner::{Runner, RunnerChange, RunnerName, RunnerState, Target},
        watch::came_online,
    },
    github::{Deleted, GitHubError},
    plugins::{BackendError, Destruction, Instance},
    routing::BackendName,
    store::Op,
};

impl Executor {
    pub(in crate::fleet) async fn take_down(self: Arc<Self>, runner: Arc<Runner>) {
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
    pub(super) async fn deregister(&self, runner: &Runner) -> Option<Deleted> {
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

    pub(super) async fn find_instance(&self, runner: &Runner) -> Result<Option<Instance>, BackendError> {
        let owner = &self.parts.config.server.owner;
        let instances = self.parts.backends.list(&runner.backend, owner, LOOK).await?;
        Ok(instances.into_iter().find(|instance| instance.name == runner.name.as_str()))
    }

    /// Whether a runner that has not been seen online yet is so now; in it goes then. It is looked for by its name: what
    /// lists them all may not have had its turn.
    async fn is_online_after_all(&self, runner: &Runner) -> Result<bool, GitHubError> {
        if runner.state != RunnerState::Booting {
            return Ok(false);
        }
        let found = self.parts.github.find_runner(&runner.target, runner.installation_id, &runner.name).await?;
        let online = found.is_some_and(|found| found.online && !found.busy);
        if online {
            let ops = came_online(&self.world(), runner, self.now()).collect();
            self.record(ops).await;
        }
        Ok(online)
    }

    /// Takes a runner out of service, unless it came online or GitHub gave it a job in the meantime.
    pub(super) async fn retire(self: Arc<Self>, runner: Arc<Runner>, error: Option<String>) {
        let outcome = match self.is_online_after_all(&runner).await {
            Ok(true) => return,
            Ok(false) => self.try_deregister(&runner).await,
            Err(error) => Err(error),
        };
        let deadline = match outcome {
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

    /// Removes whatever GitHub has registered under a name; none where it could not be asked.
    async fn deregister_by_name(
        &self,
        target: &Target,
        installation: Option<i64>,
        name: &RunnerName,
    ) -> Option<Deleted> {
        let github = &self.parts.github;
        let outcome = match github.find_runner(target, installation, name).await {
            Ok(Some(found)) => github.delete_runner(target, installation, found.id).await,
            Ok(None) => Ok(Deleted::Gone),
            Err(error) => Err(error),
        };
        outcome.inspect_err(|error| warn!(%error, "the registration of `{name}` could not be removed")).ok()
    }

    /// Removes the registration of a machine that says it was made here and that the store does not know. It gets no
    /// configuration and powers off, so a sweep may never see it.
    pub(in crate::fleet) async fn disown(&self, name: &RunnerName) {
        warn!(runner.name = %name, "the machine of `{name}` is not in the database: what GitHub has of it is removed");
        for target in configured_targets(&self.parts.config) {
            self.deregister_by_name(&target, None, name).await;
        }
    }

    /// Removes an ownerless registration, then the machine. Whatever fails is found again by the next look.
    pub async fn sweep(&self, backend: &BackendName, instance: &Instance, runner: Option<Arc<Runner>>) {
        warn!(backend.name = %backend, "machine `{}` belongs to no runner any more: removing it", instance.name);
        let target = instance.attributes.iter().find(|(key, _)| key == "target");
        let registration = match &runner {
            Some(runner) => Some((runner.target.clone(), runner.installation_id)),
            None => target.and_then(|(_, target)| target.parse::<Target>().ok()).map(|target| (target, None)),
        };
        if let Some((target, installation)) = registration {
            let name = RunnerName::new(instance.name.as_str());
            if self.deregister_by_name(&target, installation, &name).await != Some(Deleted::Gone) {
                return;
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
