//! Looks at the world outside: what the machines do, which runners are online, what is left without an owner.
//!
//! Each look is one bounded pass that takes no input and may be repeated. The verdicts are pure functions over what
//! was seen; acting on them is the executor's.
//!
//! A machine is swept if, and only if, the backend lists it as ours in two looks in a row, its name belongs to no
//! runner that is alive, and no operator holds it. Registrations are removed under the same rule, for names that
//! this store knows: runners of others are nobody's business here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    iter,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    executor::{Executor, told_taken},
    intent,
    names::could_be_ours,
    plan::configured_targets,
    runner::{Runner, RunnerChange, RunnerName, RunnerState, Target},
    world::World,
};
use crate::{
    github::GitHubRunner,
    plugins::{Instance, InstanceState},
    routing::BackendName,
    store::{Op, Proof},
};

/// How long a listing may take.
const LIST: Duration = Duration::from_secs(60);
/// Runners in a page of GitHub's, which is a call.
const PER_PAGE: usize = 100;
/// The longest that a target with many runners, or at its limit, is not asked which of them are online.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// How often registrations without a machine are looked for; GitHub removes them itself after a day.
const GHOSTS: Duration = Duration::from_secs(300);

/// What a look at a backend found.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Runners whose machine is over, and how.
    ended: Vec<(RunnerName, String)>,
    /// Machines of runners that do not know them: what asked for them was told of no machine.
    found: Vec<(RunnerName, Instance)>,
    /// Machines whose name belongs to no living runner.
    strays: Vec<String>,
}

/// Compares a listing with the runners. `asked_at` is from before the listing: what is younger may not be in it.
fn judge(world: &World, backend: &BackendName, listed: &[Instance], asked_at: Timestamp) -> Seen {
    let by_handle: HashMap<&str, &Instance> =
        listed.iter().map(|instance| (instance.handle.as_str(), instance)).collect();
    let mut seen = Seen::default();
    for runner in world.runners().filter(|runner| runner.backend == *backend) {
        if !has_machine(runner) || runner.state_at >= asked_at {
            continue;
        }
        let of_runner = match &runner.handle {
            Some(handle) => by_handle.get(handle.as_str()).copied(),
            None => listed.iter().find(|instance| instance.name == runner.name.as_str()),
        };
        if let (None, Some(instance)) = (&runner.handle, of_runner) {
            seen.found.push((runner.name.clone(), instance.clone()));
        }
        let how = match of_runner.map(|instance| &instance.state) {
            Some(InstanceState::Creating | InstanceState::Running) => continue,
            Some(InstanceState::Stopping) => "its machine is being stopped from outside".to_owned(),
            Some(InstanceState::Stopped) => "its machine stopped".to_owned(),
            Some(InstanceState::Failed(reason)) => format!("its machine failed: {reason}"),
            Some(InstanceState::Interrupted(reason)) => told_taken(reason),
            None => "its machine does not exist any more".to_owned(),
        };
        seen.ended.push((runner.name.clone(), how));
    }
    seen.strays = listed
        .iter()
        .filter(|instance| !instance.hold && world.runner(&RunnerName::new(instance.name.as_str())).is_none())
        .map(|instance| instance.name.clone())
        .collect();
    seen
}

/// Whether a runner should have a machine at work.
fn has_machine(runner: &Runner) -> bool {
    match runner.state {
        RunnerState::Booting | RunnerState::Idle | RunnerState::Busy => true,
        RunnerState::Planned
        | RunnerState::Registering
        | RunnerState::Creating
        | RunnerState::Stopping
        | RunnerState::Gone
        | RunnerState::Failed => false,
    }
}

/// Watches a backend until the fleet stops.
pub(super) async fn backend(executor: Arc<Executor>, backend: BackendName, every: Duration) {
    let mut marked = HashSet::new();
    while pause(&executor, every).await {
        marked = look(&executor, &backend, marked).await;
    }
}

/// One look. Takes the strays that the last one marked and returns those that this one marks.
pub(super) async fn look(executor: &Arc<Executor>, backend: &BackendName, marked: HashSet<String>) -> HashSet<String> {
    let asked_at = executor.now();
    let owner = &executor.parts.config.server.owner;
    let listed = match executor.parts.backends.list(backend, owner, LIST).await {
        Ok(listed) => listed,
        Err(error) => {
            debug!(backend.name = %backend, "backend `{backend}` cannot be asked for its machines: {error}");
            return marked;
        }
    };
    let seen = judge(&executor.world(), backend, &listed, asked_at);
    for (name, instance) in seen.found {
        executor.spawn(&name, |this, runner| async move { this.created(&runner, instance).await });
    }
    for (name, how) in seen.ended {
        executor.spawn(&name, move |this, runner| confirm(this, runner, how));
    }
    let (again, new): (Vec<_>, Vec<_>) = seen.strays.into_iter().partition(|name| marked.contains(name));
    let mut keep: HashSet<String> = new.into_iter().collect();
    for name in again {
        let known = executor.parts.store.runner(&RunnerName::new(name.as_str())).await;
        match known {
            // Planned in the meantime, or the store cannot say: another look decides.
            Ok(Some(runner)) if !runner.state.is_final() => {
                keep.insert(name);
            }
            Err(_) => {
                keep.insert(name);
            }
            Ok(runner) => {
                if let Some(instance) = listed.iter().find(|instance| instance.name == name) {
                    executor.sweep(backend, instance, runner.map(Arc::new)).await;
                }
                keep.insert(name);
            }
        }
    }
    keep
}

/// A listing may lag behind; the backend is asked about the machine itself before its runner is given up.
async fn confirm(executor: Arc<Executor>, runner: Arc<Runner>, how: String) {
    if !has_machine(&runner) {
        return;
    }
    let found = match &runner.handle {
        Some(handle) => executor.parts.backends.get(&runner.backend, handle, LIST).await,
        None => executor.find_instance(&runner).await,
    };
    match found {
        Ok(Some(Instance { state: InstanceState::Creating | InstanceState::Running, .. })) => {}
        Ok(Some(Instance { state: InstanceState::Interrupted(reason), .. })) => {
            executor.ended(runner, told_taken(&reason), true).await;
        }
        Ok(_) => executor.ended(runner, how, false).await,
        Err(error) => debug!(runner.name = %runner.name, "cannot confirm that `{}` ended: {error}", runner.name),
    }
}

/// Asks GitHub which booting runners are online, until the fleet stops: each target after so many turns as its last
/// answer had pages, so that one with many runners does not use up the budget. A runner whose time is over before it was
/// its target's turn is asked for by name.
pub(super) async fn registrations(executor: Arc<Executor>, every: Duration) {
    let mut resting: HashMap<Target, Instant> = HashMap::new();
    while pause(&executor, every).await {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        let booting = booting(&executor.world());
        for (target, (installation, names)) in booting {
            if resting.contains_key(&target) {
                continue;
            }
            let rest = match executor.parts.github.list_runners(&target, installation).await {
                Ok(listed) => {
                    mark_online(&executor, &listed, &names).await;
                    rest_after(&listed, every)
                }
                Err(error) => {
                    debug!("the runners of {target} cannot be listed: {error}");
                    error.retry_after.unwrap_or_default().min(LONGEST_REST)
                }
            };
            resting.insert(target, now + rest);
        }
    }
}

/// How long a target is left alone after its runners were listed.
fn rest_after(listed: &[GitHubRunner], every: Duration) -> Duration {
    let more_pages = u32::try_from(listed.len() / PER_PAGE).unwrap_or(u32::MAX);
    every.saturating_mul(more_pages).min(LONGEST_REST)
}

/// What is booting at each target, and an installation there: whichever it is, it sees the same runners.
fn booting(world: &World) -> BTreeMap<Target, (Option<i64>, HashSet<RunnerName>)> {
    let mut booting: BTreeMap<_, (Option<i64>, HashSet<_>)> = BTreeMap::new();
    for runner in world.runners().filter(|runner| runner.state == RunnerState::Booting) {
        let (installation, names) = booting.entry(runner.target.clone()).or_default();
        *installation = (*installation).max(runner.installation_id);
        names.insert(runner.name.clone());
    }
    booting
}

async fn mark_online(executor: &Executor, listed: &[GitHubRunner], names: &HashSet<RunnerName>) {
    let now = executor.now();
    let ops: Vec<Op> = {
        let world = executor.world();
        listed
            .iter()
            .filter(|listed| listed.online)
            .map(|listed| RunnerName::new(listed.name.as_str()))
            .filter(|name| names.contains(name))
            .filter_map(|name| world.runner(&name))
            .flat_map(|runner| came_online(&world, runner, now))
            .collect()
    };
    if !ops.is_empty()
        && let Err(error) = executor.parts.store.write(ops).await
    {
        warn!(%error, "which runners are online cannot be stored");
    }
}

/// What follows when GitHub sees a runner online.
pub(super) fn came_online(world: &World, runner: &Runner, now: Timestamp) -> impl Iterator<Item = Op> + use<> {
    let idle = super::plan::timeouts(world, runner).idle;
    let deadline = super::plan::last_call(world, runner, now + idle);
    let idle = Op::Runner { name: runner.name.clone(), change: RunnerChange::Idle { deadline } };
    iter::once(idle).chain(intent::let_go(world, runner, Proof::Runner))
}

/// Removes registrations whose runner is over, until the fleet stops.
pub(super) async fn ghosts(executor: Arc<Executor>) {
    let mut marked = Ghosts::new();
    loop {
        marked = look_for_ghosts(&executor, &marked).await;
        if !pause(&executor, GHOSTS).await {
            return;
        }
    }
}

/// Registrations, by where they are and GitHub's id.
pub(super) type Ghosts = HashSet<(Target, i64)>;

/// One look. Removes what the last one marked and returns what this one marks.
pub(super) async fn look_for_ghosts(executor: &Executor, marked: &Ghosts) -> Ghosts {
    let mut found = Ghosts::new();
    for target in configured_targets(&executor.parts.config) {
        let Ok(listed) = executor.parts.github.list_runners(&target, None).await else { continue };
        for ghost in listed.iter().filter(|listed| is_ghost(&executor.world(), listed)) {
            let name = RunnerName::new(ghost.name.as_str());
            // Only names of this store, and only those it is done with.
            let Ok(Some(runner)) = executor.parts.store.runner(&name).await else { continue };
            if !runner.state.is_final() || !marked.contains(&(target.clone(), ghost.id)) {
                found.insert((target.clone(), ghost.id));
            } else if let Err(error) = executor.parts.github.delete_runner(&target, None, ghost.id).await {
                debug!("the registration of `{name}` cannot be removed: {error}");
            }
        }
    }
    found
}

fn is_ghost(world: &World, listed: &GitHubRunner) -> bool {
    let name = RunnerName::new(listed.name.as_str());
    could_be_ours(&listed.name) && !listed.online && !listed.busy && world.runner(&name).is_none()
}

/// Waits; false when the fleet stops.
pub(super) async fn pause(executor: &Executor, time: Duration) -> bool {
    executor.stopping.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
}

#[cfg(test)]
mod tests;
