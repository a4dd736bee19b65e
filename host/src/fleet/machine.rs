//! How a runner's machine comes by its just-in-time configuration.
//!
//! A container is given it with its start. A machine that boots is given a start script, which fetches it from pacer
//! once ([`crate::callback`]) or, where it has no way back, holds it. Who fetches is registered at GitHub only then: a
//! machine that never boots leaves no registration behind.

use std::{collections::HashSet, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use secrecy::SecretString;
use tokio::{sync::oneshot, time::timeout};
use tracing::warn;

use super::{
    Fleet,
    executor::{Executor, Failure, locked, register_timeout},
    runner::{MachinePhase, Runner, RunnerChange, RunnerName},
};
use crate::{
    bootstrap,
    callback::{Machines, Purpose, Refusal, Tokens},
    config::{self, BootstrapKind, BootstrapMode, Pool},
    github::{GitHubError, GitHubErrorKind, JitRunner, Registration},
    plugins::{BackendError, Bootstrap, ErrorKind},
    store::{Op, OpOutcome},
};

/// What the machine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The configuration itself.
    Direct,
    Script(BootstrapKind, BootstrapMode),
}

/// What a pool's machines are given, by what the pool says and what its backend takes, best first.
pub fn way(pool: &config::Bootstrap, takes: &[String]) -> Result<Way, String> {
    let known = takes.iter().find_map(|word| BootstrapKind::ALL.into_iter().find(|kind| kind.as_str() == word));
    let kind = match pool.kind {
        Some(kind) if takes.iter().any(|word| word == kind.as_str()) => kind,
        Some(kind) => {
            let takes = takes.join(", ");
            return Err(format!("`bootstrap.kind` is `{}` and the backend takes {takes}", kind.as_str()));
        }
        None => known.ok_or_else(|| {
            format!("the backend takes {}, and this pacer has none of these to give", takes.join(", "))
        })?,
    };
    Ok(match kind {
        BootstrapKind::JitConfig => Way::Direct,
        BootstrapKind::StartScript | BootstrapKind::CloudInit => Way::Script(kind, pool.mode),
    })
}

/// What a machine is brought up with.
pub(super) struct Start {
    /// None while it is yet to fetch its configuration.
    pub github_runner_id: Option<i64>,
    pub bootstrap: Bootstrap,
    /// What of it must not come back from the backend.
    pub secrets: Vec<SecretString>,
}

impl Executor {
    pub(super) async fn way(&self, runner: &Runner, pool: &Pool) -> Result<Way, Failure> {
        let described = self.parts.backends.fit(&runner.backend, &pool.settings, pool.timeouts.create).await;
        let described = described?;
        way(&pool.bootstrap, &described.bootstraps).map_err(|message| {
            Failure::from(BackendError {
                kind: ErrorKind::InvalidConfig,
                message: format!("pool `{}`: {message}", pool.name),
                retry_after: None,
                asked: false,
            })
        })
    }

    /// Registers the runner where its machine does not fetch its configuration, and renders what the machine is given.
    pub(super) async fn prepare(
        &self,
        way: Way,
        runner: &Runner,
        pool: &Pool,
        registration: &Registration,
    ) -> Result<Start, Failure> {
        let (kind, mode) = match way {
            Way::Direct => {
                let JitRunner { id, config } = self.register(pool, registration).await.map_err(Failure::GitHub)?;
                let bootstrap = Bootstrap::JitConfig(config);
                return Ok(Start { github_runner_id: Some(id), bootstrap, secrets: Vec::new() });
            }
            Way::Script(kind, mode) => (kind, mode),
        };
        let (github_runner_id, source, secret) = match mode {
            BootstrapMode::Callback => {
                let token = self.parts.tokens.issue(Purpose::Config, &runner.name);
                let url = self.parts.config.server.public_url.trim_end_matches('/').to_owned();
                let secret = Tokens::secret_part(&token);
                (None, bootstrap::Source::Callback { url, token }, secret)
            }
            BootstrapMode::Inline => {
                let JitRunner { id, config } = self.register(pool, registration).await.map_err(Failure::GitHub)?;
                (Some(id), bootstrap::Source::Inline { jit_config: config.clone() }, config)
            }
        };
        let plan = bootstrap::Plan {
            name: runner.name.to_string(),
            source,
            user: pool.bootstrap.user.clone(),
            max_life: pool.max_life(),
            runner: pool.bootstrap.runner.clone(),
        };
        let bootstrap = match kind {
            BootstrapKind::CloudInit => Bootstrap::CloudInit(bootstrap::cloud_init(&plan)),
            BootstrapKind::StartScript | BootstrapKind::JitConfig => {
                Bootstrap::StartScript(bootstrap::start_script(&plan))
            }
        };
        Ok(Start { github_runner_id, bootstrap, secrets: vec![secret] })
    }

    async fn register(&self, pool: &Pool, registration: &Registration) -> Result<JitRunner, GitHubError> {
        let registered = timeout(pool.timeouts.register, self.parts.github.register(registration)).await;
        registered.unwrap_or_else(|_| Err(register_timeout(pool)))
    }

    /// Whether its machine is yet to fetch its configuration: until then it cannot have had a job.
    pub(super) async fn is_unfetched(&self, runner: &Runner) -> bool {
        let Some((_, pool)) = self.pool(runner).filter(|_| runner.github_runner_id.is_none()) else { return false };
        matches!(self.way(runner, &pool).await, Ok(Way::Script(_, BootstrapMode::Callback)))
    }

    /// Runs to its end whether or not the machine still listens: what GitHub has registered is written down, or ended.
    async fn exchange(self: &Arc<Self>, name: &RunnerName) -> Result<SecretString, Refusal> {
        // A second registration of the name would remove the first.
        let turn = Turn::take(self, name).ok_or(Refusal::UnderWay)?;
        let (give, take) = oneshot::channel();
        self.tracker.spawn(async move {
            let Turn { executor, name } = &turn;
            let Some(outcome) = executor.abandoned.run_until_cancelled(executor.hand_out(name)).await else { return };
            if let Err(Ok(_lost)) = give.send(outcome) {
                let how = "its machine did not wait for the configuration, which GitHub gives once".to_owned();
                executor.give_up(name, Failure::Lost(how)).await;
            }
        });
        take.await.unwrap_or_else(|_| Err(Refusal::later("pacer is going down")))
    }

    async fn hand_out(self: &Arc<Self>, name: &RunnerName) -> Result<SecretString, Refusal> {
        let Some(runner) = self.stored(name).await? else {
            self.disown(name).await;
            return Err(Refusal::Over);
        };
        if runner.state.is_final() {
            return Err(Refusal::Over);
        }
        if runner.exchanged_at.is_some() || runner.github_runner_id.is_some() {
            return Err(Refusal::Used);
        }
        let (project, pool) = self.pool(&runner).filter(|_| runner.state.is_supply()).ok_or(Refusal::Over)?;
        let registration = self.registration(&runner, &project, &pool);
        let JitRunner { id, config } = match self.register(&pool, &registration).await {
            Ok(registered) => registered,
            Err(error) if error.kind == GitHubErrorKind::NameTaken => return Err(self.taken(&runner, error).await),
            Err(error) => return Err(not_now(&error)),
        };
        let change = RunnerChange::Exchanged { github_runner_id: id };
        let written = self.parts.store.write(vec![Op::Runner { name: name.clone(), change }]).await;
        if let Ok(outcomes) = &written
            && let Some(OpOutcome::Applied(true)) = outcomes.first()
        {
            return Ok(config);
        }
        // It was given up in the meantime, or nothing can be stored: nobody knows of this registration.
        let removed = self.parts.github.delete_runner(&runner.target, runner.installation_id, id).await;
        if let Err(error) = removed {
            warn!(runner.name = %name, %error, "the registration of `{name}` could not be removed");
        }
        Err(written.map_or_else(|error| later(&error), |_| Refusal::Over))
    }

    /// GitHub has its name already. Nobody else draws it: an earlier exchange was cut off between GitHub's answer and
    /// the commit. The configuration cannot be fetched again, so another runner is drawn.
    async fn taken(self: &Arc<Self>, runner: &Runner, error: GitHubError) -> Refusal {
        let found = self.parts.github.find_runner(&runner.target, runner.installation_id, &runner.name).await;
        match found {
            // Removed in the meantime.
            Ok(None) => Refusal::later("the runner is registered anew"),
            Ok(Some(found)) if found.online || found.busy => Refusal::Used,
            Ok(Some(_)) => {
                self.give_up(&runner.name, Failure::GitHub(error)).await;
                Refusal::Over
            }
            Err(error) => not_now(&error),
        }
    }

    /// Ends a runner that can have had no job, and whose machine exists or is being made.
    async fn give_up(self: &Arc<Self>, name: &RunnerName, failure: Failure) {
        let Some(runner) = self.runner(name).filter(|runner| runner.state.is_supply()) else { return };
        self.fail(&runner, failure).await;
        self.interrupt(name);
        self.spawn(name, Executor::take_down);
    }

    async fn report(
        self: &Arc<Self>,
        name: &RunnerName,
        with: Purpose,
        phase: MachinePhase,
        log: Option<String>,
    ) -> Result<(), Refusal> {
        let runner = self.stored(name).await?.ok_or(Refusal::Over)?;
        if with == Purpose::Config && runner.exchanged_at.is_some() {
            return Err(Refusal::Used);
        }
        let change = RunnerChange::Reported { phase, detail: log.clone() };
        let written = self.parts.store.write(vec![Op::Runner { name: name.clone(), change }]).await;
        written.map_err(|error| later(&error))?;
        let still_wanted = self.runner(name).is_some_and(|runner| runner.state.is_supply());
        if phase == MachinePhase::Failed && still_wanted {
            let last = log.as_deref().and_then(|log| log.lines().last()).unwrap_or("it did not say why").to_owned();
            let how = format!("its machine could not become a runner: {last}");
            self.spawn(name, |this, runner| this.ended(runner, how, false));
        }
        Ok(())
    }

    /// The runner as stored: what the fleet sees may be a moment old.
    async fn stored(&self, name: &RunnerName) -> Result<Option<Runner>, Refusal> {
        self.parts.store.runner(name).await.map_err(|error| later(&error))
    }
}

fn later(error: &crate::store::StoreError) -> Refusal {
    warn!(%error, "what a machine asks for cannot be looked up or stored");
    Refusal::later("the database does not answer; try again")
}

fn not_now(error: &GitHubError) -> Refusal {
    let reason = format!("the runner cannot be registered now: {error}");
    Refusal::Later { reason, retry_after: error.retry_after }
}

/// One exchange of a runner at a time.
struct Turn {
    executor: Arc<Executor>,
    name: RunnerName,
}

impl Turn {
    fn take(executor: &Arc<Executor>, name: &RunnerName) -> Option<Self> {
        let free = locked(&executor.exchanging).insert(name.clone());
        free.then(|| Self { executor: executor.clone(), name: name.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.executor.exchanging).remove(&self.name);
    }
}

/// The names whose exchange is under way.
pub(super) type Exchanging = HashSet<RunnerName>;

impl Machines for Fleet {
    fn exchange(&self, runner: RunnerName) -> BoxFuture<'_, Result<SecretString, Refusal>> {
        async move { self.executor.exchange(&runner).await }.boxed()
    }

    fn report(
        &self,
        runner: RunnerName,
        with: Purpose,
        phase: MachinePhase,
        log: Option<String>,
    ) -> BoxFuture<'_, Result<(), Refusal>> {
        async move { self.executor.report(&runner, with, phase, log).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_given_what_its_backend_likes_best() {
        let takes = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let pool = config::Bootstrap::default();
        let callback = |kind| Ok(Way::Script(kind, BootstrapMode::Callback));
        assert_eq!(way(&pool, &takes(&["jit-config"])), Ok(Way::Direct));
        assert_eq!(way(&pool, &takes(&["ignition", "cloud-init", "jit-config"])), callback(BootstrapKind::CloudInit));
        let chosen = config::Bootstrap { kind: Some(BootstrapKind::JitConfig), ..pool.clone() };
        assert_eq!(way(&chosen, &takes(&["cloud-init", "jit-config"])), Ok(Way::Direct));
        let inline = config::Bootstrap { mode: BootstrapMode::Inline, ..pool.clone() };
        let expected = Ok(Way::Script(BootstrapKind::StartScript, BootstrapMode::Inline));
        assert_eq!(way(&inline, &takes(&["start-script"])), expected);
        assert!(
            way(&chosen, &takes(&["cloud-init"]))
                .unwrap_err()
                .contains("`jit-config` and the backend takes cloud-init")
        );
        assert!(way(&pool, &takes(&["ignition"])).is_err());
    }
}
