//! What is left without an owner goes at the second look that finds it.

use std::collections::HashSet;

use super::*;
use crate::{
    fleet::watch::{Ghosts, look, look_for_ghosts},
    github::GitHubRunner,
};

#[tokio::test]
async fn a_registration_whose_runner_is_over_goes_at_the_second_look() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let name = stage.idle().await;
    // No registration of a living runner, nor one that this store never had, is a ghost.
    let stranger = "pacer-small-0a0a0a0a0a0a0a0a".to_owned();
    let other = GitHubRunner { id: 900, name: stranger.clone(), online: false, busy: false };
    stage.github.state().runners.insert(stranger, other);
    let mut marked = Ghosts::new();
    for _ in 0..3 {
        marked = look_for_ghosts(&fleet.executor, &marked).await;
        assert!(marked.is_empty(), "{marked:?}");
    }
    let success = Phase::Completed { conclusion: Some("success".to_owned()) };
    stage.deliver(stage.fact(1, Phase::InProgress, Some(&name))).await;
    stage.runner_in(RunnerState::Busy).await;
    stage.deliver(stage.fact(1, success, Some(&name))).await;
    stage.runner_in(RunnerState::Gone).await;
    eventually("the fleet is done with it", async || fleet.executor.runner(&name).is_none().then_some(())).await;
    let registered = || stage.github.state().runners.contains_key(name.as_str());
    // While it is online, or has a job, somebody uses it.
    for (online, busy) in [(true, false), (false, true)] {
        let mut runner = stage.github.state().runners[name.as_str()].clone();
        (runner.online, runner.busy) = (online, busy);
        stage.github.state().runners.insert(name.to_string(), runner);
        assert!(look_for_ghosts(&fleet.executor, &marked).await.is_empty());
    }
    stage.github.state().runners.get_mut(name.as_str()).expect("it is registered").busy = false;
    marked = look_for_ghosts(&fleet.executor, &marked).await;
    assert!(registered() && !marked.is_empty(), "the first look marks it");
    look_for_ghosts(&fleet.executor, &marked).await;
    assert!(!registered());
    assert_eq!(stage.github.state().deleted, [name.to_string()]);
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_machine_of_nobody_goes_at_the_second_look_after_nobody_holds_it_any_more() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let backend = "engine".parse().unwrap();
    let name = "pacer-small-0a0a0a0a0a0a0a0a";
    let hold = |hold| {
        stage.engine.state().machines.insert(name.to_owned(), crate::plugins::Instance { hold, ..machine(name) });
    };
    hold(true);
    let mut marked = HashSet::new();
    for _ in 0..3 {
        marked = look(&fleet.executor, &backend, marked).await;
        assert_eq!((marked.len(), stage.destroyed()), (0, 0), "it is held");
    }
    hold(false);
    marked = look(&fleet.executor, &backend, marked).await;
    assert_eq!((marked.len(), stage.destroyed()), (1, 0), "the first look marks it");
    look(&fleet.executor, &backend, marked).await;
    assert_eq!(stage.engine.state().destroyed, [format!("handle-of-{name}")]);
    fleet.shutdown(Duration::ZERO).await;
}
