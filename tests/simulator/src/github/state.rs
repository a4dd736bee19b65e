//! What the fake GitHub knows: jobs, runners, tokens; and how a job comes to a runner.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    limits::{Lately, Spent},
    permissions::{Installation, Permissions},
};
use crate::dice::Dice;

pub type JobId = u64;
pub type RunnerId = u64;

/// A repository's jobs go to its own runners first, then to those of its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `owner/name`, lower-case.
    Repo(String),
    /// An organisation, lower-case.
    Org(String),
}

/// Labels, lower-case and sorted.
pub type Labels = Arc<BTreeSet<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Waiting,
    Queued,
    InProgress,
    Completed,
}

impl JobState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub run_id: u64,
    pub attempt: u32,
    /// The id of its first attempt, by which it is named.
    pub number: u64,
    pub repo: String,
    pub labels: Vec<String>,
    pub wanted: Labels,
    pub duration: Duration,
    /// What its runner will report.
    pub outcome: String,
    pub state: JobState,
    pub conclusion: Option<String>,
    pub runner: Option<(RunnerId, String)>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    /// How often it was handed to a runner.
    pub assigned: u32,
}

#[derive(Debug)]
pub struct Runner {
    pub id: RunnerId,
    pub name: String,
    pub scope: Scope,
    pub labels: Labels,
    pub spelled: Vec<String>,
    pub group: i64,
    pub secret: String,
    pub online: bool,
    pub connected: bool,
    pub job: Option<JobId>,
    pub wake: Arc<Notify>,
}

#[derive(Debug, Clone)]
pub struct Token {
    /// Lower-case.
    pub owner: String,
    pub expires_at: Timestamp,
    pub permissions: Permissions,
    /// `owner/name`, lower-case; without them all of the installation.
    pub repositories: Option<BTreeSet<String>>,
}

/// Something GitHub tells by webhook.
#[derive(Debug, Clone)]
pub struct Told {
    pub action: &'static str,
    pub job: Job,
}

#[derive(Debug)]
pub struct State {
    pub dice: Dice,
    pub next_id: u64,
    pub jobs: BTreeMap<JobId, Job>,
    pub runners: BTreeMap<RunnerId, Runner>,
    pub names: HashMap<(Scope, String), RunnerId>,
    /// Every name for which a configuration was ever issued.
    pub issued: HashMap<String, u32>,
    /// Idle and online, by what they take.
    idle: HashMap<Scope, HashMap<Labels, Vec<RunnerId>>>,
    /// Queued, by what they want.
    queued: HashMap<String, HashMap<Labels, VecDeque<JobId>>>,
    pub tokens: HashMap<String, Token>,
    /// By owner, lower-case.
    pub installations: BTreeMap<String, Installation>,
    pub spent: Spent,
    pub lately: Lately,
    /// Calls that were refused for a secondary limit.
    pub over_limit: u64,
    pub jit_configs: Vec<String>,
    pub told: VecDeque<Told>,
    pub violations: Vec<String>,
    pub unauthorised: u64,
}

impl State {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            next_id: 1_000,
            jobs: BTreeMap::new(),
            runners: BTreeMap::new(),
            names: HashMap::new(),
            issued: HashMap::new(),
            idle: HashMap::new(),
            queued: HashMap::new(),
            tokens: HashMap::new(),
            installations: BTreeMap::new(),
            spent: Spent::default(),
            lately: Lately::default(),
            over_limit: 0,
            jit_configs: Vec::new(),
            told: VecDeque::new(),
            violations: Vec::new(),
            unauthorised: 0,
        }
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn tell(&mut self, action: &'static str, id: JobId) {
        if let Some(job) = self.jobs.get(&id) {
            self.told.push_back(Told { action, job: job.clone() });
        }
    }

    pub fn add_job(&mut self, mut job: Job, waiting: bool) -> JobId {
        let id = job.id;
        job.state = if waiting { JobState::Waiting } else { JobState::Queued };
        self.jobs.insert(id, job);
        if waiting {
            self.tell("waiting", id);
        } else {
            self.release(id);
        }
        id
    }

    /// A job that nothing holds back any more.
    pub fn release(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // Cancelled while it was held, it stays cancelled.
        if job.state == JobState::Completed {
            return;
        }
        job.state = JobState::Queued;
        let (repo, wanted) = (job.repo.to_lowercase(), job.wanted.clone());
        self.tell("queued", id);
        self.queued.entry(repo).or_default().entry(wanted).or_default().push_back(id);
        self.match_job(id);
    }

    /// Gives a queued job to any idle runner that fits: those of its repository first.
    fn match_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.state == JobState::Queued) else { return };
        let repo = job.repo.to_lowercase();
        let owner = repo.split('/').next().unwrap_or_default().to_owned();
        for scope in [Scope::Repo(repo), Scope::Org(owner)] {
            let Some(sets) = self.idle.get(&scope) else { continue };
            let mut fitting: Vec<Labels> = sets
                .iter()
                .filter(|(has, idle)| !idle.is_empty() && job.wanted.is_subset(has))
                .map(|(has, _)| has.clone())
                .collect();
            if fitting.is_empty() {
                continue;
            }
            fitting.sort();
            let labels = fitting[self.dice.below(fitting.len())].clone();
            let Some(sets) = self.idle.get_mut(&scope) else { continue };
            let Some(idle) = sets.get_mut(&labels) else { continue };
            let runner = idle.swap_remove(self.dice.below(idle.len()));
            if idle.is_empty() {
                sets.remove(&labels);
            }
            self.assign(id, runner);
            return;
        }
    }

    /// Gives an idle runner any queued job that it fits.
    fn match_runner(&mut self, id: RunnerId) {
        let Some(runner) = self.runners.get(&id) else { return };
        let mut fitting: Vec<(String, Labels)> = self
            .queued
            .iter()
            .filter(|(repo, _)| match &runner.scope {
                Scope::Repo(own) => own == *repo,
                Scope::Org(org) => repo.split('/').next() == Some(org),
            })
            .flat_map(|(repo, sets)| sets.iter().map(move |(wanted, jobs)| (repo, wanted, jobs)))
            .filter(|(_, wanted, jobs)| !jobs.is_empty() && wanted.is_subset(&runner.labels))
            .map(|(repo, wanted, _)| (repo.clone(), wanted.clone()))
            .collect();
        if fitting.is_empty() {
            return;
        }
        fitting.sort();
        let (repo, wanted) = fitting[self.dice.below(fitting.len())].clone();
        let Some(jobs) = self.queued.get(&repo).and_then(|sets| sets.get(&wanted)) else { return };
        let job = jobs[self.dice.below(jobs.len())];
        self.unlist(id);
        self.assign(job, id);
    }

    fn assign(&mut self, job_id: JobId, runner_id: RunnerId) {
        self.dequeue(job_id);
        let Some(runner) = self.runners.get_mut(&runner_id) else { return };
        runner.job = Some(job_id);
        runner.wake.notify_one();
        let named = (runner_id, runner.name.clone());
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.assigned += 1;
            if job.assigned > 1 {
                self.violations.push(format!("job {job_id} was handed out {} times", job.assigned));
            }
            job.state = JobState::InProgress;
            job.runner = Some(named);
            job.started_at = Some(now());
        }
        self.tell("in_progress", job_id);
    }

    fn dequeue(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(sets) = self.queued.get_mut(&job.repo.to_lowercase()) else { return };
        let Some(jobs) = sets.get_mut(&job.wanted) else { return };
        if let Some(at) = jobs.iter().position(|queued| *queued == id) {
            jobs.remove(at);
        }
        // Sets that nobody wants any more would be looked through by every runner that comes.
        if jobs.is_empty() {
            sets.remove(&job.wanted);
        }
    }

    fn unlist(&mut self, id: RunnerId) {
        let Some(runner) = self.runners.get(&id) else { return };
        let Some(sets) = self.idle.get_mut(&runner.scope) else { return };
        let Some(idle) = sets.get_mut(&runner.labels) else { return };
        idle.retain(|listed| *listed != id);
        if idle.is_empty() {
            sets.remove(&runner.labels);
        }
    }

    /// A runner comes online with its configuration.
    pub fn online(&mut self, id: RunnerId) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.online = true;
        runner.connected = true;
        let (scope, labels) = (runner.scope.clone(), runner.labels.clone());
        self.idle.entry(scope).or_default().entry(labels).or_default().push(id);
        self.match_runner(id);
    }

    /// A runner is not seen any more. Its record stays, until it is deleted.
    pub fn offline(&mut self, id: RunnerId) {
        self.unlist(id);
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.online = false;
        }
    }

    /// Its job is over: the record of an ephemeral runner goes with it.
    pub fn finish(&mut self, id: RunnerId, conclusion: &str) {
        if let Some(job) = self.runners.get(&id).and_then(|runner| runner.job) {
            self.conclude(job, conclusion);
        }
        self.remove(id);
    }

    pub fn remove(&mut self, id: RunnerId) {
        self.unlist(id);
        if let Some(runner) = self.runners.remove(&id) {
            self.names.remove(&(runner.scope, runner.name));
            // Whoever waits for a job learns that there will be none.
            runner.wake.notify_one();
        }
    }

    pub fn conclude(&mut self, id: JobId, conclusion: &str) {
        self.dequeue(id);
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state != JobState::Completed) else { return };
        job.state = JobState::Completed;
        job.conclusion = Some(conclusion.to_owned());
        job.completed_at = Some(now());
        self.tell("completed", id);
    }
}

/// The simulator is the world outside: its clock is the machine's.
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the world outside has its own clock")]
    Timestamp::now()
}
