//! Decides which runners there should be, and makes it so.
//!
//! [`plan()`] is the decision, pure; `executor` acts on it; `watch` looks at machines and registrations; `recover`
//! finds what no webhook told. A commit of the store wakes the planner, which sees the world as committed: what it
//! wants done is written first and done then.

mod cost;
mod executor;
pub mod explain;
pub mod intent;
pub mod job;
mod machine;
mod measure;
mod names;
mod plan;
mod recover;
pub mod rerun;
pub mod retry;
pub mod runner;
#[cfg(test)]
mod tests;
mod watch;
mod world;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use cost::{Rate, shown as shown_cost};
use executor::Executor;
pub use executor::Parts;
pub use machine::{Way, way};
use names::RandomNames;
pub use names::could_be_ours;
pub use plan::{Intent, Names, Plan, PlanLimits, Stranded, plan, targets};
pub use world::{Class, World};

use crate::store::{Active, Changed, Op, StoreError};

/// A pass happens at least this often: the safety net under the events.
const TICK: Duration = Duration::from_secs(10);
/// How long to wait before planning again when a plan could not be stored.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Jobs of a kind that a start routes again; more is more than an operator would want to come back at once.
const REMATCHED: u32 = 10_000;

type Changes = broadcast::Receiver<Arc<[Changed]>>;

/// The running fleet.
pub struct Fleet {
    executor: Arc<Executor>,
    broken: CancellationToken,
}

impl Fleet {
    /// Takes over what the store has and starts to work.
    pub async fn start(parts: Parts) -> Result<Self, StoreError> {
        let executor = Executor::new(parts);
        let (active, changes) = executor.parts.store.follow().await?;
        fill(&mut executor.world(), active);
        rematch(&executor).await?;
        let left: Vec<_> = executor.world().runners().map(|runner| runner.name.clone()).collect();
        info!(runners = left.len(), "{} runners taken over from the store", left.len());
        for name in left {
            executor.spawn(&name, Executor::resume);
        }
        let broken = CancellationToken::new();
        executor.tracker.spawn(plan_on(executor.clone(), changes, broken.clone()));
        let config = executor.parts.config.clone();
        for (name, backend) in &config.backends {
            executor.spawn_look(watch::backend(executor.clone(), name.clone(), backend.poll));
        }
        executor.spawn_look(watch::registrations(executor.clone(), config.github.runner_poll));
        executor.spawn_look(watch::ghosts(executor.clone()));
        executor.spawn_look(recover::deliveries(executor.clone(), config.github.recovery_interval));
        executor.spawn_look(recover::repositories(executor.clone(), config.github.recovery_interval));
        Ok(Self { executor, broken })
    }

    /// Waits until the planner has broken, which it never should: then nothing is decided any more.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// The runners that count against a job's caps at this moment.
    pub fn counts(&self, job: &job::Job) -> explain::Counts {
        let world = self.executor.world();
        let served = job.project.clone().map_or(0, |project| world.served_of(&(project, job.repo.clone())));
        explain::Counts::of(job, world.config(), world.runners().map(AsRef::as_ref), served)
    }

    /// Brings the gauges of jobs and runners up to date.
    pub fn report_gauges(&self) {
        measure::gauges(&self.executor.world());
    }

    /// Stops taking decisions, lets work in flight come to its end for up to `grace`, and abandons the rest: it is
    /// journaled, and resumed at the next start. Machines keep running.
    pub async fn shutdown(&self, grace: Duration) {
        self.executor.stopping.cancel();
        self.executor.tracker.close();
        if tokio::time::timeout(grace, self.executor.tracker.wait()).await.is_err() {
            warn!("work in flight did not end within {grace:?}; it is resumed at the next start");
            self.executor.abandoned.cancel();
            self.executor.tracker.wait().await;
        }
    }
}

fn fill(world: &mut World, active: Active) {
    for runner in active.runners {
        world.apply(&Changed::Runner(runner));
    }
    for job in active.interrupted.into_iter().chain(active.jobs) {
        world.apply(&Changed::Job(job));
    }
    for (project, pool, pause) in active.pauses {
        world.apply(&Changed::Pause { project, pool, pause: Some(pause) });
    }
    world.look_at_everything();
}

/// Routes again what the last configuration could not serve, and what this one routes elsewhere.
async fn rematch(executor: &Executor) -> Result<(), StoreError> {
    let mut given_up = executor.parts.store.unmatched_jobs(REMATCHED).await?;
    given_up.extend(executor.parts.store.failed_jobs(REMATCHED).await?);
    let (jobs, ops) = {
        let world = executor.world();
        let intents = rematched(&world, &given_up);
        let ops: Vec<Op> = intents.iter().flat_map(|intent| intent::ops(&world, intent, executor.now())).collect();
        (intents.len(), ops)
    };
    if jobs > 0 {
        info!(jobs, "{jobs} jobs are matched anew by {}", executor.parts.config.path.display());
        executor.parts.store.write(ops).await?;
    }
    Ok(())
}

/// Those of the jobs that were given up, and of those that have no runner, that belong elsewhere now.
fn rematched(world: &World, given_up: &[job::Job]) -> Vec<Intent> {
    let unserved = world.jobs().map(AsRef::as_ref).filter(|job| plan::is_unserved(world, job));
    given_up.iter().chain(unserved).filter_map(|job| plan::rematch(world, job)).collect()
}

/// Has the planner work until the fleet stops; `broken` is for when a panic ends it.
async fn plan_on(executor: Arc<Executor>, changes: Changes, broken: CancellationToken) {
    let unless_it_returns = broken.drop_guard();
    run(executor, changes).await;
    unless_it_returns.disarm();
}

/// The planner's loop: follows the store, plans, writes, acts.
async fn run(executor: Arc<Executor>, mut changes: Changes) {
    let mut next = TICK;
    loop {
        tokio::select! {
            () = executor.stopping.cancelled() => return,
            received = changes.recv() => match received {
                Ok(images) => take_in(&executor, &images),
                Err(RecvError::Lagged(_)) => changes = refill(&executor).await,
                Err(RecvError::Closed) => return,
            },
            () = executor.wake.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
        drain(&executor, &mut changes).await;
        next = pass(&executor, &mut changes).await;
    }
}

async fn drain(executor: &Arc<Executor>, changes: &mut Changes) {
    loop {
        match changes.try_recv() {
            Ok(images) => take_in(executor, &images),
            Err(TryRecvError::Lagged(_)) => *changes = refill(executor).await,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

fn take_in(executor: &Arc<Executor>, images: &[Changed]) {
    let mut world = executor.world();
    for changed in images {
        measure::observe(&world, changed);
        world.apply(changed);
        if let Changed::Job(job) = changed
            && let Some(op) = executor.mark_taken(job)
        {
            let this = executor.clone();
            executor.spawn_look(async move { this.record(vec![op]).await });
        }
    }
}

/// Starts over from the store when changes came faster than they could be followed.
async fn refill(executor: &Executor) -> Changes {
    loop {
        match executor.parts.store.follow().await {
            Ok((active, changes)) => {
                let mut world = World::new(executor.parts.config.clone());
                fill(&mut world, active);
                *executor.world() = world;
                return changes;
            }
            Err(error) => {
                warn!(%error, "the store cannot be followed, trying again");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    }
}

/// One pass; returns after how long to look again if nothing happens.
async fn pass(executor: &Arc<Executor>, changes: &mut Changes) -> Duration {
    let now = executor.now();
    let (plan, ops) = {
        let mut world = executor.world();
        let plan = plan(&mut world, PlanLimits::default(), &mut RandomNames, now);
        // What a task is busy with comes back from it.
        let intents: Vec<Intent> = plan.intents.into_iter().filter(|intent| is_open(executor, intent)).collect();
        let ops: Vec<Op> = intents.iter().flat_map(|intent| intent::ops(&world, intent, now)).collect();
        (Plan { intents, next: plan.next }, ops)
    };
    if !ops.is_empty()
        && let Err(error) = write_following(executor, ops, changes).await
    {
        warn!(%error, "the plan cannot be stored, nothing of it is done");
        let mut world = executor.world();
        world.look_at_everything();
        for intent in plan.intents {
            if let Intent::Rerun { job } = intent {
                world.reruns.apply(&job);
            }
        }
        return STORE_RETRY;
    }
    for intent in plan.intents {
        executor.act(intent);
    }
    until(plan.next, now).min(TICK)
}

/// Writes, and keeps the world up to date meanwhile: tasks go by it.
async fn write_following(executor: &Arc<Executor>, ops: Vec<Op>, changes: &mut Changes) -> Result<(), StoreError> {
    let mut writing = std::pin::pin!(executor.parts.store.write(ops));
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut writing => break outcome,
            received = changes.recv() => match received {
                Ok(images) => take_in(executor, &images),
                Err(RecvError::Lagged(_)) => *changes = refill(executor).await,
                Err(RecvError::Closed) => break Err(StoreError::Closed),
            },
        }
    };
    drain(executor, changes).await;
    outcome.map(|_| ())
}

fn is_open(executor: &Executor, intent: &Intent) -> bool {
    match intent {
        Intent::Retire { runner, .. } | Intent::Resume { runner } => !executor.is_driven(runner),
        Intent::Start { .. }
        | Intent::Pair { .. }
        | Intent::Unpair { .. }
        | Intent::Busy { .. }
        | Intent::Assign { .. }
        | Intent::Stop { .. }
        | Intent::Rerun { .. }
        | Intent::Extend { .. } => true,
    }
}

fn until(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.and_then(|next| Duration::try_from(next.duration_since(now)).ok()).unwrap_or(TICK)
}
