//! A runner: one machine, one registration, at most one job; and the only ways it may change.
//!
//! Every state that is not final has a deadline, and [`super::plan`] says what happens when it passes. The name is
//! written down before it is used anywhere, so that whatever a crash leaves behind can be found by it.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::job::JobKey;
use crate::routing::{BackendName, PoolName, ProjectName, RepoName};

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
            Some(("org", org)) if !org.is_empty() => Ok(Self::Org(org.to_lowercase())),
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
    /// What went wrong, for people.
    pub error: Option<String>,
}

/// A change of a runner. Each returns whether it applied; one that comes too late does nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerChange {
    Registering {
        deadline: Timestamp,
    },
    Creating {
        github_runner_id: i64,
        deadline: Timestamp,
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
    /// GitHub gave it this job.
    Busy {
        job: JobKey,
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
