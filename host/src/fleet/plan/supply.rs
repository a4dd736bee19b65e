//! Serves the unserved, makes room for those whom caps keep waiting, and keeps warm what should be.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Intent, Left, Names, PlanLimits, SpokenFor, last_call, targets};
use crate::{
    config::{Pool, Project, Scope},
    fleet::{
        job::{Job, JobKey},
        runner::{Runner, RunnerName, RunnerState, Target},
        world::{Class, World},
    },
    routing::{BackendName, PoolName, ProjectName, RepoName},
};

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

pub(super) fn supply(
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
        if !pool.enabled || starting >= self.limits.starting(world.config(), &pool.backend) {
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
