//! The start script against the server that rendered it: in a container that stands for the machine, with the
//! simulator's runner in place of GitHub's. What the script does by itself is in `start_script.rs`.

use std::time::Duration;

use pacer_simulator::{
    cloud::{Conditions, script},
    faults::Fault,
};
use pacer_tests::{
    engine::{self, Engine},
    machine::{Callback, Ended, Machine, Manners, System, archive},
    pacer::TestPacer,
    wait::{SOON, eventually},
    world::{World, runner_script},
};
use serde_json::Value;

/// The simulator's runner.
const RUN: &str = "#!/bin/sh\nexec sh /runner.sh\n";

const CALLBACK: &str = "kind: start-script";

/// One job, and a machine that never starts by itself: a container is it.
struct Stage {
    world: World,
    pacer: TestPacer,
}

impl Stage {
    async fn new(bootstrap: &str) -> Self {
        let world = World::start().await;
        world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
        let mut pacer = world.pacer_with_scripts().prepare();
        pacer.edit_config(CALLBACK, bootstrap);
        pacer.start().await;
        world.deliver_to(&pacer);
        world.queue(1, Duration::from_millis(300));
        Self { world, pacer }
    }

    /// The machine's name and its script.
    async fn rendered(&self) -> (String, String) {
        eventually("a machine is made", SOON, async || self.world.simulator.cloud.scripts().into_iter().next()).await
    }

    /// Boots the machine, waits until it is off, and gives what pacer has of its runner in the end.
    async fn run(&self, engine: &Engine, machine: impl FnOnce(Machine) -> Machine) -> (Ended, Value) {
        let (name, script) = self.rendered().await;
        let machine = machine(Machine { baked: Some(RUN.to_owned()), ..Machine::new(&script) });
        let ended = tokio::task::block_in_place(|| machine.run(engine, &name));
        assert_eq!(ended.file("power"), "systemctl poweroff\n", "{}", ended.console);
        let runner = eventually("pacer knows its end", SOON, async || {
            let runner = self.pacer.api.get(&format!("/api/v1/runners/{name}")).await.json();
            let is_over = matches!(runner["state"].as_str(), Some("gone" | "failed"));
            is_over.then_some(runner)
        })
        .await;
        (ended, runner)
    }
}

/// What a machine reported, oldest first, and the whole of the last.
fn reported(runner: &Value) -> (Vec<&str>, &str) {
    let events = runner["events"].as_array().expect("a runner has events");
    let reported = events.iter().filter(|event| event["kind"] == "runner.reported");
    let details: Vec<&str> = reported.filter_map(|event| event["detail"].as_str()).collect();
    let phases = details.iter().map(|detail| detail.split(':').next().unwrap_or_default()).collect();
    (phases, details.last().copied().unwrap_or_default())
}

fn with_image(test: &str) -> Option<Engine> {
    if let Some(why) = engine::unavailable() {
        engine::not_run(test, &why);
        return None;
    }
    let engine = Engine::start();
    engine.build_runner_image(&runner_script());
    Some(engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_becomes_a_runner_does_its_job_and_powers_off() {
    let test = "a_machine_becomes_a_runner_does_its_job_and_powers_off";
    let Some(engine) = with_image(test) else { return };
    for programs in [&[][..], &["curl"], &["wget"]] {
        let lacking = System::Busybox.lacks(programs);
        if !lacking.is_empty() {
            engine::not_run(test, &format!("this host has no {}", lacking.join(", ")));
            continue;
        }
        let stage = Stage::new(CALLBACK).await;
        // What GitHub has to be asked again for only takes longer.
        stage.world.simulator.github.faults().next("jit", 2, Fault::Status { status: 503 });
        let (ended, runner) = stage.run(&engine, |it| Machine { programs: programs.to_vec(), ..it }).await;
        assert_eq!(reported(&runner).0, ["booted", "runner-ready", "job-done"], "{programs:?}: {}", ended.console);
        assert_eq!(stage.world.simulator.summary().served, 1, "{programs:?}: {}", ended.console);
        let token = script::value(&stage.rendered().await.1, "PACER_TOKEN").unwrap();
        let answer = stage.pacer.api.with_token(Some(&token)).post("/api/runner/config").await;
        assert_eq!(answer.status.as_u16(), 410, "{programs:?}: the token is worthless");
    }

    let stage = Stage::new("kind: start-script, mode: inline").await;
    let (ended, runner) = stage.run(&engine, |it| it).await;
    assert_eq!(reported(&runner).0, Vec::<&str>::new());
    assert_eq!(stage.world.simulator.summary().served, 1, "{}", ended.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_become_a_runner_is_replaced_and_its_reason_is_shown() {
    let test = "a_machine_that_cannot_become_a_runner_is_replaced_and_its_reason_is_shown";
    let Some(engine) = with_image(test) else { return };
    let releases = Callback::start(Manners {
        files: vec![("/download/v2.1.0/actions-runner-linux-x64-2.1.0.tar.gz".to_owned(), archive(RUN))],
        ..Manners::default()
    });
    let stage = Stage::new(CALLBACK).await;
    let wrong = "0".repeat(64);
    let machine = |it: Machine| {
        Machine { baked: None, ..it }
            .assigned("PACER_RELEASES", &releases.url())
            .assigned("PACER_VERSION", "2.1.0")
            .assigned("PACER_SHA256_X64", &wrong)
    };
    let (ended, runner) = stage.run(&engine, machine).await;
    let (phases, last) = reported(&runner);
    assert_eq!(phases, ["booted", "failed"], "{}", ended.console);
    let why = format!("and should be {wrong}");
    let error = runner["error"].as_str().unwrap();
    assert!(last.contains(&why) && error.contains(&why), "{last}\n{error}");
    assert!(error.contains("could not become a runner"), "{error}");
    eventually("another machine is made", SOON, async || {
        (stage.world.simulator.cloud.scripts().len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_token_was_stolen_learns_nothing_and_goes() {
    let Some(engine) = with_image("a_machine_whose_token_was_stolen_learns_nothing_and_goes") else { return };
    let stage = Stage::new(CALLBACK).await;
    let token = script::value(&stage.rendered().await.1, "PACER_TOKEN").unwrap();
    let stolen = stage.pacer.api.with_token(Some(&token)).post("/api/runner/config").await;
    assert_eq!(stolen.status.as_u16(), 200);
    let run = "#!/bin/sh\necho >/out/started\n";
    let (ended, _) = stage.run(&engine, |it| Machine { baked: Some(run.to_owned()), ..it }).await;
    assert!(ended.console.contains("pacer refused the configuration: 410"), "{}", ended.console);
    assert_eq!(ended.file("started"), "");
}
