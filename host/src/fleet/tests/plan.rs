//! The planner's rules, one by one.

use super::{
    super::Intent,
    acts::{SMALL, plain, started},
    *,
};
use crate::fleet::runner::{RunnerChange, RunnerState};

#[test]
fn a_queued_job_gets_a_runner_and_a_second_pass_starts_no_other() {
    let mut sim = plain();
    sim.queue(1);
    let names = started(&sim.plan());
    assert_eq!(names.len(), 1);
    assert_eq!(sim.job(1).status, JobStatus::Claimed);
    assert_eq!(sim.job(1).runner.as_ref(), Some(&names[0]));
    assert_eq!(sim.plan(), []);
}

#[test]
fn caps_delay_a_job_and_do_not_forget_it() {
    let mut sim = plain();
    for id in 1..=6 {
        sim.queue(id);
    }
    let names = started(&sim.plan());
    assert_eq!(names.len(), 4, "the pool's cap");
    assert_eq!(sim.job(5).status, JobStatus::Queued);
    sim.change(&names[0], RunnerChange::Stopping { deadline: sim.now, error: None });
    assert_eq!(started(&sim.plan()).len(), 0, "its machine may still exist");
    sim.change(&names[0], RunnerChange::Gone);
    let next = started(&sim.plan());
    assert_eq!(next.len(), 1);
}

#[test]
fn the_oldest_job_is_served_first() {
    let mut sim = Sim::new(config(|pool, _| pool.max_runners = 1));
    for id in [3, 1, 2] {
        sim.queue(id);
    }
    sim.plan();
    assert_eq!(sim.job(1).status, JobStatus::Claimed);
    assert_eq!(sim.job(3).status, JobStatus::Queued);
}

#[test]
fn the_cap_of_a_project_spans_its_pools_and_goes_to_the_oldest() {
    let mut sim = Sim::new(config(|_, project| project.max_runners = Some(2)));
    sim.deliver(2, "octocat/app", ("app", "large"), Phase::Queued, None);
    sim.queue(1);
    sim.queue(3);
    assert_eq!(started(&sim.plan()).len(), 2);
    assert_eq!(sim.job(3).status, JobStatus::Queued);
}

#[test]
fn a_repository_at_its_cap_does_not_hold_up_its_neighbour() {
    let mut sim = plain();
    for id in 1..=5 {
        sim.deliver(id, "acme/one", ("org", "shared"), Phase::Queued, None);
    }
    sim.deliver(6, "acme/two", ("org", "shared"), Phase::Queued, None);
    sim.plan();
    let claimed: Vec<i64> = (1..=6).filter(|id| sim.job(*id).status == JobStatus::Claimed).collect();
    assert_eq!(claimed, [1, 2, 3, 6]);
}

#[test]
fn a_runner_of_one_repository_does_not_serve_another() {
    let mut sim = plain();
    sim.queue(1);
    let first = started(&sim.plan());
    sim.online(&first[0]);
    sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("cancelled".to_owned()) }, None);
    sim.deliver(2, "octocat/tool", SMALL, Phase::Queued, None);
    assert_eq!(started(&sim.plan()).len(), 1);
}

#[test]
fn a_free_runner_serves_the_next_job() {
    let mut sim = plain();
    sim.queue(1);
    let first = started(&sim.plan());
    sim.online(&first[0]);
    sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("cancelled".to_owned()) }, None);
    sim.plan();
    sim.queue(2);
    let intents = sim.plan();
    assert_eq!(started(&intents), []);
    assert_eq!(sim.job(2).status, JobStatus::Starting, "its machine exists");
    assert_eq!(sim.job(2).runner.as_ref(), Some(&first[0]));
}

#[test]
fn pairs_that_github_crossed_are_swapped() {
    let mut sim = plain();
    sim.queue(1);
    sim.queue(2);
    let names = started(&sim.plan());
    for name in &names {
        sim.online(name);
    }
    let (for_one, for_two) = (sim.job(1).runner.clone().unwrap(), sim.job(2).runner.clone().unwrap());
    sim.deliver(1, "octocat/app", SMALL, Phase::InProgress, Some(&for_two));
    let intents = sim.plan();
    assert_eq!(started(&intents), [], "no job is stranded, no machine is made");
    assert_eq!(sim.job(2).runner.as_ref(), Some(&for_one));
    assert_eq!(sim.runners[&for_two].state, RunnerState::Busy);
    assert_eq!(sim.runners[&for_one].job, Some(sim.job(2).key));
    assert_eq!(sim.plan(), []);
}

#[test]
fn a_job_whose_runner_went_to_a_stranger_gets_another() {
    let mut sim = plain();
    sim.queue(1);
    let names = started(&sim.plan());
    sim.online(&names[0]);
    // A job nobody told us about when it was queued.
    sim.deliver(9, "octocat/app", SMALL, Phase::InProgress, Some(&names[0]));
    sim.plan();
    sim.plan();
    let next = sim.job(1).runner.clone().unwrap();
    assert_ne!(next, names[0]);
    assert!(sim.runners[&next].state.is_supply());
}

#[test]
fn a_runner_with_an_unknown_job_is_no_supply_and_its_job_gets_another() {
    let mut sim = plain();
    sim.queue(1);
    let taken = started(&sim.plan()).remove(0);
    sim.online(&taken);
    sim.commit(intent::taken(&sim.world, &sim.runners[&taken], sim.now));
    assert!(sim.runners[&taken].has_unknown_job());
    let next = started(&sim.plan()).remove(0);
    assert_eq!(sim.job(1).runner.as_ref(), Some(&next));
    assert_eq!(sim.plan(), []);
    // What it has becomes known, and is over.
    sim.deliver(9, "octocat/app", SMALL, Phase::InProgress, Some(&taken));
    sim.plan();
    assert_eq!(sim.runners[&taken].job, Some(sim.job(9).key));
    sim.deliver(9, "octocat/app", SMALL, Phase::Completed { conclusion: Some("success".to_owned()) }, Some(&taken));
    assert_eq!(sim.plan(), [Intent::Stop { runner: taken, error: None }]);
}

#[test]
fn a_runner_whose_unknown_job_only_ends_is_taken_down() {
    let mut sim = plain();
    sim.queue(1);
    let taken = started(&sim.plan()).remove(0);
    sim.online(&taken);
    sim.commit(intent::taken(&sim.world, &sim.runners[&taken], sim.now));
    sim.plan();
    sim.deliver(9, "octocat/app", SMALL, Phase::Completed { conclusion: Some("success".to_owned()) }, Some(&taken));
    assert_eq!(sim.plan(), [Intent::Stop { runner: taken, error: None }]);
}

#[test]
fn a_finished_runner_is_taken_down() {
    let mut sim = plain();
    sim.queue(1);
    let names = started(&sim.plan());
    sim.online(&names[0]);
    sim.deliver(1, "octocat/app", SMALL, Phase::InProgress, Some(&names[0]));
    sim.plan();
    sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("success".to_owned()) }, Some(&names[0]));
    assert_eq!(sim.plan(), [Intent::Stop { runner: names[0].clone(), error: None }]);
    assert_eq!(sim.runners[&names[0]].state, RunnerState::Stopping);
}

#[test]
fn a_completion_that_overtakes_its_start_still_ends_the_runner() {
    let mut sim = plain();
    sim.queue(1);
    let names = started(&sim.plan());
    sim.online(&names[0]);
    let done = Phase::Completed { conclusion: Some("success".to_owned()) };
    sim.deliver(1, "octocat/app", SMALL, done, Some(&names[0]));
    sim.deliver(1, "octocat/app", SMALL, Phase::InProgress, Some(&names[0]));
    assert_eq!(sim.plan(), [Intent::Stop { runner: names[0].clone(), error: None }]);
    assert_eq!(sim.job(1).status, JobStatus::Completed);
}

#[test]
fn every_state_has_an_end() {
    for (state, retires) in [
        (RunnerState::Planned, false),
        (RunnerState::Registering, false),
        (RunnerState::Creating, false),
        (RunnerState::Booting, true),
        (RunnerState::Idle, true),
        (RunnerState::Busy, false),
        (RunnerState::Stopping, false),
    ] {
        let mut sim = plain();
        sim.queue(1);
        let name = started(&sim.plan()).remove(0);
        let deadline = sim.now + Duration::from_secs(60);
        if state == RunnerState::Registering {
            sim.change(&name, RunnerChange::Registering { deadline });
        }
        if state == RunnerState::Creating {
            sim.change(&name, RunnerChange::Creating { github_runner_id: Some(1), deadline });
        }
        if state.rank() >= RunnerState::Booting.rank() {
            sim.created(&name);
        }
        if state.rank() >= RunnerState::Idle.rank() {
            sim.online(&name);
        }
        if state.rank() >= RunnerState::Busy.rank() {
            sim.deliver(1, "octocat/app", SMALL, Phase::InProgress, Some(&name));
            sim.plan();
        }
        if state == RunnerState::Stopping {
            sim.change(&name, RunnerChange::Stopping { deadline: sim.now, error: None });
        }
        assert_eq!(sim.runners[&name].state, state);
        sim.now = at(1_000_000);
        let intents = sim.plan();
        let about = intents.iter().find(|intent| match intent {
            Intent::Retire { runner, .. } => retires && *runner == name,
            Intent::Stop { runner, .. } => state == RunnerState::Busy && *runner == name,
            Intent::Resume { runner } => !retires && state != RunnerState::Busy && *runner == name,
            Intent::Start { .. }
            | Intent::Pair { .. }
            | Intent::Unpair { .. }
            | Intent::Busy { .. }
            | Intent::Assign { .. }
            | Intent::Rerun { .. }
            | Intent::Extend { .. } => false,
        });
        assert!(about.is_some(), "{state}: {intents:?}");
    }
}

#[test]
fn a_paused_pool_starts_nothing_and_then_a_single_probe() {
    let mut sim = plain();
    for id in 1..=3 {
        sim.queue(id);
    }
    let pool = ("app".parse().unwrap(), "small".parse().unwrap());
    sim.pause(
        (&pool.0, &pool.1),
        Some(Pause { until: at(30), reason: "full".to_owned(), failures: 1, proof: Proof::Machine }),
    );
    assert_eq!(started(&sim.plan()).len(), 0);
    sim.now = at(31);
    assert_eq!(started(&sim.plan()).len(), 1, "the probe");
    sim.pause((&pool.0, &pool.1), None);
    assert_eq!(started(&sim.plan()).len(), 2);
}

#[test]
fn machines_that_die_young_come_ever_slower_until_a_runner_is_online() {
    let mut sim = plain();
    for id in 1..=20 {
        sim.queue(id);
    }
    let mut started_at = Vec::new();
    for second in 0..120 {
        sim.now = at(second);
        for name in started(&sim.plan()) {
            started_at.push(second);
            sim.created(&name);
            sim.dies(&name);
        }
    }
    assert!(started_at.len() < 12, "{started_at:?}");
    let waits: Vec<i64> = started_at.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(waits.last().is_some_and(|last| *last >= 32), "{started_at:?}");

    let (project, pool) = ("app".parse().unwrap(), "small".parse().unwrap());
    assert!(sim.world.pause(&project, &pool).unwrap().failures > 5);
    let name = loop {
        sim.now += Duration::from_secs(1);
        if let Some(name) = started(&sim.plan()).pop() {
            break name;
        }
    };
    sim.created(&name);
    assert!(sim.world.pause(&project, &pool).is_some(), "those before had machines too");
    sim.online(&name);
    assert_eq!(sim.world.pause(&project, &pool), None);
    assert_eq!(started(&sim.plan()).len(), 3, "all that the pool may have");
}

#[test]
fn a_lost_runner_is_replaced_and_its_job_says_why() {
    let mut sim = plain();
    sim.queue(1);
    let first = started(&sim.plan()).remove(0);
    sim.dies(&first);
    sim.now = at(1);
    assert_eq!(sim.job(1).losses.total(), 1);
    assert!(sim.job(1).reason.as_deref().unwrap().contains("its machine stopped"));
    let second = started(&sim.plan()).remove(0);
    assert_eq!(sim.job(1).runner.as_ref(), Some(&second));
    assert_eq!(sim.job(1).status, JobStatus::Claimed, "a state never goes back");
}

#[test]
fn a_window_has_its_runners_and_the_planner_wakes_for_it() {
    use jiff::civil::{Time, Weekday};
    // The simulation begins on Friday, 2027-01-15, at 08:00 UTC.
    let window = crate::config::WarmWindow {
        days: vec![Weekday::Friday],
        from: Time::constant(9, 0, 0, 0),
        to: Time::constant(10, 0, 0, 0),
        min_idle: 1,
    };
    let mut sim = Sim::new(config(|pool, _| pool.warm.windows = vec![window]));
    assert_eq!(at(0).to_string(), "2027-01-15T08:00:00Z");
    let plan = sim.whole_plan();
    assert_eq!((started(&plan.intents).len(), plan.next), (0, Some(at(3600))));
    sim.now = at(3600);
    let plan = sim.whole_plan();
    assert_eq!(started(&plan.intents).len(), 2, "one for each repository");
    assert!(plan.next.is_some_and(|next| next <= at(7200)));
}

#[test]
fn a_machine_that_is_paid_by_the_hour_is_kept_for_the_hour() {
    for (granularity, expected_end) in [(1u32, None), (3600, Some(at(3600 - 120 - 60)))] {
        let mut sim = plain();
        sim.queue(1);
        let name = started(&sim.plan()).remove(0);
        sim.created(&name);
        sim.change(&name, RunnerChange::Idle { deadline: at(600) });
        let rate = crate::fleet::Rate {
            micros_per_hour: 7,
            currency: "EUR".to_owned(),
            granularity,
            minimum: granularity,
            since: at(0),
        };
        sim.change(&name, RunnerChange::Rated { rate });
        sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("cancelled".to_owned()) }, None);
        sim.plan();
        sim.now = at(600);
        let intents = sim.plan();
        match expected_end {
            None => assert!(
                intents.iter().any(|i| matches!(i, Intent::Retire { runner, error: None } if *runner == name)),
                "{intents:?}"
            ),
            Some(deadline) => {
                assert_eq!(intents, [Intent::Extend { runner: name.clone(), deadline }]);
                sim.now = deadline;
                let intents = sim.plan();
                assert_eq!(intents, [Intent::Retire { runner: name, error: None }], "right before the next hour");
            }
        }
    }
}

#[test]
fn a_warm_runner_whose_machine_ends_before_a_job_would_is_replaced() {
    let last_call = 3600;
    // Kept for the minimum, and for what is paid.
    for granularity in [1, 86_400] {
        let mut sim = Sim::new(config(|pool, _| {
            pool.warm = crate::config::Warm::always(1);
            pool.max_runners = 2;
            let life = Duration::from_secs(last_call) + pool.timeouts.run + pool.timeouts.stop;
            pool.bootstrap.max_life = Some(life);
        }));
        let last_call = at(i64::try_from(last_call).unwrap());
        let names = started(&sim.plan());
        for name in &names {
            sim.online(name);
            let rate = crate::fleet::Rate {
                micros_per_hour: 7,
                currency: "EUR".to_owned(),
                granularity,
                minimum: granularity,
                since: at(0),
            };
            sim.change(name, RunnerChange::Rated { rate });
        }
        while sim.now < last_call {
            let plan = sim.whole_plan();
            assert!(started(&plan.intents).is_empty(), "{:?}", plan.intents);
            assert!(!plan.intents.iter().any(|intent| matches!(intent, Intent::Retire { .. })), "{:?}", plan.intents);
            sim.now = sim.whole_plan().next.expect("its state has an end");
        }
        assert_eq!(sim.now, last_call, "until the last moment that leaves time for a job, and not longer");
        sim.queue(1);
        let intents = sim.plan();
        let retired = |name: &RunnerName| {
            intents.iter().any(|i| matches!(i, Intent::Retire { runner, error: None } if runner == name))
        };
        assert!(names.iter().all(retired), "{intents:?}");
        // GitHub could not be asked, so it is there a little longer: no job is meant for it.
        let extended = last_call + Duration::from_secs(30);
        sim.change(&names[0], RunnerChange::Extend { deadline: extended });
        let intents = sim.plan();
        assert!(!intents.iter().any(|intent| matches!(intent, Intent::Pair { .. })), "{intents:?}");
        for name in &names {
            sim.change(name, RunnerChange::Stopping { deadline: extended, error: None });
            sim.change(name, RunnerChange::Gone);
        }
        assert_eq!(started(&sim.plan()).len(), 2, "others take their place");
    }
}

#[test]
fn a_job_whose_machine_was_taken_away_is_run_again_once() {
    let mut sim = plain();
    sim.queue(1);
    let name = started(&sim.plan()).remove(0);
    sim.online(&name);
    sim.deliver(1, "octocat/app", SMALL, Phase::InProgress, Some(&name));
    sim.plan();
    let key = sim.job(1).key;
    let reason = "its machine was taken away: spot".to_owned();
    assert_eq!(sim.commit(vec![Op::Job { key, change: job::JobChange::Interrupted { reason } }]), [true]);
    assert_eq!(sim.plan(), [], "GitHub has not concluded it yet");
    sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("failure".to_owned()) }, Some(&name));
    sim.plan();
    sim.now += Duration::from_secs(2);
    let intents = sim.plan();
    assert!(intents.iter().any(|intent| matches!(intent, Intent::Rerun { job } if job.key == key)), "{intents:?}");
    assert_eq!(sim.job(1).interruption, Some(job::Interruption::RerunAsked), "written before GitHub is asked");
    sim.deliver(1, "octocat/app", SMALL, Phase::Completed { conclusion: Some("failure".to_owned()) }, Some(&name));
    sim.now += Duration::from_secs(3600);
    assert!(!sim.plan().iter().any(|intent| matches!(intent, Intent::Rerun { .. })), "never twice");
}

#[test]
fn jobs_that_wait_for_approval_want_no_runner_until_they_are_queued() {
    let mut sim = plain();
    sim.deliver(1, "octocat/app", SMALL, Phase::Waiting, None);
    assert_eq!(sim.plan(), []);
    sim.queue(1);
    assert_eq!(started(&sim.plan()).len(), 1);
}
