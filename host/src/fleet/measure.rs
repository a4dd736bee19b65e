//! Durations of a job's way, from the moment its first delivery was received.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{
    job::{Job, JobStatus},
    runner::{Runner, RunnerState},
    world::World,
};
use crate::store::Changed;

/// Records the time from `from` to `to`; a clock that was set back counts as none.
pub fn since(histogram: &'static str, from: Timestamp, to: Timestamp) {
    let seconds = (to.as_millisecond() - from.as_millisecond()).max(0) as f64 / 1000.0;
    metrics::histogram!(histogram).record(seconds);
}

/// Records what a committed change completes. Called before the world takes it in.
pub fn observe(world: &World, changed: &Changed) {
    match changed {
        Changed::Job(job) => observe_job(world.job(job.key).map(AsRef::as_ref), job),
        Changed::Runner(runner) => observe_runner(world, runner),
        Changed::Pause { .. } => {}
    }
}

fn observe_job(old: Option<&Job>, job: &Job) {
    if let (Some(old), Some(running_at)) = (old, job.running_at)
        && old.running_at.is_none()
    {
        since("pacer_job_running_seconds", job.received_at, running_at);
    }
}

fn observe_runner(world: &World, runner: &Runner) {
    let old = world.runner(&runner.name);
    // A machine may have its last word when its runner is over; what it cost is counted by then.
    let ends = old.is_some() && runner.state.is_final();
    if let (true, Some(rate), Some(micros)) = (ends, &runner.rate, runner.cost_micros) {
        metrics::counter!("pacer_cost_micros_total", "project" => runner.project.to_string(),
            "pool" => runner.pool.to_string(), "currency" => rate.currency.clone())
        .increment(micros);
    }
    let known = old.is_some_and(|old| old.registered_at.is_none());
    let job = runner.job.and_then(|key| world.job(key));
    if let (true, Some(registered_at), Some(job)) = (known, runner.registered_at, job) {
        since("pacer_job_registered_seconds", job.received_at, registered_at);
    }
}

/// How many jobs and runners are in each state that is not final.
pub fn gauges(world: &World) {
    let (mut jobs, mut runners) = (HashMap::new(), HashMap::new());
    for job in world.jobs() {
        *jobs.entry(job.status).or_insert(0u32) += 1;
    }
    for runner in world.runners() {
        *runners.entry(runner.state).or_insert(0u32) += 1;
    }
    for status in JobStatus::ALL.into_iter().filter(|status| !status.is_final()) {
        let count = jobs.get(&status).copied().unwrap_or(0);
        metrics::gauge!("pacer_jobs", "status" => status.as_str()).set(f64::from(count));
    }
    for state in RunnerState::ALL.into_iter().filter(|state| !state.is_final()) {
        let count = runners.get(&state).copied().unwrap_or(0);
        metrics::gauge!("pacer_runners", "state" => state.as_str()).set(f64::from(count));
    }
}
