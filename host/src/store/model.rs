//! What goes into the store and what comes out of it.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;

use crate::{
    fleet::{
        job::{Assignment, Job, JobChange, JobFact, JobKey, JobStatus},
        runner::{Runner, RunnerChange, RunnerName, RunnerState},
    },
    routing::{PoolName, ProjectName, RepoName},
};

/// One thing to write. The ops of one [`super::Store::write`] call commit together or not at all.
#[derive(Debug, Clone)]
pub enum Op {
    Ingest(Box<Ingest>),
    Job {
        key: JobKey,
        change: JobChange,
    },
    NewRunner(Box<Runner>),
    Runner {
        name: RunnerName,
        change: RunnerChange,
    },
    /// Holds a pool back until a time, or lets it go (`None`).
    Pause {
        project: ProjectName,
        pool: PoolName,
        pause: Option<Pause>,
    },
    Audit(AuditEntry),
}

/// A delivery to take in, already verified, parsed and routed.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// None for facts that came without one (a scan of a repository).
    pub guid: Option<String>,
    pub received_at: Timestamp,
    pub event: String,
    pub action: String,
    /// None for what is recorded and dropped. A job without an assignment is nobody's here, and counts all the same
    /// once it names a runner of ours.
    pub demand: Option<(JobFact, Option<Assignment>)>,
    /// Why it is dropped, if it is.
    pub ignored: Option<String>,
    /// `webhook`, `delivery-log` or `repository-scan`: healed jobs are counted by it.
    pub source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpOutcome {
    Ingested(IngestResult),
    /// Whether the change applied; one that comes too late does nothing.
    Applied(bool),
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngestResult {
    /// A job that was not known.
    Enqueued(JobKey, JobStatus),
    /// A known job, or a new one that is past wanting a runner.
    Updated(JobKey, JobStatus),
    /// This delivery was taken in before.
    Duplicate,
    Ignored(String),
    /// A job of a bound repository that no pool fits.
    Unmatched(JobKey, String),
}

/// A pool held back after failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub until: Timestamp,
    pub reason: String,
    /// Failures in a row.
    pub failures: u32,
    pub proof: Proof,
}

/// What shows that the trouble is over and that the next failure is the first in a row. Each is proof of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The backend made a machine.
    Machine,
    /// GitHub saw a runner online, or gave it a job.
    Runner,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Runner => "runner",
        })
    }
}

impl FromStr for Proof {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "machine" => Ok(Self::Machine),
            "runner" => Ok(Self::Runner),
            _ => Err(()),
        }
    }
}

/// Who did what.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    pub at: Timestamp,
    /// `pacer`, `github`, `token`, a person.
    pub actor: String,
    /// A stable word: `audit.job.no_pool_match`, …
    pub action: String,
    /// What it was done to: a job key, a runner name, …
    pub subject: String,
    pub detail: Option<String>,
}

/// A row after a commit.
#[derive(Debug, Clone)]
pub enum Changed {
    Job(Arc<Job>),
    Runner(Arc<Runner>),
    Pause { project: ProjectName, pool: PoolName, pause: Option<Pause> },
}

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub status: Vec<JobStatus>,
    pub project: Option<ProjectName>,
    pub repo: Option<RepoName>,
}

#[derive(Debug, Clone, Default)]
pub struct RunnerFilter {
    pub state: Vec<RunnerState>,
    pub project: Option<ProjectName>,
    pub repo: Option<RepoName>,
}

/// A part of a listing, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Opaque; give it back for what follows.
    pub next: Option<String>,
}

/// A line of history, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    pub at: Timestamp,
    pub job: Option<JobKey>,
    pub runner: Option<RunnerName>,
    pub kind: String,
    pub detail: Option<String>,
}

/// A delivery, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRecord {
    pub guid: String,
    pub received_at: Timestamp,
    pub event: String,
    pub action: String,
    pub result: String,
    /// Why it was dropped, or why no pool fits.
    pub reason: Option<String>,
    pub job: Option<JobKey>,
    pub source: String,
}

/// Everything that is not over, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Active {
    pub jobs: Vec<Arc<Job>>,
    /// Jobs that are over and lost their machines within [`rerun::WINDOW`](crate::fleet::rerun::WINDOW).
    pub interrupted: Vec<Arc<Job>>,
    pub runners: Vec<Arc<Runner>>,
    pub pauses: Vec<(ProjectName, PoolName, Pause)>,
}

/// How much a pruning took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub jobs: u64,
    pub runners: u64,
    pub deliveries: u64,
    pub audit: u64,
}

/// The database did not do what it was asked. The message says which file and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("database `{url}` cannot be opened: {reason}")]
    Open { url: String, reason: String },
    #[error("database `{url}` is of a newer pacer (migration {found}, this one knows {known}); upgrade pacer")]
    Newer { url: String, found: i64, known: i64 },
    #[error("the database cannot be written: {reason}")]
    Write { reason: String },
    #[error("the database cannot be read: {reason}")]
    Read { reason: String },
    #[error("the server is stopping")]
    Closed,
    #[error("the cursor is not one of ours; take `next` of the previous page as it is")]
    Cursor,
}
