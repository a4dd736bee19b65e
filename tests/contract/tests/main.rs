//! Every backend that comes with pacer, put through the contract on its real engine.
//!
//! One program for all of them, so that it is linked once. `ENGINE=docker` makes one of them alone.

mod subjects;

use pacer_contract::Subject;
use pacer_tests::{binaries, engine::not_run};
use subjects::{containers::Containers, incus::Incus};

/// Runs a subject, says what came of it, and fails with what failed.
async fn passes(subject: Subject) {
    let report = pacer_contract::run(subject).await.expect("the component can be put to the test");
    eprintln!("{report}");
    let failures = report.failures();
    assert!(failures.is_empty(), "{} checks failed:\n{}", failures.len(), failures.join("\n"));
}

/// Whether this engine is the one that is wanted.
fn wanted(engine: &str) -> bool {
    binaries::variable("ENGINE").is_none_or(|one| one == engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_keeps_the_contract() {
    if !wanted("simulated") {
        return;
    }
    let cloud = subjects::simulated::Cloud::start().await;
    passes(cloud.subject()).await;
    cloud.stop().await;
}

/// Docker and Podman speak almost the same, and differ where backends break.
async fn containers_keep_the_contract(name: &'static str, script: &str) {
    if !wanted(name) {
        return;
    }
    match Containers::start(name, script) {
        Ok(containers) => passes(containers.subject()).await,
        Err(why) => not_run(&format!("{name}_keeps_the_contract"), &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_the_contract() {
    containers_keep_the_contract("docker", "dockerd.sh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_keeps_the_contract() {
    containers_keep_the_contract("podman", "podman.sh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incus_keeps_the_contract() {
    if !wanted("incus") {
        return;
    }
    match Incus::start() {
        Ok(incus) => passes(incus.subject()).await,
        Err(why) => not_run("incus_keeps_the_contract", &why),
    }
}
