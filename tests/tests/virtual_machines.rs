//! The main job on real virtual machines: each boots, runs the start script from its seed, fetches its configuration
//! from pacer, does its job, and powers off.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use pacer_tests::{
    engine,
    libvirt::{self, BASE, Libvirtd},
    wait::eventually,
    world::{World, project, runner_script},
};

/// A machine that is emulated in software boots for some seconds; on a busy host for many.
const SOON: Duration = Duration::from_secs(150);

/// The simulator's runner, told where the host is in QEMU's own network.
const RUN: &str = "#!/bin/sh
config=$(echo \"$ACTIONS_RUNNER_INPUT_JITCONFIG\" | base64 -d | sed 's/127\\.0\\.0\\.1/10.0.2.2/')
ACTIONS_RUNNER_INPUT_JITCONFIG=$(echo \"$config\" | base64 | tr -d '\\n')
export ACTIONS_RUNNER_INPUT_JITCONFIG
exec sh /runner.sh
";

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_boots_fetches_its_configuration_does_its_job_and_is_gone() {
    let test = "a_virtual_machine_boots_fetches_its_configuration_does_its_job_and_is_gone";
    if let Some(why) = libvirt::unavailable() {
        return engine::not_run(test, &why);
    }
    let files = tempfile::tempdir().unwrap();
    let runner = files.path().join("opt/actions-runner");
    fs::create_dir_all(&runner).unwrap();
    fs::write(runner.join("run.sh"), RUN).unwrap();
    fs::set_permissions(runner.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(runner_script(), files.path().join("runner.sh")).unwrap();
    let daemon = tokio::task::block_in_place(|| Libvirtd::start(files.path()));

    let world = World::start().await;
    let backend = format!(
        "  vm: {{ plugin: libvirt, poll: 1s, endpoints: {{ libvirt: \"{}\" }}, settings: {{ uri: \"qemu:///session\", \
         cpu_overcommit: 100, memory_reserve: 1m }} }}",
        daemon.endpoint()
    );
    let settings = serde_json::json!({
        "base_image": BASE, "network": "none", "cpus": 1, "memory": "192m", "domain_type": "qemu",
        "template": daemon.template(),
    });
    let project = project("vm", &settings.to_string())
        .replace("boot: 20s", "boot: 120s, create: 60s")
        .replace("        settings:", "        bootstrap: { kind: start-script }\n        settings:");
    let mut pacer = world.bare().backends(&backend).projects(&project).prepare();
    // QEMU's own network leads from there to this host's loopback interface.
    let here = pacer.url("");
    pacer.edit_config(
        &format!("public_url: \"{here}\""),
        &format!("public_url: \"{}\"", here.replace("127.0.0.1", "10.0.2.2")),
    );
    pacer.start().await;
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
