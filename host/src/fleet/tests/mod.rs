//! The fleet's rules in a simulated world: a virtual clock, seeded faults, a store in memory.
//!
//! The same functions decide here as in production: transitions, planning, what an intent writes, retry. Played by
//! the simulation are the executor's steps, GitHub, which hands a job to any online runner that fits, and the engine.

mod acts;
mod plan;
mod rematch;
mod simulation;
mod supply;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    intent,
    job::{self, Assignment, Job, JobChange, JobFact, JobKey, JobStatus, Phase},
    plan::{Names, PlanLimits, plan as pass},
    runner::{self, Runner, RunnerName},
    world::World,
};
use crate::{
    config::{Config, Pool, Project, RunnerGroup, Scope, Timeouts, fixture},
    routing::{PoolName, ProjectName},
    store::{Active, AuditEntry, Changed, Op, Pause, Proof},
};

/// A repository-scoped project `app` on `octocat/app` and an organisation-scoped one, `org`, of `acme`.
pub(super) fn config(edit: impl FnOnce(&mut Pool, &mut Project)) -> Arc<Config> {
    let mut small = pool("small");
    let mut app = Project {
        name: "app".parse().unwrap(),
        scope: Scope::Repos(vec!["octocat/app".parse().unwrap(), "octocat/tool".parse().unwrap()]),
        max_runners: None,
        max_runners_per_repo: None,
        pools: vec![],
    };
    edit(&mut small, &mut app);
    app.pools = vec![Arc::new(small), Arc::new(pool("large"))];
    let org = Project {
        name: "org".parse().unwrap(),
        scope: Scope::Org { login: "acme".to_owned(), runner_group: RunnerGroup::Default },
        max_runners: Some(6),
        max_runners_per_repo: Some(3),
        pools: vec![Arc::new(pool("shared"))],
    };
    Arc::new(fixture(vec![Arc::new(app), Arc::new(org)]))
}

fn pool(name: &str) -> Pool {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    Pool {
        name: name.parse().unwrap(),
        backend: "engine".parse().unwrap(),
        enabled: true,
        default: false,
        priority: 100,
        labels: vec![],
        max_runners: 4,
        warm: crate::config::Warm::always(0),
        timeouts: Timeouts {
            register: minutes(1),
            create: minutes(2),
            boot: minutes(5),
            idle: minutes(10),
            run: minutes(360),
            stop: minutes(2),
        },
        bootstrap: crate::config::Bootstrap::default(),
        settings: serde_json::json!({}),
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A store in memory: applies the same pure functions to the same rows, and hands the images to the world.
pub(super) struct Sim {
    pub world: World,
    pub jobs: BTreeMap<JobKey, Job>,
    pub runners: BTreeMap<RunnerName, Runner>,
    pub pauses: BTreeMap<(ProjectName, PoolName), Pause>,
    pub audit: Vec<AuditEntry>,
    /// How often a job was left without the runner it had.
    pub unpaired: BTreeMap<JobKey, u32>,
    pub limits: PlanLimits,
    pub now: Timestamp,
    pub names: Counting,
}

#[derive(Default)]
pub(super) struct Counting(u64);

impl Names for Counting {
    fn draw(&mut self, pool: &Pool) -> RunnerName {
        self.0 += 1;
        super::names::name(pool.name.as_str(), self.0)
    }
}

impl Sim {
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            world: World::new(config),
            jobs: BTreeMap::new(),
            runners: BTreeMap::new(),
            pauses: BTreeMap::new(),
            audit: Vec::new(),
            unpaired: BTreeMap::new(),
            limits: PlanLimits::default(),
            now: at(0),
            names: Counting::default(),
        }
    }

    /// The process starts anew with this configuration: all that is left is what was stored.
    pub fn restart(&mut self, config: Arc<Config>) {
        let rows = self.jobs.values().cloned().map(Arc::new);
        let active = Active {
            jobs: rows.filter(|job| !job.status.is_final()).collect(),
            interrupted: Vec::new(),
            runners: self.live().cloned().map(Arc::new).collect(),
            pauses: self
                .pauses
                .iter()
                .map(|((project, pool), pause)| (project.clone(), pool.clone(), pause.clone()))
                .collect(),
        };
        self.world = World::new(config);
        super::fill(&mut self.world, active);
        let given_up = |job: &&Job| matches!(job.status, JobStatus::Unmatched | JobStatus::Failed);
        let given_up: Vec<Job> = self.jobs.values().filter(given_up).cloned().collect();
        let intents = super::rematched(&self.world, &given_up);
        let ops = intents.iter().flat_map(|intent| intent::ops(&self.world, intent, self.now)).collect();
        self.commit(ops);
    }

    /// What the store does with ops. Returns which applied.
    pub fn commit(&mut self, ops: Vec<Op>) -> Vec<bool> {
        let mut applied = Vec::new();
        for op in ops {
            let images = self.apply(op);
            applied.push(!images.is_empty());
            for image in images {
                self.world.apply(&image);
            }
        }
        applied
    }

    fn apply(&mut self, op: Op) -> Vec<Changed> {
        match op {
            Op::Ingest(ingest) => {
                let Some((fact, Some(assignment))) = ingest.demand else { return vec![] };
                let applied = job::apply_fact(self.jobs.get(&fact.key), &fact, &assignment, self.now);
                applied.job.map(|job| self.keep_job(job)).into_iter().collect()
            }
            Op::Job { key, change } => {
                let Some(mut job) = self.jobs.get(&key).cloned() else { return vec![] };
                let applied = job::apply_change(&mut job, &change, self.now).is_some();
                if applied && matches!(change, JobChange::RunnerLost { .. } | JobChange::Pair { runner: None }) {
                    *self.unpaired.entry(key).or_default() += 1;
                }
                applied.then(|| self.keep_job(job)).into_iter().collect()
            }
            Op::NewRunner(runner) => vec![self.keep_runner(*runner)],
            Op::Runner { name, change } => {
                let Some(mut runner) = self.runners.get(&name).cloned() else { return vec![] };
                let applied = runner::apply_change(&mut runner, &change, self.now).is_some();
                applied.then(|| self.keep_runner(runner)).into_iter().collect()
            }
            Op::Pause { project, pool, pause } => {
                let key = (project.clone(), pool.clone());
                match &pause {
                    Some(pause) => self.pauses.insert(key, pause.clone()),
                    None => self.pauses.remove(&key),
                };
                vec![Changed::Pause { project, pool, pause }]
            }
            Op::Audit(entry) => {
                self.audit.push(entry);
                vec![]
            }
        }
    }

    fn keep_job(&mut self, job: Job) -> Changed {
        self.jobs.insert(job.key, job.clone());
        Changed::Job(Arc::new(job))
    }

    fn keep_runner(&mut self, runner: Runner) -> Changed {
        self.runners.insert(runner.name.clone(), runner.clone());
        Changed::Runner(Arc::new(runner))
    }

    /// A delivery about a job of a project and pool.
    pub fn deliver(&mut self, id: i64, repo: &str, place: (&str, &str), phase: Phase, runner: Option<&RunnerName>) {
        let fact = JobFact {
            key: JobKey { id, attempt: 1 },
            run_id: id,
            repo: repo.parse().unwrap(),
            installation_id: Some(7),
            name: format!("job {id}"),
            workflow: None,
            branch: None,
            html_url: None,
            labels: vec!["self-hosted".to_owned(), place.1.to_owned()],
            phase,
            runner: runner.map(ToString::to_string),
            created_at: Some(at(id)),
            started_at: None,
            completed_at: None,
        };
        let assignment =
            Assignment { project: place.0.parse().unwrap(), pool: Some(place.1.parse().unwrap()), reason: None };
        let applied = job::apply_fact(self.jobs.get(&fact.key), &fact, &assignment, self.now);
        if let Some(job) = applied.job {
            let image = self.keep_job(job);
            self.world.apply(&image);
        }
    }

    /// One pass of the planner, with its changes committed.
    pub fn plan(&mut self) -> Vec<super::Intent> {
        self.whole_plan().intents
    }

    /// As [`Sim::plan`], with when to look again.
    pub fn whole_plan(&mut self) -> super::Plan {
        let plan = pass(&mut self.world, self.limits, &mut self.names, self.now);
        for intent in &plan.intents {
            let ops = super::intent::ops(&self.world, intent, self.now);
            self.commit(ops);
        }
        plan
    }

    pub fn pause(&mut self, pool: (&ProjectName, &PoolName), pause: Option<Pause>) {
        self.commit(vec![Op::Pause { project: pool.0.clone(), pool: pool.1.clone(), pause }]);
    }

    pub fn job(&self, id: i64) -> &Job {
        &self.jobs[&JobKey { id, attempt: 1 }]
    }

    pub fn live(&self) -> impl Iterator<Item = &Runner> {
        self.runners.values().filter(|runner| !runner.state.is_final())
    }
}
