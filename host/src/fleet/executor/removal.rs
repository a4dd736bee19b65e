//! Taking runners out of service: the registration first, then the machine, and both until they are gone.

use std::sync::Arc;

use tracing::warn;

use super::{Executor, Failure, LOOK, RETRY, SETTLE, SILENCE, STOPPING_POLL, Trace, UNANSWERED, locked};
use crate::{
    fleet::{
        intent,
        names::PREFIX,
        plan::configured_targets,
        runner::{Runner, RunnerChange, RunnerName, RunnerState, Target},
        watch::came_online,
    },
    github::{Deleted, GitHubError, GitHubErrorKind},
    plugins::{BackendError, Destruction, Instance},
    routing::BackendName,
    store::Op,
};

impl Executor {
    pub(in crate::fleet) async fn take_down(self: Arc<Self>, runner: Arc<Runner>) {
        self.take_down_now(&runner.name, Trace::Perhaps).await;
    }

    /// From `stopping` to `gone`, whatever GitHub thinks of it: its job is over, its time is, or its machine.
    pub async fn take_down_now(&self, name: &RunnerName, trace: Trace) {
        let Some(runner) = self.runner(name) else { return };
        // A runner that did its job is removed by GitHub itself; asking would only cost budget.
        let did_its_job = runner.busy_at.is_some() && runner.error.is_none();
        if !did_its_job {
            self.deregister(&runner).await;
        }
        self.remove_machine(&runner, trace).await;
    }

    /// To `gone`, once the backend says that nothing is left.
    async fn remove_machine(&self, runner: &Runner, trace: Trace) {
        self.look_for_interruption(runner).await;
        if trace != Trace::None {
            self.destroy(runner, trace).await;
        }
        locked(&self.unanswered).remove(&runner.name);
        self.record(vec![Op::Runner { name: runner.name.clone(), change: RunnerChange::Gone }]).await;
    }

    /// Removes what GitHub has registered. A failure is left to the sweep: the machine must go all the same.
    pub(super) async fn deregister(&self, runner: &Runner) {
        if let Err(error) = self.try_deregister(runner).await {
            warn!(runner.name = %runner.name, %error, "the registration of `{}` could not be removed", runner.name);
        }
    }

    async fn try_deregister(&self, runner: &Runner) -> Result<Deleted, GitHubError> {
        let (target, installation) = (&runner.target, runner.installation_id);
        match runner.github_runner_id {
            Some(id) => self.parts.github.delete_runner(target, installation, id).await,
            None => self.deregister_by_name(target, installation, &runner.name).await,
        }
    }

    /// Removes whatever GitHub has registered under a name.
    async fn deregister_by_name(
        &self,
        target: &Target,
        installation: Option<i64>,
        name: &RunnerName,
    ) -> Result<Deleted, GitHubError> {
        match self.parts.github.find_runner(target, installation, name).await? {
            Some(found) => self.parts.github.delete_runner(target, installation, found.id).await,
            None => Ok(Deleted::Gone),
        }
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

    pub(in crate::fleet) async fn find_instance(&self, runner: &Runner) -> Result<Option<Instance>, BackendError> {
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

    pub(super) async fn retire(self: Arc<Self>, runner: Arc<Runner>, error: Option<String>) {
        self.withdraw(&runner.name, error.map(Failure::Lost), Trace::Perhaps).await;
    }

    /// Takes a runner out of service, unless it came online or GitHub gave it a job in the meantime.
    pub(super) async fn withdraw(&self, name: &RunnerName, failure: Option<Failure>, trace: Trace) {
        let Some(runner) = self.runner(name).filter(|runner| runner.state.is_supply()) else { return };
        // What has fetched no configuration has no job, and gets none once it is stopping.
        let unfetched = self.is_unfetched(&runner).await;
        let released = if unfetched {
            Release::Done
        } else {
            match self.is_online_after_all(&runner).await {
                Ok(true) => return,
                Ok(false) => self.weigh(name, self.try_deregister(&runner).await),
                Err(error) => self.weigh(name, Err(error)),
            }
        };
        match released {
            Release::Done => {}
            Release::HasAJob => return self.has_a_job(&runner).await,
            Release::AskAgain => {
                let change = RunnerChange::Extend { deadline: self.now() + UNANSWERED };
                return self.record(vec![Op::Runner { name: name.clone(), change }]).await;
            }
        }
        match failure {
            Some(failure) => self.fail(&runner, failure).await,
            None => {
                let ops = intent::stop(&self.world(), &runner, self.now());
                self.record(ops).await;
            }
        }
        let Some(runner) = self.runner(name) else { return };
        if unfetched {
            // It may have asked in the very moment.
            self.deregister(&runner).await;
        }
        self.remove_machine(&runner, trace).await;
    }

    /// What an attempt to remove a registration means: once it is gone, no job can come to the runner.
    fn weigh(&self, name: &RunnerName, outcome: Result<Deleted, GitHubError>) -> Release {
        let error = match outcome {
            Ok(Deleted::Gone) => return Release::Done,
            Ok(Deleted::Busy) => return Release::HasAJob,
            Err(error) => error,
        };
        let now = self.now();
        let since = *locked(&self.unanswered).entry(name.clone()).or_insert(now);
        if says_no(error.kind) || now.duration_since(since) >= SILENCE {
            warn!(runner.name = %name, %error, "`{name}` goes, though GitHub does not say whether it has a job");
            return Release::Done;
        }
        warn!(runner.name = %name, %error, "GitHub cannot be asked whether `{name}` has a job");
        Release::AskAgain
    }

    /// Removes the registration of a machine that says it was made here and that the store does not know. It gets no
    /// configuration and powers off, so a sweep may never see it.
    pub(in crate::fleet) async fn disown(&self, name: &RunnerName) {
        warn!(runner.name = %name, "the machine of `{name}` is not in the database: what GitHub has of it is removed");
        for target in configured_targets(&self.parts.config) {
            if let Err(error) = self.deregister_by_name(&target, None, name).await {
                warn!(runner.name = %name, %error, "the registration of `{name}` could not be removed");
            }
        }
    }

    /// Removes an ownerless registration, then the machine. Whatever fails is found again by the next look.
    pub async fn sweep(&self, backend: &BackendName, instance: &Instance, runner: Option<Arc<Runner>>) {
        let name = RunnerName::new(instance.name.as_str());
        warn!(backend.name = %backend, "machine `{name}` belongs to no runner any more: removing it");
        let registered = match &runner {
            Some(runner) => self.try_deregister(runner).await,
            None => match self.registered_by(instance) {
                Some(target) => self.deregister_by_name(&target, None, &name).await,
                None => Ok(Deleted::Gone),
            },
        };
        match self.weigh(&name, registered) {
            Release::Done => {}
            Release::HasAJob | Release::AskAgain => return,
        }
        let outcome = self.parts.backends.destroy(backend, &instance.handle, LOOK, LOOK * 2).await;
        match outcome {
            Ok(_) => {
                locked(&self.unanswered).remove(&name);
                let detail = format!("machine of backend `{backend}` without a live runner");
                self.record(vec![self.audit("audit.machine.swept", &instance.name, detail)]).await;
            }
            Err(error) => warn!(backend.name = %backend, "machine `{name}` cannot be removed yet: {error}"),
        }
    }

    /// Where the machine of a runner that no database knows is registered, by its tags. A backend says what it likes:
    /// only what pacer itself may have registered is ever removed by its word.
    fn registered_by(&self, instance: &Instance) -> Option<Target> {
        let (_, target) = instance.attributes.iter().find(|(key, _)| key == "target")?;
        let target: Target = target.parse().ok()?;
        let ours = instance.name.starts_with(PREFIX) && configured_targets(&self.parts.config).contains(&target);
        ours.then_some(target)
    }
}

/// What came of removing a registration.
enum Release {
    Done,
    HasAJob,
    AskAgain,
}

/// Whether GitHub refuses for good: the App, the repository or the permission is gone, and asking again changes nothing.
fn says_no(kind: GitHubErrorKind) -> bool {
    match kind {
        GitHubErrorKind::NotFound | GitHubErrorKind::Forbidden => true,
        GitHubErrorKind::Unauthorized
        | GitHubErrorKind::NameTaken
        | GitHubErrorKind::Rejected
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable => false,
    }
}
