//! Compares demand with supply and says what to do: pure, without I/O and without a clock of its own.
//!
//! A pass looks at what changed since the last one and at what is overdue. It must hold that
//! * a job that wants a runner has one that could take it, or a reason why it has to wait;
//! * caps are never exceeded, counting every runner whose machine may exist;
//! * a runner whose state has outlived its deadline is dealt with, whatever the state.
//!
//! What a runner's machine is doing is not known here; [`super::watch`] finds that out.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
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
    routing::{BackendName, PoolName, ProjectName, RepoName},
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
    supply(world, limits, names, now, left, &mut spoken_for, &mut intents);
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
    for key in std::mem::take(&mut world.dirty_jobs) {
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
            let stranded = stranded(world, job, runner, spoken_for);
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
        JobStatus::Failed | JobStatus::Unmatched => assignment.pool.is_some(),
        JobStatus::Queued | JobStatus::Claimed | JobStatus::Starting => {
            job.pool != assignment.pool || job.project.as_ref() != Some(&assignment.project)
        }
        JobStatus::Waiting | JobStatus::Running | JobStatus::Completed | JobStatus::Cancelled => false,
    };
    is_news.then_some(Intent::Assign { job: job.key, assignment })
}

/// The job that `taken` was meant for, and the runner that `job` was paired with before.
fn stranded(world: &World, job: &Job, taken: &Runner, spoken_for: &SpokenFor) -> Option<Stranded> {
    let stranded = world.wanted_by(&taken.name).filter(|stranded| stranded.key != job.key)?;
    let spare = world.partners(job.key).find(|runner| {
        runner.name != taken.name
            && runner.state.is_supply()
            && world.wanted_by(&runner.name).is_none()
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
            RunnerState::Planned | RunnerState::Registering | RunnerState::Creating => {
                let error = format!("it had no machine within {:?} of `{}`", timeouts.create, runner.state);
                Intent::Stop { runner: name, error: Some(error) }
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
            RunnerState::Stopping => Intent::Resume { runner: name },
            RunnerState::Gone | RunnerState::Failed => continue,
        };
        intents.push(intent);
    }
}

/// What this very pass adds to the counts of the world.
#[derive(Default)]
struct Admitted {
    pools: HashMap<(ProjectName, PoolName), u32>,
    projects: HashMap<ProjectName, u32>,
    targets: HashMap<(ProjectName, Target), u32>,
    repos: HashMap<(ProjectName, RepoName), u32>,
    backends: HashMap<BackendName, u32>,
}

fn more<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: K) {
    *counts.entry(key).or_insert(0) += 1;
}

fn of<K: Eq + std::hash::Hash>(counts: &HashMap<K, u32>, key: &K) -> u32 {
    counts.get(key).copied().unwrap_or(0)
}

/// Serves the unserved and keeps warm what should be.
struct Supplier<'a> {
    world: &'a World,
    limits: PlanLimits,
    names: &'a mut dyn Names,
    now: Timestamp,
    left: Left,
    spoken_for: &'a mut SpokenFor,
    admitted: Admitted,
    intents: &'a mut Vec<Intent>,
}

/// What keeps a class from another runner.
#[derive(Debug, PartialEq)]
enum Block {
    /// Its pool makes none at all, or not now.
    Held,
    Full(Full),
}

/// Which caps are reached.
#[derive(Debug, Default, PartialEq)]
struct Full {
    pool: bool,
    project: bool,
    target: bool,
}

impl Full {
    /// Whether the end of a runner like this would make room for one of `class` under every cap that is reached.
    fn frees(&self, class: &Class, runner: &Class) -> bool {
        runner.project == class.project
            && (!self.pool || runner.pool == class.pool)
            && (!self.target || runner.target == class.target)
    }
}

/// Jobs of a class that only caps keep waiting.
struct Crowded<'a> {
    class: &'a Class,
    full: Full,
    jobs: usize,
}

fn supply(
    world: &World,
    limits: PlanLimits,
    names: &mut dyn Names,
    now: Timestamp,
    left: Left,
    spoken_for: &mut SpokenFor,
    intents: &mut Vec<Intent>,
) {
    let mut supplier = Supplier { world, limits, names, now, left, spoken_for, admitted: Admitted::default(), intents };
    let crowded = supplier.serve();
    supplier.make_room(&crowded);
    supplier.keep_warm();
}

impl<'a> Supplier<'a> {
    /// Oldest job first over all classes: with a free runner, or with a new one as far as caps allow. Returns whom
    /// caps keep waiting.
    fn serve(&mut self) -> Vec<Crowded<'a>> {
        let world = self.world;
        let mut crowded = Vec::new();
        let mut heads: BinaryHeap<Reverse<(Timestamp, JobKey, usize)>> = BinaryHeap::new();
        let mut classes = Vec::new();
        for (class, jobs) in world.unserved() {
            let Some((project, pool)) = world.pool(&class.project, &class.pool) else { continue };
            let mut jobs = jobs.iter();
            if let Some((queued_at, key)) = jobs.next() {
                heads.push(Reverse((*queued_at, *key, classes.len())));
            }
            classes.push((class, project, pool, jobs, world.free(class)));
        }
        while let Some(Reverse((_, key, index))) = heads.pop() {
            let (class, project, pool, jobs, free) = &mut classes[index];
            let Some(job) = world.job(key) else { continue };
            if !self.repo_is_full(project, job) {
                if let Some(runner) = free.find(|runner| self.may_take_a_job(runner)) {
                    self.spoken_for.insert(runner.clone());
                    self.left.take(world, class);
                    self.intents.push(Intent::Pair { runner: runner.clone(), job: key });
                } else {
                    match self.block(class, project, pool) {
                        None => self.start(class, pool, Some(job)),
                        Some(Block::Held) => continue,
                        Some(Block::Full(full)) => {
                            let others = jobs.filter_map(|(_, key)| world.job(*key));
                            let jobs = 1 + others.filter(|job| !self.repo_is_full(project, job)).count();
                            crowded.push(Crowded { class, full, jobs });
                            continue;
                        }
                    }
                }
                more(&mut self.admitted.repos, (project.name.clone(), job.repo.clone()));
            }
            if let Some((queued_at, key)) = jobs.next() {
                heads.push(Reverse((*queued_at, *key, index)));
            }
        }
        crowded
    }

    /// Takes idle runners that nobody needs out of service where they keep jobs of another class waiting: only as many
    /// as there are such jobs, those that already go counted in, and none that are to be kept warm.
    fn make_room(&mut self, crowded: &[Crowded<'a>]) {
        let world = self.world;
        // What makes room already, and for whom that was meant.
        let mut leaving: Option<Vec<(Class, Option<&Class>)>> = None;
        for Crowded { class, full, jobs } in crowded {
            let mut idle: Vec<&Arc<Runner>> = world
                .free_in(&class.project)
                .filter(|(other, _)| *other != *class && full.frees(class, other))
                .flat_map(|(_, names)| names.iter().filter_map(|name| world.runner(name)))
                .filter(|runner| matches!(runner.state, RunnerState::Booting | RunnerState::Idle))
                .collect();
            if idle.is_empty() {
                continue;
            }
            // The one that has been idle for the longest goes first; a pass after this one chooses the same.
            idle.sort_by_key(|runner| (Reverse(runner.state.rank()), runner.state_at, runner.name.clone()));
            let leaving = leaving.get_or_insert_with(|| self.leaving());
            let serves = |(freed, meant_for): &&(Class, Option<&Class>)| {
                full.frees(class, freed) && meant_for.is_none_or(|meant_for| meant_for == *class)
            };
            let mut missing = jobs.saturating_sub(leaving.iter().filter(serves).count());
            for runner in idle {
                let other = World::class_of_runner(runner);
                if missing == 0 {
                    break;
                }
                if self.spoken_for.contains(&runner.name) || self.left.surplus(world, &other, self.now) == 0 {
                    continue;
                }
                missing -= 1;
                self.spoken_for.insert(runner.name.clone());
                self.left.take(world, &other);
                self.intents.push(Intent::Retire { runner: runner.name.clone(), error: None });
                leaving.push((other, Some(class)));
            }
        }
    }

    /// The classes of runners that are on their way out, by earlier passes or by this one.
    fn leaving(&self) -> Vec<(Class, Option<&'a Class>)> {
        let retired: HashSet<&RunnerName> = self
            .intents
            .iter()
            .filter_map(|intent| if let Intent::Retire { runner, .. } = intent { Some(runner) } else { None })
            .collect();
        let leaves = |runner: &&Arc<Runner>| runner.state == RunnerState::Stopping || retired.contains(&runner.name);
        self.world.runners().filter(leaves).map(|runner| (World::class_of_runner(runner), None)).collect()
    }

    fn may_take_a_job(&self, free: &RunnerName) -> bool {
        let is_young = |runner: &Arc<Runner>| last_call(self.world, runner, Timestamp::MAX) > self.now;
        !self.spoken_for.contains(free) && self.world.runner(free).is_some_and(is_young)
    }

    fn keep_warm(&mut self) {
        for project in &self.world.config().projects {
            for pool in project.pools.iter().filter(|pool| pool.enabled && pool.warm.most() > 0) {
                let warm = pool.warm.at(self.now).0;
                for target in targets(project) {
                    let class = Class { project: project.name.clone(), pool: pool.name.clone(), target };
                    let free = *self.left.of(self.world, &class);
                    for _ in free..warm {
                        if self.block(&class, project, pool).is_some() {
                            break;
                        }
                        self.start(&class, pool, None);
                    }
                }
            }
        }
    }

    /// Whether a repository of an organisation has its share; runners of a repository count by their target instead.
    fn repo_is_full(&self, project: &Project, job: &Job) -> bool {
        match (&project.scope, project.max_runners_per_repo) {
            (Scope::Org { .. }, Some(cap)) => {
                let key = (project.name.clone(), job.repo.clone());
                self.world.served_of(&key) + of(&self.admitted.repos, &key) >= cap
            }
            (Scope::Org { .. } | Scope::Repos(_), _) => false,
        }
    }

    /// What keeps a class from starting another runner now.
    fn block(&self, class: &Class, project: &Project, pool: &Pool) -> Option<Block> {
        let (world, admitted) = (self.world, &self.admitted);
        let in_pool = of(&admitted.pools, &(class.project.clone(), class.pool.clone()));
        let starting = world.starting_on(&pool.backend) + of(&admitted.backends, &pool.backend);
        if !pool.enabled || starting >= self.limits.starting_per_backend {
            return Some(Block::Held);
        }
        match world.pause(&class.project, &class.pool) {
            Some(pause) if pause.until > self.now => return Some(Block::Held),
            // After a pause a single runner finds out whether the trouble is over.
            Some(_) if world.starting_in(&class.project, &class.pool) + in_pool >= 1 => return Some(Block::Held),
            Some(_) | None => {}
        }
        let in_project = world.live_in_project(&class.project) + of(&admitted.projects, &class.project);
        let at_target = || {
            let key = (class.project.clone(), class.target.clone());
            world.live_at_target(&class.project, &class.target) + of(&admitted.targets, &key)
        };
        let full = Full {
            pool: world.live_in_pool(&class.project, &class.pool) + in_pool >= pool.max_runners,
            project: project.max_runners.is_some_and(|cap| in_project >= cap),
            target: match (&project.scope, project.max_runners_per_repo) {
                (Scope::Repos(_), Some(cap)) => at_target() >= cap,
                (Scope::Repos(_), None) | (Scope::Org { .. }, _) => false,
            },
        };
        (full != Full::default()).then_some(Block::Full(full))
    }

    fn start(&mut self, class: &Class, pool: &Pool, job: Option<&Arc<Job>>) {
        more(&mut self.admitted.pools, (class.project.clone(), class.pool.clone()));
        more(&mut self.admitted.projects, class.project.clone());
        more(&mut self.admitted.targets, (class.project.clone(), class.target.clone()));
        more(&mut self.admitted.backends, pool.backend.clone());
        let runner = Runner {
            installation_id: job.and_then(|job| job.installation_id),
            job: job.map(|job| job.key),
            ..Runner::planned(
                self.names.draw(pool),
                (class.project.clone(), class.pool.clone()),
                pool.backend.clone(),
                class.target.clone(),
                self.now,
                self.now + pool.timeouts.register,
            )
        };
        self.intents.push(Intent::Start { runner: Box::new(runner), job: job.map(|job| job.key) });
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
