//! What each [`Intent`] writes, before anything is done about it.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    job::{Job, JobChange, JobKey, JobStatus},
    plan::{Intent, timeouts},
    retry::{self, Trouble},
    runner::{Runner, RunnerChange, RunnerName, RunnerState},
    world::World,
};
use crate::store::{AuditEntry, Op, Proof};

/// The changes of an intent: they commit together.
pub fn ops(world: &World, intent: &Intent, now: Timestamp) -> Vec<Op> {
    match intent {
        Intent::Start { runner, job } => {
            let mut ops = vec![Op::NewRunner(runner.clone())];
            ops.extend(job.and_then(|key| world.job(key)).map(|job| pair_job(job, &runner.name)));
            ops
        }
        Intent::Pair { runner, job } => {
            let Some(job) = world.job(*job) else { return Vec::new() };
            let mut ops = vec![pair_job(job, runner), pair_runner(runner, Some(job.key))];
            if world.runner(runner).is_some_and(|runner| runner.state.rank() >= RunnerState::Booting.rank()) {
                ops.push(Op::Job { key: job.key, change: JobChange::Starting });
            }
            ops
        }
        Intent::Unpair { runner } => vec![pair_runner(runner, None)],
        Intent::Busy { runner, job, deadline, stranded } => {
            let change = RunnerChange::Busy { job: Some(*job), deadline: *deadline };
            let mut ops = vec![Op::Runner { name: runner.clone(), change }];
            ops.extend(world.runner(runner).and_then(|runner| let_go(world, runner, Proof::Runner)));
            if let Some(stranded) = stranded {
                let change = JobChange::Pair { runner: stranded.spare.clone() };
                ops.push(Op::Job { key: stranded.job, change });
                ops.extend(stranded.spare.as_ref().map(|spare| pair_runner(spare, Some(stranded.job))));
            }
            ops
        }
        Intent::Stop { runner, error } => {
            let Some(runner) = world.runner(runner) else { return Vec::new() };
            match error {
                Some(error) => stop_failed(world, runner, error, Trouble::Lost, now),
                None => stop(world, runner, now),
            }
        }
        Intent::Extend { runner, deadline } => {
            vec![Op::Runner { name: runner.clone(), change: RunnerChange::Extend { deadline: *deadline } }]
        }
        Intent::Assign { job, assignment } => {
            let mut ops = vec![Op::Job { key: *job, change: JobChange::Assign(assignment.clone()) }];
            ops.extend(assignment.pool.is_none().then(|| {
                Op::Audit(AuditEntry {
                    at: now,
                    actor: "pacer".to_owned(),
                    action: "audit.job.no_pool_match".to_owned(),
                    subject: job.to_string(),
                    detail: assignment.reason.clone(),
                })
            }));
            ops
        }
        Intent::Rerun { job } => vec![Op::Job { key: job.key, change: JobChange::RerunAsked }],
        Intent::Retire { .. } | Intent::Resume { .. } => Vec::new(),
    }
}

fn pair_job(job: &Job, runner: &RunnerName) -> Op {
    let change = match job.status {
        JobStatus::Queued => JobChange::Claim { runner: runner.clone() },
        JobStatus::Waiting
        | JobStatus::Unmatched
        | JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Failed
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => JobChange::Pair { runner: Some(runner.clone()) },
    };
    Op::Job { key: job.key, change }
}

fn pair_runner(runner: &RunnerName, job: Option<JobKey>) -> Op {
    Op::Runner { name: runner.clone(), change: RunnerChange::Pair { job } }
}

fn stopping(world: &World, runner: &Runner, error: Option<String>, now: Timestamp) -> Op {
    let deadline = now + timeouts(world, runner).stop;
    Op::Runner { name: runner.name.clone(), change: RunnerChange::Stopping { deadline, error } }
}

/// GitHub says that a runner executes a job, and not which. A job that was to have it is served anew.
pub fn taken(world: &World, runner: &Runner, now: Timestamp) -> Vec<Op> {
    let deadline = now + timeouts(world, runner).run;
    let change = RunnerChange::Busy { job: None, deadline };
    let mut ops = vec![Op::Runner { name: runner.name.clone(), change }];
    ops.extend(let_go(world, runner, Proof::Runner));
    if let Some(job) = world.wanted_by(&runner.name) {
        ops.push(Op::Job { key: job.key, change: JobChange::Pair { runner: None } });
    }
    ops
}

/// A runner ends as it should. A job that still wants it is served anew.
pub fn stop(world: &World, runner: &Runner, now: Timestamp) -> Vec<Op> {
    let mut ops = vec![stopping(world, runner, None, now)];
    if let Some(job) = world.wanted_by(&runner.name) {
        ops.push(Op::Job { key: job.key, change: JobChange::Pair { runner: None } });
    }
    ops
}

/// A busy runner's machine ended by itself: after its job, of which GitHub then tells, or in the middle of it, which
/// GitHub takes minutes to find out.
pub fn stop_ended(world: &World, runner: &Runner, how: &str, now: Timestamp) -> Vec<Op> {
    let mut ops = stop(world, runner, now);
    ops.extend(note_ended(world, runner, how));
    ops
}

fn note_ended(world: &World, runner: &Runner, how: &str) -> Option<Op> {
    let key = running_job(world, runner)?;
    let reason = format!("its runner `{}` ended: {how}; GitHub concludes the job", runner.name);
    Some(Op::Job { key, change: JobChange::Note { reason } })
}

/// A runner ends in failure. A job that wants it loses it, and is given up when that happened too often.
pub fn stop_failed(world: &World, runner: &Runner, error: &str, trouble: Trouble, now: Timestamp) -> Vec<Op> {
    let mut ops = vec![stopping(world, runner, Some(error.to_owned()), now)];
    if let Some(job) = world.wanted_by(&runner.name) {
        let reason = format!("runner `{}` was lost: {error}", runner.name);
        let change = JobChange::RunnerLost { runner: runner.name.clone(), reason, trouble };
        ops.push(Op::Job { key: job.key, change });
        let mut losses = job.losses.clone();
        losses.add(trouble);
        // A job may have been held by GitHub for days before it wanted a runner.
        let since = job.claimed_at.unwrap_or(job.queued_at);
        if let Some(why) = retry::gives_up(trouble, &losses, since, now) {
            let reason = format!("{why}; the last one: {error}");
            ops.push(Op::Job { key: job.key, change: JobChange::Fail { reason } });
        }
    } else {
        ops.extend(note_ended(world, runner, error));
    }
    ops
}

/// A failure's other half: the pool of the runner is held back for a while, if nothing else holds it back already.
pub fn hold_back(
    world: &World,
    runner: &Runner,
    error: &str,
    trouble: Trouble,
    retry_after: Option<Duration>,
    jitter: f64,
    now: Timestamp,
) -> Option<Op> {
    let previous = world.pause(&runner.project, &runner.pool);
    let pause = retry::pause_after(trouble, error, retry_after, previous, jitter, now)?;
    (Some(&pause) != previous).then(|| Op::Pause {
        project: runner.project.clone(),
        pool: runner.pool.clone(),
        pause: Some(pause),
    })
}

/// Its pool is no longer held back, if this is proof that the trouble is over.
pub fn let_go(world: &World, runner: &Runner, proof: Proof) -> Option<Op> {
    let pause = world.pause(&runner.project, &runner.pool)?;
    (pause.proof <= proof).then(|| Op::Pause {
        project: runner.project.clone(),
        pool: runner.pool.clone(),
        pause: None,
    })
}

fn running_job(world: &World, runner: &Runner) -> Option<JobKey> {
    let job = world.job(runner.job?)?;
    (job.status == JobStatus::Running).then_some(job.key)
}
