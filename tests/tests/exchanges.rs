//! A machine's exchange of its token for a configuration, cut off between GitHub and the machine: GitHub gives a
//! configuration once, so another runner takes over at once, and only then. No deadline of the pool is near in these
//! stories.

use std::time::Duration;

use pacer_simulator::{cloud::Conditions, faults::Fault};
use pacer_tests::{
    pacer::TestPacer,
    wait::{SOON, eventually},
    world::World,
};
use reqwest::StatusCode;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::machines::{fetch, one_time_token};

const SHORT: Duration = Duration::from_millis(300);
/// Longer than any story takes.
const FOR_EVER: Fault = Fault::Late { ms: 600_000 };

/// What GitHub says of a name that it has registered before.
const TAKEN: &str = "409 Conflict: a runner named";

async fn patient() -> (World, TestPacer) {
    let world = World::start().await;
    let mut pacer = world.pacer_with_scripts().prepare();
    pacer.edit_config("idle: 5s, boot: 20s", "register: 10m, idle: 5s, boot: 1h");
    pacer.start().await;
    world.deliver_to(&pacer);
    (world, pacer)
}

async fn asked_for_a_configuration(world: &World) {
    eventually("GitHub has made a configuration", SOON, async || {
        (!world.simulator.github.jit_configs().is_empty()).then_some(())
    })
    .await;
}

/// The name of the first machine, of which nobody but the test knows that it is up.
async fn stuck_machine(world: &World) -> String {
    world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
    world.queue(1, SHORT);
    let made = async || world.simulator.cloud.scripts().into_keys().next();
    let machine = eventually("a machine is made", SOON, made).await;
    world.simulator.cloud.set_conditions(Conditions::default());
    machine
}

/// The job was done by the second machine, and nothing is left of the first. It was pacer that gave that up, and not the
/// machine that lost its patience.
async fn replaced_once(world: &World, pacer: &TestPacer, why: &str) {
    world.settled().await;
    assert_eq!(world.simulator.cloud.made().len(), 2, "one was replaced");
    assert_eq!(world.simulator.github.jit_configs().len(), 2);
    let runners = pacer.api.get("/api/v1/runners").await.json();
    let errors = runners["items"].as_array().expect("a list").iter().filter_map(|runner| runner["error"].as_str());
    let errors: Vec<&str> = errors.collect();
    assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
}

#[tokio::test]
async fn a_configuration_that_did_not_reach_pacer_costs_its_runner() {
    let (world, pacer) = patient().await;
    world.simulator.github.faults().next("jit", 1, Fault::LostAnswer);
    world.queue(1, SHORT);
    replaced_once(&world, &pacer, TAKEN).await;
}

#[tokio::test]
async fn a_configuration_that_pacer_did_not_live_to_hand_out_costs_its_runner() {
    let (world, mut pacer) = patient().await;
    world.simulator.github.faults().next("jit", 1, FOR_EVER);
    world.queue(1, SHORT);
    asked_for_a_configuration(&world).await;
    pacer.kill();
    pacer.start().await;
    replaced_once(&world, &pacer, TAKEN).await;
}

#[tokio::test]
async fn machines_that_have_not_asked_yet_outlive_a_kill() {
    const JOBS: usize = 4;
    let (world, mut pacer) = patient().await;
    // Longer than pacer is away: on a machine that is busy the kill might come after the first question otherwise.
    world.simulator.cloud.set_conditions(Conditions { boot_ms: (4_000, 4_500), ..Conditions::default() });
    world.queue(JOBS, SHORT);
    eventually("all machines are made", SOON, async || (world.simulator.cloud.scripts().len() == JOBS).then_some(()))
        .await;
    pacer.kill();
    assert!(world.simulator.github.jit_configs().is_empty(), "no machine has asked");
    pacer.start().await;
    world.settled().await;
    assert_eq!(world.simulator.cloud.made().len(), JOBS, "one machine for each job");
}

#[tokio::test]
async fn a_machine_that_hangs_up_while_it_is_registered_is_replaced() {
    let (world, pacer) = patient().await;
    world.simulator.github.faults().next("jit", 1, Fault::Late { ms: 500 });
    let machine = stuck_machine(&world).await;
    let token = one_time_token(&world, &machine);
    let mut connection = TcpStream::connect(pacer.url("").trim_start_matches("http://")).await.expect("pacer listens");
    let request = format!(
        "POST /api/runner/config HTTP/1.1\r\nHost: pacer\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.expect("pacer reads");
    asked_for_a_configuration(&world).await;
    drop(connection);
    replaced_once(&world, &pacer, "did not wait for the configuration").await;
    assert_eq!(fetch(&pacer, &token).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn a_machine_that_asks_again_while_it_is_registered_is_not_registered_twice() {
    let (world, pacer) = patient().await;
    world.simulator.github.faults().next("jit", 1, Fault::Late { ms: 500 });
    let machine = stuck_machine(&world).await;
    let token = one_time_token(&world, &machine);
    let (first, second) = tokio::join!(fetch(&pacer, &token), async {
        asked_for_a_configuration(&world).await;
        fetch(&pacer, &token).await
    });
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::CONFLICT));
    assert_eq!(world.simulator.github.jit_configs().len(), 1);
}
