//! What becomes of a delivery: its status, its small JSON body, and what is stored.

use pacer_tests::{
    pacer::{TestPacer, WEBHOOK_SECRET},
    wait::SOON,
    webhook::{Delivery, JobPayload, sign},
    world::{REPO, World},
};
use reqwest::Method;
use serde_json::Value;

/// GitHub sends nothing larger; nothing larger is taken.
const LARGEST: usize = 25 * 1024 * 1024;

async fn quiet() -> (World, TestPacer) {
    let world = World::start().await;
    // Its GitHub knows nothing of the jobs that the tests tell of, so no runner ever takes one.
    let pacer = world.pacer().start().await;
    (world, pacer)
}

#[tokio::test]
async fn a_job_goes_through_its_states_whatever_order_the_deliveries_come_in() {
    let (_world, pacer) = quiet().await;
    let job = JobPayload::queued(1001, REPO, &["self-hosted", "my-app"]);

    let answer = job.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((answer.status.as_u16(), answer.result().as_str()), (202, "enqueued"), "{}", answer.text);
    assert_eq!(answer.json()["job"], "1001-1");

    let over =
        job.clone().in_progress("somebody-else").completed("success").signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((over.status.as_u16(), over.result().as_str()), (200, "updated"));
    let late = job.clone().in_progress("somebody-else").signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((late.status.as_u16(), late.result().as_str()), (200, "updated"));
    let again = job.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((again.status.as_u16(), again.result().as_str()), (200, "updated"));

    let jobs = pacer.api.jobs().await;
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].status.as_str(), jobs[0].conclusion.as_deref()), ("completed", Some("success")));
    assert_eq!(jobs[0].runner.as_deref(), Some("somebody-else"));
}

#[tokio::test]
async fn the_end_of_a_job_never_heard_of_is_kept() {
    let (_world, pacer) = quiet().await;
    let payload = JobPayload::queued(1002, REPO, &["self-hosted"]).completed("cancelled");
    let answer = payload.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((answer.status.as_u16(), answer.result().as_str()), (200, "updated"), "{}", answer.text);
    assert_eq!(pacer.api.jobs_where("status=cancelled").await.len(), 1);
}

#[tokio::test]
async fn a_delivery_counts_once_however_often_it_comes() {
    let (_world, pacer) = quiet().await;
    let delivery = JobPayload::queued(1003, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET);
    assert_eq!(delivery.send(&pacer.api).await.result(), "enqueued");
    for _ in 0..3 {
        let again = delivery.send(&pacer.api).await;
        assert_eq!((again.status.as_u16(), again.result().as_str()), (200, "duplicate"));
    }
    assert_eq!(pacer.api.jobs().await.len(), 1);
    let metrics = pacer.api.metrics().await;
    assert_eq!(metrics.sum("pacer_webhook_deliveries_total", &[("result", "enqueued")]), 1.0);
    assert_eq!(metrics.sum("pacer_webhook_deliveries_total", &[("result", "duplicate")]), 3.0);
}

#[tokio::test]
async fn a_job_that_is_not_ours_is_dropped_with_the_reason() {
    let (_world, pacer) = quiet().await;
    let hosted = JobPayload::queued(1004, REPO, &["ubuntu-latest"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((hosted.status.as_u16(), hosted.result().as_str()), (200, "ignored"));
    assert!(hosted.text.contains("self-hosted"), "{}", hosted.text);

    let stranger =
        JobPayload::queued(1005, "somebody/else", &["self-hosted"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((stranger.status.as_u16(), stranger.result().as_str()), (200, "ignored"));
    assert!(stranger.text.contains("somebody/else"), "{}", stranger.text);

    let star = Delivery::signed("star", r#"{"action":"created"}"#, WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((star.status.as_u16(), star.result().as_str()), (200, "ignored"));

    let mut unknown = JobPayload::queued(1006, REPO, &["self-hosted"]);
    unknown.action = "levitating".into();
    let unknown = unknown.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((unknown.status.as_u16(), unknown.result().as_str()), (200, "ignored"), "{}", unknown.text);

    assert!(pacer.api.jobs().await.is_empty());
    let deliveries = pacer.api.get("/api/v1/deliveries").await.json();
    let why: Vec<_> = deliveries["items"].as_array().unwrap().iter().map(|row| row["reason"].clone()).collect();
    assert!(why.len() == 3 && why.iter().all(Value::is_string), "each is listed with the reason: {deliveries}");
    assert!(why[1].as_str().unwrap().contains("somebody/else"), "{deliveries}");
}

#[tokio::test]
async fn a_delivery_that_was_ignored_counts_when_it_is_sent_again_to_a_server_that_wants_it() {
    let world = World::start().await;
    let mut pacer = world.pacer().prepare();
    pacer.edit_config("repos: [octocat/hello-world]", "repos: [octocat/another]");
    pacer.start().await;
    let delivery = JobPayload::queued(1010, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET);
    assert_eq!(delivery.send(&pacer.api).await.result(), "ignored");
    pacer.stop(SOON).await;
    pacer.edit_config("octocat/another", "octocat/another, octocat/hello-world");
    pacer.start().await;
    assert_eq!(delivery.send(&pacer.api).await.result(), "enqueued", "as `Redeliver` at GitHub does");
    assert_eq!(delivery.send(&pacer.api).await.result(), "duplicate");
    assert_eq!(pacer.api.jobs().await.len(), 1);
}

#[tokio::test]
async fn a_job_that_no_pool_fits_is_kept_and_audited_once() {
    let (_world, pacer) = quiet().await;
    let payload = JobPayload::queued(1007, REPO, &["self-hosted", "gpu"]);
    let answer = payload.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((answer.status.as_u16(), answer.result().as_str()), (202, "unmatched"), "{}", answer.text);
    assert!(answer.text.contains("gpu"), "the missing label is named: {}", answer.text);
    payload.signed(WEBHOOK_SECRET).send(&pacer.api).await;
    let jobs = pacer.api.jobs().await;
    assert_eq!((jobs.len(), jobs[0].status.as_str()), (1, "unmatched"));
    assert!(jobs[0].reason.as_deref().unwrap_or_default().contains("gpu"));
    assert_eq!(pacer.log().matches("audit.job.no_pool_match").count(), 1, "{}", pacer.log());
}

#[tokio::test]
async fn a_ping_is_answered() {
    let (_world, pacer) = quiet().await;
    let ping = Delivery::signed("ping", r#"{"zen":"Design for failure.","hook_id":1}"#, WEBHOOK_SECRET);
    let answer = ping.send(&pacer.api).await;
    assert_eq!((answer.status.as_u16(), answer.result().as_str()), (200, "pong"));
}

#[tokio::test]
async fn either_of_two_secrets_verifies_while_they_are_changed() {
    let world = World::start().await;
    let secrets = ["the-old-secret-0123456789", "the-new-secret-0123456789"];
    let pacer = world.pacer().webhook_secrets(&secrets).start().await;
    for (id, secret) in (2000..).zip(secrets) {
        let answer = JobPayload::queued(id, REPO, &["ubuntu-latest"]).signed(secret).send(&pacer.api).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let answer = JobPayload::queued(2009, REPO, &["ubuntu-latest"]).signed("neither-of-them").send(&pacer.api).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn what_is_not_signed_right_is_refused_before_it_is_read() {
    let (_world, pacer) = quiet().await;
    let good = JobPayload::queued(3001, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET);
    let hex = sign(WEBHOOK_SECRET, &good.body).trim_start_matches("sha256=").to_owned();
    let sha1 = format!("sha1={}", &hex[..40]);
    let upper = format!("sha256={}0", hex.to_uppercase());
    let wrong = sign("another secret", &good.body);
    let truncated = format!("sha256={}", &hex[..62]);
    for signature in [None, Some(""), Some(hex.as_str()), Some(&*sha1), Some(&*upper), Some(&*wrong), Some(&*truncated)]
    {
        let answer = good.clone().with_signature(signature).send(&pacer.api).await;
        assert_eq!(answer.status, 401, "{signature:?}: {}", answer.text);
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains("X-Hub-Signature-256") || error.contains("github.webhook_secret"), "{}", answer.text);
    }
    // Only the old header, right as it may be, is not enough.
    let answer =
        good.clone().with_signature(None).request(&pacer.api).header("x-hub-signature", &sha1).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    // One byte of the body is missing.
    let mut short = good.clone();
    short.body.pop();
    assert_eq!(short.send(&pacer.api).await.status, 401);
    assert!(pacer.api.jobs().await.is_empty());
    // And the same bytes with their own signature are welcome.
    assert_eq!(good.send(&pacer.api).await.result(), "enqueued");
}

#[tokio::test]
async fn what_is_not_a_payload_gets_400_and_says_so() {
    let (_world, pacer) = quiet().await;
    let nested = format!("{{\"action\":\"queued\",\"workflow_job\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let mut out_of_range = JobPayload::queued(1, REPO, &["self-hosted"]).json();
    out_of_range["workflow_job"]["id"] = serde_json::from_str("99999999999999999999999").unwrap();
    let mut negative_attempt = JobPayload::queued(1, REPO, &["self-hosted"]).json();
    negative_attempt["workflow_job"]["run_attempt"] = serde_json::from_str("4294967297").unwrap();
    let mut other_repository = JobPayload::queued(1, REPO, &["self-hosted"]).json();
    other_repository["repository"]["full_name"] = "no slash".into();
    for (what, body) in [
        ("nothing", String::new()),
        ("not JSON", "action=queued".into()),
        ("half of it", r#"{"action":"queued","workflow_job":{"id":"#.into()),
        ("another shape", r#"{"action":"queued","workflow_job":"yes"}"#.into()),
        ("a list", "[]".into()),
        ("absurd nesting", nested),
        ("an id out of range", out_of_range.to_string()),
        ("an attempt out of range", negative_attempt.to_string()),
        ("a repository that cannot be one", other_repository.to_string()),
        ("not UTF-8 text", String::from_utf8_lossy(b"\xff\xfe").into_owned()),
    ] {
        let answer = Delivery::signed("workflow_job", body, WEBHOOK_SECRET).send(&pacer.api).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}: {}", answer.text);
    }
    assert!(pacer.api.jobs().await.is_empty());
}

#[tokio::test]
async fn absurd_labels_are_kept_within_bounds_and_harm_nobody() {
    let (_world, pacer) = quiet().await;
    let many: Vec<String> = (0..10_000).map(|number| format!("label-{number}")).collect();
    let mut labels: Vec<&str> = many.iter().map(String::as_str).collect();
    labels.push("self-hosted");
    let answer = JobPayload::queued(4001, REPO, &labels).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("more than 100 labels"), "{}", answer.text);
    assert!(answer.text.len() < 10_000, "the answer does not repeat them all: {} bytes", answer.text.len());

    let odd = ["self-hosted", "\u{0}\u{1b}[31m", "\u{202e}x", "---", ""];
    let answer = JobPayload::queued(4002, REPO, &odd).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("control character"), "{}", answer.text);
    let odd = ["self-hosted", "\u{202e}x", "---"];
    let answer = JobPayload::queued(4004, REPO, &odd).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!((answer.status.as_u16(), answer.result().as_str()), (202, "unmatched"), "{}", answer.text);
    assert!(!answer.text.contains('\u{202e}'), "{}", answer.text);
    assert!(!pacer.log().contains('\u{1b}'), "control characters do not reach a terminal through the log");

    let fine = JobPayload::queued(4003, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(fine.result(), "enqueued");
}

#[tokio::test]
async fn a_job_without_an_installation_is_taken() {
    let (_world, pacer) = quiet().await;
    let payload = JobPayload { installation: None, ..JobPayload::queued(5001, REPO, &["self-hosted"]) };
    assert_eq!(payload.signed(WEBHOOK_SECRET).send(&pacer.api).await.result(), "enqueued");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_the_length_it_states_or_as_soon_as_it_is_passed() {
    let (_world, pacer) = quiet().await;
    let large = Delivery::signed("workflow_job", vec![b' '; LARGEST + 1], WEBHOOK_SECRET);
    // A refused body may be cut off while it is sent; the answer counts when there is one.
    if let Ok(answer) = large.try_send(&pacer.api).await {
        assert_eq!(answer.status, 413, "{}", answer.text);
    }
    let stated = pacer_tests::raw::request(
        pacer.api.base.trim_start_matches("http://"),
        &format!("POST /api/webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", LARGEST + 1),
    )
    .await;
    assert!(stated.starts_with("HTTP/1.1 413"), "{stated}");
    let just_fits = Delivery::signed("workflow_job", vec![b' '; LARGEST], WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(just_fits.status, 400, "it is read, and it is no payload: {}", just_fits.text);
}

#[tokio::test]
async fn other_methods_have_no_meaning_there() {
    let (_world, pacer) = quiet().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = pacer.api.send(pacer.api.request(method.clone(), "/api/webhook")).await.unwrap();
        assert_eq!(answer.status, 405, "{method}");
    }
}
