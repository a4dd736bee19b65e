//! Jobs whose pool is not what it was when they were matched.

use super::{
    acts::{SMALL, plain, started},
    *,
};
use crate::fleet::runner::RunnerChange;

/// The pool `small` under another name; it still has the label that jobs ask for.
fn renamed() -> Arc<Config> {
    config(|pool, _| {
        pool.name = "tiny".parse().unwrap();
        pool.labels = vec!["small".to_owned()];
    })
}

fn removed() -> Arc<Config> {
    config(|pool, _| pool.name = "tiny".parse().unwrap())
}

fn disabled() -> Arc<Config> {
    config(|pool, _| {
        pool.enabled = false;
        pool.warm = crate::config::Warm::always(1);
    })
}

/// Three jobs that want a runner and have none: job 1 is queued, job 2 claimed, job 3 starting.
fn waiting() -> Sim {
    let mut sim = plain();
    sim.queue(2);
    sim.queue(3);
    let names = started(&sim.plan());
    let third = sim.job(3).runner.clone().unwrap();
    sim.created(&third);
    for name in &names {
        sim.dies(name);
    }
    sim.queue(1);
    sim.pause((&"app".parse().unwrap(), &"small".parse().unwrap()), None);
    let statuses = [1, 2, 3].map(|id| sim.job(id).status);
    assert_eq!(statuses, [JobStatus::Queued, JobStatus::Claimed, JobStatus::Starting]);
    sim
}

fn pools(sim: &Sim, names: &[RunnerName]) -> Vec<String> {
    names.iter().map(|name| sim.runners[name].pool.to_string()).collect()
}

#[test]
fn a_job_whose_pool_was_renamed_is_served_by_the_new_one() {
    let mut sim = waiting();
    sim.restart(renamed());
    let names = started(&sim.plan());
    assert_eq!(pools(&sim, &names), ["tiny"; 3]);
    for id in 1..=3 {
        assert!(sim.job(id).status.wants_runner() && sim.job(id).runner.is_some(), "{:?}", sim.job(id));
    }
    assert_eq!(sim.audit, []);
}

#[test]
fn a_job_that_no_pool_fits_any_more_says_so_once_and_comes_back() {
    for (config, why) in [(removed(), "lacks `small`"), (disabled(), "set `enabled: true`")] {
        let mut sim = waiting();
        sim.restart(config.clone());
        assert_eq!(started(&sim.plan()), []);
        for id in 1..=3 {
            let job = sim.job(id);
            assert_eq!((job.status, job.runner.clone()), (JobStatus::Unmatched, None));
            assert!(job.reason.as_deref().is_some_and(|reason| reason.contains(why)), "{:?}", job.reason);
        }
        sim.restart(config);
        sim.plan();
        let audited: Vec<_> = sim.audit.iter().map(|entry| (entry.action.as_str(), entry.subject.as_str())).collect();
        assert_eq!(audited.len(), 3, "{audited:?}");
        assert!(["1-1", "2-1", "3-1"].iter().all(|job| audited.contains(&("audit.job.no_pool_match", *job))));
        sim.restart(self::config(|_, _| {}));
        assert_eq!(started(&sim.plan()).len(), 3);
    }
}

#[test]
fn a_job_of_a_repository_that_no_project_has_any_more_says_so() {
    let mut sim = waiting();
    sim.restart(config(|_, project| project.scope = Scope::Repos(vec!["octocat/tool".parse().unwrap()])));
    assert_eq!(started(&sim.plan()), []);
    assert_eq!(sim.job(2).status, JobStatus::Unmatched);
    assert!(sim.job(2).reason.as_deref().unwrap().contains("not bound to any project"), "{:?}", sim.job(2).reason);
}

#[test]
fn a_runner_whose_pool_is_gone_may_still_take_its_job_and_is_made_up_for_when_it_does_not() {
    for (config, fits) in [(renamed(), true), (removed(), false), (disabled(), false)] {
        let mut sim = plain();
        sim.queue(1);
        let name = started(&sim.plan()).remove(0);
        sim.created(&name);
        sim.restart(config);
        assert_eq!(sim.plan(), [], "its machine boots");
        assert_eq!(sim.job(1).runner.as_ref(), Some(&name));
        sim.dies(&name);
        assert_eq!(started(&sim.plan()), []);
        sim.now += Duration::from_secs(1);
        let names = started(&sim.plan());
        if fits {
            assert_eq!((pools(&sim, &names), sim.job(1).status), (vec!["tiny".to_owned()], JobStatus::Starting));
        } else {
            assert_eq!((names.len(), sim.job(1).status), (0, JobStatus::Unmatched));
        }
    }
}

#[test]
fn a_disabled_pool_starts_nothing_and_lets_go_what_it_kept_warm() {
    let mut sim = Sim::new(config(|pool, _| pool.warm = crate::config::Warm::always(1)));
    let names = started(&sim.plan());
    assert_eq!(names.len(), 2);
    for name in &names {
        sim.online(name);
    }
    sim.restart(disabled());
    sim.now += Duration::from_secs(600);
    let intents = sim.plan();
    let retired = intents.iter().filter(|intent| matches!(intent, super::super::Intent::Retire { error: None, .. }));
    assert_eq!((retired.count(), intents.len()), (2, 2), "{intents:?}");
    for name in &names {
        sim.change(name, RunnerChange::Stopping { deadline: sim.now, error: None });
        sim.change(name, RunnerChange::Gone);
    }
    assert_eq!(sim.plan(), []);
}

#[test]
fn a_job_that_was_given_up_is_tried_again_after_a_restart() {
    let mut sim = waiting();
    let key = sim.job(2).key;
    sim.commit(vec![Op::Job { key, change: job::JobChange::Fail { reason: "image not found".to_owned() } }]);
    sim.plan();
    sim.restart(config(|_, _| {}));
    assert_eq!((sim.job(2).status, sim.job(2).losses.total()), (JobStatus::Queued, 0));
    assert_eq!(sim.job(2).pool.as_ref().map(|pool| pool.as_str()), Some(SMALL.1));
}
