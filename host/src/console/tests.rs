//! The console as its callers meet it, over a store in memory.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use futures::future::{BoxFuture, FutureExt, ready};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::{
    clock::Clock,
    config::{self, Auth},
    fleet::{
        job::{Job, JobKey, JobStatus},
        runner::{Runner, RunnerName, RunnerState, Target},
    },
    store::{AuditEntry, Changed, DeliveryRecord, EventRow, JobFilter, Page, RunnerFilter},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const START: i64 = 1_790_000_000;

#[derive(Debug)]
struct FixedClock(Mutex<Timestamp>);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

struct Memory {
    jobs: Vec<Job>,
    runners: Vec<Runner>,
    audit: Arc<Mutex<Vec<AuditEntry>>>,
    changes: broadcast::Sender<Arc<[Changed]>>,
}

fn page<T: Clone>(all: Vec<T>, cursor: Option<&str>, limit: u32) -> Result<Page<T>, StoreError> {
    let from: usize = cursor.map_or(Ok(0), |cursor| cursor.parse().map_err(|_| StoreError::Cursor))?;
    let until = from + usize::try_from(limit).unwrap();
    let next = (all.len() > until).then(|| until.to_string());
    Ok(Page { items: all.into_iter().skip(from).take(until - from).collect(), next })
}

impl Read for Memory {
    fn jobs<'a>(&'a self, filter: &'a JobFilter, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<Job>> {
        let fits = |job: &&Job| {
            (filter.status.is_empty() || filter.status.contains(&job.status))
                && filter.project.as_ref().is_none_or(|project| job.project.as_ref() == Some(project))
                && filter.repo.as_ref().is_none_or(|repo| job.repo == *repo)
        };
        ready(page(self.jobs.iter().filter(fits).cloned().collect(), cursor, limit)).boxed()
    }
    fn job(&self, key: JobKey) -> Answer<'_, Option<Job>> {
        assert_ne!(key.id, PANICS, "as a fault of ours would");
        ready(Ok(self.jobs.iter().find(|job| job.key == key).cloned())).boxed()
    }
    fn latest_attempt(&self, id: i64) -> Answer<'_, Option<Job>> {
        let jobs = self.jobs.iter().filter(|job| job.key.id == id);
        ready(Ok(jobs.max_by_key(|job| job.key.attempt).cloned())).boxed()
    }
    fn runners<'a>(
        &'a self,
        filter: &'a RunnerFilter,
        cursor: Option<&'a str>,
        limit: u32,
    ) -> Answer<'a, Page<Runner>> {
        let fits = |runner: &&Runner| filter.state.is_empty() || filter.state.contains(&runner.state);
        ready(page(self.runners.iter().filter(fits).cloned().collect(), cursor, limit)).boxed()
    }
    fn runner<'a>(&'a self, name: &'a RunnerName) -> Answer<'a, Option<Runner>> {
        ready(Ok(self.runners.iter().find(|runner| runner.name == *name).cloned())).boxed()
    }
    fn events_of_job(&self, key: JobKey) -> Answer<'_, Vec<EventRow>> {
        let event = EventRow {
            at: at(0),
            job: Some(key),
            runner: None,
            kind: "job.queued".into(),
            detail: Some(HOSTILE.into()),
        };
        ready(Ok(vec![event])).boxed()
    }
    fn events_of_runner<'a>(&'a self, _: &'a RunnerName) -> Answer<'a, Vec<EventRow>> {
        ready(Ok(Vec::new())).boxed()
    }
    fn job_counts(&self) -> Answer<'_, Vec<(JobStatus, u64)>> {
        let count = |status| self.jobs.iter().filter(|job| job.status == status).count() as u64;
        ready(Ok(JobStatus::ALL.into_iter().map(|status| (status, count(status))).collect())).boxed()
    }
    fn runner_counts(&self) -> Answer<'_, Vec<(RunnerState, u64)>> {
        ready(Ok(vec![(RunnerState::Busy, 1)])).boxed()
    }
    fn deliveries<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<DeliveryRecord>> {
        ready(page(Vec::new(), cursor, limit)).boxed()
    }
    fn audit<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<AuditEntry>> {
        ready(page(Vec::new(), cursor, limit)).boxed()
    }
    fn subscribe(&self) -> broadcast::Receiver<Arc<[Changed]>> {
        self.changes.subscribe()
    }
}

impl Audit for Memory {
    fn record(&self, entry: AuditEntry) -> Answer<'_, ()> {
        self.audit.lock().unwrap().push(entry);
        ready(Ok(())).boxed()
    }
}

struct Others;

impl BackendStatus for Others {
    fn backends(&self) -> Vec<BackendView> {
        vec![BackendView {
            name: "engine".into(),
            plugin: "docker".into(),
            version: Some("0.1.0".into()),
            digest: Some("ab".repeat(32)),
            grants: vec![GrantView {
                name: "engine".into(),
                target: "unix:///var/run/docker.sock".into(),
                credentials: vec!["bearer token"],
                proxy: None,
            }],
            health: HealthView { status: "ok", reason: None },
            latencies: vec![LatencyView { operation: "create".into(), calls: 3, p50_ms: 12.0, p99_ms: 80.5 }],
        }]
    }
}

impl Readiness for Others {
    fn parts(&self) -> BoxFuture<'_, Vec<Part>> {
        ready(vec![Part { name: "github".into(), ok: false, reason: Some("unreachable-detail".into()) }]).boxed()
    }
}

impl Explain for Others {
    fn explain<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Explanation> {
        let text = format!("job {} waits\n  pool my-app/small: fits\n    labels: linux, x64 of linux, x64", job.key);
        ready(Explanation { json: serde_json::json!({ "verdict": "fits" }), text }).boxed()
    }
}

/// The job that nobody can ask for.
const PANICS: i64 = 666;
const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{1b}[31m";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn job(n: i64) -> Job {
    let status = JobStatus::ALL[usize::try_from(n).unwrap() % 9];
    let reached = |rank: u8, second| (status.rank() >= rank && status != JobStatus::Failed).then(|| at(second));
    Job {
        key: JobKey { id: 52_000 + n, attempt: 1 },
        run_id: 9,
        repo: "octocat/hello-world".parse().unwrap(),
        installation_id: None,
        name: if n == 4 { HOSTILE.into() } else { format!("build (ubuntu, {n})") },
        workflow: Some("CI".into()),
        branch: Some("main".into()),
        html_url: Some(if n == 4 { "javascript:alert(1)".into() } else { "https://github.com/o/r".into() }),
        labels: if n == 4 { vec![HOSTILE.into()] } else { vec!["self-hosted".into(), "linux".into(), "x64".into()] },
        status,
        conclusion: (status == JobStatus::Completed).then(|| "success".into()),
        project: Some("my-app".parse().unwrap()),
        pool: (status != JobStatus::Unmatched).then(|| "small".parse().unwrap()),
        runner: (status.rank() >= 2).then(|| RunnerName::new("pacer-small-k3f9a2")),
        reason: (status == JobStatus::Unmatched).then(|| "no pool has the label `gpu`; nearest is `small`".into()),
        losses: Default::default(),
        interruption: None,
        received_at: at(-90),
        queued_at: at(-90),
        claimed_at: reached(2, -89),
        starting_at: reached(3, -88),
        running_at: reached(5, -70),
        completed_at: reached(6, -10),
        updated_at: at(-10),
    }
}

fn runner() -> Runner {
    let place = ("my-app".parse().unwrap(), "small".parse().unwrap());
    let target = Target::Repo("octocat/hello-world".parse().unwrap());
    Runner {
        state: RunnerState::Busy,
        handle: Some("c0ffee".into()),
        job: Some(JobKey { id: 52_006, attempt: 1 }),
        state_at: at(-70),
        ..Runner::planned(
            RunnerName::new("pacer-small-k3f9a2"),
            place,
            "engine".parse().unwrap(),
            target,
            at(-88),
            at(20_000),
        )
    }
}

fn config(auth: Auth, public_url: &str) -> Config {
    let mut config = config::fixture(Vec::new());
    config.auth = auth;
    config.server.public_url = public_url.to_owned();
    config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    config
}

struct Console {
    router: Router,
    clock: Arc<FixedClock>,
    audit: Arc<Mutex<Vec<AuditEntry>>>,
    changes: broadcast::Sender<Arc<[Changed]>>,
    shutdown: CancellationToken,
}

impl Console {
    fn with(auth: Auth, public_url: &str) -> Self {
        Self::of(config(auth, public_url), (0..18).map(job).collect())
    }

    fn of(config: Config, jobs: Vec<Job>) -> Self {
        let changes = broadcast::Sender::new(4);
        let clock = Arc::new(FixedClock(Mutex::new(at(0))));
        let shutdown = CancellationToken::new();
        let audit = Arc::default();
        let memory =
            Arc::new(Memory { jobs, runners: vec![runner()], audit: Arc::clone(&audit), changes: changes.clone() });
        let sources = Sources {
            read: memory.clone(),
            audit: memory,
            backends: Arc::new(Others),
            readiness: Arc::new(Others),
            explain: Arc::new(Others),
        };
        let config = Arc::new(ArcSwap::from_pointee(config));
        let metrics = telemetry::Metrics::detached().unwrap();
        let state = State::new(config, sources, metrics, clock.clone(), shutdown.clone());
        Self { router: router(state), clock, audit, changes, shutdown }
    }

    fn closed() -> Self {
        Self::with(Auth::Token(TOKEN.to_owned().into()), "http://127.0.0.1:3000")
    }

    fn open() -> Self {
        Self::with(Auth::Disabled, "http://127.0.0.1:3000")
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send(request("GET", path, headers, "")).await
    }

    async fn text(&self, path: &str) -> (StatusCode, String) {
        let response = self.get(path, &[("accept", "text/html")]).await;
        (response.status(), text(response).await)
    }

    async fn json(&self, path: &str) -> (StatusCode, serde_json::Value) {
        let (status, text) = self.text(path).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    async fn sign_in(&self, token: &str, next: &str) -> Response {
        let body = format!("token={token}&next={next}");
        self.send(request("POST", "/signin", &[("content-type", "application/x-www-form-urlencoded")], &body)).await
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:3000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let address = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 4000);
    request.extension(ConnectInfo(address)).body(Body::from(body.to_owned())).unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn header_of(response: &Response, name: header::HeaderName) -> &str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn only_the_public_routes_are_open_and_all_carry_the_headers() {
    let console = Console::closed();
    let mut public = Vec::new();
    for Route { path, access, .. } in routes() {
        let address = path.replace("{id}", "52005-1").replace("{name}", "pacer-small-k3f9a2");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let response = console.send(request(method, &address, &[], "")).await;
            assert!(header_of(&response, header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"), "{path}");
            assert_eq!(header_of(&response, header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
            assert_ne!(header_of(&response, header::CACHE_CONTROL), "", "{path}");
            match access {
                Access::Public => {}
                Access::Api => {
                    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                    assert!(header_of(&response, header::WWW_AUTHENTICATE).starts_with("Bearer"));
                    assert!(text(response).await.contains("\"unauthorized\""));
                }
                Access::Page => {
                    assert_eq!(response.status(), StatusCode::SEE_OTHER, "{method} {path}");
                    assert!(header_of(&response, header::LOCATION).starts_with("/signin?next="), "{path}");
                }
            }
        }
        if access == Access::Public {
            public.push(path);
        } else if path != "/api/v1/events" && path != "/signout" {
            let bearer = format!("Bearer {TOKEN}");
            let response = console.get(&address, &[("authorization", &bearer)]).await;
            assert!(
                response.status().is_success() || response.status().is_redirection(),
                "{path} {}",
                response.status()
            );
        }
    }
    let expected = ["/healthz", "/readyz", "/signin", "/assets/console.css", "/assets/console.js", "/assets/icon.svg"];
    assert_eq!(public, expected);
    assert_eq!(console.get("/nothing", &[]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(console.get("/api/v1/nothing", &[]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn signing_in_opens_a_session_that_cannot_be_forged() {
    let console = Console::closed();
    let wrong = console.sign_in("nonsense", "/jobs").await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let right = console.sign_in(TOKEN, "%2Fjobs%3Fstatus%3Dqueued").await;
    assert_eq!(right.status(), StatusCode::SEE_OTHER);
    assert_eq!(header_of(&right, header::LOCATION), "/jobs?status=queued");
    let cookie = header_of(&right, header::SET_COOKIE).to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict") && cookie.contains("Path=/;") && !cookie.contains("Secure"));
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(console.get("/jobs", &[("cookie", pair)]).await.status(), StatusCode::OK);
    let (name, value) = pair.split_once('=').unwrap();
    let later = format!("{name}={}{}", at(999_999).as_second(), &value[value.find('.').unwrap()..]);
    assert_eq!(console.get("/jobs", &[("cookie", &later)]).await.status(), StatusCode::SEE_OTHER);
    *console.clock.0.lock().unwrap() = at(12 * 3600);
    assert_eq!(console.get("/jobs", &[("cookie", pair)]).await.status(), StatusCode::SEE_OTHER);

    for next in ["https://evil.example", "%2F%2Fevil.example", "%2F%5Cevil.example"] {
        let response = console.sign_in(TOKEN, next).await;
        assert_eq!(header_of(&response, header::LOCATION), "/jobs", "{next}");
    }
    let secure = Console::with(Auth::Token(TOKEN.to_owned().into()), "https://pacer.example");
    let response = secure.sign_in(TOKEN, "").await;
    assert!(header_of(&response, header::SET_COOKIE).starts_with("__Host-"));
    assert!(header_of(&response, header::SET_COOKIE).ends_with("; Secure"));
    assert_ne!(header_of(&response, header::STRICT_TRANSPORT_SECURITY), "");
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let console = Console::closed();
    let form = ("content-type", "application/x-www-form-urlencoded");
    let body = format!("token={TOKEN}");
    for (foreign, expected) in [
        (("origin", "https://evil.example"), StatusCode::FORBIDDEN),
        (("origin", "null"), StatusCode::FORBIDDEN),
        (("sec-fetch-site", "cross-site"), StatusCode::FORBIDDEN),
        (("origin", "http://127.0.0.1:3000"), StatusCode::SEE_OTHER),
    ] {
        let response = console.send(request("POST", "/signin", &[form, foreign], &body)).await;
        assert_eq!(response.status(), expected, "{foreign:?}");
    }
    let open = Console::open();
    let response = open.send(request("POST", "/signout", &[("origin", "https://evil.example")], "")).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_right_ones_never() {
    let console = Console::closed();
    let right = format!("Bearer {TOKEN}");
    for _ in 0..6 {
        let response = console.get("/api/v1/jobs", &[("authorization", "Bearer wrong")]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let held = console.get("/api/v1/jobs", &[("authorization", "Bearer wrong")]).await;
    assert_eq!(held.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header_of(&held, header::RETRY_AFTER), "1");
    assert_eq!(console.sign_in("wrong", "").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(console.get("/api/v1/jobs", &[("authorization", &right)]).await.status(), StatusCode::OK);
    assert_eq!(console.sign_in(TOKEN, "").await.status(), StatusCode::SEE_OTHER);
    *console.clock.0.lock().unwrap() = at(1);
    let again = console.get("/api/v1/jobs", &[("authorization", "Bearer wrong")]).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_credential_of_a_proxy_on_the_way_is_none_of_ours() {
    let console = Console::closed();
    let opened = console.sign_in(TOKEN, "").await;
    let cookie = header_of(&opened, header::SET_COOKIE).split(';').next().unwrap().to_owned();
    let basic = ("authorization", "Basic cHJveHk6c2VjcmV0");
    for _ in 0..10 {
        assert_eq!(console.get("/jobs", &[basic, ("cookie", &cookie)]).await.status(), StatusCode::OK);
        assert_eq!(console.get("/jobs", &[basic]).await.status(), StatusCode::SEE_OTHER, "to the form, as a person");
        assert_eq!(console.get("/api/v1/jobs", &[basic]).await.status(), StatusCode::UNAUTHORIZED);
    }
    let wrong = console.get("/api/v1/jobs", &[("authorization", "Bearer wrong"), ("cookie", &cookie)]).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "it was no try before");
}

#[tokio::test]
async fn whoever_signs_out_without_a_session_does_not_come_back_to_that() {
    let console = Console::closed();
    let response = console.send(request("POST", "/signout", &[], "")).await;
    assert_eq!(header_of(&response, header::LOCATION), "/signin?next=%2Fjobs");
    let response = console.sign_in(TOKEN, "%2Fsignout").await;
    assert_eq!(header_of(&response, header::LOCATION), "/jobs");
}

#[tokio::test]
async fn readiness_tells_strangers_nothing() {
    let console = Console::closed();
    let response = console.get("/readyz", &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!text(response).await.contains("github"));
    let bearer = format!("Bearer {TOKEN}");
    assert!(text(console.get("/readyz", &[("authorization", &bearer)]).await).await.contains("unreachable-detail"));
    assert_eq!(text(console.get("/healthz", &[]).await).await, "{\"status\":\"ok\"}");
}

#[tokio::test]
async fn listings_are_paged_and_filtered() {
    let console = Console::open();
    let (_, first) = console.json("/api/v1/jobs?limit=10").await;
    assert_eq!(first["items"].as_array().unwrap().len(), 10);
    let (_, second) = console.json(&format!("/api/v1/jobs?limit=10&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!(second["items"].as_array().unwrap().len(), 8);
    assert!(second["next"].is_null());
    for query in [
        "status=queued,running",
        "status=queued&status=running",
        "status=queued,running&project=&repo=OCTOCAT/hello-world",
    ] {
        let (_, page) = console.json(&format!("/api/v1/jobs?{query}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), 4, "{query}");
    }
    let keys: Vec<_> = first["items"][0].as_object().unwrap().keys().cloned().collect();
    for key in "id github_job_id run_id run_attempt repo status labels project pool runner reason queued_at claimed_at \
                starting_at running_at completed_at conclusion"
        .split_whitespace()
    {
        assert!(keys.iter().any(|known| known == key), "{key}");
    }
    let (_, detail) = console.json("/api/v1/jobs/52005").await;
    assert_eq!(detail["id"], "52005-1");
    assert_eq!(detail["explanation"]["verdict"], "fits");
    assert_eq!(detail["events"][0]["kind"], "job.queued");
    let (_, runners) = console.json("/api/v1/runners?status=busy").await;
    assert_eq!(runners["items"][0]["job"], "52006-1");
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let console = Console::open();
    for more_than_there_is in ["1000", "4294967296"] {
        let (status, body) = console.json(&format!("/api/v1/jobs?limit={more_than_there_is}")).await;
        assert_eq!((status, body["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(18)));
    }
    for (query, expected) in [
        ("jobs?limit=0", "1 to 500"),
        ("jobs?limit=-1", "1 to 500"),
        ("jobs?limit=x", "`limit`"),
        ("jobs?status=quued", "waiting, unmatched, queued"),
        ("jobs?repo=nope", "owner/name"),
        ("jobs?project=A%20B", "`project`"),
        ("jobs?cursor=zzz", "`cursor`"),
        ("jobs?colour=red", "status, project, repo, limit, cursor"),
        ("runners?status=running", "planned, registering"),
        ("audit?status=x", "limit, cursor"),
    ] {
        let (status, body) = console.json(&format!("/api/v1/{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body["error"]["message"].as_str().unwrap().contains(expected), "{query}: {body}");
    }
    let (status, body) = console.text("/jobs?status=quued").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("<!DOCTYPE html>"));
}

#[tokio::test]
async fn links_of_a_filtered_listing_keep_its_filters() {
    let console = Console::open();
    for path in ["/jobs", "/runners"] {
        let (_, body) = console.text(&format!("{path}?project=my-app&repo=octocat/hello-world&cursor=0&limit=1")).await;
        let kept = "project=my%2Dapp&amp;repo=octocat%2Fhello%2Dworld&amp;limit=1";
        assert!(body.contains(&format!("href=\"{path}?{kept}\"")), "Newest: {body}");
        assert!(body.contains(&format!("href=\"{path}?status=failed&amp;{kept}\"")), "a state: {body}");
    }
    let (_, body) = console.text("/jobs?status=queued,running&limit=1").await;
    assert!(body.contains("?cursor=1&amp;status=queued%2Crunning&amp;limit=1"), "older ones of these states: {body}");
}

#[tokio::test]
async fn a_first_job_is_asked_for_with_the_labels_that_a_runner_has() {
    let mut project = config::Project {
        name: "My-App".to_lowercase().parse().unwrap(),
        scope: config::Scope::Repos(vec!["octocat/hello-world".parse().unwrap()]),
        max_runners: None,
        max_runners_per_repo: None,
        pools: Vec::new(),
    };
    project.pools.push(Arc::new(config::Pool {
        name: "small".parse().unwrap(),
        backend: "engine".parse().unwrap(),
        enabled: true,
        default: true,
        priority: 100,
        labels: vec!["Ubuntu-24.04".to_owned()],
        max_runners: 1,
        warm: config::Warm::always(0),
        timeouts: config::Timeouts {
            register: Duration::from_secs(1),
            create: Duration::from_secs(1),
            boot: Duration::from_secs(1),
            idle: Duration::from_secs(1),
            run: Duration::from_secs(1),
            stop: Duration::from_secs(1),
        },
        bootstrap: config::Bootstrap::default(),
        settings: serde_json::json!({}),
    }));
    let mut config = config(Auth::Disabled, "http://127.0.0.1:3000");
    config.projects.push(Arc::new(project));
    let console = Console::of(config, Vec::new());
    let (_, body) = console.text("/jobs").await;
    assert!(body.contains("runs-on: [self-hosted, my-app, small, ubuntu-24-04]"), "{body}");
    let (_, pools) = console.json("/api/v1/pools").await;
    let labels = serde_json::json!(["self-hosted", "my-app", "small", "ubuntu-24-04"]);
    assert_eq!(pools["items"][0]["labels"], labels);
}

#[tokio::test]
async fn hostile_names_do_nothing() {
    let console = Console::open();
    for path in ["/jobs", "/jobs/52004-1"] {
        let (status, body) = console.text(path).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("&lt;script&gt;alert(1)") && body.contains("\\u{202e}\\u{1b}[31m"), "{path}");
        assert!(!body.contains("<script>") && !body.contains('\u{202e}') && !body.contains("javascript:"), "{path}");
        assert!(!body.contains(" style=") && !body.contains(" onclick"), "{path}");
    }
}

#[tokio::test]
async fn a_fragment_is_the_live_part_alone() {
    let console = Console::open();
    for path in ["/jobs", "/jobs/52005-1", "/runners", "/runners/pacer-small-k3f9a2"] {
        let (_, whole) = console.text(path).await;
        let (_, part) = console.text(&format!("{path}?fragment=rows")).await;
        assert!(!part.contains("<html") && whole.contains(&part), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_callers_language() {
    let console = Console::open();
    for (path, accept, html) in [
        ("/nothing", "text/html", true),
        ("/nothing", "*/*", false),
        ("/api/v1/nothing", "text/html", false),
        ("/jobs/1-1", "text/html", true),
        ("/runners/none", "text/html", true),
        ("/api/v1/jobs/abc", "*/*", false),
    ] {
        let response = console.get(path, &[("accept", accept)]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(text(response).await.starts_with("<!DOCTYPE"), html, "{path}");
    }
}

#[tokio::test]
async fn changes_are_streamed_until_the_end() {
    let console = Console::open();
    let response = console.get("/api/v1/events", &[]).await;
    assert_eq!(header_of(&response, header::HeaderName::from_static("x-accel-buffering")), "no");
    let mut body = response.into_body();
    let mut frame = async || {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
        frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    };
    assert!(frame().await.unwrap().contains("event: hello"));
    let send = |n| console.changes.send(Arc::from([Changed::Job(Arc::new(job(n)))])).unwrap();
    send(5);
    let first = frame().await.unwrap();
    assert!(first.contains("event: job") && first.contains("\"id\":\"52005-1\""), "{first}");
    for n in 0..9 {
        send(n);
    }
    assert!(frame().await.unwrap().contains("event: lagged"));
    console.shutdown.cancel();
    assert_eq!(frame().await, None);
}

#[tokio::test]
async fn streams_are_limited() {
    let console = Console::open();
    let mut held = Vec::new();
    for _ in 0..live::MAX_STREAMS {
        held.push(console.get("/api/v1/events", &[]).await);
    }
    let refused = console.get("/api/v1/events", &[]).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    held.pop();
    assert_eq!(console.get("/api/v1/events", &[]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn assets_are_cached_by_their_digest() {
    let console = Console::closed();
    let response = console.get(assets::css_address(), &[]).await;
    assert!(header_of(&response, header::CACHE_CONTROL).contains("immutable"));
    let tag = header_of(&response, header::ETAG).to_owned();
    let again = console.get(assets::css_address(), &[("if-none-match", &tag)]).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_panic_is_answered_in_the_words_of_its_client() {
    let console = Console::open();
    let page = console.get(&format!("/jobs/{PANICS}-1"), &[("accept", "text/html")]).await;
    assert_eq!(page.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(header_of(&page, header::CONTENT_SECURITY_POLICY).starts_with("default-src"));
    let page = text(page).await;
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("log says why"), "{page}");
    let (status, answer) = console.json(&format!("/api/v1/jobs/{PANICS}-1")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some("internal")));
    assert_eq!(console.get("/healthz", &[]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn who_comes_in_is_audited_and_so_is_who_does_not() {
    let console = Console::closed();
    console.sign_in("wrong", "/jobs").await;
    console.sign_in(TOKEN, "/jobs").await;
    let audit = console.audit.lock().unwrap();
    let rows: Vec<_> =
        audit.iter().map(|row| (row.actor.as_str(), row.action.as_str(), row.subject.as_str())).collect();
    assert_eq!(
        rows,
        [("unknown", "audit.session.refused", "192.0.2.1"), ("token", "audit.session.opened", "192.0.2.1")]
    );
}

#[test]
fn only_trusted_proxies_say_where_a_request_comes_from() {
    let config = config(Auth::Disabled, "http://127.0.0.1:3000");
    let from = |peer: &str, forwarded: &[&'static str]| {
        let mut extensions = http::Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4000)));
        let mut headers = http::HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", http::HeaderValue::from_static(line));
        }
        auth::client_address(&config, &extensions, &headers).to_string()
    };
    assert_eq!(from("192.0.2.1", &["198.51.100.1"]), "192.0.2.1", "a stranger's word");
    assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(from("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    assert_eq!(from("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    assert_eq!(from("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1", "what it wrote itself");
    assert_eq!(from("10.0.0.1", &["203.0.113.9", "198.51.100.1"]), "198.51.100.1");
    assert_eq!(from("10.0.0.1", &["198.51.100.1, nonsense"]), "10.0.0.1");
}
