//! Every backend that comes with pacer, put through the contract and through every scenario on its real engine.
//!
//! One program for all of them, so that it is linked once. `ENGINE=podman` makes one of them alone; without it those run
//! that are quick, and the others are left to `make test-engines`, which runs all of them.

mod addresses;
mod broken;
mod proxy;
mod scenarios;
mod subjects;

use pacer_contract::Subject;
use pacer_tests::{
    binaries,
    engine::{left_out, not_run},
    libvirt::{self, Libvirtd},
};
use scenarios::Place;
use subjects::{containers::Containers, ec2::Moto, hetzner::Hetzner, incus::Incus, libvirt::Libvirt};

/// Runs a subject, says what came of it, and fails with what failed.
async fn passes(subject: Subject) {
    let report = pacer_contract::run(subject).await.expect("the component can be put to the test");
    eprintln!("{report}");
    let failures = report.failures();
    let failures: Vec<String> = failures.iter().map(|(check, why)| format!("{check}: {why}")).collect();
    assert!(failures.is_empty(), "{} checks failed:\n{}", failures.len(), failures.join("\n"));
}

/// What every run does: what takes a minute at most, and the scenarios of one real engine.
const CONTRACTS: [&str; 4] = ["simulated", "docker", "ec2", "hetzner"];
const SCENARIOS: [&str; 2] = ["docker", "hetzner"];

/// Whether this engine is one that is wanted. Says so if it is not and nobody chose.
fn wanted(engine: &str, usual: &[&str], test: &str) -> bool {
    match binaries::variable("ENGINE") {
        Some(one) => one == engine,
        None if usual.contains(&engine) => true,
        None => {
            left_out(&format!("{engine}_{test}"), "it takes longer than every run should");
            false
        }
    }
}

fn keeps_contract(engine: &str) -> bool {
    wanted(engine, &CONTRACTS, "keeps_the_contract")
}

fn goes_through_scenarios(engine: &str) -> bool {
    wanted(engine, &SCENARIOS, "goes_through_every_scenario")
}

/// Puts an engine through every scenario, or says why it cannot be had.
async fn goes_through<P: Place>(engine: &str, place: Result<P, String>) {
    match place {
        Ok(place) => scenarios::goes_through_every_scenario(&place).await,
        Err(why) => not_run(&format!("{engine}_goes_through_every_scenario"), &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_keeps_the_contract() {
    if !keeps_contract("simulated") {
        return;
    }
    let cloud = subjects::simulated::Cloud::start().await;
    passes(cloud.subject()).await;
    cloud.stop().await;
}

/// Docker and Podman speak almost the same, and differ where backends break.
async fn containers_keep_the_contract(name: &'static str, script: &str) {
    if !keeps_contract(name) {
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
    if !keeps_contract("incus") {
        return;
    }
    match Incus::start() {
        Ok(incus) => passes(incus.subject()).await,
        Err(why) => not_run("incus_keeps_the_contract", &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirt_keeps_the_contract() {
    if !keeps_contract("libvirt") {
        return;
    }
    match Libvirt::start() {
        Ok(libvirt) => passes(libvirt.subject()).await,
        Err(why) => not_run("libvirt_keeps_the_contract", &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ec2_keeps_the_contract() {
    if !keeps_contract("ec2") {
        return;
    }
    match Moto::start().await {
        Ok(moto) => passes(moto.subject()).await,
        Err(why) => not_run("ec2_keeps_the_contract", &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ec2_keeps_the_contract_by_fleets() {
    if !wanted("ec2", &CONTRACTS, "keeps_the_contract_by_fleets") {
        return;
    }
    match Moto::start().await {
        Ok(moto) => passes(moto.fleet()).await,
        Err(why) => not_run("ec2_keeps_the_contract_by_fleets", &why),
    }
}

/// On a double, which is quick.
#[tokio::test(flavor = "multi_thread")]
async fn hetzner_keeps_the_contract() {
    if keeps_contract("hetzner") {
        passes(Hetzner::start().await.subject()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hetzner_goes_through_every_scenario() {
    if goes_through_scenarios("hetzner") {
        scenarios::goes_through_every_scenario(&Hetzner::start().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_goes_through_every_scenario() {
    if goes_through_scenarios("docker") {
        goes_through("docker", Containers::start("docker", "dockerd.sh")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_goes_through_every_scenario() {
    if goes_through_scenarios("podman") {
        goes_through("podman", Containers::start("podman", "podman.sh")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incus_goes_through_every_scenario() {
    if goes_through_scenarios("incus") {
        goes_through("incus", Incus::start()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ec2_goes_through_every_scenario() {
    if goes_through_scenarios("ec2") {
        goes_through("ec2", Moto::start().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirt_goes_through_every_scenario() {
    if goes_through_scenarios("libvirt") {
        let daemon = libvirt::unavailable().map_or_else(|| Ok(Libvirtd::with_runner()), Err);
        goes_through("libvirt", daemon).await;
    }
}
