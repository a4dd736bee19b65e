//! The main job: a job is queued at GitHub, a runner comes up for it, and nothing is left when it is over.

use std::time::Duration;

use pacer_simulator::{
    cloud::Conditions,
    faults::Fault,
    github::{NewJob, Weather},
};
use pacer_tests::{
    pacer::TestPacer,
    wait::eventually,
    world::{REPO, World},
};
use serde_json::Value;

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);

async fn running() -> (World, TestPacer) {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    (world, pacer)
}

/// Every job as the API has it.
async fn jobs(pacer: &TestPacer) -> Vec<Value> {
    let page = pacer.api.get("/api/v1/jobs?limit=200").await.json();
    page["items"].as_array().expect("a page has items").clone()
}

/// What pacer says of its jobs agrees with GitHub, once the last webhook is in.
async fn agrees(world: &World, pacer: &TestPacer) {
    eventually("pacer knows the end of every job", SOON, async || {
        let known = jobs(pacer).await;
        world
            .simulator
            .github
            .jobs()
            .iter()
            .all(|job| {
                let known = known.iter().find(|known| known["github_job_id"] == job.id);
                known.is_some_and(|known| matches!(known["status"].as_str(), Some("completed" | "cancelled")))
            })
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_gets_a_runner_of_its_own_and_leaves_nothing_behind() {
    let (world, pacer) = running().await;
    // Long enough for the cloud's answer to arrive before the runner does.
    world.simulator.cloud.set_conditions(Conditions { boot_ms: (1_000, 1_001), ..Conditions::default() });
    let id = world.queue(1, SHORT)[0];
    world.settled().await;
    agrees(&world, &pacer).await;
    let job = &jobs(&pacer).await[0];
    assert_eq!(job["github_job_id"], id);
    assert_eq!((&job["project"], &job["pool"]), (&"my-app".into(), &"small".into()));
    let runner = job["runner"].as_str().unwrap();
    assert!(runner.starts_with("pacer-"), "{runner}");
    for time in ["queued_at", "claimed_at", "starting_at", "running_at", "completed_at"] {
        assert!(job[time].is_string(), "{time}: {job}");
    }
    let whole = pacer.api.get(&format!("/api/v1/jobs/{}", job["id"].as_str().unwrap())).await.json();
    let kinds: Vec<&str> =
        whole["events"].as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["job.queued", "job.claimed", "job.starting", "job.running", "job.completed", "runner.booting"] {
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
    assert!(whole["explanation"]["headline"].is_string(), "{whole}");

    let metrics = pacer.api.metrics().await;
    for step in ["webhook_commit", "job_create", "job_registered", "job_running"] {
        let name = format!("pacer_{step}_seconds");
        assert!(metrics.sum(&format!("{name}_count"), &[]) >= 1.0, "{name} was not measured");
        assert!(metrics.sum(&format!("{name}_bucket"), &[("le", "+Inf")]) >= 1.0, "{name} has no buckets");
    }
    let shape = |row: &Value, keys: &str| {
        let row = row.as_object().expect("a row is an object");
        for key in keys.split(' ') {
            assert!(row.contains_key(key), "`{key}` is not in {row:?}");
        }
    };
    shape(
        job,
        "id github_job_id run_id run_attempt repo status labels project pool runner reason queued_at claimed_at",
    );
    shape(job, "starting_at running_at completed_at conclusion");
    let runners = pacer.api.get("/api/v1/runners").await.json();
    shape(&runners["items"][0], "name state project pool backend handle job created_at deadline error");
    let backends = pacer.api.get("/api/v1/backends").await.json();
    let backend = &backends["items"][0];
    shape(backend, "name plugin version digest grants health");
    assert_eq!(
        (&backend["name"], &backend["plugin"], &backend["health"]["status"]),
        (&"sim".into(), &"simulated".into(), &"ok".into())
    );
    assert!(backend["digest"].as_str().is_some_and(|digest| digest.len() == 64), "{backend}");
    assert_eq!(backend["grants"][0]["name"], "cloud", "{backend}");
}

#[tokio::test]
async fn lines_of_a_log_in_json_carry_what_they_are_about() {
    let world = World::start().await;
    let pacer = world.pacer().section("telemetry: { log: \"info,pacer=debug\", format: json }").start().await;
    world.deliver_to(&pacer);
    let id = world.queue(1, SHORT)[0];
    world.settled().await;
    agrees(&world, &pacer).await;
    let runner = jobs(&pacer).await[0]["runner"].clone();
    let log = pacer.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let carries = |key: &str, value: &Value| lines.iter().any(|line| line[key] == *value);
    for (key, value) in [("job.id", format!("{id}-1").into()), ("runner.name", runner), ("backend.name", "sim".into())]
    {
        assert!(carries(key, &value), "no line has `{key}` {value}:\n{log}");
    }
    let deliveries = pacer.api.get("/api/v1/deliveries").await.json();
    let guid = &deliveries["items"][0]["guid"];
    assert!(carries("delivery.id", guid), "no line has `delivery.id` {guid}:\n{log}");
    for line in &lines {
        assert!(["timestamp", "level", "target", "message"].iter().all(|key| line[key].is_string()), "{line}");
    }
}

#[tokio::test]
async fn a_backend_whose_engine_went_away_says_so_until_it_is_back() {
    let (world, pacer) = running().await;
    let health = async || pacer.api.get("/api/v1/backends").await.json()["items"][0]["health"].clone();
    world.simulator.cloud.faults().share("list", 1.0, Fault::Status { status: 503 });
    let reason = eventually("it is degraded", SOON, async || {
        let health = health().await;
        (health["status"] == "degraded").then(|| health["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    assert!(reason.contains("503") || reason.contains("unavailable"), "{reason}");
    let ready = pacer.api.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert!(ready.text.contains("backend sim"), "{}", ready.text);
    world.simulator.cloud.faults().clear();
    eventually("it is ok again", SOON, async || (health().await["status"] == "ok").then_some(())).await;
    assert_eq!(pacer.api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_burst_is_served_within_the_cap_with_one_machine_each() {
    let (world, pacer) = running().await;
    world.queue(120, SHORT);
    world.settled().await;
    agrees(&world, &pacer).await;
    assert!(world.simulator.cloud.peak() <= 10, "{} machines at once", world.simulator.cloud.peak());
    assert_eq!(world.simulator.cloud.made().len(), 120);
}

#[tokio::test]
async fn machines_that_die_early_are_replaced_and_the_job_says_why() {
    let (world, pacer) = running().await;
    world.simulator.cloud.set_conditions(Conditions { dead_before: 0.5, ..Conditions::default() });
    world.queue(8, SHORT);
    eventually("a job tells of its lost runner", SOON, async || {
        jobs(&pacer)
            .await
            .iter()
            .any(|job| job["reason"].as_str().is_some_and(|why| why.contains("lost")))
            .then_some(())
    })
    .await;
    world.simulator.cloud.set_conditions(Conditions::default());
    world.settled().await;
    agrees(&world, &pacer).await;
    assert!(pacer.api.metrics().await.sum("pacer_runners_lost_total", &[]) >= 1.0);
}

#[tokio::test]
async fn deliveries_that_are_late_doubled_and_out_of_order_change_nothing() {
    let (world, pacer) = running().await;
    let weather = Weather { doubled: 0.5, delay: Duration::ZERO..Duration::from_secs(2), ..Weather::default() };
    world.simulator.github.set_weather(weather);
    world.queue(25, SHORT);
    world.settled().await;
    agrees(&world, &pacer).await;
}

#[tokio::test]
async fn a_github_and_a_cloud_that_fail_now_and_then_delay_jobs_and_lose_none() {
    let (world, pacer) = running().await;
    let (github, cloud) = (world.simulator.github.faults(), world.simulator.cloud.faults());
    github.next("jit", 1, Fault::LostAnswer);
    github.next("jit", 1, Fault::Status { status: 502 });
    github.next("jit", 1, Fault::RateLimited { retry_after: 1 });
    github.next("token", 1, Fault::Status { status: 500 });
    cloud.next("create", 2, Fault::LostAnswer);
    cloud.next("create", 1, Fault::Garbage);
    cloud.next("create", 2, Fault::Status { status: 507 });
    cloud.next("destroy", 2, Fault::Status { status: 503 });
    cloud.next("list", 1, Fault::Garbage);
    world.queue(12, SHORT);
    world.served().await;
    agrees(&world, &pacer).await;
    eventually("no machine is left", SOON, async || world.simulator.cloud.machines().is_empty().then_some(())).await;
    let audit = world.simulator.audit();
    assert!(audit.is_empty(), "{audit:?}");
}

#[tokio::test]
async fn a_job_that_is_cancelled_in_the_queue_leaves_its_runner_to_the_next() {
    let (world, pacer) = running().await;
    world.simulator.cloud.set_conditions(Conditions { boot_ms: (2_000, 2_001), ..Conditions::default() });
    let id = world.queue(1, SHORT)[0];
    eventually("a machine is made for it", SOON, async || (world.simulator.cloud.machines().len() == 1).then_some(()))
        .await;
    world.simulator.github.cancel(id);
    eventually("the end of the first is known", SOON, async || {
        jobs(&pacer).await.first().is_some_and(|job| job["status"] == "cancelled").then_some(())
    })
    .await;
    world.queue(1, SHORT);
    world.settled().await;
    agrees(&world, &pacer).await;
    assert_eq!(world.simulator.cloud.made().len(), 1, "the second job took the machine of the first");
}

#[tokio::test]
async fn a_job_that_waits_for_approval_costs_nothing_until_it_is_queued() {
    let (world, pacer) = running().await;
    let job = NewJob { waiting: Some(Duration::from_secs(2)), ..NewJob::new(REPO, &["self-hosted"], SHORT) };
    world.simulator.github.queue(job);
    eventually("it is known as waiting", SOON, async || {
        jobs(&pacer).await.first().is_some_and(|job| job["status"] == "waiting").then_some(())
    })
    .await;
    assert_eq!(world.simulator.cloud.made().len(), 0);
    world.settled().await;
}

#[tokio::test]
async fn a_backend_that_cannot_be_used_does_not_hold_up_the_others() {
    let world = World::start().await;
    let backends = format!(
        "{}\n  broken: {{ plugin: unheard-of }}\n  down: {{ plugin: docker, endpoints: {{ engine: \"unix:///nonexistent/engine.sock\" }} }}",
        world.cloud_backend()
    );
    let pacer = world.pacer().backends(&backends).prepare();
    pacer.edit_config(
        "    pools:\n",
        "    pools:\n      - { name: b, backend: broken, labels: [broken] }\n      - { name: d, backend: down, labels: [down], settings: { image: x } }\n",
    );
    let mut pacer = pacer;
    pacer.spawn();
    pacer.alive().await;
    world.deliver_to(&pacer);
    let github = &world.simulator.github;
    let stuck = [
        github.queue(NewJob::new(REPO, &["self-hosted", "broken"], SHORT)),
        github.queue(NewJob::new(REPO, &["self-hosted", "down"], SHORT)),
    ];
    let fine = world.queue(5, SHORT);
    eventually("the jobs of the working backend are over", SOON, async || {
        fine.iter().all(|id| github.job(*id).is_some_and(|job| job.status == "completed")).then_some(())
    })
    .await;
    eventually("the others say why they wait", SOON, async || {
        let known = jobs(&pacer).await;
        let reason =
            |id: u64| known.iter().find(|job| job["github_job_id"] == id)?["reason"].as_str().map(str::to_owned);
        (reason(stuck[0])?.contains("unheard-of") && reason(stuck[1])?.contains("engine")).then_some(())
    })
    .await;
    let ready = pacer.api.get("/readyz").await;
    assert_eq!(ready.status.as_u16(), 503, "{}", ready.text);
    let parts = ready.json()["parts"].as_array().cloned().unwrap_or_default();
    let amiss: Vec<_> = parts.iter().filter(|part| part["ok"] == false).map(|part| part["name"].clone()).collect();
    assert_eq!(amiss, ["backend broken", "backend down"], "{}", ready.text);
    let backends = pacer.api.get("/api/v1/backends").await.json();
    let down =
        &backends["items"].as_array().unwrap().iter().find(|backend| backend["name"] == "down").unwrap()["health"];
    assert_eq!(down["status"], "degraded", "{down}");
    assert!(down["reason"].as_str().is_some_and(|reason| reason.contains("engine")), "{down}");
    for id in stuck {
        github.cancel(id);
    }
}
