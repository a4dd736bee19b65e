//! A job as pacer sees it, and the only ways it may change.
//!
//! GitHub's deliveries come in any order, repeated, late, and for jobs never heard of. The state therefore only
//! moves forward by [`JobStatus::rank`]: what is learnt late fills in blanks and never takes anything back. No I/O
//! here; the store applies [`apply_fact`] and [`apply_change`] to the rows it has loaded.

mod change;
mod fact;
mod losses;

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use change::{JobChange, apply_change};
pub use fact::{Applied, JobFact, Phase, apply_fact};
pub use losses::Losses;

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
    /// pacer gave up on providing a runner, or, with `completed_at`, GitHub does not know the job any more; `reason`
    /// says why. GitHub may still know better.
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

    /// Over at GitHub.
    pub fn is_concluded(self) -> bool {
        self.rank() >= Self::Completed.rank()
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

/// A job whose machine was taken away by its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Before it ran: its next machine is one that stays.
    Replaced,
    /// While it ran: to be run again once GitHub has concluded it.
    RerunWanted,
    /// GitHub was asked to run it again, or is about to be. Not again, unless it said that it would not yet.
    RerunAsked,
}

impl Interruption {
    pub const ALL: [Interruption; 3] = [Self::Replaced, Self::RerunWanted, Self::RerunAsked];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::RerunWanted => "rerun-wanted",
            Self::RerunAsked => "rerun-asked",
        }
    }
}

impl std::str::FromStr for Interruption {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|interruption| interruption.as_str() == text).ok_or(())
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
    /// The runners made for it that were lost before one took it.
    pub losses: Losses,
    /// What became of it when its provider took its machine away.
    pub interruption: Option<Interruption>,
    /// When pacer first heard of it: what its latencies count from.
    pub received_at: Timestamp,
    pub queued_at: Timestamp,
    pub claimed_at: Option<Timestamp>,
    pub starting_at: Option<Timestamp>,
    pub running_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub updated_at: Timestamp,
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

fn assign(job: &mut Job, assignment: &Assignment) {
    job.project = Some(assignment.project.clone());
    job.pool.clone_from(&assignment.pool);
    job.reason = match assignment.pool {
        Some(_) => None,
        None => Some(unmatched_reason(assignment)),
    };
}

fn unmatched_reason(assignment: &Assignment) -> String {
    assignment.reason.clone().unwrap_or_else(|| format!("no pool of project `{}` fits its labels", assignment.project))
}

/// Sets the state and the time that belongs to it, where that is pacer's to say.
fn enter(job: &mut Job, status: JobStatus, now: Timestamp) {
    job.status = status;
    match status {
        JobStatus::Claimed => job.claimed_at = job.claimed_at.or(Some(now)),
        JobStatus::Starting => {
            job.claimed_at = job.claimed_at.or(Some(now));
            job.starting_at = job.starting_at.or(Some(now));
        }
        JobStatus::Running => {
            job.reason = None;
            job.completed_at = None;
        }
        // What it says of a job that seemed to have vanished is what counts.
        JobStatus::Completed | JobStatus::Cancelled => job.completed_at = None,
        JobStatus::Waiting | JobStatus::Unmatched | JobStatus::Queued | JobStatus::Failed => {}
    }
}

fn assigned_detail(job: &Job) -> String {
    match (&job.project, &job.pool) {
        (Some(project), Some(pool)) => format!("to pool `{pool}` of project `{project}`"),
        (Some(project), None) => format!("to project `{project}`, none of its pools fits"),
        (None, _) => "to no project".to_owned(),
    }
}

fn event(job: &Job, kind: &'static str, detail: Option<String>, at: Timestamp) -> Event {
    Event { at, job: Some(job.key), runner: job.runner.clone(), kind, detail }
}

fn paired_event(job: &Job, at: Timestamp) -> Event {
    let detail = match &job.runner {
        Some(runner) => format!("with runner `{runner}`"),
        None => "with no runner".to_owned(),
    };
    event(job, "job.paired", Some(detail), at)
}

/// The event of the state a job has entered; `before` is the job as it was, where that adds to the story.
fn status_event(job: &Job, before: Option<&Job>, at: Timestamp) -> Event {
    let on_runner = || match (&job.runner, before.and_then(|job| job.runner.as_ref())) {
        (Some(now), Some(paired)) if now != paired => Some(format!("on runner `{now}` instead of `{paired}`")),
        (Some(now), _) => Some(format!("on runner `{now}`")),
        (None, _) => None,
    };
    let (kind, detail) = match job.status {
        JobStatus::Waiting => ("job.waiting", Some("held by GitHub".to_owned())),
        JobStatus::Unmatched => ("job.unmatched", job.reason.clone()),
        JobStatus::Queued => ("job.queued", Some(assigned_detail(job))),
        JobStatus::Claimed => ("job.claimed", on_runner().map(|text| format!("to run {text}"))),
        JobStatus::Starting => ("job.starting", on_runner()),
        JobStatus::Failed => ("job.failed", job.reason.clone()),
        JobStatus::Running => ("job.running", on_runner()),
        JobStatus::Completed => ("job.completed", job.conclusion.clone()),
        JobStatus::Cancelled => ("job.cancelled", on_runner()),
    };
    event(job, kind, detail, at)
}

#[cfg(test)]
mod tests;
