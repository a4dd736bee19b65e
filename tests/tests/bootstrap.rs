//! The start script against the server that rendered it: in a container that stands for the machine, with the
//! simulator's runner in place of GitHub's. What the script does by itself is in `start_script.rs`.

use std::{path::Path, time::Duration};

use pacer_simulator::{
    cloud::{Conditions, script},
    faults::Fault,
};
use pacer_tests::{
    binaries,
    engine::{self, Engine},
    machine::{Callback, Ended, Machine, Manners, OFF, System, archive, powers_off},
    pacer::TestPacer,
    wait::{SOON, eventually},
    world::{World, runner_script},
};
use serde_json::Value;

/// The simulator's runner.
const RUN: &str = "#!/bin/sh\nexec sh /runner.sh\n";

/// Debian's cloud-init on what the machine was given as user-data, with the parts of it that a document of pacer's uses. What
/// it runs at a boot are these four.
const CLOUD_INIT: &str = r#"
PATH=$PATH:/sbin
export PATH PYTHONPATH=/cloud-init/usr/lib/python3/dist-packages
seed=/var/lib/cloud/seed/nocloud
mkdir -p /etc/cloud $seed
echo 'instance-id: i-1' >$seed/meta-data
cat >/etc/cloud/cloud.cfg <<'END'
datasource_list: [NoCloud]
datasource: { NoCloud: { fs_label: null } }
network: { config: disabled }
cloud_init_modules: [bootcmd, write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
system_info: { distro: debian, paths: { cloud_dir: /var/lib/cloud/, run_dir: /run/cloud-init/ } }
END
cloud_init() { python3 -m cloudinit.cmd.main "$@"; }
cp $seed/user-data /tmp/user-data
cloud_init schema --config-file /tmp/user-data >/out/schema 2>&1
rm /tmp/user-data
cloud_init init --local && cloud_init init && cloud_init modules --mode config && cloud_init modules --mode final
"#;

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
        (ended, self.over(&name).await)
    }

    /// What pacer has of the machine's runner in the end.
    async fn over(&self, name: &str) -> Value {
        eventually("pacer knows its end", SOON, async || {
            let runner = self.pacer.api.get(&format!("/api/v1/runners/{name}")).await.json();
            let is_over = matches!(runner["state"].as_str(), Some("gone" | "failed"));
            is_over.then_some(runner)
        })
        .await
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

#[tokio::test(flavor = "multi_thread")]
async fn cloud_init_makes_a_runner_of_the_document_that_it_is_given() {
    let test = "cloud_init_makes_a_runner_of_the_document_that_it_is_given";
    let tree = binaries::target_folder().join("engines/cloud-init");
    if !tree.is_dir() {
        return engine::not_run(test, "there is no cloud-init; `tests/engines/cloud-init.sh fetch` downloads one");
    }
    let lacking = System::Host.lacks(&[]);
    if !lacking.is_empty() || !Path::new("/usr/bin/python3").exists() {
        return engine::not_run(test, &format!("this host has no /usr/bin/python3, or no {}", lacking.join(", ")));
    }
    let Some(engine) = with_image(test) else { return };
    let stage = Stage::new("kind: cloud-init").await;
    let (name, document) = stage.rendered().await;
    assert!(document.starts_with("#cloud-config\n"), "{document}");
    let volume = format!("--volume={}:/cloud-init:ro", tree.display());
    let seed = "/var/lib/cloud/seed/nocloud";
    let machine = Machine {
        script: CLOUD_INIT.to_owned(),
        system: System::Host,
        programs: Vec::new(),
        without: Vec::new(),
        stubs: vec![("systemctl", powers_off(OFF))],
        prelude: format!("mkdir -p {seed}\ncat >{seed}/user-data <<'USER-DATA'\n{document}USER-DATA"),
        epilogue: "cp /var/log/cloud-init.log /out/log; chmod 644 /out/log".to_owned(),
        baked: Some(RUN.to_owned()),
        arguments: vec![volume.leak()],
    };
    let ended = tokio::task::block_in_place(|| machine.run(&engine, &name));
    let console = format!("{}\n{}", ended.console, ended.file("log"));
    assert_eq!(ended.file("schema").trim(), "Valid cloud-config: /tmp/user-data", "{console}");
    assert_eq!(
        (ended.file("power").as_str(), ended.file("by").as_str()),
        ("systemctl poweroff\n", "script\n"),
        "{console}"
    );
    let runner = stage.over(&name).await;
    assert_eq!(reported(&runner).0, ["booted", "runner-ready", "job-done"], "{console}");
    assert_eq!(stage.world.simulator.summary().served, 1, "{console}");
}
