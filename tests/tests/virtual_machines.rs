//! The main job on real virtual machines: each boots, runs the start script from its seed, fetches its configuration
//! from pacer, does its job, and powers off.

use std::time::Duration;

use pacer_tests::{
    engine,
    libvirt::{self, Libvirtd},
    wait::eventually,
    world::World,
};

/// A machine that is emulated in software boots for some seconds; on a busy host for many.
const SOON: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_boots_fetches_its_configuration_does_its_job_and_is_gone() {
    let test = "a_virtual_machine_boots_fetches_its_configuration_does_its_job_and_is_gone";
    if let Some(why) = libvirt::unavailable() {
        return engine::not_run(test, &why);
    }
    let daemon = tokio::task::block_in_place(Libvirtd::with_runner);
    let world = World::start().await;
    let pacer = world.pacer_on_machines(&daemon).start().await;
    world.deliver_to(&pacer);
    world.queue(2, Duration::from_secs(1));

    eventually("both jobs are done", SOON, async || (world.simulator.summary().served == 2).then_some(())).await;
    eventually("nothing is left at the daemon", SOON, async || {
        tokio::task::block_in_place(|| daemon.left()).is_empty().then_some(())
    })
    .await;
    assert_eq!(world.simulator.audit(), Vec::<String>::new());

    let runners = pacer.api.get("/api/v1/runners").await.json();
    let runners = runners["items"].as_array().unwrap();
    assert_eq!(runners.len(), 2, "one machine for each job: {runners:?}");
    for runner in runners {
        let whole = pacer.api.get(&format!("/api/v1/runners/{}", runner["name"].as_str().unwrap())).await.json();
        let reported: Vec<&str> = whole["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["kind"] == "runner.reported")
            .filter_map(|event| event["detail"].as_str())
            .collect();
        assert_eq!(reported[..2], ["booted", "runner-ready"], "{whole}");
    }
}
