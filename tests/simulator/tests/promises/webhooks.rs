//! What arrives at the webhook, what the log of deliveries says about it, and what the weather does to it.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::hmac;
use pacer_simulator::github::{self, NewJob, Weather, description::GITHUB};
use reqwest::Method;
use serde_json::{Value, json};

use crate::play::{As, ORG, Play, REPO, Received, SECRET};

fn job() -> NewJob {
    NewJob::new(REPO, &["self-hosted", "Linux"], Duration::ZERO)
}

fn header<'a>(delivery: &'a Received, name: &str) -> &'a str {
    delivery.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Another implementation of HMAC than the simulator's.
fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

#[test]
fn the_other_implementation_agrees_with_githubs_own_example() {
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(signature("It's a Secret to Everybody", b"Hello, World!"), expected);
}

#[tokio::test]
async fn a_job_is_told_from_queued_to_completed_as_github_tells_it() {
    let play = Play::start().await;
    let token = play.token().await;
    let (_, config) = play.jit(&token, "pacer-one", &["self-hosted", "linux"]).await;
    let id = play.simulator.github.queue(job());
    play.simulator.github.connect(&config).expect("it connects").done("failure");

    let received = play.received(3).await;
    let described = GITHUB.operation("GET", "/repos/o/r/actions/jobs/1").expect("an operation");
    let mut told = BTreeMap::new();
    for delivery in &received {
        assert_eq!(header(delivery, "x-hub-signature-256"), signature(SECRET, &delivery.body));
        assert!(header(delivery, "x-hub-signature").starts_with("sha1="), "for receivers of old");
        assert_eq!(header(delivery, "x-github-event"), "workflow_job");
        assert_eq!(header(delivery, "content-type"), "application/json");
        assert_eq!(header(delivery, "x-github-hook-installation-target-id"), "123456");
        assert!(header(delivery, "user-agent").starts_with("GitHub-Hookshot/"));
        assert_eq!(header(delivery, "x-github-delivery").len(), 36);
        assert!((8_000..=12_000).contains(&delivery.body.len()), "{} bytes", delivery.body.len());
        let job = &delivery.payload["workflow_job"];
        assert_eq!(job["id"], id);
        let faults = GITHUB.faults_of_answer(&described, 200, Some(job));
        assert!(faults.is_empty(), "{faults:#?}");
        for key in ["repository", "sender", "installation"] {
            assert!(delivery.payload[key]["id"].is_u64(), "`{key}` is missing");
        }
        told.insert(delivery.payload["action"].as_str().expect("an action").to_owned(), job.clone());
    }
    assert_eq!(told.keys().collect::<Vec<_>>(), ["completed", "in_progress", "queued"]);
    assert_eq!(told["queued"]["runner_name"], Value::Null);
    assert_eq!(told["queued"]["labels"], json!(["self-hosted", "Linux"]), "spelled as in the workflow");
    assert_eq!(told["in_progress"]["runner_name"], "pacer-one");
    assert_eq!(told["completed"]["conclusion"], "failure");
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_held_job_waits_first_and_a_cancelled_one_never_has_a_runner() {
    let play = Play::start().await;
    let held = play.simulator.github.queue(NewJob { waiting: Some(Duration::ZERO), ..job() });
    let received = play.received(2).await;
    let mut actions: Vec<_> = received.iter().map(|told| told.payload["action"].clone()).collect();
    actions.sort_by_key(ToString::to_string);
    assert_eq!(actions, ["queued", "waiting"]);
    play.simulator.github.cancel(held);
    let received = play.received(3).await;
    let last = received.iter().find(|told| told.payload["action"] == "completed").expect("the end is told");
    assert_eq!(last.payload["workflow_job"]["conclusion"], "cancelled");
    assert_eq!(last.payload["workflow_job"]["runner_id"], Value::Null);
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_job_cancelled_while_it_is_held_is_over_for_good() {
    let play = Play::start().await;
    let github = &play.simulator.github;
    let held = github.queue(NewJob { waiting: Some(Duration::from_millis(50)), ..job() });
    github.cancel(held);
    // Held as long and queued later: once this one is free, the other one's time is over, too.
    let later = github.queue(NewJob { waiting: Some(Duration::from_millis(100)), ..job() });
    play.until("the later one is free", |simulator| {
        simulator.github.job(later).is_some_and(|job| job.status == "queued")
    })
    .await;
    let job = github.job(held).expect("a job");
    assert_eq!((job.status, job.conclusion.as_deref()), ("completed", Some("cancelled")));
    play.simulator.stop().await;
}

#[tokio::test]
async fn jobs_of_an_organisation_name_it() {
    let play = Play::start().await;
    play.simulator.github.queue(NewJob { repo: format!("{ORG}/widgets"), ..job() });
    let received = play.received(1).await;
    assert_eq!(received[0].payload["organization"]["login"], ORG);
    assert_eq!(received[0].payload["repository"]["owner"]["type"], "Organization");
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_failed_delivery_is_in_the_log_and_its_redelivery_keeps_the_guid_and_the_bytes() {
    let play = Play::start().await;
    play.answer_next(&[503]);
    play.simulator.github.queue(job());
    let first = play.received(1).await.remove(0);
    play.until("the delivery is logged", |simulator| simulator.github.delivery_log_len() == 1).await;

    let failed = play.get(As::App, "/app/hook/deliveries?status=failure").await.body;
    assert_eq!(failed[0]["status_code"], 503);
    assert_eq!(failed[0]["guid"], header(&first, "x-github-delivery"));
    assert_eq!(failed[0]["redelivery"], false);
    assert_eq!(play.get(As::App, "/app/hook/deliveries?status=success").await.body, json!([]));
    let id = failed[0]["id"].as_u64().expect("an id");
    let detail = play.get(As::App, &format!("/app/hook/deliveries/{id}")).await.body;
    assert_eq!(detail["request"]["payload"], first.payload);
    assert_eq!(detail["request"]["headers"]["X-Hub-Signature-256"], header(&first, "x-hub-signature-256"));

    let again = play.call(As::App, Method::POST, &format!("/app/hook/deliveries/{id}/attempts"), None).await;
    assert_eq!(again.status, 202);
    let second = play.received(2).await.remove(1);
    assert_eq!(header(&second, "x-github-delivery"), header(&first, "x-github-delivery"));
    assert_eq!(second.body, first.body);
    play.until("the redelivery is logged", |simulator| simulator.github.delivery_log_len() == 2).await;
    let newest = play.get(As::App, "/app/hook/deliveries").await.body[0].clone();
    assert_eq!((&newest["status"], &newest["redelivery"]), (&json!("OK"), &json!(true)));
    play.simulator.stop().await;
}

#[tokio::test]
async fn the_log_is_read_page_by_page_from_the_newest() {
    let play = Play::start().await;
    for _ in 0..7 {
        play.simulator.github.queue(job());
    }
    play.until("all are logged", |simulator| simulator.github.delivery_log_len() == 7).await;
    let (mut path, mut ids) = ("/app/hook/deliveries?per_page=3".to_owned(), Vec::new());
    loop {
        let page = play.get(As::App, &path).await;
        ids.extend(page.body.as_array().expect("a page").iter().map(|item| item["id"].as_u64().expect("an id")));
        let Some(link) = page.headers.get("link") else { break };
        let link = link.to_str().expect("a link").split(['<', '>']).nth(1).expect("an address");
        path = link.strip_prefix(&play.simulator.github_url).expect("the server that was asked").to_owned();
    }
    assert_eq!(ids.len(), 7);
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    play.simulator.stop().await;
}

#[tokio::test]
async fn lost_deliveries_are_logged_as_failed_and_forgotten_ones_nowhere() {
    let play = Play::start().await;
    play.simulator.github.set_weather(Weather { lost: 1.0, ..Weather::default() });
    play.simulator.github.queue(job());
    play.until("the loss is logged", |simulator| simulator.github.delivery_log_len() == 1).await;
    let logged = play.get(As::App, "/app/hook/deliveries?status=failure").await.body;
    assert_eq!(logged.as_array().map(Vec::len), Some(1));

    play.simulator.github.set_weather(Weather { forgotten: 1.0, ..Weather::default() });
    play.simulator.github.queue(job());
    play.simulator.github.set_weather(Weather { doubled: 1.0, ..Weather::default() });
    play.simulator.github.queue(job());
    let received = play.received(2).await;
    assert_eq!(header(&received[0], "x-github-delivery"), header(&received[1], "x-github-delivery"), "one, twice");
    play.until("both are logged", |simulator| simulator.github.delivery_log_len() == 3).await;
    play.simulator.stop().await;
}

#[tokio::test]
async fn deliveries_overtake_each_other_when_they_are_delayed_differently() {
    let weather = Weather { delay: Duration::ZERO..Duration::from_millis(300), ..Weather::default() };
    let play = Play::with(github::Settings { weather, ..github::Settings::default() }).await;
    let sent: Vec<u64> = (0..40).map(|_| play.simulator.github.queue(job())).collect();
    let received = play.received(40).await;
    let mut arrived: Vec<u64> =
        received.iter().map(|told| told.payload["workflow_job"]["id"].as_u64().expect("an id")).collect();
    assert_ne!(arrived, sent);
    arrived.sort_unstable();
    assert_eq!(arrived, sent, "and none is lost");
    play.simulator.stop().await;
}

#[tokio::test]
async fn the_weather_changes_over_http() {
    let play = Play::start().await;
    let sky = json!({ "doubled": 1.0, "delay_ms": [1, 5] });
    assert_eq!(
        play.try_call(As::Nobody, Method::POST, "/_sim/weather", Some(&sky)).await.expect("an answer").status,
        200
    );
    play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::ZERO));
    let received = play.received(2).await;
    assert_eq!(received[0].headers["x-github-delivery"], received[1].headers["x-github-delivery"]);
    let sky = json!({ "rain": 1.0 });
    assert_eq!(
        play.try_call(As::Nobody, Method::POST, "/_sim/weather", Some(&sky)).await.expect("an answer").status,
        422
    );
    play.simulator.stop().await;
}
