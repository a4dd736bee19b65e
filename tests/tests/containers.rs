//! The main job on a real engine: a container for every job, and none afterwards.

use std::time::Duration;

use pacer_tests::{
    engine::{self, Engine},
    wait::eventually,
    world::{World, runner_script},
};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_job_runs_in_a_container_that_is_gone_when_it_is_over() {
    if let Some(why) = engine::unavailable() {
        return engine::not_run("a_job_runs_in_a_container_that_is_gone_when_it_is_over", &why);
    }
    let engine = Engine::start();
    engine.build_runner_image(&runner_script());
    let world = World::start().await;
    let pacer = world.pacer_on(&engine).start().await;
    world.deliver_to(&pacer);
    world.queue(3, Duration::from_secs(3));

    let container = eventually("a container runs", SOON, async || {
        let containers = engine.containers();
        containers.iter().find(|container| container["State"] == "running").cloned()
    })
    .await;
    let whole = engine.inspect(container["ID"].as_str().unwrap());
    let labels = &whole["Config"]["Labels"];
    assert_eq!(labels["pacer.owner"], "app-123456");
    assert_eq!(labels["pacer.pool"], "small");
    let environment = whole["Config"]["Env"].to_string();
    assert!(environment.contains("ACTIONS_RUNNER_INPUT_JITCONFIG="));
    for jit_config in world.simulator.github.jit_configs() {
        assert!(!labels.to_string().contains(&jit_config), "a configuration is in a label");
        assert!(!whole["Args"].to_string().contains(&jit_config), "a configuration is on a command line");
    }

    world.served().await;
    eventually("the engine has no container left", SOON, async || engine.containers().is_empty().then_some(())).await;
    assert_eq!(world.simulator.audit(), Vec::<String>::new());
    let summary = world.simulator.summary();
    assert_eq!((summary.queued, summary.served), (3, 3));
}

#[tokio::test]
async fn an_engine_that_goes_away_delays_jobs_and_loses_none() {
    if let Some(why) = engine::unavailable() {
        return engine::not_run("an_engine_that_goes_away_delays_jobs_and_loses_none", &why);
    }
    let engine = Engine::start();
    engine.build_runner_image(&runner_script());
    let world = World::start().await;
    let pacer = world.pacer_on(&engine).start().await;
    world.deliver_to(&pacer);
    engine.stop();
    world.queue(1, Duration::from_millis(500));
    eventually("the job says that the engine does not answer", SOON, async || {
        let jobs = pacer.api.get("/api/v1/jobs").await.json();
        jobs["items"][0]["reason"].as_str().is_some_and(|why| why.contains("engine")).then_some(())
    })
    .await;
    engine.restart();
    // Stopping cleaned its folder.
    engine.build_runner_image(&runner_script());
    world.served().await;
    eventually("the engine has no container left", SOON, async || engine.containers().is_empty().then_some(())).await;
}
