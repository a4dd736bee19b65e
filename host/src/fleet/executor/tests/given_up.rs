//! A runner is given up only when GitHub has let go of it: no machine is taken from under a job.

use super::*;
use crate::{
    fleet::job::JobStatus,
    github::GitHubErrorKind,
    plugins::{ErrorKind, InstanceState},
};

fn lost() -> Create {
    Create::MadeBut(backend_error(ErrorKind::Unavailable, true))
}

/// GitHub gives the only runner a job, once its machine is made.
async fn busy_at_github(stage: &Stage) -> RunnerName {
    let name = eventually("there is a machine", async || stage.engine.state().machines.keys().next().cloned()).await;
    let name = RunnerName::new(name);
    stage.github.set_busy(&name);
    name
}

#[tokio::test]
async fn taken_over_after_its_deadline_a_machine_at_work_stays() {
    let stage = Stage::set().await;
    stage.engine.state().creates.push_back(Create::MadeAndHangs);
    let fleet = stage.fleet().await;
    stage.queue(1).await;
    let name = busy_at_github(&stage).await;
    stage.runner_in(RunnerState::Creating).await;
    fleet.shutdown(Duration::ZERO).await;

    stage.clock.0.fetch_add(HOUR.as_secs(), Ordering::Relaxed);
    stage.engine.state().refuses = Some(ErrorKind::Unavailable);
    let fleet = stage.fleet().await;
    // The planner has its say before the engine can be asked.
    stage.queue(2).await;
    eventually("another job is served", async || stage.job(2).await.runner).await;
    stage.engine.state().refuses = None;
    let handle =
        eventually("it is taken over", async || stage.store.runner(&name).await.unwrap().unwrap().handle).await;
    assert_eq!(handle, machine(name.as_str()).handle);
    stage.deliver(stage.fact(1, Phase::InProgress, Some(&name))).await;
    eventually("it is busy", async || {
        let runner = stage.store.runner(&name).await.unwrap().unwrap();
        (runner.state == RunnerState::Busy).then_some(())
    })
    .await;
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!((stage.destroyed(), stage.engine.state().created), (0, 2));
}

#[tokio::test]
async fn a_machine_of_which_every_answer_was_lost_is_taken_up() {
    for second in [lost(), Create::Refused(backend_error(ErrorKind::Capacity, false))] {
        let stage = Stage::set().await;
        stage.engine.state().creates.extend([lost(), second]);
        let fleet = stage.fleet().await;
        stage.queue(1).await;
        stage.runner_in(RunnerState::Booting).await;
        fleet.shutdown(Duration::ZERO).await;
        assert_eq!((stage.destroyed(), stage.engine.state().created), (0, 2));
    }
}

#[tokio::test]
async fn a_runner_with_a_job_is_kept_though_its_backend_does_not_answer() {
    let stage = Stage::set().await;
    stage.engine.state().creates.extend([lost(), lost()]);
    stage.engine.state().refuses = Some(ErrorKind::Unavailable);
    let fleet = stage.fleet().await;
    stage.queue(1).await;
    let name = busy_at_github(&stage).await;
    // The delivery is late; GitHub's API knows already.
    stage.github.state().jobs.insert(1, stage.fact(1, Phase::InProgress, Some(&name)));
    eventually("it has been asked for twice", async || (stage.engine.state().created == 2).then_some(())).await;
    let kept = eventually("its backend is given up on", async || {
        stage.later(&fleet, MINUTE);
        stage.runners().await.into_iter().find(|runner| runner.state == RunnerState::Busy && runner.job.is_some())
    })
    .await;
    assert_eq!((kept.job, kept.handle), (Some(stage.job(1).await.key), None));

    stage.engine.state().refuses = None;
    let backend = "engine".parse().unwrap();
    eventually("its machine is found by its name", async || {
        crate::fleet::watch::look(&fleet.executor, &backend, Default::default()).await;
        stage.runners().await[0].handle.clone()
    })
    .await;
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.destroyed(), 0);
}

#[tokio::test]
async fn a_create_may_take_longer_than_the_row_says() {
    let stage = Stage::set().await;
    stage.engine.state().creates.push_back(Create::MadeAndHangs);
    let fleet = stage.fleet().await;
    stage.queue(1).await;
    let name = busy_at_github(&stage).await;
    stage.runner_in(RunnerState::Creating).await;
    stage.later(&fleet, HOUR);
    // What the planner made of that is done before what it makes of another job.
    stage.queue(2).await;
    eventually("the other one is served", async || stage.job(2).await.runner).await;
    fleet.shutdown(Duration::ZERO).await;
    let state = stage.store.runner(&name).await.unwrap().unwrap().state;
    assert_eq!((state, stage.destroyed()), (RunnerState::Creating, 0));
}

#[tokio::test]
async fn what_github_refuses_for_good_keeps_no_machine_and_silence_keeps_it_for_a_while() {
    for (refusal, patience) in [
        (GitHubErrorKind::NotFound, Duration::ZERO),
        (GitHubErrorKind::Forbidden, Duration::ZERO),
        (GitHubErrorKind::Unavailable, HOUR),
    ] {
        let stage = Stage::set().await;
        let fleet = stage.fleet().await;
        let name = stage.idle().await;
        stage.github.state().refuses = Some(refusal);
        stage.engine.state().creates.push_back(Create::MadeAndHangs);
        let deadline = stage.store.runner(&name).await.unwrap().unwrap().deadline;
        stage.later(&fleet, 11 * MINUTE);
        if !patience.is_zero() {
            eventually("it is given more time", async || {
                let runner = stage.store.runner(&name).await.unwrap().unwrap();
                (runner.deadline > deadline).then_some(())
            })
            .await;
            assert_eq!(stage.destroyed(), 0);
            stage.later(&fleet, patience + MINUTE);
        }
        eventually("its machine goes", async || (stage.destroyed() == 1).then_some(())).await;
        fleet.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_runner_that_is_busy_stays_whatever_github_refuses() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let name = stage.idle().await;
    stage.deliver(stage.fact(1, Phase::InProgress, Some(&name))).await;
    let runner = stage.runner_in(RunnerState::Busy).await;
    stage.github.state().refuses = Some(GitHubErrorKind::NotFound);
    fleet.executor.clone().retire(Arc::new(runner), None).await;
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.destroyed(), 0);
}

#[tokio::test]
async fn a_runner_that_github_gave_an_unknown_job_serves_no_other() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let name = stage.idle().await;
    stage.github.set_busy(&name);
    stage.later(&fleet, 11 * MINUTE);
    let other =
        eventually("its job has another runner", async || stage.job(1).await.runner.filter(|runner| *runner != name))
            .await;
    let taken = stage.store.runner(&name).await.unwrap().unwrap();
    assert_eq!((taken.state, taken.job), (RunnerState::Busy, None));
    // Nor the next one.
    stage.queue(2).await;
    let third = eventually("another job has its runner", async || stage.job(2).await.runner).await;
    assert!(third != name && third != other);
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.destroyed(), 0);
}

#[tokio::test]
async fn a_job_whose_start_is_not_told_yet_gets_no_second_machine_when_the_first_ends() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let name = stage.idle().await;
    stage.github.set_busy(&name);
    stage.github.state().jobs.insert(1, stage.fact(1, Phase::InProgress, Some(&name)));
    let runner = stage.store.runner(&name).await.unwrap().unwrap();
    fleet.executor.clone().ended(Arc::new(runner), "its machine stopped".to_owned(), false).await;
    let job = stage.job(1).await;
    assert_eq!((job.status, job.runner), (JobStatus::Running, Some(name)));
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.engine.state().created, 1);
}

#[tokio::test]
async fn a_job_on_a_machine_that_was_taken_is_run_again_whatever_comes_first() {
    let failure = || Phase::Completed { conclusion: Some("failure".to_owned()) };
    for (before, after) in [
        // Its end comes before anybody looked at the machine.
        (vec![Phase::InProgress, failure()], vec![]),
        // Its start and its end come late.
        (vec![], vec![Phase::InProgress, failure()]),
        (vec![Phase::InProgress], vec![failure()]),
        (vec![], vec![failure()]),
    ] {
        let stage = Stage::set().await;
        let fleet = stage.fleet().await;
        let name = stage.idle().await;
        let taken = InstanceState::Interrupted("spot".to_owned());
        stage.engine.state().machines.get_mut(name.as_str()).unwrap().state = taken;
        let mark = format!("{before:?}, {after:?}");
        let ends = !before.is_empty() && after.is_empty();
        for phase in before {
            stage.ingest(stage.fact(1, phase, Some(&name))).await;
        }
        if !ends {
            // GitHub's API says nothing new: the job is not told of at all.
            let runner = fleet.executor.runner(&name).expect("it is alive");
            fleet.executor.clone().ended(runner, told_taken("spot"), true).await;
        }
        for phase in after {
            stage.ingest(stage.fact(1, phase, Some(&name))).await;
        }
        eventually(&format!("GitHub is asked to run it again: {mark}"), async || {
            stage.later(&fleet, Duration::from_secs(2));
            stage.github.state().rerun.contains(&1).then_some(())
        })
        .await;
        assert_eq!(stage.github.state().rerun, [1], "{mark}");
        fleet.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_sweep_removes_only_registrations_that_pacer_may_have_made() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let backend = "engine".parse().unwrap();
    for (name, target, ours) in [
        ("prod-runner-1", "org:acme", false),
        ("pacer-small-abc", "org:somebody", false),
        ("pacer-small-abc", "nonsense", false),
        ("pacer-small-abc", "org:acme", true),
    ] {
        let runner = crate::github::GitHubRunner { id: 5, name: name.to_owned(), online: true, busy: false };
        stage.github.state().runners.insert(name.to_owned(), runner);
        let mut stray = machine(name);
        stray.attributes = vec![("target".to_owned(), target.to_owned())];
        stage.engine.state().machines.insert(name.to_owned(), stray.clone());
        fleet.executor.sweep(&backend, &stray, None).await;
        assert_eq!(stage.github.state().deleted.contains(&name.to_owned()), ours, "{name} of {target}");
        assert!(stage.engine.state().machines.is_empty());
    }
    fleet.shutdown(Duration::ZERO).await;
}
