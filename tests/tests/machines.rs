//! Machines that boot, and fetch their runner's configuration from pacer.

use std::time::Duration;

use pacer_simulator::{
    cloud::{Conditions, MachineState, script},
    faults::Fault,
    github::{Access, NewJob, documented},
};
use pacer_tests::{
    pacer::TestPacer,
    secrets::{Secret, found_in, found_under},
    wait::eventually,
    world::{REPO, World},
};
use reqwest::StatusCode;
use serde_json::Value;

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);

async fn running() -> (World, TestPacer) {
    let world = World::start().await;
    let pacer = world.pacer_with_scripts().start().await;
    world.deliver_to(&pacer);
    (world, pacer)
}

pub(super) fn one_time_token(world: &World, runner: &str) -> String {
    script::value(&world.simulator.cloud.scripts()[runner], "PACER_TOKEN").expect("a script has a token")
}

/// The kinds of events and what they say, oldest first.
async fn story_of(pacer: &TestPacer, runner: &str) -> Vec<(String, String)> {
    let runner = pacer.api.get(&format!("/api/v1/runners/{runner}")).await.json();
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    runner["events"]
        .as_array()
        .expect("a runner has events")
        .iter()
        .map(|event| (text(event, "kind"), text(event, "detail")))
        .collect()
}

pub(super) async fn fetch(pacer: &TestPacer, token: &str) -> pacer_tests::api::Answer {
    pacer.api.with_token(Some(token)).post("/api/runner/config").await
}

#[tokio::test]
async fn a_machine_fetches_its_configuration_once_and_says_how_far_it_is() {
    let (world, pacer) = running().await;
    world.queue(3, SHORT);
    world.settled().await;
    for (runner, _) in world.simulator.cloud.scripts() {
        let story = eventually("its last report is in", SOON, async || {
            let story = story_of(&pacer, &runner).await;
            story.iter().any(|(_, detail)| detail == "job-done").then_some(story)
        })
        .await;
        let at = |kind: &str, detail: &str| {
            let found = story.iter().position(|(k, d)| k == kind && d.contains(detail));
            found.unwrap_or_else(|| panic!("{kind} {detail} is not in {story:?}"))
        };
        let order = [
            at("runner.planned", ""),
            at("runner.reported", "booted"),
            at("runner.configured", "registered at GitHub as"),
            at("runner.reported", "runner-ready"),
            at("runner.reported", "job-done"),
        ];
        assert!(order.is_sorted(), "{story:?}");

        let answer = fetch(&pacer, &one_time_token(&world, &runner)).await;
        assert_eq!(answer.status, StatusCode::GONE, "{}", answer.text);
    }
    let audit = pacer.api.get("/api/v1/audit").await.text;
    assert_eq!(audit.matches("audit.runner.config.refused").count(), 3, "{audit}");
}

#[tokio::test]
async fn a_token_works_once_and_for_one_machine_at_a_time() {
    let (world, pacer) = running().await;
    // Nobody but this test fetches: the machines never boot.
    world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
    world.queue(1, SHORT);
    let runner =
        eventually("a machine is made", SOON, async || world.simulator.cloud.scripts().into_keys().next()).await;
    let token = one_time_token(&world, &runner);
    let (a, b, c, d) =
        tokio::join!(fetch(&pacer, &token), fetch(&pacer, &token), fetch(&pacer, &token), fetch(&pacer, &token));
    let answers = [a, b, c, d];
    let given: Vec<_> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(given.len(), 1, "{answers:?}");
    let refused = [StatusCode::GONE, StatusCode::CONFLICT];
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK || refused.contains(&answer.status)));
    assert_eq!(world.simulator.github.jit_configs().len(), 1, "GitHub was asked once");
    let forged = token.replace(&runner, "pacer-small-zzzzzz");
    assert_eq!(fetch(&pacer, &forged).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_github_that_is_away_when_a_machine_asks_delays_it() {
    let (world, pacer) = running().await;
    world.simulator.github.faults().next("jit", 2, Fault::Status { status: 503 });
    world.queue(2, SHORT);
    world.settled().await;
    assert_eq!(world.simulator.cloud.made().len(), 2, "no machine was given up");
    let _ = pacer;
}

#[tokio::test]
async fn a_machine_that_never_asks_is_replaced_and_leaves_no_registration() {
    let (world, pacer) = running().await;
    world.simulator.cloud.set_conditions(Conditions { dead_before: 1.0, ..Conditions::default() });
    world.queue(1, SHORT);
    eventually("it is counted as lost", SOON, async || {
        (pacer.api.metrics().await.sum("pacer_runners_lost_total", &[]) >= 1.0).then_some(())
    })
    .await;
    assert!(world.simulator.github.jit_configs().is_empty(), "nobody asked for a configuration");
    world.simulator.cloud.set_conditions(Conditions::default());
    world.settled().await;
}

#[tokio::test]
async fn a_machine_of_a_database_that_is_gone_leaves_no_registration() {
    let world = World::start().await;
    let mut pacer = world.pacer_with_scripts().start().await;
    world.deliver_to(&pacer);
    // Nobody but this test fetches: the machines never boot.
    world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
    world.queue(1, SHORT);
    let runner =
        eventually("a machine is made", SOON, async || world.simulator.cloud.scripts().into_keys().next()).await;
    let token = one_time_token(&world, &runner);
    assert_eq!(fetch(&pacer, &token).await.status, StatusCode::OK);
    let registered = || world.simulator.github.runners().iter().any(|one| one.name == runner);
    assert!(registered());

    pacer.kill();
    for file in ["pacer.db", "pacer.db-wal", "pacer.db-shm"] {
        // Not all of them are always there.
        let _ = std::fs::remove_file(pacer.folder().join(file));
    }
    pacer.start().await;
    world.simulator.cloud.vanish(&runner);
    // As it does when the first answer did not reach it.
    assert_eq!(fetch(&pacer, &token).await.status, StatusCode::GONE);
    eventually("its registration is gone", SOON, async || (!registered()).then_some(())).await;
}

#[tokio::test]
async fn killed_while_machines_boot_it_hands_out_what_they_ask_for_after_the_restart() {
    let world = World::with_seed(11).await;
    let mut pacer = world.pacer_with_scripts().prepare();
    world.simulator.cloud.set_conditions(Conditions { boot_ms: (0, 1_500), ..Conditions::default() });
    for (round, ms) in [60u64, 200, 450, 900, 1_300].into_iter().enumerate() {
        pacer.spawn();
        pacer.alive().await;
        world.deliver_to(&pacer);
        world.queue(4 + round, SHORT);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        pacer.kill();
    }
    pacer.start().await;
    world.settled().await;
}

#[tokio::test]
async fn neither_the_token_nor_the_configuration_is_written_anywhere() {
    let world = World::start().await;
    let pacer = world.pacer_with_scripts().section("telemetry: { log: \"trace,hyper=debug,h2=info\" }").start().await;
    world.deliver_to(&pacer);
    world.simulator.cloud.faults().next("create", 1, Fault::Garbage);
    world.queue(3, SHORT);
    world.settled().await;
    let scripts = world.simulator.cloud.scripts();
    for runner in scripts.keys() {
        assert_eq!(fetch(&pacer, &one_time_token(&world, runner)).await.status, StatusCode::GONE);
    }
    let mut said = String::new();
    for path in ["/api/v1/jobs", "/api/v1/runners", "/api/v1/audit", "/metrics", "/runners", "/jobs"] {
        said.push_str(&pacer.api.get(path).await.text);
    }
    let jit_configs = world.simulator.github.jit_configs();
    assert!(jit_configs.len() >= 3 && scripts.len() >= 3, "there is something to look for");
    let mut secrets: Vec<Secret> =
        jit_configs.iter().map(|config| Secret::new("a runner's configuration", config)).collect();
    secrets.extend(scripts.keys().map(|runner| Secret::new("a one-time token", one_time_token(&world, runner))));
    assert_eq!(found_in(said.as_bytes(), &secrets), Vec::<String>::new());
    let own = ["config.yaml", "gh-app.pem"].map(|name| pacer.folder().join(name));
    assert_eq!(found_under(pacer.folder(), &own, &secrets), Vec::<String>::new());
}

/// The machine that a job runs on, once it does.
async fn running_machine(pacer: &TestPacer) -> String {
    eventually("the job runs", SOON, async || {
        let jobs = pacer.api.get("/api/v1/jobs?status=running").await.json();
        jobs["items"][0]["runner"].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_machine_that_is_taken_away_is_replaced_by_one_that_stays() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
    world.queue(1, SHORT);
    let first = eventually("a machine boots", SOON, async || world.simulator.cloud.machines().into_iter().next()).await;
    assert!(!first.tags.contains_key("market"), "{:?}", first.tags);
    world.simulator.cloud.set_conditions(Conditions { boot_ms: (800, 801), ..Conditions::default() });
    world.simulator.cloud.interrupt(&first.name);
    let second = eventually("another one does", SOON, async || {
        world.simulator.cloud.machines().into_iter().find(|machine| machine.name != first.name)
    })
    .await;
    assert_eq!(second.tags.get("market").map(String::as_str), Some("on-demand"));
    world.settled().await;
    let lost = pacer.api.metrics().await.sum("pacer_runners_lost_total", &[("reason", "interrupted")]);
    assert!((lost - 1.0).abs() < f64::EPSILON, "{lost}");
}

#[tokio::test]
async fn a_job_that_lost_its_machine_is_run_again_once_where_the_app_may() {
    for may in [true, false] {
        let world = World::start().await;
        let mut permissions = documented();
        if may {
            permissions.insert("actions".to_owned(), Access::Write);
        }
        world.simulator.github.grant("octocat", permissions);
        let pacer = world.pacer().start().await;
        world.deliver_to(&pacer);
        let id = world.queue(1, Duration::from_secs(600))[0];
        let machine = running_machine(&pacer).await;
        world.simulator.cloud.interrupt(&machine);
        let job = eventually("GitHub has concluded it, and pacer has asked", SOON, async || {
            let job = pacer.api.get(&format!("/api/v1/jobs/{id}-1")).await.json();
            let asked = job["events"].as_array()?.iter().any(|event| event["kind"] == "job.rerun");
            let refused = job["reason"].as_str().is_some_and(|reason| reason.contains("actions:write"));
            (asked && (may || refused)).then_some(job)
        })
        .await;
        assert_eq!(job["status"], "completed", "{job}");
        if !may {
            assert_eq!(world.simulator.github.jobs().len(), 1);
            continue;
        }
        let again = eventually("its second attempt runs", SOON, async || {
            let jobs = pacer.api.get("/api/v1/jobs?status=running").await.json();
            jobs["items"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        assert!(again.ends_with("-2"), "{again}");
        // Lost once more, it is left to people.
        world.simulator.cloud.interrupt(&running_machine(&pacer).await);
        eventually("that is over too", SOON, async || {
            let jobs = pacer.api.get("/api/v1/jobs?status=completed").await.json();
            (jobs["items"].as_array()?.len() == 2).then_some(())
        })
        .await;
        assert_eq!(world.simulator.github.jobs().len(), 2, "one job, and one more attempt");
    }
}

#[tokio::test]
async fn a_lost_job_waits_for_the_rest_of_its_run_even_over_a_restart() {
    let world = World::start().await;
    let mut permissions = documented();
    permissions.insert("actions".to_owned(), Access::Write);
    world.simulator.github.grant("octocat", permissions);
    let mut pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    let id = world.queue(1, Duration::from_secs(600))[0];
    let machine = running_machine(&pacer).await;
    let rest = NewJob { beside: Some(id), ..NewJob::new(REPO, &["self-hosted"], Duration::from_secs(600)) };
    world.simulator.github.queue(rest);
    let beside = eventually("the other job of its run runs", SOON, async || {
        world
            .simulator
            .cloud
            .machines()
            .into_iter()
            .find(|one| one.name != machine && one.state == MachineState::Running)
    })
    .await;
    world.simulator.cloud.interrupt(&machine);
    let reason = async |pacer: &TestPacer, words: &str| {
        eventually(&format!("the job says `{words}`"), SOON, async || {
            let job = pacer.api.get(&format!("/api/v1/jobs/{id}-1")).await.json();
            job["reason"].as_str()?.contains(words).then_some(())
        })
        .await;
    };
    reason(&pacer, "as soon as the rest of its run is over").await;
    pacer.kill();
    pacer.start().await;
    assert_eq!(world.simulator.github.jobs().len(), 2, "nothing is run again yet");

    world.simulator.cloud.interrupt(&beside.name);
    let stays = eventually("the lost job runs again, on a machine that stays", SOON, async || {
        let known = [&machine, &beside.name];
        world.simulator.cloud.machines().into_iter().find(|one| !known.contains(&&one.name))
    })
    .await;
    assert_eq!(stays.tags.get("market").map(String::as_str), Some("on-demand"));
}

#[tokio::test]
async fn what_a_machine_cost_is_kept_and_shown() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    let id = world.queue(1, SHORT)[0];
    world.settled().await;
    let runner = eventually("its runner is over", SOON, async || {
        let runners = pacer.api.get("/api/v1/runners").await.json();
        let runner = runners["items"][0].clone();
        (runner["state"] == "gone").then_some(runner)
    })
    .await;
    // The small cloud takes 0.042 EUR an hour, and a minute at least.
    assert_eq!(runner["cost"], serde_json::json!({ "micros_per_hour": 42_000, "micros": 700, "currency": "EUR" }));
    let page = pacer.api.get(&format!("/jobs/{id}-1")).await.text;
    assert!(page.contains("0.0007 EUR"), "the job's page says so");
    let metrics = pacer.api.metrics().await;
    assert!(metrics.sum("pacer_cost_micros_total", &[("currency", "EUR")]) >= 700.0);
}
