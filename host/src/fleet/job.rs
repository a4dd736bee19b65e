//! A job as pacer sees it, and the only ways it may change.
//!
//! GitHub's deliveries come in any order, repeated, late, and for jobs never heard of. The state therefore only
//! moves forward by [`JobStatus::rank`]: what is learnt late fills in blanks and never takes anything back. No I/O
//! here; the store applies these functions to the rows it has loaded.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::runner::RunnerName;
use crate::routing::{PoolName, ProjectName, RepoName};

/// What identifies a demand: GitHub's job id, and the attempt of its run. Written `123456-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    pub id: i64,
    pub attempt: i32,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.id, self.attempt)
    }
}

impl FromStr for JobKey {
    type Err = InvalidJobKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidJobKey(text.chars().take(64).collect());
        let (id, attempt) = text.split_once('-').ok_or_else(invalid)?;
        Ok(Self { id: id.parse().map_err(|_| invalid())?, attempt: attempt.parse().map_err(|_| invalid())? })
    }
}

/// The text is not a job's key.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a job: expected GitHub's job id and the run attempt, for instance `52483921877-1`")]
pub struct InvalidJobKey(String);

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Held by GitHub: approvals, protection rules.
    Waiting,
    /// No pool fits its labels. Matched again when the configuration changes.
    Unmatched,
    /// Wants a runner.
    Queued,
    /// Supply for it has been admitted.
    Claimed,
    /// Its machine exists and boots.
    Starting,
    /// pacer gave up on providing a runner; `reason` says why. GitHub may still know better.
    Failed,
    /// A runner executes it.
    Running,
    /// Over, with whatever conclusion but `cancelled`.
    Completed,
    /// Over, cancelled.
    Cancelled,
}

impl JobStatus {
    pub const ALL: [JobStatus; 9] = [
        Self::Waiting,
        Self::Unmatched,
        Self::Queued,
        Self::Claimed,
        Self::Starting,
        Self::Failed,
        Self::Running,
        Self::Completed,
        Self::Cancelled,
    ];

    /// The order in which states may follow each other. Equal ranks do not replace each other by deliveries.
    pub fn rank(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Unmatched | Self::Queued => 1,
            Self::Claimed => 2,
            Self::Starting => 3,
            Self::Failed => 4,
            Self::Running => 5,
            Self::Completed | Self::Cancelled => 6,
        }
    }

    /// Wants a runner and has none that executes it.
    pub fn wants_runner(self) -> bool {
        match self {
            Self::Queued | Self::Claimed | Self::Starting => true,
            Self::Waiting | Self::Unmatched | Self::Failed | Self::Running | Self::Completed | Self::Cancelled => false,
        }
    }

    /// Nothing more is expected of pacer.
    pub fn is_final(self) -> bool {
        match self {
            Self::Failed | Self::Completed | Self::Cancelled => true,
            Self::Waiting | Self::Unmatched | Self::Queued | Self::Claimed | Self::Starting | Self::Running => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Unmatched => "unmatched",
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Starting => "starting",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

/// A job, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub key: JobKey,
    pub run_id: i64,
    pub repo: RepoName,
    /// From the payload; without it the client looks the installation up.
    pub installation_id: Option<i64>,
    pub name: String,
    pub workflow: Option<String>,
    pub branch: Option<String>,
    pub html_url: Option<String>,
    /// What `runs-on` asks for, as GitHub sent it.
    pub labels: Vec<String>,
    pub status: JobStatus,
    pub conclusion: Option<String>,
    pub project: Option<ProjectName>,
    pub pool: Option<PoolName>,
    /// The runner it is paired with; once it runs, the runner GitHub named.
    pub runner: Option<RunnerName>,
    /// Why it is where it is, when that needs saying.
    pub reason: Option<String>,
    /// How many runners made for it were lost before one took it.
    pub losses: u32,
    pub queued_at: Timestamp,
    pub claimed_at: Option<Timestamp>,
    pub starting_at: Option<Timestamp>,
    pub running_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub updated_at: Timestamp,
}

/// What GitHub says of a job, from a webhook, its delivery log or its API.
#[derive(Debug, Clone, PartialEq)]
pub struct JobFact {
    pub key: JobKey,
    pub run_id: i64,
    pub repo: RepoName,
    pub installation_id: Option<i64>,
    pub name: String,
    pub workflow: Option<String>,
    pub branch: Option<String>,
    pub html_url: Option<String>,
    pub labels: Vec<String>,
    pub phase: Phase,
    /// Empty and absent are both none.
    pub runner: Option<String>,
    /// GitHub's `created_at` of the job.
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// How far GitHub says the job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Queued,
    InProgress,
    Completed { conclusion: Option<String> },
}

/// Where routing put a job of a bound repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub project: ProjectName,
    /// None when no pool of the project fits.
    pub pool: Option<PoolName>,
    /// Why no pool fits: the nearest pool and the missing labels.
    pub reason: Option<String>,
}

/// A line of a job's or a runner's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at: Timestamp,
    pub job: Option<JobKey>,
    pub runner: Option<RunnerName>,
    /// A stable word: `job.queued`, `runner.booting`, …
    pub kind: &'static str,
    pub detail: Option<String>,
}

/// A change that pacer itself makes.
#[derive(Debug, Clone, PartialEq)]
pub enum JobChange {
    /// Supply for it has been admitted: this runner.
    Claim { runner: RunnerName },
    /// The machine of its runner exists.
    Starting,
    /// Its partner by display is now this runner, or none.
    Pair { runner: Option<RunnerName> },
    /// The runner made for it was lost before it took a job; the pair is dissolved.
    RunnerLost { runner: RunnerName, reason: String },
    /// pacer gives up.
    Fail { reason: String },
    /// A new configuration matched it anew.
    Assign(Assignment),
    /// Its runner vanished while it ran; GitHub will conclude it.
    Note { reason: String },
}
