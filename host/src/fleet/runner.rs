//! A runner: one machine, one registration, at most one job; and the only ways it may change.
//!
//! Every state that is not final has a deadline, and [`super::plan()`] says what happens when it passes. The name is
//! written down before it is used anywhere, so that whatever a crash leaves behind can be found by it.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    cost::Rate,
    job::{Event, JobKey},
};
use crate::{
    config::Scope,
    routing::{BackendName, PoolName, ProjectName, RepoName},
};

/// A runner's name: unique for good, at GitHub, at the backend and here. Starts with `pacer-`, at most 64 of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunnerName(Arc<str>);

impl RunnerName {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a runner registers: what GitHub may give it jobs of. Written `repo:octocat/hello-world` or `org:acme`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Repo(RepoName),
    /// The organisation's login, lower-case.
    Org(String),
}

impl Target {
    /// Where runners for jobs of `repo` register, in a project of this scope.
    pub fn of(scope: &Scope, repo: &RepoName) -> Self {
        match scope {
            Scope::Repos(_) => Self::Repo(repo.clone()),
            Scope::Org { login, .. } => Self::org(login),
        }
    }

    pub fn org(login: &str) -> Self {
        Self::Org(login.to_ascii_lowercase())
    }

    /// Whether GitHub may give a runner that registers here a job of this repository.
    pub fn covers(&self, repo: &RepoName) -> bool {
        match self {
            Self::Repo(target) => target == repo,
            Self::Org(login) => login.eq_ignore_ascii_case(repo.owner()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repo(repo) => write!(f, "repo:{repo}"),
            Self::Org(org) => write!(f, "org:{org}"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("repo", repo)) => repo.parse().map(Self::Repo).map_err(|_| ()),
            Some(("org", org)) if !org.is_empty() => Ok(Self::org(org)),
            Some(_) | None => Err(()),
        }
    }
}

/// Where a runner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunnerState {
    /// Its name is written down; nothing has been done yet.
    Planned,
    /// GitHub is being asked for its just-in-time configuration.
    Registering,
    /// The backend is being asked for its machine.
    Creating,
    /// The machine exists; GitHub has not seen the runner yet.
    Booting,
    /// Online at GitHub, without a job.
    Idle,
    /// Executes a job.
    Busy,
    /// Being taken down; the machine may still exist.
    Stopping,
    /// The backend says that nothing is left of it.
    Gone,
    /// As `gone`, after a failure: `error` says which.
    Failed,
}

impl RunnerState {
    pub const ALL: [RunnerState; 9] = [
        Self::Planned,
        Self::Registering,
        Self::Creating,
        Self::Booting,
        Self::Idle,
        Self::Busy,
        Self::Stopping,
        Self::Gone,
        Self::Failed,
    ];

    pub fn rank(self) -> u8 {
        match self {
            Self::Planned => 0,
            Self::Registering => 1,
            Self::Creating => 2,
            Self::Booting => 3,
            Self::Idle => 4,
            Self::Busy => 5,
            Self::Stopping => 6,
            Self::Gone | Self::Failed => 7,
        }
    }

    pub fn is_final(self) -> bool {
        self.rank() == 7
    }

    /// Counts as supply: alive or on its way, and free for a job.
    pub fn is_supply(self) -> bool {
        self.rank() <= Self::Idle.rank()
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Registering => "registering",
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for RunnerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RunnerState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// How far a machine that runs the start script says it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachinePhase {
    /// The script runs.
    Booted,
    /// It has the runner and its configuration, and starts it.
    RunnerReady,
    /// The runner has ended by itself, as after its job.
    JobDone,
    /// A step failed; the machine is going down.
    Failed,
}

impl MachinePhase {
    pub const ALL: [MachinePhase; 4] = [Self::Booted, Self::RunnerReady, Self::JobDone, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::RunnerReady => "runner-ready",
            Self::JobDone => "job-done",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for MachinePhase {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text).ok_or(())
    }
}

/// A runner, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Runner {
    pub name: RunnerName,
    pub state: RunnerState,
    pub project: ProjectName,
    pub pool: PoolName,
    pub backend: BackendName,
    /// SHA-256 of the component that made the machine.
    pub digest: Option<String>,
    pub target: Target,
    pub installation_id: Option<i64>,
    pub github_runner_id: Option<i64>,
    /// The backend's own name for the machine. Opaque.
    pub handle: Option<String>,
    /// The job it is paired with; once busy, the job it executes.
    pub job: Option<JobKey>,
    pub created_at: Timestamp,
    /// When it entered its state.
    pub state_at: Timestamp,
    /// When its state is over at the latest. A final state keeps the last one.
    pub deadline: Timestamp,
    pub registered_at: Option<Timestamp>,
    pub busy_at: Option<Timestamp>,
    /// When its machine fetched its configuration; it can do so once.
    pub exchanged_at: Option<Timestamp>,
    /// What its machine costs, where the backend said so.
    pub rate: Option<Rate>,
    /// What its machine cost, in millionths of the rate's currency; known when it is over.
    pub cost_micros: Option<u64>,
    /// The last its machine said of itself.
    pub phase: Option<MachinePhase>,
    /// What went wrong, for people.
    pub error: Option<String>,
}

impl Runner {
    /// One that is written down, and of which nothing is known yet.
    pub fn planned(
        name: RunnerName,
        (project, pool): (ProjectName, PoolName),
        backend: BackendName,
        target: Target,
        now: Timestamp,
        deadline: Timestamp,
    ) -> Self {
        Self {
            name,
            state: RunnerState::Planned,
            project,
            pool,
            backend,
            digest: None,
            target,
            installation_id: None,
            github_runner_id: None,
            handle: None,
            job: None,
            created_at: now,
            state_at: now,
            deadline,
            registered_at: None,
            busy_at: None,
            exchanged_at: None,
            rate: None,
            cost_micros: None,
            phase: None,
            error: None,
        }
    }

    /// Executes a job that nobody has told of.
    pub fn has_unknown_job(&self) -> bool {
        self.state == RunnerState::Busy && self.job.is_none()
    }
}

/// A change of a runner. Each returns whether it applied; one that comes too late does nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerChange {
    Registering {
        deadline: Timestamp,
    },
    /// The id is none while the machine is yet to fetch its configuration.
    Creating {
        github_runner_id: Option<i64>,
        deadline: Timestamp,
    },
    /// It was registered because its machine asks for its configuration.
    Exchanged {
        github_runner_id: i64,
    },
    /// The backend said what its machine costs.
    Rated {
        rate: Rate,
    },
    /// Its machine says how far it has come.
    Reported {
        phase: MachinePhase,
        detail: Option<String>,
    },
    /// The backend accepted it. Moves to `booting` unless GitHub was faster.
    Created {
        handle: String,
        digest: String,
        deadline: Timestamp,
    },
    /// GitHub sees it online.
    Idle {
        deadline: Timestamp,
    },
    /// GitHub gave it this job; none where it did not say which. A job that becomes known later is named by another one.
    Busy {
        job: Option<JobKey>,
        deadline: Timestamp,
    },
    /// Its partner by display is now this job, or none.
    Pair {
        job: Option<JobKey>,
    },
    /// It is to go. `error` when that is a failure.
    Stopping {
        deadline: Timestamp,
        error: Option<String>,
    },
    /// More time in the same state, for instance because the engine is still stopping it.
    Extend {
        deadline: Timestamp,
    },
    /// Nothing is left of it: `gone`, or `failed` if it has an error.
    Gone,
}

/// Applies a change. None when it comes too late, and then nothing has changed.
pub fn apply_change(runner: &mut Runner, change: &RunnerChange, now: Timestamp) -> Option<Vec<Event>> {
    // A machine may have its last word when its runner is over already.
    if runner.state.is_final() && !matches!(change, RunnerChange::Reported { .. }) {
        return None;
    }
    match change {
        RunnerChange::Registering { deadline } => {
            advance(runner, RunnerState::Registering, *deadline, now)?;
            Some(vec![state_event(runner, None, now)])
        }
        RunnerChange::Creating { github_runner_id, deadline } => {
            advance(runner, RunnerState::Creating, *deadline, now)?;
            // What the machine fetched in the meantime stands.
            runner.github_runner_id = github_runner_id.or(runner.github_runner_id);
            let detail = github_runner_id.map(|id| format!("registered at GitHub as {id}"));
            Some(vec![state_event(runner, detail, now)])
        }
        RunnerChange::Exchanged { github_runner_id } => {
            if runner.exchanged_at.is_some() || runner.github_runner_id.is_some() || !runner.state.is_supply() {
                return None;
            }
            runner.exchanged_at = Some(now);
            runner.github_runner_id = Some(*github_runner_id);
            let detail = format!("its machine fetched its configuration; registered at GitHub as {github_runner_id}");
            Some(vec![event(runner, "runner.configured", Some(detail), now)])
        }
        RunnerChange::Rated { rate } => {
            if runner.rate.is_some() {
                return None;
            }
            runner.rate = Some(rate.clone());
            Some(Vec::new())
        }
        RunnerChange::Reported { phase, detail } => report(runner, *phase, detail.as_deref(), now),
        RunnerChange::Created { handle, digest, deadline } => {
            let known = runner.handle.as_ref() == Some(handle) && runner.digest.as_ref() == Some(digest);
            let advanced = advance(runner, RunnerState::Booting, *deadline, now).is_some();
            if known && !advanced {
                return None;
            }
            runner.handle = Some(handle.clone());
            runner.digest = Some(digest.clone());
            // When GitHub or the end was faster there is no new state to tell of, only a machine to remember.
            let detail = format!("backend `{}` made `{handle}`", runner.backend);
            Some(if advanced { vec![state_event(runner, Some(detail), now)] } else { Vec::new() })
        }
        RunnerChange::Idle { deadline } => {
            advance(runner, RunnerState::Idle, *deadline, now)?;
            runner.registered_at = runner.registered_at.or(Some(now));
            Some(vec![state_event(runner, Some("online at GitHub".to_owned()), now)])
        }
        RunnerChange::Busy { job, deadline } => {
            if !(runner.has_unknown_job() && job.is_some()) {
                advance(runner, RunnerState::Busy, *deadline, now)?;
                runner.registered_at = runner.registered_at.or(Some(now));
                runner.busy_at = Some(now);
            }
            runner.job = *job;
            let detail =
                job.map_or_else(|| "with a job that is not known here".to_owned(), |job| format!("with job {job}"));
            Some(vec![state_event(runner, Some(detail), now)])
        }
        RunnerChange::Pair { job } => {
            // Whose job GitHub has decided is not paired any more.
            if runner.job == *job || !runner.state.is_supply() {
                return None;
            }
            runner.job = *job;
            // The job's own event tells of the pair, on both timelines.
            Some(Vec::new())
        }
        RunnerChange::Stopping { deadline, error } => {
            advance(runner, RunnerState::Stopping, *deadline, now)?;
            if runner.error.is_none() {
                runner.error.clone_from(error);
            }
            Some(vec![state_event(runner, runner.error.clone(), now)])
        }
        RunnerChange::Extend { deadline } => {
            if runner.deadline == *deadline {
                return None;
            }
            runner.deadline = *deadline;
            Some(Vec::new())
        }
        RunnerChange::Gone => {
            runner.state = if runner.error.is_some() { RunnerState::Failed } else { RunnerState::Gone };
            runner.state_at = now;
            runner.cost_micros = runner.rate.as_ref().map(|rate| rate.cost(now));
            Some(vec![state_event(runner, runner.error.clone(), now)])
        }
    }
}

fn report(runner: &mut Runner, phase: MachinePhase, log: Option<&str>, now: Timestamp) -> Option<Vec<Event>> {
    if runner.phase >= Some(phase) {
        return None;
    }
    runner.phase = Some(phase);
    let word = phase.as_str();
    let detail = log.map_or_else(|| word.to_owned(), |log| format!("{word}: {log}"));
    Some(vec![event(runner, "runner.reported", Some(detail), now)])
}

/// The first line of a runner's history.
pub fn planned_event(runner: &Runner) -> Event {
    let detail = format!("for pool `{}` of project `{}` on backend `{}`", runner.pool, runner.project, runner.backend);
    state_event(runner, Some(detail), runner.created_at)
}

fn advance(runner: &mut Runner, to: RunnerState, deadline: Timestamp, now: Timestamp) -> Option<()> {
    if to.rank() <= runner.state.rank() {
        return None;
    }
    runner.state = to;
    runner.state_at = now;
    runner.deadline = deadline;
    Some(())
}

fn state_event(runner: &Runner, detail: Option<String>, at: Timestamp) -> Event {
    let kind = match runner.state {
        RunnerState::Planned => "runner.planned",
        RunnerState::Registering => "runner.registering",
        RunnerState::Creating => "runner.creating",
        RunnerState::Booting => "runner.booting",
        RunnerState::Idle => "runner.idle",
        RunnerState::Busy => "runner.busy",
        RunnerState::Stopping => "runner.stopping",
        RunnerState::Gone => "runner.gone",
        RunnerState::Failed => "runner.failed",
    };
    event(runner, kind, detail, at)
}

fn event(runner: &Runner, kind: &'static str, detail: Option<String>, at: Timestamp) -> Event {
    Event { at, job: runner.job, runner: Some(runner.name.clone()), kind, detail }
}

#[cfg(test)]
mod tests;
