//! What pacer itself changes about a job.

use jiff::Timestamp;

use super::{
    Assignment, Event, Interruption, Job, JobStatus, Losses, assign, assigned_detail, enter, event, paired_event,
    status_event,
};
use crate::{
    fleet::{rerun::is_lost, retry::Trouble, runner::RunnerName},
    plugins::ErrorKind,
};

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
    RunnerLost { runner: RunnerName, reason: String, trouble: Trouble },
    /// Its provider took the machine away while it ran; it may have failed of that by now.
    Interrupted { reason: String },
    /// GitHub is being asked to run it again.
    RerunAsked,
    /// GitHub takes no such request now.
    RerunPutOff { reason: String },
    /// GitHub did not: why.
    RerunRefused { reason: String },
    /// pacer gives up.
    Fail { reason: String },
    /// GitHub does not know it any more: it has no end that could be told, and is not tried again.
    Vanished { reason: String },
    /// It belongs elsewhere by the configuration in force, and has no runner that could still take it.
    Assign(Assignment),
    /// Its runner vanished while it ran; GitHub will conclude it.
    Note { reason: String },
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
        JobChange::RunnerLost { runner, reason, trouble } => {
            if !job.status.wants_runner() || job.runner.as_ref() != Some(runner) {
                return None;
            }
            job.runner = None;
            job.losses.add(*trouble);
            if *trouble == Trouble::Backend(ErrorKind::Interrupted) {
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
        JobChange::Vanished { reason } => {
            if job.status.is_final() {
                return None;
            }
            job.status = JobStatus::Failed;
            job.reason = Some(reason.clone());
            job.completed_at = Some(now);
            vec![status_event(job, None, now)]
        }
        JobChange::Assign(assignment) => reassign(job, assignment, now)?,
        JobChange::Interrupted { reason } => {
            let ran = job.status == JobStatus::Running || is_lost(job);
            let dealt_with = match job.interruption {
                None => false,
                Some(Interruption::Replaced) => job.reason.as_ref() == Some(reason),
                Some(Interruption::RerunWanted | Interruption::RerunAsked) => true,
            };
            if !ran || dealt_with {
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
        JobStatus::Queued | JobStatus::Claimed | JobStatus::Starting => job.runner = None,
        // pacer had given up; this is a new start, with its patience renewed.
        JobStatus::Failed if job.completed_at.is_none() => {
            job.runner = None;
            job.losses = Losses::default();
            job.claimed_at = None;
            job.starting_at = None;
        }
        JobStatus::Waiting | JobStatus::Failed | JobStatus::Running | JobStatus::Completed | JobStatus::Cancelled => {
            return None;
        }
    }
    assign(job, assignment);
    if assignment.pool.is_none() {
        job.status = JobStatus::Unmatched;
        job.claimed_at = None;
        job.starting_at = None;
    } else if !job.status.wants_runner() {
        job.status = JobStatus::Queued;
    }
    if *job == before {
        return None;
    }
    let mut events = vec![event(job, "job.assigned", Some(assigned_detail(job)), now)];
    if job.status != before.status {
        events.push(status_event(job, Some(&before), now));
    }
    Some(events)
}
