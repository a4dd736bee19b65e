//! The callbacks as a machine meets them, over a fleet that remembers what it was asked.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use axum::{body::Body, extract::ConnectInfo};
use futures::{FutureExt as _, future::ready};
use http::Request;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tower::ServiceExt as _;

use super::*;
use crate::{clock::Clock, console::Answer};

const KEY: &str = "the App's key";
const JIT: &str = "eyJqaXQiOiJjb25maWcifQ==";

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }
}

#[derive(Default)]
struct Recorder {
    refusal: Mutex<Option<Refusal>>,
    reports: Mutex<Vec<(String, MachinePhase, Option<String>)>>,
    audit: Mutex<Vec<AuditEntry>>,
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machines for Recorder {
    fn exchange(&self, _: RunnerName) -> BoxFuture<'_, Result<SecretString, Refusal>> {
        let refusal = guard(&self.refusal).clone();
        ready(refusal.map_or_else(|| Ok(JIT.into()), Err)).boxed()
    }

    fn report(
        &self,
        runner: RunnerName,
        _: Purpose,
        phase: MachinePhase,
        log: Option<String>,
    ) -> BoxFuture<'_, Result<(), Refusal>> {
        guard(&self.reports).push((runner.to_string(), phase, log));
        ready(Ok(())).boxed()
    }
}

impl Audit for Recorder {
    fn record(&self, entry: AuditEntry) -> Answer<'_, ()> {
        guard(&self.audit).push(entry);
        ready(Ok(())).boxed()
    }
}

struct Fixture {
    recorder: Arc<Recorder>,
    tokens: Arc<Tokens>,
    router: Router,
}

fn fixture() -> Fixture {
    let recorder = Arc::new(Recorder::default());
    let tokens = Arc::new(Tokens::new(&KEY.into()));
    let router = router(Callbacks {
        config: Arc::new(ArcSwap::from_pointee(crate::config::fixture(Vec::new()))),
        tokens: tokens.clone(),
        machines: recorder.clone(),
        audit: recorder.clone(),
        clock: Arc::new(Noon),
        throttle: Arc::default(),
        spent: Arc::default(),
    });
    Fixture { recorder, tokens, router }
}

impl Fixture {
    fn token(&self, purpose: Purpose) -> String {
        self.token_of("pacer-vm-a", purpose)
    }

    fn token_of(&self, runner: &str, purpose: Purpose) -> String {
        self.tokens.issue(purpose, &RunnerName::new(runner)).expose_secret().to_owned()
    }

    async fn post(&self, path: &str, token: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, String) {
        let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let peer = ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 5)));
        let request = request.extension(peer).body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_machine_gets_its_configuration_and_the_token_for_its_reports() {
    let fixture = fixture();
    let (status, headers, body) = fixture.post(CONFIG_PATH, &fixture.token(Purpose::Config), "").await;
    assert_eq!((status, &headers[header::CACHE_CONTROL]), (StatusCode::OK, &HeaderValue::from_static("no-store")));
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["jit_config"], JIT);
    let phase_token = body["phase_token"].as_str().unwrap();
    let (status, _, _) = fixture.post(PHASE_PATH, phase_token, r#"{"phase":"runner-ready"}"#).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(*guard(&fixture.recorder.reports), [("pacer-vm-a".to_owned(), MachinePhase::RunnerReady, None)]);
    assert!(guard(&fixture.recorder.audit).is_empty());
}

#[tokio::test]
async fn a_second_use_is_refused_and_audited() {
    let fixture = fixture();
    let cases = [
        (Refusal::Used, StatusCode::GONE, None, 1),
        (Refusal::Over, StatusCode::GONE, None, 1),
        (Refusal::UnderWay, StatusCode::CONFLICT, Some("1"), 0),
        (
            Refusal::Later { reason: "GitHub is away".to_owned(), retry_after: Some(Duration::from_secs(9)) },
            StatusCode::SERVICE_UNAVAILABLE,
            Some("9"),
            0,
        ),
    ];
    for (index, (refusal, expected, retry_after, audited)) in cases.into_iter().enumerate() {
        let expected_message = refusal.to_string();
        *guard(&fixture.recorder.refusal) = Some(refusal);
        let runner = format!("pacer-vm-{index}");
        let token = fixture.token_of(&runner, Purpose::Config);
        let (status, headers, body) = fixture.post(CONFIG_PATH, &token, "").await;
        assert_eq!(status, expected);
        assert_eq!(headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after);
        assert!(body.contains(&expected_message), "{body}");
        let entries: Vec<_> = guard(&fixture.recorder.audit).drain(..).collect();
        assert_eq!(entries.len(), audited, "{expected_message}");
        assert!(entries.iter().all(|entry| {
            (entry.action.as_str(), entry.subject.as_str(), entry.actor.as_str())
                == ("audit.runner.config.refused", runner.as_str(), "machine at 192.0.2.7")
        }));
    }
}

#[tokio::test]
async fn a_spent_token_is_audited_once_and_slowed_down() {
    let fixture = fixture();
    *guard(&fixture.recorder.refusal) = Some(Refusal::Used);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(fixture.post(CONFIG_PATH, &fixture.token(Purpose::Config), "").await.0);
    }
    assert_eq!(statuses.first(), Some(&StatusCode::GONE));
    assert_eq!(statuses.last(), Some(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    assert_eq!(guard(&fixture.recorder.audit).len(), 1);
    *guard(&fixture.recorder.refusal) = None;
    let another = fixture.token_of("pacer-vm-b", Purpose::Config);
    assert_eq!(fixture.post(CONFIG_PATH, &another, "").await.0, StatusCode::OK, "a neighbour is not held up");
}

#[tokio::test]
async fn wrong_tokens_are_refused_audited_and_slowed_down() {
    let fixture = fixture();
    // The token for reports lives longer, and fetches nothing.
    let (status, _, body) = fixture.post(CONFIG_PATH, &fixture.token(Purpose::Phase), "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    assert!(!body.contains("pacer-vm-a"), "a stranger learns nothing: {body}");
    let (status, _, _) = fixture.post(PHASE_PATH, "pacer-vm-a.00", r#"{"phase":"booted"}"#).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(guard(&fixture.recorder.audit).len(), 2);
    let mut last = (StatusCode::UNAUTHORIZED, HeaderMap::new(), String::new());
    for _ in 0..50 {
        last = fixture.post(CONFIG_PATH, "pacer-vm-a.00", "").await;
    }
    let retry_after = HeaderValue::from_static("1");
    assert_eq!((last.0, &last.1[header::RETRY_AFTER]), (StatusCode::TOO_MANY_REQUESTS, &retry_after));
    assert!(guard(&fixture.recorder.audit).len() < 10, "what is not looked at is not audited");
    let (status, _, _) = fixture.post(CONFIG_PATH, &fixture.token(Purpose::Config), "").await;
    assert_eq!(status, StatusCode::OK, "a machine does not pay for another's wrong tokens");
}

#[tokio::test]
async fn reports_are_bounded_and_cleaned() {
    let fixture = fixture();
    let token = fixture.token(Purpose::Phase);
    for broken in ["", "booted", r#"{"phase":"dancing"}"#, r#"{"phase":7}"#, "[]"] {
        assert_eq!(fixture.post(PHASE_PATH, &token, broken).await.0, StatusCode::BAD_REQUEST, "{broken}");
    }
    let huge = format!(r#"{{"phase":"failed","log":"{}"}}"#, "x".repeat(MAX_BODY));
    assert_eq!(fixture.post(PHASE_PATH, &token, huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let log = format!("{}\\u001b[31mthe disk is full\\n", "y".repeat(5000));
    let body = format!(r#"{{"phase":"failed","log":"{log}"}}"#);
    assert_eq!(fixture.post(PHASE_PATH, &token, body).await.0, StatusCode::NO_CONTENT);
    let reports = guard(&fixture.recorder.reports);
    let kept = reports[0].2.as_deref().unwrap();
    assert!(kept.ends_with("y[31mthe disk is full") && kept.len() <= MAX_LOG, "{kept:?}");
}
