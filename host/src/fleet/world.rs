//! What is alive: the jobs that are not over and the runners that are not gone, with the indexes planning needs.
//!
//! The world is an image of the store: it is filled from its active rows and follows its commits, in their order,
//! and nothing else changes it. Keeping the indexes up to date here makes a planning pass cost what there is to do,
//! not what there is.
//!
//! Who belongs to whom is decided by one side alone: a job names its runner. A runner is *free* when no job that
//! wants a runner names it; a job is *unserved* when it wants a runner and names none that could still take it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    job::{Job, JobKey, JobStatus},
    rerun::Reruns,
    runner::{Runner, RunnerName, RunnerState, Target},
};
use crate::{
    config::{Config, Pool, Project},
    routing::{BackendName, PoolName, ProjectName, RepoName, Router},
    store::{Changed, Pause},
};

/// A class of demand: jobs that the same runners can serve.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    pub project: ProjectName,
    pub pool: PoolName,
    pub target: Target,
}

/// How many runners there are, for caps: everything that is not gone, because its machine may exist.
#[derive(Debug, Default)]
struct Counts {
    pools: HashMap<(ProjectName, PoolName), u32>,
    projects: HashMap<ProjectName, u32>,
    targets: HashMap<(ProjectName, Target), u32>,
    /// Runners on their way to a machine, by backend and by pool.
    starting_on: HashMap<BackendName, u32>,
    starting_in: HashMap<(ProjectName, PoolName), u32>,
    /// Jobs that have a runner, by repository.
    served: HashMap<(ProjectName, RepoName), u32>,
}

fn add<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: K, change: i32) {
    let count = counts.entry(key).or_insert(0);
    *count = count.saturating_add_signed(change);
}

/// See the module.
#[derive(Debug)]
pub struct World {
    config: Arc<Config>,
    router: Router,
    jobs: HashMap<JobKey, Arc<Job>>,
    runners: HashMap<RunnerName, Arc<Runner>>,
    pauses: HashMap<(ProjectName, PoolName), Pause>,
    unserved: BTreeMap<Class, BTreeSet<(Timestamp, JobKey)>>,
    free: HashMap<Class, BTreeSet<RunnerName>>,
    /// Jobs that want a runner, by the runner they name.
    wanting: HashMap<RunnerName, JobKey>,
    /// Runners by the job they name.
    partners: HashMap<JobKey, BTreeSet<RunnerName>>,
    deadlines: BTreeSet<(Timestamp, RunnerName)>,
    counts: Counts,
    /// Runners that did a job of which only the end became known.
    pub(super) finished: HashSet<RunnerName>,
    pub(super) reruns: Reruns,
    /// What changed since the last pass and has to be looked at.
    pub(super) dirty_jobs: HashSet<JobKey>,
    pub(super) dirty_runners: HashSet<RunnerName>,
}

impl World {
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            router: Router::new(&config),
            config,
            jobs: HashMap::new(),
            runners: HashMap::new(),
            pauses: HashMap::new(),
            unserved: BTreeMap::new(),
            free: HashMap::new(),
            wanting: HashMap::new(),
            partners: HashMap::new(),
            deadlines: BTreeSet::new(),
            counts: Counts::default(),
            finished: HashSet::new(),
            reruns: Reruns::default(),
            dirty_jobs: HashSet::new(),
            dirty_runners: HashSet::new(),
        }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub fn job(&self, key: JobKey) -> Option<&Arc<Job>> {
        self.jobs.get(&key)
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    pub fn runner(&self, name: &RunnerName) -> Option<&Arc<Runner>> {
        self.runners.get(name)
    }

    pub fn runners(&self) -> impl Iterator<Item = &Arc<Runner>> {
        self.runners.values()
    }

    pub fn pause(&self, project: &ProjectName, pool: &PoolName) -> Option<&Pause> {
        self.pauses.get(&(project.clone(), pool.clone()))
    }

    /// The end of the earliest pause that is still ahead.
    pub fn next_pause_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.pauses.values().map(|pause| pause.until).filter(|until| *until > now).min()
    }

    /// Whether a machine that can be taken away is not for this job: that happened to it, or to an earlier attempt.
    pub fn wants_one_that_stays(&self, key: JobKey) -> bool {
        self.job(key).is_some_and(|job| job.interruption.is_some() || self.reruns.lost_before(job))
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Whether a job that wants a runner has one that could still take it.
    pub fn is_served(&self, job: &Job) -> bool {
        job.runner.as_ref().is_some_and(|name| self.wanting.get(name) == Some(&job.key))
    }

    /// The job that wants this runner, if any.
    pub fn wanted_by(&self, runner: &RunnerName) -> Option<&Arc<Job>> {
        self.jobs.get(self.wanting.get(runner)?)
    }

    /// The runners that name this job.
    pub fn partners(&self, job: JobKey) -> impl Iterator<Item = &Arc<Runner>> {
        self.partners.get(&job).into_iter().flatten().filter_map(|name| self.runners.get(name))
    }

    pub fn unserved(&self) -> impl Iterator<Item = (&Class, &BTreeSet<(Timestamp, JobKey)>)> {
        self.unserved.iter()
    }

    pub fn free(&self, class: &Class) -> impl Iterator<Item = &RunnerName> {
        self.free.get(class).into_iter().flatten()
    }

    /// The classes of a project that have free runners.
    pub fn free_in(&self, project: &ProjectName) -> impl Iterator<Item = (&Class, &BTreeSet<RunnerName>)> {
        self.free.iter().filter(move |(class, _)| class.project == *project)
    }

    pub fn free_count(&self, class: &Class) -> u32 {
        self.free.get(class).map_or(0, |free| free.len() as u32)
    }

    /// Runners whose state should be over by `now`, most overdue first.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Runner>> {
        self.deadlines
            .iter()
            .take_while(move |(deadline, _)| *deadline <= now)
            .filter_map(|(_, name)| self.runners.get(name))
    }

    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        self.deadlines.iter().map(|(deadline, _)| *deadline).find(|deadline| *deadline > now)
    }

    pub fn live_in_pool(&self, project: &ProjectName, pool: &PoolName) -> u32 {
        self.counts.pools.get(&(project.clone(), pool.clone())).copied().unwrap_or(0)
    }

    pub fn live_in_project(&self, project: &ProjectName) -> u32 {
        self.counts.projects.get(project).copied().unwrap_or(0)
    }

    pub fn live_at_target(&self, project: &ProjectName, target: &Target) -> u32 {
        self.counts.targets.get(&(project.clone(), target.clone())).copied().unwrap_or(0)
    }

    /// Runners of the backend that have no machine yet.
    pub fn starting_on(&self, backend: &BackendName) -> u32 {
        self.counts.starting_on.get(backend).copied().unwrap_or(0)
    }

    /// Runners of the pool that have no machine yet.
    pub fn starting_in(&self, project: &ProjectName, pool: &PoolName) -> u32 {
        self.counts.starting_in.get(&(project.clone(), pool.clone())).copied().unwrap_or(0)
    }

    /// Jobs of a repository that have a runner.
    pub fn served_of(&self, repo: &(ProjectName, RepoName)) -> u32 {
        self.counts.served.get(repo).copied().unwrap_or(0)
    }

    /// The configuration of a class, unless it is no longer in there.
    pub fn pool(&self, project: &ProjectName, pool: &PoolName) -> Option<(&Arc<Project>, &Arc<Pool>)> {
        self.config.pool(project, pool)
    }

    fn class_of_job(&self, job: &Job) -> Option<Class> {
        let (project, pool) = (job.project.as_ref()?, job.pool.as_ref()?);
        let target = Target::of(&self.config.project(project)?.scope, &job.repo);
        Some(Class { project: project.clone(), pool: pool.clone(), target })
    }

    pub fn class_of_runner(runner: &Runner) -> Class {
        Class { project: runner.project.clone(), pool: runner.pool.clone(), target: runner.target.clone() }
    }

    /// Has everything looked at in the next pass.
    pub fn look_at_everything(&mut self) {
        self.dirty_jobs.extend(self.jobs.keys().copied());
        self.dirty_runners.extend(self.runners.keys().cloned());
    }

    /// Takes in a row as it is after a commit.
    pub fn apply(&mut self, changed: &Changed) {
        match changed {
            Changed::Job(job) => self.apply_job(job),
            Changed::Runner(runner) => self.apply_runner(runner),
            Changed::Pause { project, pool, pause } => {
                let key = (project.clone(), pool.clone());
                match pause {
                    Some(pause) => self.pauses.insert(key, pause.clone()),
                    None => self.pauses.remove(&key),
                };
            }
        }
    }

    fn apply_job(&mut self, job: &Arc<Job>) {
        let key = job.key;
        self.reruns.apply(job);
        let old = self.jobs.get(&key).cloned();
        let mut touched: Vec<RunnerName> = old.iter().chain([job]).filter_map(|job| job.runner.clone()).collect();
        touched.extend(self.partners(key).map(|runner| runner.name.clone()));
        if let Some(old) = &old {
            self.unindex_job(old);
        }
        if job.status.is_final() {
            let executed = job.status == JobStatus::Completed && job.conclusion.as_deref() != Some("skipped");
            let executor = job.runner.as_ref().filter(|name| executed && self.runners.contains_key(*name));
            self.finished.extend(executor.cloned());
            self.jobs.remove(&key);
        } else {
            self.jobs.insert(key, job.clone());
            self.index_job(job);
        }
        self.dirty_jobs.insert(key);
        for name in touched {
            if let Some(runner) = self.runners.get(&name).cloned() {
                self.refresh_free(&runner);
            }
            self.dirty_runners.insert(name);
        }
    }

    fn apply_runner(&mut self, runner: &Arc<Runner>) {
        let name = &runner.name;
        let old = self.runners.get(name).cloned();
        if let Some(old) = &old {
            self.unindex_runner(old);
        }
        if runner.state.is_final() {
            self.finished.remove(name);
            self.runners.remove(name);
        } else {
            self.runners.insert(name.clone(), runner.clone());
            self.index_runner(runner);
        }
        self.dirty_runners.insert(name.clone());
        // Whether a job is served depends on the state of the runner it names.
        let concerned = self.wanting.get(name).copied();
        for key in old.iter().chain([runner]).filter_map(|runner| runner.job).chain(concerned) {
            self.dirty_jobs.insert(key);
            if let Some(job) = self.jobs.get(&key).cloned() {
                self.unindex_job(&job);
                self.index_job(&job);
            }
        }
        self.refresh_free(runner);
    }

    fn index_job(&mut self, job: &Arc<Job>) {
        if job.status == JobStatus::Running {
            self.count_served(job, 1);
        }
        if !job.status.wants_runner() {
            return;
        }
        let served = job.runner.as_ref().is_some_and(|name| {
            self.runners.get(name).is_some_and(|runner| runner.state.is_supply())
                && self.wanting.get(name).is_none_or(|holder| *holder == job.key)
        });
        if let (true, Some(name)) = (served, &job.runner) {
            self.wanting.insert(name.clone(), job.key);
            self.count_served(job, 1);
        } else if let Some(class) = self.class_of_job(job) {
            self.unserved.entry(class).or_default().insert((job.queued_at, job.key));
        }
    }

    fn unindex_job(&mut self, job: &Job) {
        if job.status == JobStatus::Running {
            self.count_served(job, -1);
        }
        if let Some(name) = &job.runner
            && self.wanting.get(name) == Some(&job.key)
        {
            self.wanting.remove(name);
            self.count_served(job, -1);
        }
        if let Some(class) = self.class_of_job(job)
            && let Some(waiting) = self.unserved.get_mut(&class)
        {
            waiting.remove(&(job.queued_at, job.key));
            if waiting.is_empty() {
                self.unserved.remove(&class);
            }
        }
    }

    fn count_served(&mut self, job: &Job, change: i32) {
        if let Some(project) = &job.project {
            add(&mut self.counts.served, (project.clone(), job.repo.clone()), change);
        }
    }

    fn index_runner(&mut self, runner: &Runner) {
        self.deadlines.insert((runner.deadline, runner.name.clone()));
        if let Some(job) = runner.job {
            self.partners.entry(job).or_default().insert(runner.name.clone());
        }
        self.count(runner, 1);
    }

    fn unindex_runner(&mut self, runner: &Runner) {
        self.deadlines.remove(&(runner.deadline, runner.name.clone()));
        if let Some(job) = runner.job
            && let Some(partners) = self.partners.get_mut(&job)
        {
            partners.remove(&runner.name);
            if partners.is_empty() {
                self.partners.remove(&job);
            }
        }
        self.count(runner, -1);
    }

    fn count(&mut self, runner: &Runner, change: i32) {
        let pool = (runner.project.clone(), runner.pool.clone());
        add(&mut self.counts.pools, pool.clone(), change);
        add(&mut self.counts.projects, runner.project.clone(), change);
        add(&mut self.counts.targets, (runner.project.clone(), runner.target.clone()), change);
        if runner.state.rank() < RunnerState::Booting.rank() {
            add(&mut self.counts.starting_on, runner.backend.clone(), change);
            add(&mut self.counts.starting_in, pool, change);
        }
    }

    fn refresh_free(&mut self, runner: &Runner) {
        let class = Self::class_of_runner(runner);
        let alive = self.runners.contains_key(&runner.name);
        if alive && runner.state.is_supply() && !self.wanting.contains_key(&runner.name) {
            self.free.entry(class).or_default().insert(runner.name.clone());
        } else if let Some(free) = self.free.get_mut(&class) {
            free.remove(&runner.name);
            if free.is_empty() {
                self.free.remove(&class);
            }
        }
    }
}
