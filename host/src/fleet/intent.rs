//! What each [`Intent`] writes, before anything is done about it.

use jiff::Timestamp;

use super::{
    job::{Job, JobChange, JobKey, JobStatus},
    plan::{Intent, timeouts},
    retry::{self, Trouble},
    runner::{Runner, RunnerChange, RunnerName, RunnerState},
    world::World,
};
use crate::{plugins::ErrorKind, store::Op};

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
            let change = RunnerChange::Busy { job: *job, deadline: *deadline };
            let mut ops = vec![Op::Runner { name: runner.clone(), change }];
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

/// A runner ends as it should. A job that still wants it is served anew.
pub fn stop(world: &World, runner: &Runner, now: Timestamp) -> Vec<Op> {
    let mut ops = vec![stopping(world, runner, None, now)];
    if let Some(job) = world.wanted_by(&runner.name) {
        ops.push(Op::Job { key: job.key, change: JobChange::Pair { runner: None } });
    }
    ops
}

/// A runner ends in failure. A job that wants it loses it, and is given up when that happened too often.
pub fn stop_failed(world: &World, runner: &Runner, error: &str, trouble: Trouble, now: Timestamp) -> Vec<Op> {
    let mut ops = vec![stopping(world, runner, Some(error.to_owned()), now)];
    if let Some(job) = world.wanted_by(&runner.name) {
        let interrupted = trouble == Trouble::Backend(ErrorKind::Interrupted);
        let reason = format!("runner `{}` was lost: {error}", runner.name);
        ops.push(Op::Job {
            key: job.key,
            change: JobChange::RunnerLost { runner: runner.name.clone(), reason, interrupted },
        });
        let losses = job.losses + 1;
        if retry::gives_up(trouble, losses) {
            let reason = format!("given up after {losses} lost runners; the last one: {error}");
            ops.push(Op::Job { key: job.key, change: JobChange::Fail { reason } });
        }
    } else if let Some(job) = running_job(world, runner) {
        let reason = format!("its runner `{}` ended: {error}; GitHub concludes the job", runner.name);
        ops.push(Op::Job { key: job, change: JobChange::Note { reason } });
    }
    ops
}

fn running_job(world: &World, runner: &Runner) -> Option<JobKey> {
    let job = world.job(runner.job?)?;
    (job.status == JobStatus::Running).then_some(job.key)
}
