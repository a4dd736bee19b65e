//! The client against a small GitHub in this process, one that says exactly what a test wants it to.

mod reach;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ::http::{HeaderMap, StatusCode};
use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use axum::{Router, body::Bytes, extract::Request, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::join_all;
use http_body_util::BodyExt;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    clock::Clock,
    config::{self, RunnerGroup},
    fleet::job::Phase,
};

const START: i64 = 1_800_000_000;
const JIT_SECRET: &str = "eyJqaXQiOiJzZWNyZXQtY29uZmlnIn0=";

#[derive(Debug)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn pem() -> SecretString {
    let der = key().as_der().unwrap();
    let der: &aws_lc_rs::encoding::Pkcs8V1Der<'_> = &der;
    let body: Vec<_> =
        STANDARD.encode(der.as_ref()).as_bytes().chunks(64).map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", body.join("\n")).into()
}

fn config(api_url: &str) -> config::GitHub {
    config::GitHub {
        app_id: 4711,
        private_key: pem(),
        webhook_secrets: vec!["hook".into()],
        api_url: api_url.into(),
        ca: None,
        recovery_interval: Duration::from_secs(120),
        runner_poll: Duration::from_secs(5),
    }
}

#[derive(Debug, Clone)]
struct Seen {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn bearer(&self) -> &str {
        self.headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap()
    }
}

type Script = dyn Fn(&Seen, usize) -> Response + Send + Sync;

/// A GitHub that mints tokens itself and leaves the rest to a script, which also gets the number of the request
/// among those to the same path.
struct Fake {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    clock: Arc<ManualClock>,
    client: Client,
}

fn answer(status: u16, body: Value) -> Response {
    Response::builder().status(status).body(body.to_string().into()).unwrap()
}

fn with(mut response: Response, headers: &[(&'static str, &str)]) -> Response {
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

fn app(clock: Arc<ManualClock>, seen: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) -> Router {
    Router::new().fallback(move |request: Request| {
        let (clock, seen, script) = (Arc::clone(&clock), Arc::clone(&seen), Arc::clone(&script));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let now = Seen {
                method: parts.method.to_string(),
                path: parts.uri.path().into(),
                query: parts.uri.query().unwrap_or_default().into(),
                headers: parts.headers,
                body,
            };
            let number = {
                let mut seen = seen.lock().unwrap();
                let number = seen.iter().filter(|earlier| earlier.path == now.path).count();
                seen.push(now.clone());
                number
            };
            let response = script(&now, number);
            if response.status() != StatusCode::IM_A_TEAPOT {
                return response;
            }
            if now.path.ends_with("/access_tokens") {
                let end = clock.now() + jiff::SignedDuration::from_hours(1);
                answer(201, json!({ "token": format!("ghs_{}_{number}", "x".repeat(500)), "expires_at": end }))
            } else {
                answer(404, json!({ "message": "Not Found" }))
            }
        }
    })
}

/// Leaves the answer to the fake.
fn pass() -> Response {
    answer(418, json!({}))
}

impl Fake {
    async fn new(script: impl Fn(&Seen, usize) -> Response + Send + Sync + 'static) -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(START)));
        let seen = Arc::default();
        let router = app(Arc::clone(&clock), Arc::clone(&seen), Arc::new(script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        let shared: crate::clock::SharedClock = Arc::<ManualClock>::clone(&clock);
        let client = Client::with_timeout(&config(&url), shared, Duration::from_secs(2)).unwrap();
        Self { url, seen, clock, client }
    }

    fn seen(&self, path_end: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.ends_with(path_end)).cloned().collect()
    }
}

fn repo() -> Target {
    Target::Repo("octocat/hello".parse().unwrap())
}

fn registration(target: Target, group: RunnerGroup) -> Registration {
    Registration {
        target,
        installation_id: Some(7),
        name: RunnerName::new("pacer-small-1"),
        labels: vec!["self-hosted".into(), "small".into()],
        group,
        within: Duration::from_secs(60),
    }
}

fn registered() -> Response {
    let runner =
        json!({ "id": 23, "name": "pacer-small-1", "os": "unknown", "status": "offline", "busy": false, "labels": [] });
    answer(201, json!({ "runner": runner, "encoded_jit_config": JIT_SECRET }))
}

fn jit(seen: &Seen) -> bool {
    seen.path.ends_with("/generate-jitconfig")
}

#[tokio::test]
async fn a_runner_is_registered_with_everything_github_asks_for() {
    let fake = Fake::new(|seen, _| if jit(seen) { registered() } else { pass() }).await;
    let runner = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap();
    assert_eq!((runner.id, runner.config.expose_secret()), (23, JIT_SECRET));
    let call = &fake.seen("/generate-jitconfig")[0];
    assert_eq!(
        (call.method.as_str(), call.path.as_str()),
        ("POST", "/repos/octocat/hello/actions/runners/generate-jitconfig")
    );
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    let expected = json!({ "name": "pacer-small-1", "runner_group_id": 1, "labels": ["self-hosted", "small"], "work_folder": "_work" });
    assert_eq!(body, expected);
    assert_eq!(call.headers["x-github-api-version"], "2022-11-28");
    assert_eq!(call.headers["accept"], "application/vnd.github+json");
    assert!(call.headers["user-agent"].to_str().unwrap().starts_with("pacer/"));
    assert!(call.bearer().len() > 500, "tokens are opaque and long");
}

#[tokio::test]
async fn the_apps_jwt_is_signed_by_its_key_and_lives_less_than_ten_minutes() {
    let fake = Fake::new(|_, _| pass()).await;
    let _ = fake.client.list_runners(&repo(), Some(7)).await;
    let mint = &fake.seen("/app/installations/7/access_tokens")[0];
    let public = jsonwebtoken::DecodingKey::from_rsa_der(key().public_key().as_ref());
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    rules.validate_exp = false;
    let claims = jsonwebtoken::decode::<Value>(mint.bearer(), &public, &rules).unwrap().claims;
    assert_eq!(claims, json!({ "iat": START - 60, "exp": START + 540, "iss": "4711" }));
}

#[tokio::test]
async fn fifty_callers_share_one_token_and_it_is_renewed_before_its_end() {
    let fake = Fake::new(|seen, _| if jit(seen) { registered() } else { pass() }).await;
    let wanted = registration(repo(), RunnerGroup::Default);
    for outcome in join_all((0..50).map(|_| fake.client.register(&wanted))).await {
        outcome.unwrap();
    }
    assert_eq!(fake.seen("/access_tokens").len(), 1);
    fake.clock.pass(52 * 60);
    fake.client.register(&wanted).await.unwrap();
    assert_eq!(fake.seen("/access_tokens").len(), 1, "52 minutes old it still serves");
    fake.clock.pass(2 * 60);
    fake.client.register(&wanted).await.unwrap();
    assert_eq!(fake.seen("/access_tokens").len(), 2, "54 minutes old it is renewed");
}

#[tokio::test]
async fn a_refused_token_is_minted_anew_once() {
    let fake = Fake::new(|seen, number| match (jit(seen), number) {
        (true, 0) => answer(401, json!({ "message": "Bad credentials" })),
        (true, _) => registered(),
        (false, _) => pass(),
    })
    .await;
    fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap();
    assert_eq!(fake.seen("/access_tokens").len(), 2);

    let fake =
        Fake::new(|seen, _| if jit(seen) { answer(401, json!({ "message": "Bad credentials" })) } else { pass() })
            .await;
    let error = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unauthorized);
    assert_eq!(fake.seen("/generate-jitconfig").len(), 2);
}

#[tokio::test]
async fn an_app_that_was_installed_anew_is_found_by_its_repository() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/app/installations/7/access_tokens" => answer(404, json!({ "message": "Not Found" })),
        "/repos/octocat/hello/installation" => answer(200, json!({ "id": 8 })),
        path if path.ends_with("/generate-jitconfig") => registered(),
        _ => pass(),
    })
    .await;
    let wanted = registration(repo(), RunnerGroup::Default);
    fake.client.register(&wanted).await.unwrap();
    fake.client.register(&wanted).await.unwrap();
    assert_eq!(fake.seen("/installations/7/access_tokens").len(), 1, "the old one is not asked again");
    assert_eq!(fake.seen("/installations/8/access_tokens").len(), 1);
    assert_eq!(fake.seen("/installation").len(), 1);
}

#[tokio::test]
async fn a_missing_permission_is_named_and_is_no_limit() {
    let forbidden = |seen: &Seen, _| {
        if jit(seen) { answer(403, json!({ "message": "Resource not accessible by integration" })) } else { pass() }
    };
    for (target, permission) in [
        (repo(), "`administration:write` for repository `octocat/hello`"),
        (Target::Org("acme".into()), "`organization_self_hosted_runners:write` for organisation `acme`"),
    ] {
        let fake = Fake::new(forbidden).await;
        let error = fake.client.register(&registration(target, RunnerGroup::Default)).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::Forbidden);
        assert!(error.message.starts_with("jit config: 403 Forbidden: "), "{error}");
        assert!(error.message.contains(permission), "{error}");
    }
}

#[tokio::test]
async fn every_form_of_a_limit_is_one_and_says_when_to_come_back() {
    let reset = (START + 600).to_string();
    let exhausted =
        [("x-ratelimit-limit", "5000"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
    let secondary = json!({ "message": "You have exceeded a secondary rate limit." });
    let plain = json!({ "message": "Forbidden" });
    for (status, body, headers, wait) in [
        (403, &plain, &[("retry-after", "90")][..], 90),
        (429, &plain, &[("retry-after", "90")][..], 90),
        (403, &plain, &exhausted[..], 600),
        (403, &secondary, &[][..], 60),
        (429, &plain, &[][..], 60),
    ] {
        let response = (status, body.clone(), headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect::<Vec<_>>());
        let fake = Fake::new(move |seen, _| {
            if seen.path.ends_with("/runners") {
                let headers: Vec<_> = response.2.iter().map(|(k, v)| (*k, v.as_str())).collect();
                with(answer(response.0, response.1.clone()), &headers)
            } else {
                pass()
            }
        })
        .await;
        let error = fake.client.list_runners(&repo(), Some(7)).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (GitHubErrorKind::RateLimited, Some(Duration::from_secs(wait))));
        let error = fake.client.list_runners(&repo(), Some(7)).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::RateLimited);
        assert_eq!(fake.seen("/runners").len(), 1, "nothing is sent while the limit lasts");
    }
}

#[tokio::test]
async fn a_job_start_waits_out_a_short_limit() {
    let fake = Fake::new(|seen, number| match (jit(seen), number) {
        (true, 0) => with(answer(429, json!({})), &[("retry-after", "1")]),
        (true, _) => registered(),
        (false, _) => pass(),
    })
    .await;
    let wanted = registration(repo(), RunnerGroup::Default);
    let time_passes = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            fake.clock.pass(1);
        }
    };
    tokio::select! {
        outcome = fake.client.register(&wanted) => { outcome.unwrap(); }
        () = time_passes => {}
    }
    assert_eq!(fake.seen("/generate-jitconfig").len(), 2);
}

#[tokio::test]
async fn a_taken_name_is_told_apart() {
    let fake =
        Fake::new(|seen, _| if jit(seen) { answer(409, json!({ "message": "Already exists" })) } else { pass() }).await;
    let error = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NameTaken);
    assert!(error.message.contains("pacer-small-1"));
}

#[tokio::test]
async fn a_registration_is_never_repeated_blindly_but_a_read_is() {
    let fake = Fake::new(|seen, number| match seen.path.as_str() {
        path if path.ends_with("/access_tokens") => pass(),
        path if path.ends_with("/runners") && number == 2 => answer(200, json!({ "total_count": 0, "runners": [] })),
        _ => answer(502, json!({})),
    })
    .await;
    let error = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable);
    assert_eq!(fake.seen("/generate-jitconfig").len(), 1);
    assert_eq!(fake.client.list_runners(&repo(), Some(7)).await.unwrap(), []);
    assert_eq!(fake.seen("/runners").len(), 3);
}

#[tokio::test]
async fn a_removal_knows_gone_from_busy() {
    let fake = Fake::new(|seen, _| match seen.path.rsplit('/').next() {
        Some("1") => Response::builder().status(204).body(Default::default()).unwrap(),
        Some("2") => answer(404, json!({ "message": "Not Found" })),
        Some("3") => answer(422, json!({ "message": "Runner is still running a job" })),
        _ => pass(),
    })
    .await;
    for (id, outcome) in [(1, Deleted::Gone), (2, Deleted::Gone), (3, Deleted::Busy)] {
        assert_eq!(fake.client.delete_runner(&repo(), Some(7), id).await.unwrap(), outcome);
    }
}

fn runner(id: i64) -> Value {
    json!({ "id": id, "name": format!("pacer-{id}"), "os": "linux", "status": if id % 2 == 0 { "online" } else { "offline" }, "busy": false, "labels": [] })
}

#[tokio::test]
async fn every_page_of_runners_is_read_and_a_name_is_found_even_unfiltered() {
    let fake = Fake::new(|seen, _| {
        if !seen.path.ends_with("/runners") {
            return pass();
        }
        let page: i64 = seen.query.split('&').find_map(|pair| pair.strip_prefix("page=")).unwrap().parse().unwrap();
        let runners: Vec<_> = ((page - 1) * 100..(page * 100).min(250)).map(runner).collect();
        answer(200, json!({ "total_count": 250, "runners": runners }))
    })
    .await;
    let all = fake.client.list_runners(&repo(), Some(7)).await.unwrap();
    assert_eq!(all.len(), 250);
    assert!(all[4].online && !all[5].online);
    let found = fake.client.find_runner(&repo(), Some(7), &RunnerName::new("pacer-249")).await.unwrap();
    assert_eq!(found.map(|runner| runner.id), Some(249));
    assert_eq!(fake.client.find_runner(&repo(), Some(7), &RunnerName::new("pacer-24")).await.unwrap().unwrap().id, 24);
    assert_eq!(fake.client.find_runner(&repo(), Some(7), &RunnerName::new("pacer-x")).await.unwrap(), None);
    assert!(fake.seen("/runners").last().unwrap().query.contains("name=pacer-x"));
}

#[tokio::test]
async fn a_group_is_found_by_its_name_and_remembered() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/orgs/acme/actions/runner-groups" => answer(
            200,
            json!({ "total_count": 2, "runner_groups": [{ "id": 1, "name": "Default" }, { "id": 9, "name": "Big" }] }),
        ),
        "/orgs/acme/actions/runners/generate-jitconfig" => registered(),
        _ => pass(),
    })
    .await;
    let wanted = registration(Target::Org("acme".into()), RunnerGroup::Name("big".into()));
    fake.client.register(&wanted).await.unwrap();
    fake.client.register(&wanted).await.unwrap();
    assert_eq!(fake.seen("/runner-groups").len(), 1);
    let body: Value = serde_json::from_slice(&fake.seen("/generate-jitconfig")[0].body).unwrap();
    assert_eq!(body["runner_group_id"], 9);
    let missing = registration(Target::Org("acme".into()), RunnerGroup::Name("huge".into()));
    let error = fake.client.register(&missing).await.unwrap_err();
    assert!(error.message.contains("has no group `huge`"), "{error}");
}

#[tokio::test]
async fn the_delivery_log_is_read_page_by_page_and_only_here() {
    let item = |id: i64, guid: &str, status: &str, redelivery: bool| {
        json!({ "id": id, "guid": guid, "delivered_at": Timestamp::from_second(START).unwrap(), "redelivery": redelivery,
            "duration": 0.1, "status": status, "status_code": 0, "event": "workflow_job", "action": "queued",
            "installation_id": 7, "repository_id": 1, "throttled_at": null })
    };
    let first = json!([item(5, "c", "timed out", false), item(4, "b", "OK", true)]);
    let fake = Fake::new(move |seen, _| match (seen.path.as_str(), seen.query.as_str()) {
        // As behind a proxy that tells the server another name.
        ("/app/hook/deliveries", "per_page=100") => with(
            answer(200, first.clone()),
            &[("link", "<https://ghes.internal/app/hook/deliveries?per_page=100&cursor=v1_2>; rel=\"next\"")],
        ),
        ("/app/hook/deliveries", "per_page=100&cursor=v1_2") => {
            with(answer(200, json!([])), &[("link", "</elsewhere>; rel=\"next\"")])
        }
        ("/app/hook/deliveries/5", _) => answer(200, json!({ "request": { "headers": {}, "payload": { "of": 5 } } })),
        ("/app/hook/deliveries/4", _) => answer(200, json!({ "request": { "headers": {}, "payload": null } })),
        _ => pass(),
    })
    .await;
    let page = fake.client.delivery_log(None).await.unwrap();
    let attempts: Vec<_> =
        page.attempts.iter().map(|one| (one.id, one.guid.as_str(), one.arrived, one.redelivery)).collect();
    assert_eq!(attempts, [(5, "c", false, false), (4, "b", true, true)]);
    assert_eq!(page.next.as_deref(), Some("v1_2"));
    let error = fake.client.delivery_log(page.next.as_deref()).await.unwrap_err();
    assert!(error.message.contains("has no `cursor`"), "{error}");
    assert_eq!(fake.client.delivery(5).await.unwrap(), Some(br#"{"of":5}"#.to_vec()));
    assert!(fake.client.delivery(4).await.unwrap_err().message.contains("delivery 4 has no payload"));
    assert_eq!(fake.client.delivery(3).await.unwrap(), None, "the log has dropped it");
}

#[tokio::test]
async fn open_jobs_are_those_that_are_not_over() {
    let job = |id: i64, status: &str| {
        json!({ "id": id, "run_id": 50, "run_attempt": 2, "status": status, "conclusion": null, "name": "build", "workflow_name": null,
            "head_branch": "main", "html_url": "https://github.com/x", "labels": ["self-hosted"], "runner_name": "",
            "created_at": "2026-01-01T00:00:00Z", "started_at": null, "completed_at": null })
    };
    // A job that waits for others is in a run that is in progress, and nowhere else.
    let jobs = move |run: &str| match run {
        "50" => json!([job(1, "queued"), job(2, "in_progress"), job(4, "completed")]),
        "51" => json!([job(3, "waiting")]),
        run => panic!("run {run} is in no list"),
    };
    let fake = Fake::new(move |seen, _| match seen.path.strip_prefix("/repos/octocat/hello/actions/runs") {
        Some("") => {
            let runs = match seen.query.split('&').find_map(|pair| pair.strip_prefix("status=")).unwrap() {
                "in_progress" => json!([{ "id": 50 }]),
                "waiting" => json!([{ "id": 51 }]),
                _ => json!([]),
            };
            answer(200, json!({ "total_count": 1, "workflow_runs": runs }))
        }
        Some(path) => {
            let jobs = jobs(path.strip_prefix('/').unwrap().strip_suffix("/jobs").unwrap());
            answer(200, json!({ "total_count": 3, "jobs": jobs }))
        }
        None => pass(),
    })
    .await;
    let facts = fake.client.open_jobs(&"octocat/hello".parse().unwrap(), Some(7)).await.unwrap();
    let mut facts: Vec<_> = facts.into_iter().map(|fact| (fact.key.to_string(), fact.phase, fact.runner)).collect();
    facts.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [("1-2", Phase::Queued), ("2-2", Phase::InProgress), ("3-2", Phase::Waiting)]
        .map(|(k, p)| (k.to_owned(), p, None));
    assert_eq!(facts, expected);
    assert_eq!(fake.seen("/runs/50/jobs").len(), 1, "a run in two lists is read once");
}

#[tokio::test]
async fn a_job_that_github_does_not_know_is_told_from_an_app_that_is_not_installed() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/repos/octocat/hello/actions/jobs/1" => {
            answer(200, json!({ "id": 1, "run_id": 5, "status": "completed", "conclusion": "success" }))
        }
        "/repos/octocat/hello/actions/jobs/3" => answer(200, json!({ "id": 3, "run_id": 5, "status": "dreaming" })),
        _ => pass(),
    })
    .await;
    let repo = "octocat/hello".parse().unwrap();
    let over = fake.client.job(&repo, Some(7), 1).await.unwrap().unwrap();
    assert_eq!(over.phase, Phase::Completed { conclusion: Some("success".into()) });
    assert_eq!(fake.client.job(&repo, Some(7), 2).await.unwrap(), None);
    let error = fake.client.job(&repo, Some(7), 3).await.unwrap_err();
    assert!(error.message.contains("its state `dreaming` is not known here"), "{error}");
    let error = fake.client.job(&repo, None, 2).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NotFound);
    assert!(error.message.contains("the App is not installed on repository `octocat/hello`"), "{error}");
}

#[tokio::test]
async fn an_answer_of_another_shape_says_what_was_expected_and_quotes_nothing() {
    for body in ["<html>hello</html>", "[]", r#"{"runner":{"id":"x"},"encoded_jit_config":"hidden-config"}"#, ""] {
        let fake =
            Fake::new(
                move |seen, _| {
                    if jit(seen) { Response::builder().status(201).body(body.into()).unwrap() } else { pass() }
                },
            )
            .await;
        let error = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::Unavailable);
        assert!(error.message.contains("is not a registered runner"), "{error}");
        assert!(!error.message.contains("hidden-config") && !error.message.contains("hello"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_within_the_origin_and_nowhere_else() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/repos/octocat/hello/actions/runners" => {
            with(answer(301, json!({})), &[("location", "/repositories/1/actions/runners")])
        }
        "/repositories/1/actions/runners" => answer(200, json!({ "total_count": 1, "runners": [runner(4)] })),
        "/repos/octocat/away/actions/runners" => {
            with(answer(301, json!({})), &[("location", "http://localhost:1/steal")])
        }
        _ => pass(),
    })
    .await;
    assert_eq!(fake.client.list_runners(&repo(), Some(7)).await.unwrap().len(), 1);
    let away = Target::Repo("octocat/away".parse().unwrap());
    let error = fake.client.list_runners(&away, Some(7)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Rejected);
    assert!(error.message.contains("another origin"), "{error}");
}

#[tokio::test]
async fn no_secret_is_in_a_debug_or_an_error() {
    let fake = Fake::new(|seen, _| {
        let token = seen.bearer().to_owned();
        match seen.path.as_str() {
            path if path.ends_with("/access_tokens") => pass(),
            _ => answer(403, json!({ "message": format!("you sent {token}\u{1b}[2J{}", "y".repeat(2_000)) })),
        }
    })
    .await;
    let error = fake.client.register(&registration(repo(), RunnerGroup::Default)).await.unwrap_err();
    let token = fake.seen("/generate-jitconfig")[0].bearer().to_owned();
    let text = format!("{error} {error:?} {:?}", fake.client);
    assert!(!text.contains(&token) && !text.contains("xxxx") && !text.contains('\u{1b}'), "{text}");
    assert!(error.message.len() < 700, "{}", error.message.len());
    let runner = JitRunner { id: 1, config: JIT_SECRET.into() };
    assert!(!format!("{runner:?}").contains(JIT_SECRET));
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
    let fake = Fake::new(|_, _| {
        with(
            answer(401, json!({ "message": "'Expiration time' claim is too far in the future" })),
            &[("date", "Fri, 15 Jan 2027 07:50:00 GMT")],
        )
    })
    .await;
    let error = fake.client.ping().await.unwrap_err();
    assert!(error.message.contains("clock is 600 s ahead"), "{error}");
    assert!(fake.url.starts_with("http://"));
}

#[test]
fn an_unusable_key_or_ca_is_refused_at_the_start() {
    let clock = || Arc::new(ManualClock(AtomicI64::new(START)));
    let broken = config::GitHub { private_key: "no key".into(), ..config("http://127.0.0.1:1") };
    let error = Client::new(&broken, clock()).unwrap_err();
    assert!(error.message.contains("`github.private_key_path`"), "{error}");
    let broken = config::GitHub { ca: Some(b"no certificate".to_vec()), ..config("https://127.0.0.1:1") };
    assert!(Client::new(&broken, clock()).unwrap_err().message.contains("`github.ca` holds no certificate"));
    let broken = config("ftp://127.0.0.1");
    assert!(Client::new(&broken, clock()).unwrap_err().message.contains("`github.api_url`"));
}

#[tokio::test]
async fn a_server_that_says_when_it_is_back_is_not_asked_before() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        path if path.ends_with("/runners") => with(answer(503, json!({})), &[("retry-after", "120")]),
        _ => pass(),
    })
    .await;
    let error = fake.client.list_runners(&repo(), Some(7)).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (GitHubErrorKind::Unavailable, Some(Duration::from_secs(120))));
    assert_eq!(fake.seen("/runners").len(), 1);
}

#[tokio::test]
async fn a_registration_that_has_to_wait_longer_than_its_caller_does_says_for_what() {
    let fake = Fake::new(|seen, number| match (jit(seen), number) {
        (true, 0) => with(answer(429, json!({})), &[("retry-after", "30")]),
        (true, _) => registered(),
        (false, _) => pass(),
    })
    .await;
    let wanted = Registration { within: Duration::from_secs(20), ..registration(repo(), RunnerGroup::Default) };
    for _ in 0..2 {
        let registered = tokio::time::timeout(wanted.within, fake.client.register(&wanted)).await;
        let error = registered.expect("its caller waits still").unwrap_err();
        assert_eq!((error.kind, error.retry_after), (GitHubErrorKind::RateLimited, Some(Duration::from_secs(30))));
        assert!(error.message.contains("GitHub's rate limit, which it has just refused a call for"), "{error}");
    }
    assert_eq!(fake.seen("/generate-jitconfig").len(), 1);
}

#[tokio::test]
async fn a_job_is_asked_to_run_again_once_and_what_github_says_to_it_is_told_apart() {
    for (status, message, outcome) in [
        (201, "", Ok(Rerun::Asked)),
        (403, "The workflow run containing this job is already running", Ok(Rerun::RunGoesOn)),
        (403, "Resource not accessible by integration", Err(GitHubErrorKind::Forbidden)),
        (403, "You have exceeded a secondary rate limit", Err(GitHubErrorKind::RateLimited)),
        (502, "", Err(GitHubErrorKind::Unavailable)),
    ] {
        let fake = Fake::new(move |seen, _| match seen.path.as_str() {
            path if path.ends_with("/rerun") => answer(status, json!({ "message": message })),
            _ => pass(),
        })
        .await;
        let asked = fake.client.rerun_job(&"octocat/hello".parse().unwrap(), Some(7), 1).await;
        assert_eq!(asked.map_err(|error| error.kind), outcome, "{status} {message}");
        assert_eq!(fake.seen("/rerun").len(), 1, "{status} {message}");
    }
}

#[tokio::test]
async fn a_group_that_cannot_be_used_and_a_token_that_is_refused_are_named() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        path if path.starts_with("/orgs/acme/actions") => answer(404, json!({ "message": "Not Found" })),
        path if path.starts_with("/orgs/gone/actions") => {
            with(answer(401, json!({ "message": "Bad credentials" })), &[("date", "Fri, 15 Jan 2027 08:00:00 GMT")])
        }
        _ => pass(),
    })
    .await;
    let wanted = registration(Target::Org("acme".into()), RunnerGroup::Id(9));
    let error = fake.client.register(&wanted).await.unwrap_err();
    assert!(error.message.contains("the runner group 9") && error.message.contains("`runner_group`"), "{error}");
    let wanted = registration(Target::Org("gone".into()), RunnerGroup::Default);
    let error = fake.client.register(&wanted).await.unwrap_err();
    assert!(error.message.contains("a token that it has just given"), "{error}");
    assert!(!error.message.contains("github.private_key_path"), "{error}");
}
