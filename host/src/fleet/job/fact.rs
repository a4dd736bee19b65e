//! What GitHub says of a job, and what that changes.

use jiff::Timestamp;

use super::{
    Assignment, Event, Job, JobKey, JobStatus, Losses, assign, enter, paired_event, status_event, unmatched_reason,
};
use crate::{fleet::runner::RunnerName, routing::RepoName, store::IngestResult};

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
        losses: Losses::default(),
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
            let is_news = !before.status.is_concluded() || before.running_at.is_none();
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
