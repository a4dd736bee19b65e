//! What webhooks did not tell is found out: from the App's delivery log, and by asking repositories for their jobs.

use std::{collections::HashSet, time::Duration};

use pacer_simulator::{
    faults::Fault,
    github::{NewJob, Weather},
};
use pacer_tests::{
    pacer::TestPacer,
    wait::eventually,
    world::{ORG_REPO, REPO, World},
};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);

/// A server that looks every second.
async fn running(world: &World) -> TestPacer {
    let mut pacer = world.pacer().prepare();
    pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
    pacer.start().await;
    world.deliver_to(&pacer);
    pacer
}

async fn no_job_is_left_open(pacer: &TestPacer) {
    eventually("no job is left open", SOON, async || {
        let open = pacer.api.get("/api/v1/jobs?status=waiting,queued,claimed,starting,running").await.json();
        open["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}

/// How many jobs were recovered from this source.
async fn recovered(pacer: &TestPacer, source: &str) -> f64 {
    pacer.api.metrics().await.sum("pacer_jobs_recovered_total", &[("source", source)])
}

#[tokio::test]
async fn deliveries_that_failed_are_taken_from_the_log() {
    let world = World::start().await;
    // Whatever is found, no repository has told it.
    world.simulator.github.faults().share("runs", 1.0, Fault::Status { status: 503 });
    let pacer = running(&world).await;
    world.simulator.github.set_weather(Weather { lost: 1.0, ..Weather::default() });
    // One of them cannot be read at first, and holds up none of the others.
    world.simulator.github.faults().next("delivery", 3, Fault::Garbage);
    world.queue(10, SHORT);
    world.settled().await;
    no_job_is_left_open(&pacer).await;
    let told = pacer.api.told_by().await;
    let only_the_log = |sources: &HashSet<String>| sources.len() == 1 && sources.contains("delivery-log");
    assert!(told.len() == 10 && told.values().all(only_the_log), "{told:?}");
    assert!(recovered(&pacer, "delivery-log").await >= 10.0);
    let metrics = pacer.api.metrics().await;
    assert!(metrics.sum("pacer_recovery_failures_total", &[("source", "repository-scan")]) >= 1.0);
    let told = pacer.log().matches(&format!("repository `{REPO}` cannot be read")).count();
    assert_eq!(told, 1, "it is said once: {}", pacer.log());
}

#[tokio::test]
async fn jobs_of_which_no_webhook_is_known_are_found_in_their_repository() {
    let world = World::start().await;
    let pacer = running(&world).await;
    let github = &world.simulator.github;
    // It is what has its repository asked.
    let first = world.queue(1, Duration::from_secs(5))[0];
    eventually("the first runs", SOON, async || {
        (pacer.api.job(&format!("{first}-1")).await?["status"] == "running").then_some(())
    })
    .await;
    github.set_weather(Weather { forgotten: 1.0, ..Weather::default() });
    // Its run is in progress already.
    let second = github.queue(NewJob { beside: Some(first), ..NewJob::new(REPO, &["self-hosted"], SHORT) });
    world.settled().await;
    no_job_is_left_open(&pacer).await;
    assert!(pacer.api.told_by().await[&format!("{second}-1")].is_empty());
    assert!(recovered(&pacer, "repository-scan").await >= 1.0);
    assert_eq!(recovered(&pacer, "delivery-log").await, 0.0);
}

#[tokio::test]
async fn an_organisation_is_served_in_its_group_and_asked_for_its_jobs_at_the_start() {
    let world = World::with_org().await;
    let github = &world.simulator.github;
    let mut pacer = world.pacer_for_org().start().await;
    world.deliver_to(&pacer);
    let job = |labels: &[&str]| NewJob::new(ORG_REPO, labels, Duration::from_secs(2));
    github.queue(job(&["self-hosted", "linux"]));
    let runner = eventually("its runner is registered", SOON, async || github.runners().into_iter().next()).await;
    assert_eq!(runner.group, 2, "the group `builders`");
    world.settled().await;

    pacer.kill();
    github.set_weather(Weather { forgotten: 1.0, ..Weather::default() });
    let missed = github.queue(job(&["self-hosted", "x64"]));
    github.set_weather(Weather::default());
    // Asked in vain at first, GitHub is asked again.
    pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
    github.faults().next("repositories", 1, Fault::Status { status: 500 });
    pacer.start().await;
    world.deliver_to(&pacer);
    world.settled().await;
    let known = pacer.api.job(&format!("{missed}-1")).await.expect("the job is known");
    assert_eq!(known["repo"], ORG_REPO);
    assert!(recovered(&pacer, "repository-scan").await >= 1.0);
}
