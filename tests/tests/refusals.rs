//! What GitHub refuses: the job says so, and no work is destroyed over it.

use std::time::Duration;

use pacer_simulator::{
    cloud::Conditions,
    github::{Weather, documented},
};
use pacer_tests::{pacer::TestPacer, wait::eventually, world::World};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);

/// Waits until a job and its page say all of these words.
async fn says(pacer: &TestPacer, job: u64, words: &[&str]) {
    let explained = eventually("the job says why it waits", SOON, async || {
        let job = pacer.api.job(&format!("{job}-1")).await?;
        let explanation = job["explanation"].to_string();
        words.iter().all(|words| explanation.contains(words)).then_some(explanation)
    })
    .await;
    let page = pacer.api.get(&format!("/jobs/{job}-1")).await.text;
    for words in words {
        let escaped = words.replace('`', "&#96;");
        assert!(page.contains(words) || page.contains(&escaped), "{words}: {explained}: {page}");
    }
}

#[tokio::test]
async fn a_repository_without_the_app_has_its_job_say_what_to_do() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    world.simulator.github.uninstall("octocat");
    let job = world.queue(1, SHORT)[0];
    says(&pacer, job, &["the App is not installed on repository", "install it there"]).await;
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_by_the_job_that_waits_for_it() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    let mut permissions = documented();
    permissions.remove("administration");
    world.simulator.github.grant("octocat", permissions);
    let job = world.queue(1, SHORT)[0];
    says(&pacer, job, &["jit config: 403 Forbidden", "administration:write"]).await;
    world.simulator.github.grant("octocat", documented());
}

#[tokio::test]
async fn a_runner_that_github_calls_busy_keeps_its_machine_whatever_pacer_knows() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    let (github, cloud) = (&world.simulator.github, &world.simulator.cloud);
    cloud.set_conditions(Conditions { boot_ms: (1_500, 1_501), ..Conditions::default() });
    // Twice as long as an idle runner stays.
    let job = world.queue(1, Duration::from_secs(10))[0];
    eventually("its machine is made", SOON, async || (!cloud.machines().is_empty()).then_some(())).await;
    github.set_weather(Weather { forgotten: 1.0, ..Weather::default() });
    eventually("pacer wants to be rid of the runner", SOON, async || {
        (github.faults().calls("delete") >= 1).then_some(())
    })
    .await;
    assert_eq!(github.job(job).map(|job| job.status), Some("in_progress"));
    world.settled().await;
    assert_eq!(cloud.made().len(), 1);
}

#[tokio::test]
async fn a_runner_that_nobody_looked_for_is_asked_for_before_it_is_given_up() {
    let world = World::start().await;
    let mut pacer = world.pacer().prepare();
    pacer.edit_config("app_id:", "runner_poll: 1h, app_id:");
    pacer.edit_config("boot: 20s", "boot: 4s");
    pacer.start().await;
    world.deliver_to(&pacer);
    let (github, cloud) = (&world.simulator.github, &world.simulator.cloud);
    cloud.set_conditions(Conditions { boot_ms: (1_500, 1_501), ..Conditions::default() });
    // Cancelled, it leaves its runner without anything to do.
    let job = world.queue(1, SHORT)[0];
    let machine = eventually("its machine is made", SOON, async || cloud.machines().into_iter().next()).await;
    github.cancel(job);
    eventually("the runner is known to be online", SOON, async || {
        let runner = pacer.api.get(&format!("/api/v1/runners/{}", machine.name)).await.json();
        (runner["state"] == "idle").then_some(())
    })
    .await;
    world.settled().await;
    assert_eq!(pacer.api.metrics().await.sum("pacer_runners_lost_total", &[]), 0.0);
}
