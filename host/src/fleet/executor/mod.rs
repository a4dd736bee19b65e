//! Does what the planner wants: registers runners, has their machines made and taken down.
//!
//! Every step is written down before it is taken, and its outcome after. A task that dies with the process leaves a
//! row with a state and a deadline, from which [`Executor::resume`] goes on. One task drives a runner at a time.

mod aftermath;
mod creation;
mod failure;
mod interruption;
mod removal;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub(super) use creation::register_timeout;
pub(super) use failure::{Failure, Trace};
pub(super) use interruption::told as told_taken;

use super::{
    machine::Exchanging,
    plan::{Intent, timeouts},
    runner::{Runner, RunnerName},
    world::World,
};
use crate::{
    callback::Tokens,
    clock::SharedClock,
    config::{Config, Pool, Project, Timeouts},
    github::GitHubApi,
    ingest,
    plugins::Backends,
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
/// How long a backend is asked for the machine of a `create` whose answer was lost: an engine that restarts is back
/// within this.
const LOST_ANSWER: Duration = Duration::from_secs(10);
/// How much longer a runner may stay when GitHub could not be asked whether it has a job.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long GitHub may leave it open whether a runner has a job. Then its machine goes: none is kept for ever for want of
/// an answer. Longer than most of GitHub's outages.
const SILENCE: SignedDuration = SignedDuration::from_hours(1);

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
    /// Runners that are to go, and since when GitHub does not say whether they have a job.
    unanswered: Mutex<HashMap<RunnerName, Timestamp>>,
    taken: Mutex<interruption::Taken>,
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
            unanswered: Mutex::default(),
            taken: Mutex::default(),
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
                self.spawn_look(async move { this.rerun(&job).await });
            }
            Intent::Pair { .. }
            | Intent::Unpair { .. }
            | Intent::Busy { .. }
            | Intent::Assign { .. }
            | Intent::Extend { .. } => {}
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
        let driving = Driving { executor: this.clone(), name, token: token.clone() };
        self.tracker.spawn(async move {
            let _driving = driving;
            token.run_until_cancelled(work(this, runner)).await;
        });
    }

    /// Runs what drives no runner. It ends with whatever else is abandoned.
    pub fn spawn_look(&self, work: impl Future<Output = ()> + Send + 'static) {
        let abandoned = self.abandoned.clone();
        self.tracker.spawn(async move { abandoned.run_until_cancelled(work).await });
    }

    pub(super) fn interrupt(&self, name: &RunnerName) {
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

    pub fn audit(&self, action: &str, subject: &str, detail: String) -> Op {
        Op::Audit(AuditEntry {
            at: self.now(),
            actor: "pacer".to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: Some(detail),
        })
    }
}

/// A runner's task, from its start to its end, however it ends.
struct Driving {
    executor: Arc<Executor>,
    name: RunnerName,
    token: CancellationToken,
}

impl Drop for Driving {
    fn drop(&mut self) {
        let mut tasks = locked(&self.executor.tasks);
        // Once interrupted, the entry is its successor's.
        if !self.token.is_cancelled() {
            tasks.remove(&self.name);
        }
        drop(tasks);
        self.executor.wake.notify_one();
    }
}
