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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::{
        config,
        fleet::{
            cost::Rate,
            runner::{MachinePhase, RunnerChange, RunnerName, apply_change},
        },
    };

    #[test]
    fn what_a_machine_cost_is_counted_once_also_when_it_has_its_last_word_after_its_end() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut world = World::new(Arc::new(config::fixture(Vec::new())));
        let place = ("app".parse().unwrap(), "small".parse().unwrap());
        let target = "org:acme".parse().unwrap();
        let name = RunnerName::new("pacer-small-a");
        let mut runner = Runner::planned(name, place, "engine".parse().unwrap(), target, at(0), at(60));
        let rate =
            Rate { micros_per_hour: 3_600_000, currency: "EUR".to_owned(), granularity: 1, minimum: 0, since: at(0) };
        let done = RunnerChange::Reported { phase: MachinePhase::JobDone, detail: None };
        metrics::with_local_recorder(&recorder, || {
            let mut take_in = |runner: &Runner| {
                let changed = Changed::Runner(Arc::new(runner.clone()));
                observe(&world, &changed);
                world.apply(&changed);
            };
            take_in(&runner);
            for change in [RunnerChange::Rated { rate }, RunnerChange::Gone, done] {
                apply_change(&mut runner, &change, at(100)).unwrap();
                take_in(&runner);
            }
        });
        let text = recorder.handle().render();
        let counted: Vec<&str> = text.lines().filter(|line| line.starts_with("pacer_cost_micros_total{")).collect();
        assert!(matches!(counted[..], [line] if line.ends_with(" 100000")), "{text}");
    }
}
