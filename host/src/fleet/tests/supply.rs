//! How many idle runners there are: kept warm, let go, and made way with.

use super::{
    super::Intent,
    acts::{SMALL, plain, started},
    *,
};
use crate::{
    config::{Backend, PluginLimits, Warm},
    fleet::runner::{RunnerChange, RunnerState},
};

fn retired(intents: &[Intent]) -> Vec<RunnerName> {
    let is_retired = |intent: &&Intent| matches!(intent, Intent::Retire { error: None, .. });
    let name = |intent: &Intent| if let Intent::Retire { runner, .. } = intent { Some(runner.clone()) } else { None };
    intents.iter().filter(is_retired).filter_map(name).collect()
}

impl Sim {
    /// Idle runners of a repository, whose jobs were cancelled.
    fn leave_idle(&mut self, repo: &str, place: (&str, &str), ids: std::ops::Range<i64>) -> Vec<RunnerName> {
        for id in ids.clone() {
            self.deliver(id, repo, place, Phase::Queued, None);
        }
        let names = started(&self.plan());
        for (name, id) in names.iter().zip(ids.clone()) {
            self.online(name);
            let cancelled = Phase::Completed { conclusion: Some("cancelled".to_owned()) };
            self.deliver(id, repo, place, cancelled, None);
            self.now += Duration::from_secs(1);
        }
        self.plan();
        assert_eq!(names.len(), ids.count());
        names
    }

    fn end(&mut self, name: &RunnerName) {
        self.change(name, RunnerChange::Stopping { deadline: self.now + Duration::from_secs(60), error: None });
        self.change(name, RunnerChange::Gone);
    }
}

#[test]
fn warm_runners_are_kept_for_every_repository_and_counted_in_the_cap() {
    let mut sim = Sim::new(config(|pool, _| {
        pool.warm = Warm::always(1);
        pool.max_runners = 3;
    }));
    let names = started(&sim.plan());
    assert_eq!(names.len(), 2, "one for each repository");
    assert_eq!(sim.plan(), []);
    for name in &names {
        sim.online(name);
    }
    sim.now = at(700);
    let intents = sim.plan();
    assert_eq!(intents.len(), 2, "{intents:?}");
    assert!(intents.iter().all(|intent| matches!(intent, Intent::Extend { .. })), "{intents:?}");
    sim.queue(1);
    let intents = sim.plan();
    assert!(intents.iter().any(|intent| matches!(intent, Intent::Pair { .. })));
    assert_eq!(started(&intents).len(), 1, "the warm one that was taken is made up for, up to the cap");
    sim.now = at(100_000);
    assert!(started(&sim.plan()).is_empty());
}

#[test]
fn a_backend_is_asked_for_no_more_at_once_than_it_has_calls() {
    for (concurrency, starts) in [(1, 1), (5, 5), (32, 32), (1_000, 64)] {
        let backend = Backend {
            name: "engine".parse().unwrap(),
            plugin: "engine".to_owned(),
            digest: None,
            endpoints: BTreeMap::new(),
            settings: serde_json::json!({}),
            limits: PluginLimits { concurrency, ..PluginLimits::default() },
            poll: Duration::from_secs(30),
        };
        let mut config = Arc::into_inner(config(|pool, _| pool.max_runners = 200)).expect("nobody else has it");
        config.backends.insert(backend.name.clone(), Arc::new(backend));
        let mut sim = Sim::new(Arc::new(config));
        for id in 1..=100 {
            sim.deliver(id, "octocat/app", SMALL, Phase::Queued, None);
        }
        assert_eq!(started(&sim.plan()).len(), starts, "{concurrency} calls at once");
    }
}

#[test]
fn only_what_is_more_than_is_to_be_kept_warm_goes() {
    use jiff::civil::{Time, Weekday};
    // The simulation begins on Friday, 2027-01-15, at 08:00 UTC.
    let window = crate::config::WarmWindow {
        days: vec![Weekday::Friday],
        from: Time::constant(8, 0, 0, 0),
        to: Time::constant(9, 0, 0, 0),
        min_idle: 8,
    };
    for apart in [0, 7] {
        let mut sim = Sim::new(config(|pool, _| {
            pool.warm = Warm { windows: vec![window.clone()], ..Warm::always(4) };
            pool.max_runners = 16;
        }));
        let names = started(&sim.plan());
        assert_eq!(names.len(), 16, "eight for each repository");
        sim.now = at(3000);
        for name in &names {
            sim.online(name);
            sim.now += Duration::from_secs(apart);
        }
        // GitHub takes its time to answer: those that are asked about stay as they are meanwhile.
        let mut gone = std::collections::BTreeSet::new();
        for second in 3600..3900 {
            sim.now = at(second);
            let intents = sim.plan();
            assert_eq!(started(&intents), []);
            gone.extend(retired(&intents));
        }
        assert_eq!(gone.len(), 8, "{apart}");
        for name in &gone {
            sim.end(name);
        }
        assert_eq!(started(&sim.plan()), [], "four for each repository are left");
    }
}

#[test]
fn idle_runners_make_way_for_jobs_of_another_repository() {
    let mut sim = Sim::new(config(|pool, _| pool.max_runners = 2));
    let idle = sim.leave_idle("octocat/app", SMALL, 1..3);
    sim.deliver(5, "octocat/tool", SMALL, Phase::Queued, None);
    for _ in 0..2 {
        let intents = sim.plan();
        assert_eq!((retired(&intents), intents.len()), (vec![idle[0].clone()], 1), "the longest idle, and no other");
    }
    sim.change(&idle[0], RunnerChange::Stopping { deadline: sim.now + Duration::from_secs(60), error: None });
    assert_eq!(sim.plan(), [], "its machine may still exist");
    sim.change(&idle[0], RunnerChange::Gone);
    let intents = sim.plan();
    assert_eq!((started(&intents).len(), intents.len()), (1, 1), "{intents:?}");
    assert!(sim.job(5).runner.is_some());
    // The one that is left serves its own repository, and is not taken from it.
    sim.queue(6);
    assert!(matches!(sim.plan()[..], [Intent::Pair { .. }]));
}

#[test]
fn under_the_cap_of_a_project_other_pools_make_way() {
    let mut sim = Sim::new(config(|_, project| project.max_runners = Some(2)));
    let idle = sim.leave_idle("octocat/app", ("app", "large"), 1..3);
    sim.queue(5);
    sim.queue(6);
    sim.queue(7);
    assert_eq!(retired(&sim.plan()), idle, "as many as there are jobs, and there are two");
}

#[test]
fn as_many_make_way_as_jobs_wait() {
    let mut sim = plain();
    let idle = sim.leave_idle("octocat/app", SMALL, 1..5);
    for (id, repo) in [(5, "octocat/tool"), (6, "octocat/tool")] {
        sim.deliver(id, repo, SMALL, Phase::Queued, None);
    }
    sim.change(&idle[0], RunnerChange::Stopping { deadline: sim.now + Duration::from_secs(60), error: None });
    assert_eq!(retired(&sim.plan()), idle[1..2], "one goes already");
}

#[test]
fn nobody_makes_way_in_vain() {
    // What is to be kept warm.
    let mut sim = Sim::new(config(|pool, _| {
        pool.max_runners = 2;
        pool.warm = Warm::always(1);
    }));
    for name in started(&sim.plan()) {
        sim.online(&name);
    }
    sim.queue(1);
    sim.queue(2);
    let intents = sim.plan();
    assert!(matches!(intents[..], [Intent::Pair { .. }]), "{intents:?}");
    // For a pool that is held back.
    let mut sim = Sim::new(config(|_, project| project.max_runners = Some(2)));
    let _idle = sim.leave_idle("octocat/app", ("app", "large"), 1..3);
    let (project, pool) = ("app".parse().unwrap(), "small".parse().unwrap());
    let pause = Pause { until: at(600), reason: "full".to_owned(), failures: 1, proof: Proof::Machine };
    sim.pause((&project, &pool), Some(pause));
    sim.queue(5);
    assert_eq!(sim.plan(), []);
    // For jobs beyond the share of their repository.
    let mut sim = plain();
    for id in 1..=3 {
        sim.deliver(id, "acme/one", ("org", "shared"), Phase::Queued, None);
    }
    sim.plan();
    sim.deliver(4, "acme/one", ("org", "shared"), Phase::Queued, None);
    assert_eq!(sim.plan(), []);
}

#[test]
fn a_pool_without_capacity_is_tried_for_the_day_that_github_keeps_the_job() {
    use crate::{fleet::retry::Trouble, plugins::ErrorKind};
    let mut sim = plain();
    sim.queue(1);
    let mut lost = 0;
    while sim.job(1).status.wants_runner() {
        assert!(sim.now < at(100_000), "{:?}", sim.job(1));
        let plan = sim.whole_plan();
        for name in started(&plan.intents) {
            let (runner, why, trouble) =
                (&sim.runners[&name], "no host has room", Trouble::Backend(ErrorKind::Capacity));
            let mut ops = intent::stop_failed(&sim.world, runner, why, trouble, sim.now);
            ops.extend(intent::hold_back(&sim.world, runner, why, trouble, None, 0.5, sim.now));
            sim.commit(ops);
            sim.change(&name, RunnerChange::Gone);
            lost += 1;
        }
        let (project, pool) = ("app".parse().unwrap(), "small".parse().unwrap());
        sim.now = sim.pauses[&(project, pool)].until;
    }
    let day = at(86_400);
    assert!((day..day + Duration::from_secs(300)).contains(&sim.now), "{} after {lost}", sim.now);
    let reason = sim.job(1).reason.clone().unwrap();
    assert!(reason.contains("after a day") && reason.contains(&format!("{lost} × capacity")), "{reason}");
    assert_eq!(sim.job(1).status, JobStatus::Failed);
}

#[test]
fn unlike_failures_are_not_summed_up() {
    use crate::{fleet::retry::Trouble, plugins::ErrorKind};
    let mut sim = plain();
    sim.queue(1);
    let kinds = [Trouble::Backend(ErrorKind::Capacity), Trouble::Lost, Trouble::Backend(ErrorKind::InvalidConfig)];
    // Four of each: no kind by itself is reason enough.
    for trouble in kinds.into_iter().cycle().take(12) {
        let name = started(&sim.plan()).remove(0);
        sim.commit(intent::stop_failed(&sim.world, &sim.runners[&name], "x", trouble, sim.now));
        sim.change(&name, RunnerChange::Gone);
    }
    assert_eq!((sim.job(1).status, sim.job(1).losses.total()), (JobStatus::Claimed, 12));
    let name = started(&sim.plan()).remove(0);
    sim.commit(intent::stop_failed(&sim.world, &sim.runners[&name], "bad image", kinds[2], sim.now));
    assert_eq!(
        sim.job(1).reason.as_deref(),
        Some("given up after 13 lost runners (5 × invalid-config, 4 × capacity, 4 × lost); the last one: bad image")
    );
    assert!(sim.live().all(|runner| runner.state == RunnerState::Stopping));
}
