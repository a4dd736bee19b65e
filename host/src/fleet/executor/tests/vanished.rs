//! Jobs that GitHub does not know any more.

use super::*;
use crate::{
    fleet::{
        job::JobStatus,
        recover::{Missing, scan},
    },
    github::GitHubErrorKind,
};

/// One look at the repository.
async fn look(fleet: &Fleet, missing: &mut Missing) -> bool {
    scan(&fleet.executor, &"octocat/app".parse().unwrap(), Some(7), missing).await.is_ok()
}

#[tokio::test]
async fn a_job_that_github_twice_does_not_know_is_concluded_and_its_machine_goes() {
    for runs in [true, false] {
        let stage = Stage::set().await;
        let fleet = stage.fleet().await;
        let name = stage.idle().await;
        if runs {
            stage.deliver(stage.fact(1, Phase::InProgress, Some(&name))).await;
            stage.runner_in(RunnerState::Busy).await;
        }
        let before = stage.job(1).await.status;
        let fact = stage.github.state().jobs.remove(&1).expect("it was delivered");
        let mut missing = Missing::default();
        assert!(look(&fleet, &mut missing).await);
        assert_eq!(stage.job(1).await.status, before, "one look is none");
        stage.github.state().jobs.insert(1, fact);
        assert!(look(&fleet, &mut missing).await);
        stage.github.state().jobs.remove(&1);
        assert!(look(&fleet, &mut missing).await);
        assert_eq!(stage.job(1).await.status, before, "in between it was known");
        assert!(look(&fleet, &mut missing).await);
        let job = stage.job(1).await;
        assert_eq!(job.status, JobStatus::Failed);
        assert_eq!(job.reason.as_deref(), Some("GitHub does not know this job any more"));
        if runs {
            eventually("its machine goes", async || (stage.destroyed() == 1).then_some(())).await;
        }
        fleet.shutdown(Duration::ZERO).await;
        // The next start matches anew what was given up, and this is over.
        let fleet = stage.fleet().await;
        assert_eq!(stage.job(1).await.status, JobStatus::Failed);
        fleet.shutdown(Duration::ZERO).await;
        assert_eq!(stage.engine.state().created, 1);
    }
}

#[tokio::test]
async fn jobs_of_a_repository_that_github_hides_stay() {
    let stage = Stage::set().await;
    let fleet = stage.fleet().await;
    let name = stage.idle().await;
    stage.deliver(stage.fact(1, Phase::InProgress, Some(&name))).await;
    stage.runner_in(RunnerState::Busy).await;
    stage.github.state().jobs.remove(&1);
    stage.github.state().hides = Some(GitHubErrorKind::NotFound);
    let mut missing = Missing::default();
    for _ in 0..3 {
        assert!(!look(&fleet, &mut missing).await);
    }
    assert_eq!(stage.job(1).await.status, JobStatus::Running);
    fleet.shutdown(Duration::ZERO).await;
    assert_eq!(stage.destroyed(), 0);
}
