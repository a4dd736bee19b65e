//! A job as pacer sees it, and the only ways it may change.
//!
//! GitHub's deliveries come in any order, repeated, late, and for jobs never heard of. The state therefore only
//! moves forward by [`JobStatus::rank`]: what is learnt late fills in blanks and never takes anything back. No I/O
//! here; the store applies these functions to the rows it has loaded.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::runner::RunnerName;
use crate::{
    routing::{PoolName, ProjectName, RepoName},
    store::IngestResult,
};

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
    /// How many runners made for it were lost before one took it.
    pub losses: u32,
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
    RunnerLost { runner: RunnerName, reason: String, interrupted: bool },
    /// Its provider took the machine away while it ran.
    Interrupted { reason: String },
    /// GitHub is being asked to run it again.
    RerunAsked,
    /// GitHub takes no such request now.
    RerunPutOff { reason: String },
    /// GitHub did not: why.
    RerunRefused { reason: String },
    /// pacer gives up.
    Fail { reason: String },
    /// A new configuration matched it anew.
    Assign(Assignment),
    /// Its runner vanished while it ran; GitHub will conclude it.
    Note { reason: String },
}

/// What a fact did to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The job as it is now; none if nothing changed.
    pub job: Option<Job>,
    pub events: Vec<Event>,
    pub result: IngestResult,
}

/// Takes in what GitHub says of a job, whether it is known or not.
pub fn apply_fact(current: Option<&Job>, fact: &JobFact, assignment: &Assignment, now: Timestamp) -> Applied {
    let Some(current) = current else {
        return first_fact(fact, assignment, now);
    };
    let mut job = current.clone();
    let mut events = Vec::new();
    let said = status_of(fact, assignment);
    let advances = said.rank() > current.status.rank();
    let rematched = current.status == JobStatus::Unmatched && !advances && assignment.pool.is_some();

    fill_blanks(&mut job, fact);
    if advances || rematched {
        let status = if rematched { JobStatus::Queued } else { said };
        if status.rank() <= JobStatus::Queued.rank() {
            assign(&mut job, assignment);
        }
        enter(&mut job, status, now);
    } else if current.status == JobStatus::Unmatched {
        assign(&mut job, assignment);
    }
    if job.project.is_none() {
        job.project = Some(assignment.project.clone());
    }
    if job.pool.is_none() && job.status != JobStatus::Unmatched {
        job.pool = assignment.pool.clone();
    }
    take_course(&mut job, fact, current, now);
    if job.status != current.status {
        events.push(status_event(&job, Some(current), now));
    } else if job.runner != current.runner {
        events.push(paired_event(&job, now));
    }

    let entered_unmatched = job.status == JobStatus::Unmatched && current.status != JobStatus::Unmatched;
    let result = if entered_unmatched {
        IngestResult::Unmatched(job.key, unmatched_reason(assignment))
    } else {
        IngestResult::Updated(job.key, job.status)
    };
    if job == *current {
        return Applied { job: None, events, result };
    }
    job.updated_at = now;
    Applied { job: Some(job), events, result }
}

/// Applies a change of pacer's own. None when it comes too late, and then nothing has changed.
pub fn apply_change(job: &mut Job, change: &JobChange, now: Timestamp) -> Option<Vec<Event>> {
    let events = match change {
        JobChange::Claim { runner } => claim(job, runner, now)?,
        JobChange::Starting => {
            if job.status.wants_runner() && job.status != JobStatus::Starting {
                enter(job, JobStatus::Starting, now);
                vec![status_event(job, None, now)]
            } else if job.claimed_at.is_some() && job.starting_at.is_none() && job.running_at.is_some() {
                // GitHub was faster than the backend's answer: only the time is learnt late.
                job.starting_at = Some(job.running_at.map_or(now, |running| running.min(now)));
                Vec::new()
            } else {
                return None;
            }
        }
        JobChange::Pair { runner } => {
            if !job.status.wants_runner() || job.runner == *runner {
                return None;
            }
            job.runner.clone_from(runner);
            vec![paired_event(job, now)]
        }
        JobChange::RunnerLost { runner, reason, interrupted } => {
            if !job.status.wants_runner() || job.runner.as_ref() != Some(runner) {
                return None;
            }
            job.runner = None;
            job.losses = job.losses.saturating_add(1);
            if *interrupted {
                job.interruption = Some(Interruption::Replaced);
            }
            job.reason = Some(reason.clone());
            vec![Event {
                at: now,
                job: Some(job.key),
                runner: Some(runner.clone()),
                kind: "job.runner_lost",
                detail: Some(format!("runner `{runner}` was lost before it took the job: {reason}")),
            }]
        }
        JobChange::Fail { reason } => {
            if !job.status.wants_runner() && job.status != JobStatus::Unmatched {
                return None;
            }
            job.status = JobStatus::Failed;
            job.reason = Some(reason.clone());
            vec![status_event(job, None, now)]
        }
        JobChange::Assign(assignment) => reassign(job, assignment, now)?,
        JobChange::Interrupted { reason } => {
            if job.status != JobStatus::Running || job.interruption == Some(Interruption::RerunWanted) {
                return None;
            }
            // Once: what was run again already, by us or by hand, is left to people.
            job.interruption =
                Some(if job.key.attempt == 1 { Interruption::RerunWanted } else { Interruption::Replaced });
            job.reason = Some(reason.clone());
            vec![event(job, "job.interrupted", Some(reason.clone()), now)]
        }
        JobChange::RerunAsked => {
            if job.interruption != Some(Interruption::RerunWanted) || job.status != JobStatus::Completed {
                return None;
            }
            job.interruption = Some(Interruption::RerunAsked);
            let reason = "its machine was taken away; GitHub is asked to run it again".to_owned();
            job.reason = Some(reason.clone());
            vec![event(job, "job.rerun", Some(reason), now)]
        }
        JobChange::RerunPutOff { reason } => {
            if job.interruption != Some(Interruption::RerunAsked) {
                return None;
            }
            job.interruption = Some(Interruption::RerunWanted);
            job.reason = Some(reason.clone());
            // Told once, however often it is tried.
            Vec::new()
        }
        JobChange::RerunRefused { reason } => {
            if job.interruption != Some(Interruption::RerunAsked) || job.reason.as_ref() == Some(reason) {
                return None;
            }
            job.reason = Some(reason.clone());
            vec![event(job, "job.note", Some(reason.clone()), now)]
        }
        JobChange::Note { reason } => {
            if job.status.is_final() || job.reason.as_ref() == Some(reason) {
                return None;
            }
            job.reason = Some(reason.clone());
            vec![event(job, "job.note", Some(reason.clone()), now)]
        }
    };
    job.updated_at = now;
    Some(events)
}

fn first_fact(fact: &JobFact, assignment: &Assignment, now: Timestamp) -> Applied {
    let status = status_of(fact, assignment);
    let mut job = Job {
        key: fact.key,
        run_id: fact.run_id,
        repo: fact.repo.clone(),
        installation_id: fact.installation_id,
        name: fact.name.clone(),
        workflow: fact.workflow.clone(),
        branch: fact.branch.clone(),
        html_url: fact.html_url.clone(),
        labels: fact.labels.clone(),
        status,
        conclusion: None,
        project: None,
        pool: None,
        runner: None,
        reason: None,
        losses: 0,
        interruption: None,
        received_at: now,
        queued_at: fact.created_at.unwrap_or(now),
        claimed_at: None,
        starting_at: None,
        running_at: None,
        completed_at: None,
        updated_at: now,
    };
    assign(&mut job, assignment);
    if status.rank() > JobStatus::Queued.rank() {
        job.reason = None;
    }
    let blank = job.clone();
    take_course(&mut job, fact, &blank, now);
    let events = vec![status_event(&job, None, now)];
    let result = match status {
        JobStatus::Unmatched => IngestResult::Unmatched(job.key, unmatched_reason(assignment)),
        JobStatus::Waiting | JobStatus::Queued => IngestResult::Enqueued(job.key, status),
        JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Failed
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => IngestResult::Updated(job.key, status),
    };
    Applied { job: Some(job), events, result }
}

/// The state that a fact alone would put a job into.
fn status_of(fact: &JobFact, assignment: &Assignment) -> JobStatus {
    match &fact.phase {
        Phase::Waiting => JobStatus::Waiting,
        Phase::Queued if assignment.pool.is_none() => JobStatus::Unmatched,
        Phase::Queued => JobStatus::Queued,
        Phase::InProgress => JobStatus::Running,
        Phase::Completed { conclusion: Some(conclusion) } if conclusion == "cancelled" => JobStatus::Cancelled,
        Phase::Completed { .. } => JobStatus::Completed,
    }
}

fn fill_blanks(job: &mut Job, fact: &JobFact) {
    fn fill<T: Clone>(slot: &mut Option<T>, value: &Option<T>) {
        if slot.is_none() {
            slot.clone_from(value);
        }
    }
    fill(&mut job.installation_id, &fact.installation_id);
    fill(&mut job.workflow, &fact.workflow);
    fill(&mut job.branch, &fact.branch);
    fill(&mut job.html_url, &fact.html_url);
    if job.name.is_empty() {
        job.name.clone_from(&fact.name);
    }
    if job.run_id == 0 {
        job.run_id = fact.run_id;
    }
    if job.labels.is_empty() {
        job.labels.clone_from(&fact.labels);
    }
}

/// What a fact says of the execution: who runs it, since when, until when, with which end.
fn take_course(job: &mut Job, fact: &JobFact, before: &Job, now: Timestamp) {
    let runner = fact.runner.as_deref().filter(|name| !name.is_empty());
    match &fact.phase {
        Phase::Waiting | Phase::Queued => {}
        Phase::InProgress => {
            // Of a job that is over, the end has the last word on who ran it; before that this is news.
            let is_news = !is_concluded(before.status) || before.running_at.is_none();
            if let Some(name) = runner.filter(|_| is_news) {
                job.runner = Some(RunnerName::new(name));
            }
            if job.running_at.is_none() {
                job.running_at = Some(fact.started_at.unwrap_or(now));
            }
        }
        Phase::Completed { conclusion } => {
            if let Some(name) = runner {
                job.runner = Some(RunnerName::new(name));
                // Without a runner GitHub's `started_at` is not the start of an execution.
                if job.running_at.is_none() {
                    job.running_at = fact.started_at;
                }
            }
            if job.completed_at.is_none() {
                job.completed_at = Some(fact.completed_at.unwrap_or(now));
            }
            if job.conclusion.is_none() {
                job.conclusion.clone_from(conclusion);
            }
            // What went wrong on the way explains nothing any more.
            if conclusion.as_deref() == Some("success") {
                job.reason = None;
            }
        }
    }
}

fn is_concluded(status: JobStatus) -> bool {
    status.rank() >= JobStatus::Completed.rank()
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
        JobStatus::Running => job.reason = None,
        JobStatus::Waiting
        | JobStatus::Unmatched
        | JobStatus::Queued
        | JobStatus::Failed
        | JobStatus::Completed
        | JobStatus::Cancelled => {}
    }
}

fn claim(job: &mut Job, runner: &RunnerName, now: Timestamp) -> Option<Vec<Event>> {
    match job.status {
        JobStatus::Queued => {
            job.runner = Some(runner.clone());
            job.reason = None;
            enter(job, JobStatus::Claimed, now);
            Some(vec![status_event(job, None, now)])
        }
        // Its runner was lost: the reason stays, it says why this takes longer.
        JobStatus::Claimed | JobStatus::Starting if job.runner.is_none() => {
            job.runner = Some(runner.clone());
            Some(vec![paired_event(job, now)])
        }
        JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Waiting
        | JobStatus::Unmatched
        | JobStatus::Failed
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => None,
    }
}

fn reassign(job: &mut Job, assignment: &Assignment, now: Timestamp) -> Option<Vec<Event>> {
    let before = job.clone();
    match job.status {
        JobStatus::Unmatched => {}
        JobStatus::Queued if job.runner.is_none() => {}
        // pacer had given up; this is a new start, with its patience renewed.
        JobStatus::Failed => {
            job.runner = None;
            job.losses = 0;
            job.claimed_at = None;
            job.starting_at = None;
        }
        JobStatus::Queued
        | JobStatus::Waiting
        | JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => return None,
    }
    assign(job, assignment);
    job.status = if assignment.pool.is_some() { JobStatus::Queued } else { JobStatus::Unmatched };
    if *job == before {
        return None;
    }
    let mut events = vec![event(job, "job.assigned", Some(assigned_detail(job)), now)];
    if job.status != before.status {
        events.push(status_event(job, Some(&before), now));
    }
    Some(events)
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
