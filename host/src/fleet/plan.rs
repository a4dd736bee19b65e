//! Compares demand with supply and says what to do: pure, without I/O and without a clock of its own.
//!
//! A pass looks at what changed since the last one and at what is overdue. It must hold that
//! * a job that wants a runner has one that could take it, or a reason why it has to wait;
//! * caps are never exceeded, counting every runner whose machine may exist;
//! * a runner whose state has outlived its deadline is dealt with, whatever the state.
//!
//! What a runner's machine is doing is not known here; [`super::watch`] finds that out.

mod supply;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    job::{Assignment, Job, JobKey, JobStatus},
    runner::{Runner, RunnerName, RunnerState, Target},
    world::{Class, World},
};
use crate::{
    config::{Config, Pool, Project, Scope, Timeouts},
    routing::BackendName,
};

/// What the planner wants done. [`super::intent`] says what each writes, and the executor what it does.
#[derive(Debug, Clone, PartialEq)]
pub enum Intent {
    /// A new runner, for a job or to keep warm.
    Start { runner: Box<Runner>, job: Option<JobKey> },
    /// A free runner is to serve this job.
    Pair { runner: RunnerName, job: JobKey },
    /// The job it was paired with does not need it any more.
    Unpair { runner: RunnerName },
    /// GitHub gave it a job.
    Busy { runner: RunnerName, job: JobKey, deadline: Timestamp, stranded: Option<Stranded> },
    /// It is not needed, or did not come online: GitHub is asked first, since it may have a job by now.
    Retire { runner: RunnerName, error: Option<String> },
    /// It is to be taken down whatever GitHub thinks.
    Stop { runner: RunnerName, error: Option<String> },
    /// Its state may take longer.
    Extend { runner: RunnerName, deadline: Timestamp },
    /// By the configuration in force it belongs there, or nowhere.
    Assign { job: JobKey, assignment: Assignment },
    /// Its machine was taken away while it ran, and GitHub has concluded it: it is to run again.
    Rerun { job: Arc<Job> },
    /// Nobody is driving it any more: go on where it stands.
    Resume { runner: RunnerName },
}

/// A job whose runner GitHub gave to another one. The runner of that other job takes over, if it can.
#[derive(Debug, Clone, PartialEq)]
pub struct Stranded {
    pub job: JobKey,
    pub spare: Option<RunnerName>,
}

/// The outcome of a pass.
#[derive(Debug, Default)]
pub struct Plan {
    pub intents: Vec<Intent>,
    /// When to look again even if nothing changes.
    pub next: Option<Timestamp>,
}

/// Makes names of runners.
pub trait Names {
    /// A name that was never used, for a pool.
    fn draw(&mut self, pool: &Pool) -> RunnerName;
}

/// Limits of a pass that are not the operator's.
#[derive(Debug, Clone, Copy)]
pub struct PlanLimits {
    /// Runners without a machine at once, for each backend: enough to keep it busy, and little to clean up after a
    /// crash. Those beyond wait as queued jobs, where a cancellation costs nothing.
    pub starting_per_backend: u32,
}

impl PlanLimits {
    /// Of one backend: no more than it can be asked for at once, since a call that waits for others uses up its time.
    /// Beside as many removals as there may be, a machine then waits for one other at most.
    pub fn starting(&self, config: &Config, backend: &BackendName) -> u32 {
        let calls = config.backends.get(backend).map(|backend| backend.limits.concurrency);
        calls.map_or(self.starting_per_backend, |calls| calls.min(self.starting_per_backend))
    }
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self { starting_per_backend: 64 }
    }
}

/// Taken off the end of what is paid for, beside the time to stop: for providers that count a little differently.
const BEFORE_CHARGE: Duration = Duration::from_secs(60);

/// What a runner whose pool left the configuration goes by.
const ORPHANED: Timeouts = Timeouts {
    register: Duration::from_secs(60),
    create: Duration::from_secs(120),
    boot: Duration::from_secs(300),
    idle: Duration::from_secs(60),
    run: Duration::from_secs(6 * 3600),
    stop: Duration::from_secs(120),
};

/// The timeouts a runner goes by.
pub fn timeouts(world: &World, runner: &Runner) -> Timeouts {
    world.pool(&runner.project, &runner.pool).map_or(ORPHANED, |(_, pool)| pool.timeouts)
}

/// `until`, or until when the runner may be given a job: one that takes its time has to end before the machine's life
/// does. What is idle then is replaced.
pub fn last_call(world: &World, runner: &Runner, until: Timestamp) -> Timestamp {
    let pool = world.pool(&runner.project, &runner.pool);
    pool.map_or(until, |(_, pool)| until.min(runner.created_at + pool.last_call()))
}

/// One pass. Consumes the world's list of what changed.
pub fn plan(world: &mut World, limits: PlanLimits, names: &mut dyn Names, now: Timestamp) -> Plan {
    let mut intents = Vec::new();
    let mut spoken_for = HashSet::new();
    intents.extend(world.reruns.due(now).into_iter().map(|job| Intent::Rerun { job }));
    settle_jobs(world, now, &mut spoken_for, &mut intents);
    settle_runners(world, &mut spoken_for, &mut intents);
    let mut left = Left::default();
    expire(world, now, &mut left, &mut spoken_for, &mut intents);
    supply::supply(world, limits, names, now, left, &mut spoken_for, &mut intents);
    let next = [
        world.next_deadline(now),
        world.next_pause_end(now),
        next_warm_change(world.config(), now),
        world.reruns.next(),
    ];
    let next = next.into_iter().flatten().min();
    Plan { intents, next }
}

/// When another number of idle runners is wanted somewhere.
fn next_warm_change(config: &Config, now: Timestamp) -> Option<Timestamp> {
    let pools = config.projects.iter().flat_map(|project| &project.pools);
    pools.filter(|pool| pool.enabled).filter_map(|pool| pool.warm.at(now).1).min()
}

/// Runners that an intent of this pass is about: no other one may be.
type SpokenFor = HashSet<RunnerName>;

/// Jobs that run: their runner is busy, and pairs that GitHub crossed are swapped.
fn settle_jobs(world: &mut World, now: Timestamp, spoken_for: &mut SpokenFor, intents: &mut Vec<Intent>) {
    let changed = std::mem::take(&mut world.dirty_jobs);
    let running = changed.iter().filter_map(|key| world.job(*key)).filter(|job| job.status == JobStatus::Running);
    let given_out: HashSet<RunnerName> = running.filter_map(|job| job.runner.clone()).collect();
    for key in changed {
        let Some(job) = world.job(key) else {
            world.dirty_runners.extend(world.partners(key).map(|runner| runner.name.clone()).collect::<Vec<_>>());
            continue;
        };
        if is_unserved(world, job) && !is_at_home(world, job) {
            intents.extend(rematch(world, job));
            continue;
        }
        if job.status != JobStatus::Running {
            continue;
        }
        let Some(runner) = job.runner.as_ref().and_then(|name| world.runner(name)) else { continue };
        if runner.state.is_supply() || runner.has_unknown_job() {
            let deadline = now + timeouts(world, runner).run;
            let stranded = stranded(world, job, runner, &given_out, spoken_for);
            spoken_for.insert(runner.name.clone());
            spoken_for.extend(stranded.as_ref().and_then(|stranded| stranded.spare.clone()));
            intents.push(Intent::Busy { runner: runner.name.clone(), job: key, deadline, stranded });
        }
    }
}

/// Whether a job wants a runner and has none that could still take it.
pub fn is_unserved(world: &World, job: &Job) -> bool {
    job.status.wants_runner() && !world.is_served(job)
}

/// Whether the pool of a job can make runners for it.
fn is_at_home(world: &World, job: &Job) -> bool {
    let pool = job.project.as_ref().zip(job.pool.as_ref()).and_then(|(project, pool)| world.pool(project, pool));
    let is_bound =
        |project: &Project| world.router().project(&job.repo).is_some_and(|(owner, _)| owner.name == project.name);
    pool.is_some_and(|(project, pool)| pool.enabled && is_bound(project))
}

/// Where a job without a runner belongs by the configuration in force, if that is elsewhere. One that was given up is
/// tried again wherever it belongs.
pub fn rematch(world: &World, job: &Job) -> Option<Intent> {
    let routed = world.router().route(&job.repo, &job.labels).assignment();
    let assignment = match (routed, &job.project) {
        (Ok(assignment), _) => assignment,
        (Err(reason), Some(project)) => Assignment { project: project.clone(), pool: None, reason: Some(reason) },
        (Err(_), None) => return None,
    };
    let is_news = match job.status {
        JobStatus::Failed if job.completed_at.is_some() => false,
        JobStatus::Failed | JobStatus::Unmatched => assignment.pool.is_some(),
        JobStatus::Queued | JobStatus::Claimed | JobStatus::Starting => {
            job.pool != assignment.pool || job.project.as_ref() != Some(&assignment.project)
        }
        JobStatus::Waiting | JobStatus::Running | JobStatus::Completed | JobStatus::Cancelled => false,
    };
    is_news.then_some(Intent::Assign { job: job.key, assignment })
}

/// The job that `taken` was meant for, and the runner that `job` was paired with before, unless GitHub has given out that
/// one too.
fn stranded(
    world: &World,
    job: &Job,
    taken: &Runner,
    given_out: &HashSet<RunnerName>,
    spoken_for: &SpokenFor,
) -> Option<Stranded> {
    let stranded = world.wanted_by(&taken.name).filter(|stranded| stranded.key != job.key)?;
    let spare = world.partners(job.key).find(|runner| {
        runner.name != taken.name
            && runner.state.is_supply()
            && world.wanted_by(&runner.name).is_none()
            && !given_out.contains(&runner.name)
            && !spoken_for.contains(&runner.name)
            && World::class_of_runner(runner) == World::class_of_runner(taken)
    });
    Some(Stranded { job: stranded.key, spare: spare.map(|runner| runner.name.clone()) })
}

/// Runners whose job is over, or does not want them any more.
fn settle_runners(world: &mut World, spoken_for: &mut SpokenFor, intents: &mut Vec<Intent>) {
    for name in std::mem::take(&mut world.dirty_runners) {
        let Some(runner) = world.runner(&name).filter(|_| !spoken_for.contains(&name)) else { continue };
        if (runner.state.is_supply() || runner.has_unknown_job()) && world.finished.contains(&name) {
            spoken_for.insert(name.clone());
            intents.push(Intent::Stop { runner: name, error: None });
            continue;
        }
        let Some(key) = runner.job else { continue };
        if runner.state == RunnerState::Busy {
            if world.job(key).is_none() {
                spoken_for.insert(name.clone());
                intents.push(Intent::Stop { runner: name, error: None });
            }
        } else if runner.state.is_supply() && world.wanted_by(&name).is_none_or(|job| job.key != key) {
            // A running job that names this very runner is about to make it busy.
            let takes_it = world.job(key).is_some_and(|job| job.runner.as_ref() == Some(&name));
            if !takes_it {
                intents.push(Intent::Unpair { runner: name });
            }
        }
    }
}

/// Free runners of each class, without those that this pass takes away.
#[derive(Default)]
struct Left(HashMap<Class, u32>);

impl Left {
    fn of(&mut self, world: &World, class: &Class) -> &mut u32 {
        self.0.entry(class.clone()).or_insert_with(|| world.free_count(class))
    }

    /// How many of them are more than is to be kept warm.
    fn surplus(&mut self, world: &World, class: &Class, now: Timestamp) -> u32 {
        let pool = world.pool(&class.project, &class.pool).filter(|(_, pool)| pool.enabled);
        self.of(world, class).saturating_sub(pool.map_or(0, |(_, pool)| pool.warm.at(now).0))
    }

    fn take(&mut self, world: &World, class: &Class) {
        let left = self.of(world, class);
        *left = left.saturating_sub(1);
    }
}

/// What happens at each state's deadline.
fn expire(world: &World, now: Timestamp, left: &mut Left, spoken_for: &mut SpokenFor, intents: &mut Vec<Intent>) {
    for runner in world.overdue(now) {
        let name = runner.name.clone();
        if !spoken_for.insert(name.clone()) {
            continue;
        }
        let timeouts = timeouts(world, runner);
        let intent = match runner.state {
            // Its machine may exist and have a job; whoever drives it gives it up, or takes it over.
            RunnerState::Planned | RunnerState::Registering | RunnerState::Creating | RunnerState::Stopping => {
                Intent::Resume { runner: name }
            }
            RunnerState::Booting => {
                let error = format!("it was not online at GitHub within {:?} of its machine's start", timeouts.boot);
                Intent::Retire { runner: name, error: Some(error) }
            }
            RunnerState::Idle => {
                let class = World::class_of_runner(runner);
                // What is paid for may serve a job until another unit would be charged.
                let margin = timeouts.stop + BEFORE_CHARGE;
                let best_end = runner.rate.as_ref().map_or(now, |rate| rate.best_end(now, margin));
                if world.wanted_by(&name).is_some() {
                    let error = format!("it was online for {:?} and GitHub gave it no job", timeouts.idle);
                    Intent::Retire { runner: name, error: Some(error) }
                } else {
                    let wanted = if left.surplus(world, &class, now) == 0 { now + timeouts.idle } else { best_end };
                    match last_call(world, runner, wanted) {
                        deadline if deadline > now => Intent::Extend { runner: name, deadline },
                        _ => {
                            left.take(world, &class);
                            Intent::Retire { runner: name, error: None }
                        }
                    }
                }
            }
            RunnerState::Busy => {
                let error = format!("its job ran longer than the pool's limit of {:?}", timeouts.run);
                Intent::Stop { runner: name, error: Some(error) }
            }
            RunnerState::Gone | RunnerState::Failed => continue,
        };
        intents.push(intent);
    }
}

/// Where runners of all projects register.
pub fn configured_targets(config: &Config) -> Vec<Target> {
    config.projects.iter().flat_map(|project| targets(project)).collect()
}

/// Where runners of a project register.
pub fn targets(project: &Project) -> Vec<Target> {
    match &project.scope {
        Scope::Repos(repos) => repos.iter().cloned().map(Target::Repo).collect(),
        Scope::Org { login, .. } => vec![Target::org(login)],
    }
}
