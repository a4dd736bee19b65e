//! The main job on real virtual machines: each boots, runs the start script from its seed, fetches its configuration
//! from pacer, does its job, and powers off. It does so by itself, with nobody there to end it and when a step fails.

use std::time::Duration;

use pacer_tests::{
    engine,
    libvirt::{self, HOST, Libvirtd},
    machine::{Callback, Manners},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_ends_by_itself_while_pacer_is_away() {
    let test = "a_virtual_machine_ends_by_itself_while_pacer_is_away";
    if let Some(why) = libvirt::unavailable() {
        return engine::not_run(test, &why);
    }
    let daemon = tokio::task::block_in_place(Libvirtd::with_runner);
    let world = World::start().await;
    let mut pacer = world.pacer_on_machines(&daemon).prepare();
    pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
    pacer.start().await;
    world.deliver_to(&pacer);
    let job = world.queue(1, Duration::from_secs(3))[0];

    let machine = eventually("the job runs", SOON, async || {
        let job = world.simulator.github.job(job)?;
        job.runner.filter(|_| job.started_at.is_some())
    })
    .await;
    pacer.kill();
    let on = tokio::task::block_in_place(|| daemon.machines());
    assert_eq!(on, [machine.as_str()], "the machine outlives the server");
    eventually("the machine is off", SOON, async || {
        tokio::task::block_in_place(|| daemon.machines()).is_empty().then_some(())
    })
    .await;
    assert_eq!(daemon.ending(&machine).as_deref(), Some("shutdown"));
    let console = daemon.console(&machine);
    assert!(console.contains("pacer: the runner is done"), "{console}");
    assert!(console.contains("guest: told to power off"), "{console}");
    assert!(!console.contains("guest: power button"), "somebody ended it:\n{console}");
    assert_eq!(world.simulator.summary().served, 1, "{:?}", world.simulator.audit());

    pacer.start().await;
    eventually("nothing is left", SOON, async || {
        let left = tokio::task::block_in_place(|| daemon.left());
        (left.is_empty() && world.simulator.left().is_empty()).then_some(())
    })
    .await;
    eventually("the server knows that both are over", SOON, async || {
        let (jobs, runners) = (pacer.api.jobs().await, pacer.api.runners().await);
        let over = jobs.iter().all(|job| job.status == "completed") && runners.iter().all(|it| it.state == "gone");
        (over && runners.len() == 1 && runners[0].name == machine).then_some(())
    })
    .await;
    assert_eq!(world.simulator.audit(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_that_cannot_become_a_runner_says_why_and_ends_by_itself() {
    let test = "a_virtual_machine_that_cannot_become_a_runner_says_why_and_ends_by_itself";
    if let Some(why) = libvirt::unavailable() {
        return engine::not_run(test, &why);
    }
    const ARCHIVE: &str = "actions-runner-linux-x64-2.1.0.tar.gz";
    let files = vec![(format!("/download/v2.1.0/{ARCHIVE}"), b"not what was pinned".to_vec())];
    let releases = Callback::start(Manners { files, ..Manners::default() });
    let pinned = "0".repeat(64);
    // pacer takes the machine down at once, and presses a button that it does not hear.
    let daemon = tokio::task::block_in_place(Libvirtd::with_deaf_guest);
    let world = World::start().await;
    let mut pacer = world.pacer_on_machines(&daemon).prepare();
    pacer.edit_config("stop: 10s", "stop: 120s");
    let runner = format!(
        "kind: start-script, runner: {{ version: \"2.1.0\", sha256: {{ x64: \"{pinned}\" }}, mirror: \"http://{HOST}:{}\" }}",
        releases.address.port()
    );
    pacer.edit_config("kind: start-script", &runner);
    pacer.start().await;
    world.deliver_to(&pacer);
    let job = world.queue(1, Duration::from_secs(1))[0];

    let why = format!("should be {pinned}");
    let machine = eventually("the machine has failed", SOON, async || {
        let runners = pacer.api.runners().await;
        runners.into_iter().find(|it| it.error.as_ref().is_some_and(|error| error.contains(&why))).map(|it| it.name)
    })
    .await;
    // Or another one tries.
    world.simulator.github.cancel(job);
    eventually("the runner has failed, and nothing is left", SOON, async || {
        let runners = pacer.api.runners().await;
        let failed = runners.iter().any(|it| it.name == machine && it.state == "failed");
        let left = tokio::task::block_in_place(|| daemon.left());
        (failed && left.is_empty() && world.simulator.left().is_empty()).then_some(())
    })
    .await;
    assert_eq!(daemon.ending(&machine).as_deref(), Some("shutdown"), "nobody had to end it");

    let whole = pacer.api.get(&format!("/api/v1/runners/{machine}")).await.json();
    let said = format!("its machine could not become a runner: pacer: the checksum of {ARCHIVE} is ");
    assert!(whole["error"].as_str().unwrap().starts_with(&said), "{whole}");
    let events = whole["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "runner.reported");
    let reported: Vec<&str> = events.filter_map(|event| event["detail"].as_str()).collect();
    let [booted, failed] = reported[..] else { panic!("two reports: {whole}") };
    assert_eq!(booted, "booted", "{whole}");
    assert!(failed.starts_with("failed: ") && failed.ends_with(&why), "{whole}");
    assert!(failed.contains(&format!("pacer: downloading {ARCHIVE}\n")), "the tail of its log: {whole}");
    assert_eq!(world.simulator.audit(), Vec::<String>::new());
}
