//! Deliveries as GitHub and as others send them, through the router and, where the wire matters, over a socket.

use std::sync::Mutex;

use axum::body::Body;
use futures::FutureExt;
use hmac::{Hmac, KeyInit, Mac};
use http::StatusCode;
use http_body_util::BodyExt;
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::*;
use crate::{
    clock::SystemClock,
    fleet::job::{Assignment, JobFact, JobStatus, Phase},
    github::MissedDelivery,
};

/// A store that says yes, remembers, and can be told not to.
#[derive(Default)]
struct FakeStore {
    taken: Mutex<Vec<Ingest>>,
    answer: Mutex<Option<Result<IngestResult, StoreError>>>,
    hangs: bool,
}

impl Intake for FakeStore {
    fn take(&self, ingest: Ingest) -> BoxFuture<'_, Result<IngestResult, StoreError>> {
        if self.hangs {
            return std::future::pending().boxed();
        }
        let usual = match (&ingest.demand, &ingest.ignored) {
            (Some((fact, Some(Assignment { pool: None, reason, .. }))), _) => {
                IngestResult::Unmatched(fact.key, reason.clone().unwrap_or_default())
            }
            (Some((fact, Some(_))), _) => match fact.phase {
                Phase::Waiting => IngestResult::Enqueued(fact.key, JobStatus::Waiting),
                Phase::Queued => IngestResult::Enqueued(fact.key, JobStatus::Queued),
                Phase::InProgress => IngestResult::Updated(fact.key, JobStatus::Running),
                Phase::Completed { .. } => IngestResult::Updated(fact.key, JobStatus::Completed),
            },
            (Some((_, None)) | None, reason) => IngestResult::Ignored(reason.clone().unwrap_or_default()),
        };
        self.taken.lock().unwrap().push(ingest);
        let answer = self.answer.lock().unwrap().clone().unwrap_or(Ok(usual));
        std::future::ready(answer).boxed()
    }
}

fn route(repo: &crate::routing::RepoName, labels: &[String]) -> Result<Assignment, String> {
    let ours = |pool: Option<&str>, reason: Option<&str>| {
        Ok(Assignment {
            project: "demo".parse().unwrap(),
            pool: pool.map(|pool| pool.parse().unwrap()),
            reason: reason.map(str::to_owned),
        })
    };
    match repo.key() {
        _ if !labels.iter().any(|label| label == "self-hosted") => Err("not self-hosted".to_owned()),
        "octocat/hello" if labels.iter().any(|label| label == "gpu") => ours(None, Some("pool `small` lacks `gpu`")),
        "octocat/hello" => ours(Some("small"), None),
        _ => Err(format!("`{repo}` is not bound to any project: add it")),
    }
}

fn state(store: &Arc<FakeStore>) -> IngestState {
    let secrets = WebhookSecrets::new(&["old".into(), SecretString::from("new")]);
    let store: Arc<dyn Intake> = Arc::<FakeStore>::clone(store);
    IngestState::new(
        Arc::new(ArcSwap::from_pointee(secrets)),
        Arc::new(route),
        store,
        Arc::new(SystemClock),
        TaskTracker::new(),
    )
}

fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// In GitHub's shape, with the parts that pacer does not read standing for the many there are.
fn payload(action: &str) -> Value {
    json!({
        "action": action,
        "workflow_job": {
            "id": 123, "run_id": 9, "run_attempt": 1, "node_id": "CR_x", "head_sha": "0f", "head_branch": "main",
            "url": "https://api.github.com/x", "html_url": "https://github.com/octocat/hello/actions/runs/9/job/123",
            "status": action, "conclusion": if action == "completed" { json!("success") } else { Value::Null },
            "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z", "completed_at": null,
            "name": "build (linux)", "workflow_name": "CI", "steps": [{ "name": "Set up job", "number": 1 }],
            "labels": ["self-hosted", "small"], "runner_id": 0, "runner_name": "", "runner_group_id": null
        },
        "repository": { "id": 1, "full_name": "octocat/hello", "private": true, "owner": { "login": "octocat" } },
        "installation": { "id": 7, "node_id": "x" },
        "sender": { "login": "octocat" }
    })
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut payload = payload("queued");
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    payload.pointer_mut(parent).unwrap()[field] = value;
    payload
}

fn request(event: &str, body: impl Into<Vec<u8>>) -> http::Request<Body> {
    let body = body.into();
    http::Request::post("/api/webhook")
        .header("x-github-event", event)
        .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header("content-type", "application/json")
        .header("x-hub-signature-256", sign("new", &body))
        .body(body.into())
        .unwrap()
}

async fn answer(store: &Arc<FakeStore>, request: http::Request<Body>) -> (u16, Value) {
    let response = router(state(store)).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn answer_to(body: impl Into<Vec<u8>>) -> (u16, Value) {
    answer(&Arc::default(), request("workflow_job", body)).await
}

#[tokio::test]
async fn each_action_says_what_became_of_it() {
    for (action, status, result, job_status) in [
        ("queued", 202, "enqueued", "queued"),
        ("waiting", 202, "enqueued", "waiting"),
        ("in_progress", 200, "updated", "running"),
        ("completed", 200, "updated", "completed"),
    ] {
        let expected = json!({ "result": result, "job": "123-1", "status": job_status });
        assert_eq!(answer_to(payload(action).to_string()).await, (status, expected));
    }
}

#[tokio::test]
async fn what_is_stored_is_what_github_said() {
    let store = Arc::<FakeStore>::default();
    answer(&store, request("workflow_job", payload("queued").to_string())).await;
    let taken = store.taken.lock().unwrap();
    let (fact, assignment) = taken[0].demand.as_ref().unwrap();
    assert_eq!(taken[0].guid.as_deref(), Some("72d3162e-cc78-11e3-81ab-4c9367dc0958"));
    assert_eq!(
        (taken[0].event.as_str(), taken[0].action.as_str(), taken[0].source),
        ("workflow_job", "queued", "webhook")
    );
    assert_eq!((fact.key.to_string().as_str(), fact.run_id, fact.installation_id), ("123-1", 9, Some(7)));
    assert_eq!((fact.repo.as_str(), fact.name.as_str()), ("octocat/hello", "build (linux)"));
    assert_eq!(
        (fact.workflow.as_deref(), fact.branch.as_deref(), fact.runner.as_deref()),
        (Some("CI"), Some("main"), None)
    );
    assert_eq!(fact.labels, ["self-hosted", "small"]);
    assert_eq!(fact.created_at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(
        assignment.as_ref().and_then(|assignment| assignment.pool.as_ref()).map(|pool| pool.as_str()),
        Some("small")
    );
}

#[tokio::test]
async fn what_is_not_ours_is_answered_with_the_reason() {
    let (status, body) = answer_to(changed("/repository/full_name", json!("octocat/other")).to_string()).await;
    assert_eq!((status, &body["result"]), (200, &json!("ignored")));
    assert!(body["reason"].as_str().unwrap().contains("`octocat/other` is not bound to any project: add it"), "{body}");
    let (status, body) = answer_to(changed("/workflow_job/labels", json!(["ubuntu-latest"])).to_string()).await;
    assert_eq!((status, body), (200, json!({ "result": "ignored", "reason": "not self-hosted" })));
    let (status, body) = answer_to(changed("/workflow_job/labels", json!(["self-hosted", "gpu"])).to_string()).await;
    let expected =
        json!({ "result": "unmatched", "job": "123-1", "status": "unmatched", "reason": "pool `small` lacks `gpu`" });
    assert_eq!((status, body), (202, expected));
    let store = Arc::<FakeStore>::default();
    *store.answer.lock().unwrap() = Some(Ok(IngestResult::Duplicate));
    let twice = answer(&store, request("workflow_job", payload("queued").to_string())).await;
    assert_eq!(twice, (200, json!({ "result": "duplicate" })));
    assert_eq!(answer(&store, request("ping", r#"{"zen":"x"}"#)).await, (200, json!({ "result": "pong" })));
    let (status, body) = answer_to(json!({ "action": "sleeping", "workflow_job": 1 }).to_string()).await;
    assert_eq!((status, &body["result"]), (200, &json!("ignored")));
    assert!(body["reason"].as_str().unwrap().contains("`sleeping`"));
}

#[tokio::test]
async fn a_job_of_nobody_is_kept_for_the_store_to_judge_when_it_names_a_runner_like_ours() {
    for (labels, runner, kept) in [
        (json!(["ubuntu-latest"]), "", false),
        (json!(["small"]), "GitHub Actions 3", false),
        (json!(["small"]), "pacer-small-abcdefghijkm", true),
        (json!(["self-hosted", "small"]), "pacer-small-abcdefghijkm", true),
    ] {
        let store = Arc::<FakeStore>::default();
        let mut payload = payload("in_progress");
        payload["workflow_job"]["labels"] = labels.clone();
        payload["workflow_job"]["runner_name"] = json!(runner);
        answer(&store, request("workflow_job", payload.to_string())).await;
        let taken = store.taken.lock().unwrap();
        assert_eq!(taken[0].demand.is_some(), kept, "{labels} {runner}");
    }
}

#[tokio::test]
async fn another_event_is_dropped_and_not_stored() {
    let store = Arc::<FakeStore>::default();
    let (status, body) = answer(&store, request("push", "{}")).await;
    assert_eq!((status, &body["result"]), (200, &json!("ignored")));
    assert!(store.taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_payload_may_lack_is_not_missed() {
    let mut bare = payload("queued");
    bare.as_object_mut().unwrap().remove("installation");
    let job = bare["workflow_job"].as_object_mut().unwrap();
    job.retain(|key, _| ["id", "run_id", "labels"].contains(&key.as_str()));
    assert_eq!(answer_to(bare.to_string()).await.1["job"], "123-1");
    for loose in [json!(0), json!(null), json!(""), json!(false), json!(1.5)] {
        assert_eq!(answer_to(changed("/workflow_job/runner_name", loose).to_string()).await.0, 202);
    }
    let held = changed("/workflow_job/status", json!("waiting"));
    assert_eq!(answer_to(held.to_string()).await.1["status"], "waiting");
    let mut spaced = payload("queued").to_string().into_bytes();
    spaced.insert(0, b'\n');
    assert_eq!(answer_to(spaced).await.0, 202);
}

#[tokio::test]
async fn a_signature_that_is_missing_or_wrong_is_refused_before_anything_else() {
    let with = |name: &'static str, value: Option<String>| {
        let mut request = request("workflow_job", payload("queued").to_string());
        request.headers_mut().remove("x-hub-signature-256");
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    let body = payload("queued").to_string();
    for (request, status, words) in [
        (with("x-hub-signature-256", None), 401, "missing"),
        (with("x-hub-signature", Some("sha1=0000".into())), 401, "SHA-1"),
        (with("x-hub-signature-256", Some("sha256=zz".into())), 401, "malformed"),
        (with("x-hub-signature-256", Some(sign("other", body.as_bytes()))), 401, "`github.webhook_secret` differ"),
        (with("x-hub-signature-256", Some(sign("", body.as_bytes()))), 401, "differ"),
        (with("x-hub-signature-256", Some(sign("old", body.as_bytes()))), 202, ""),
    ] {
        let store = Arc::<FakeStore>::default();
        let (got, answer) = answer(&store, request).await;
        assert_eq!(got, status, "{answer}");
        assert!(status == 202 || answer["error"].as_str().unwrap().contains(words), "{answer}");
        assert_eq!(store.taken.lock().unwrap().len(), usize::from(status == 202));
    }
}

#[tokio::test]
async fn bad_payloads_are_refused_by_name() {
    let labels = |labels: Value| changed("/workflow_job/labels", labels).to_string();
    let deep = format!("{}{}", r#"{"action":"#, "[".repeat(100_000));
    let hidden = format!(r#"{{"extra":{}{},{}"#, "[".repeat(70), "]".repeat(70), &payload("queued").to_string()[1..]);
    for (body, words) in [
        (String::new(), "no JSON object"),
        ("not json".into(), "no JSON object"),
        ("[]".into(), "no JSON object"),
        ("{}".into(), "missing field"),
        (payload("queued").to_string()[..200].into(), "EOF"),
        (format!("{}x", payload("queued")), "trailing"),
        (deep, "nested more than 64 deep"),
        (hidden, "nested more than 64 deep"),
        (changed("/workflow_job/id", json!(0)).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/id", json!(-5)).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/id", json!(u64::MAX)).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/id", json!(1.5)).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/id", json!("123")).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/id", json!(null)).to_string(), "`workflow_job.id`"),
        (changed("/workflow_job/run_id", json!(0)).to_string(), "`workflow_job.run_id`"),
        (changed("/workflow_job/run_attempt", json!(3_000_000_000i64)).to_string(), "`workflow_job.run_attempt`"),
        (changed("/installation/id", json!(-1)).to_string(), "`installation.id`"),
        (changed("/repository/full_name", json!("../etc")).to_string(), "`repository.full_name`"),
        (changed("/repository/full_name", json!("a/b/c")).to_string(), "`repository.full_name`"),
        (changed("/workflow_job", json!(7)).to_string(), "`workflow_job` to be an object"),
        (changed("/repository", json!(null)).to_string(), "`repository` to be an object"),
        (labels(json!(null)), "`workflow_job.labels`"),
        (labels(json!([1])), "expected a string"),
        (labels(json!(vec!["self-hosted"; 10_000])), "more than 100 labels"),
        (labels(json!(["self-hosted", "a\u{0}b"])), "label 2 holds a control character"),
        (labels(json!(["self-hosted", "x".repeat(257)])), "label 2 is empty or longer"),
        (labels(json!([""])), "label 1 is empty"),
    ] {
        let (status, answer) = answer_to(body.clone()).await;
        let error = answer["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(status, 400, "{} {answer}", body.chars().take(80).collect::<String>());
        assert!(error.contains(words), "{error} lacks {words}");
        assert!(error.len() < 600);
    }
}

#[tokio::test]
async fn absurd_texts_are_cut_and_cleaned() {
    let mut payload = payload("queued");
    payload["workflow_job"]["name"] = json!(format!("a\u{1b}[2J\n{}", "n".repeat(100_000)));
    payload["workflow_job"]["html_url"] = json!("javascript:alert(1)");
    payload["workflow_job"]["created_at"] = json!("yesterday");
    let Ok(Payload::Job { fact, .. }) = parse_workflow_job(payload.to_string().as_bytes()) else { panic!("it parses") };
    assert!(fact.name.chars().count() == 257 && !fact.name.chars().any(char::is_control));
    assert_eq!((fact.html_url, fact.created_at), (None, None));
    assert_eq!(answer_to(changed("/workflow_job/labels", json!(vec!["self-hosted"; 100])).to_string()).await.0, 202);
}

#[tokio::test]
async fn headers_that_a_delivery_needs_are_named() {
    for (name, value, status) in [
        ("x-github-event", None, 400),
        ("x-github-delivery", None, 400),
        ("x-github-delivery", Some("x".repeat(129)), 400),
        ("x-github-delivery", Some("two words".into()), 400),
        ("content-type", Some("application/x-www-form-urlencoded".into()), 415),
        ("content-type", None, 415),
        ("content-type", Some("application/json; charset=utf-8".into()), 202),
    ] {
        let mut request = request("workflow_job", payload("queued").to_string());
        request.headers_mut().remove(name);
        if let Some(value) = &value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (got, answer) = answer(&Arc::default(), request).await;
        assert_eq!(got, status, "{name} {value:?} {answer}");
    }
}

#[tokio::test]
async fn the_cap_is_25_mib_whether_the_length_is_stated_or_not() {
    let (status, _) = answer_to(vec![b' '; MAX_BODY + 1]).await;
    assert_eq!(status, 413);
    let (status, answer_) = answer_to(vec![b' '; MAX_BODY]).await;
    assert_eq!(status, 400, "the largest body is read: {answer_}");
    let mut stated = request("workflow_job", "");
    stated.headers_mut().insert("content-length", "26214401".parse().unwrap());
    *stated.body_mut() = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    assert_eq!(answer(&Arc::default(), stated).await.0, 413, "it is refused unread");
    let mut unstated = request("workflow_job", "");
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 65_536])));
    *unstated.body_mut() = Body::from_stream(endless);
    assert_eq!(answer(&Arc::default(), unstated).await.0, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut slow = request("workflow_job", "");
    *slow.body_mut() = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    assert_eq!(answer(&Arc::default(), slow).await.0, 408);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_kept_at_github() {
    let store = Arc::<FakeStore>::default();
    *store.answer.lock().unwrap() = Some(Err(StoreError::Write { reason: "disk full".into() }));
    let response = router(state(&store)).oneshot(request("workflow_job", payload("queued").to_string())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "10");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&body).unwrap().contains("disk full"));
    let hangs = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
    assert_eq!(answer(&hangs, request("workflow_job", payload("queued").to_string())).await.0, 503);
}

#[tokio::test]
async fn deliveries_in_flight_share_a_bounded_memory() {
    let store = Arc::<FakeStore>::default();
    let state = state(&store);
    let ask = async |body: Vec<u8>| {
        router(state.clone()).oneshot(request("workflow_job", body)).await.unwrap().status().as_u16()
    };
    let held = state.bodies.take_memory(255 * 1024 * 1024);
    assert_eq!(ask(payload("queued").to_string().into_bytes()).await, 202);
    assert_eq!(ask(vec![b' '; 2 * 1024 * 1024]).await, 503);
    drop(held);
    assert_eq!(ask(vec![b' '; 2 * 1024 * 1024]).await, 400, "the memory is given back");
}

#[tokio::test]
async fn over_a_socket_a_truncated_body_is_400_and_a_large_one_reads_its_413() {
    let store = Arc::<FakeStore>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(state(&store));
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    let head = |length: usize| {
        format!(
            "POST /api/webhook HTTP/1.1\r\nhost: x\r\nx-github-event: ping\r\nx-github-delivery: a\r\ncontent-type: application/json\r\nx-hub-signature-256: {}\r\ncontent-length: {length}\r\n\r\n",
            sign("new", b"{}")
        )
    };
    let mut truncated = tokio::net::TcpStream::connect(address).await.unwrap();
    truncated.write_all(format!("{}{{", head(2)).as_bytes()).await.unwrap();
    truncated.shutdown().await.unwrap();
    let mut answer = String::new();
    truncated.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let large = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = large.into_split();
    write.write_all(head(MAX_BODY + 1).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    let body = vec![b' '; MAX_BODY + 1];
    let (written, answered) = tokio::join!(write.write_all(&body), read.read_exact(&mut answer));
    answered.unwrap();
    assert_eq!(std::str::from_utf8(&answer).unwrap(), "HTTP/1.1 413");
    written.expect("the sender is listened to while it still writes");
    assert!(store.taken.lock().unwrap().is_empty());
}

#[test]
fn what_the_log_of_deliveries_gives_back_is_taken_in_the_same_way() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let missed = |payload: Vec<u8>| MissedDelivery { guid: "g".into(), event: "workflow_job".into(), payload };
    let healed = from_missed(missed(payload("queued").to_string().into_bytes()), now, &route).unwrap();
    assert_eq!((healed.guid.as_deref(), healed.source), (Some("g"), "delivery-log"));
    let (fact, _) = healed.demand.unwrap();
    assert!(from_missed(missed(b"{}".to_vec()), now, &route).is_err());
    let odd = JobFact { name: "a\u{1b}b".into(), html_url: Some("javascript:x".into()), ..fact };
    let found = from_scan(odd, now, &route);
    let (cleaned, _) = found.demand.as_ref().unwrap();
    assert_eq!((cleaned.name.as_str(), cleaned.html_url.as_deref()), ("a b", None));
    assert_eq!((found.guid, found.action.as_str(), found.source), (None, "queued", "repository-scan"));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// JSON of any shape, with the names that a payload has.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("queued")),
        Just(json!("octocat/hello")),
    ];
    let names = ["action", "workflow_job", "id", "run_id", "labels", "repository", "full_name", "installation", "x"];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(names.to_vec()), inner, 0..8).prop_map(|map| map
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_signed_bytes_get_a_defined_answer(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let (status, _) = block_on(answer_to(body));
        prop_assert!(matches!(status, 200 | 202 | 400));
    }

    #[test]
    fn any_signed_json_gets_a_defined_answer(body in any_json()) {
        let (status, _) = block_on(answer_to(body.to_string()));
        prop_assert!(matches!(status, 200 | 202 | 400));
    }

    #[test]
    fn one_odd_field_never_breaks_the_parser(
        field in prop::sample::select(vec!["/action", "/workflow_job", "/workflow_job/id", "/workflow_job/labels", "/workflow_job/name", "/workflow_job/status", "/repository", "/installation"]),
        value in any_json(),
    ) {
        let _ = parse_workflow_job(changed(field, value).to_string().as_bytes());
    }

    #[test]
    fn whatever_parses_is_clean_and_bounded(name in any::<String>(), labels in prop::collection::vec(any::<String>(), 0..120)) {
        let mut odd = changed("/workflow_job/labels", json!(labels));
        odd["workflow_job"]["name"] = json!(name);
        if let Ok(Payload::Job { fact, .. }) = parse_workflow_job(odd.to_string().as_bytes()) {
            prop_assert!(fact.labels.len() <= MAX_LABELS);
            prop_assert!(!fact.labels.iter().chain([&fact.name]).any(|text| text.chars().any(char::is_control)));
        }
    }
}
