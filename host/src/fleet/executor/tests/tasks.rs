//! Tasks that hang, break, or find the store closed.

use super::*;
use crate::{
    fleet::{job::JobChange, rerun},
    github::GitHubErrorKind,
    store::Changed,
};

#[tokio::test]
async fn a_github_that_never_answers_does_not_hold_up_the_end() {
    let stage = Stage::set().await;
    stage.github.state().hangs = true;
    let fleet = stage.fleet().await;
    let ended = tokio::time::timeout(MINUTE, fleet.shutdown(Duration::ZERO)).await;
    assert!(ended.is_ok(), "the looks are abandoned with the rest");
}

#[tokio::test]
async fn a_runner_whose_task_broke_is_given_up_at_its_deadline() {
    let stage = Stage::set().await;
    stage.engine.state().creates.push_back(Create::Breaks);
    let fleet = stage.fleet().await;
    stage.queue(1).await;
    let broken = stage.runner_in(RunnerState::Creating).await.name;
    eventually("its machine has been asked for", async || (stage.engine.state().created == 1).then_some(())).await;
    stage.later(&fleet, HOUR);
    eventually("its job has another", async || stage.job(1).await.runner.filter(|name| *name != broken)).await;
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_planner_that_breaks_is_told_of_and_one_that_stops_is_not() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    fleet.shutdown(Duration::ZERO).await;
    assert!(!fleet.broken.is_cancelled());

    let fleet = stage.fleet().await;
    stage.clock.1.store(true, Ordering::Relaxed);
    fleet.executor.wake.notify_one();
    tokio::time::timeout(MINUTE, fleet.broken()).await.expect("it is told that the planner broke");
    stage.clock.1.store(false, Ordering::Relaxed);
    fleet.shutdown(Duration::ZERO).await;
}

/// Job 1, of which the machine was taken away and which failed of that.
async fn lost(stage: &Stage) -> Job {
    stage.queue(1).await;
    stage.ingest(stage.fact(1, Phase::InProgress, None)).await;
    let key = JobKey { id: 1, attempt: 1 };
    let change = JobChange::Interrupted { reason: told_taken("spot") };
    stage.store.write(vec![Op::Job { key, change }]).await.unwrap();
    stage.ingest(stage.fact(1, Phase::Completed { conclusion: Some("failure".to_owned()) }, None)).await;
    stage.job(1).await
}

#[tokio::test]
async fn what_passes_at_github_puts_a_second_run_off_and_what_does_not_ends_it() {
    use GitHubErrorKind::{Forbidden, RateLimited, Unavailable};
    let stage = Stage::set().await;
    stage.github.state().reruns.extend([Unavailable, RateLimited, Forbidden]);
    let fleet = stage.fleet().await;
    lost(&stage).await;
    eventually("it is refused for good", async || {
        stage.later(&fleet, MINUTE);
        stage.job(1).await.reason.filter(|reason| reason.contains("GitHub says Forbidden"))
    })
    .await;
    stage.later(&fleet, HOUR);
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.github.state().rerun, [1, 1, 1]);
}

#[tokio::test]
async fn a_second_run_that_cannot_be_written_down_is_not_forgotten() {
    let stage = Stage::set().await;
    let executor = Executor::new(stage.parts());
    let job = Arc::new(lost(&stage).await);
    let (_, mut changes) = stage.store.follow().await.unwrap();
    assert!(rerun::is_lost(&job));
    executor.world().apply(&Changed::Job(job));
    stage.store.close().await;
    stage.clock.0.fetch_add(HOUR.as_secs(), Ordering::Relaxed);
    crate::fleet::pass(&executor, &mut changes).await;
    assert!(executor.world().reruns.next().is_some(), "it is due as before");
    assert_eq!(stage.github.state().rerun, [] as [i64; 0]);
}
