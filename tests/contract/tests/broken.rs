//! The suite finds what is broken, and only that: clouds that break the promises their backend relies on, and components
//! that break their own.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{get, post, put},
};
use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Grace, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_tests::binaries;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::subjects::component;

/// What is broken answers at once, and what never comes true need not be waited for.
const PATIENCE: Duration = Duration::from_secs(3);

type Machines = Arc<Mutex<Vec<Value>>>;

struct Direct(Machines);

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        let all = self.0.lock().expect("nobody panics with it");
        Ok(all.iter().filter(|one| one["owner"] == owner).map(|one| one["name"].to_string()).collect())
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.0
            .lock()
            .expect("nobody panics with it")
            .push(json!({ "id": name, "name": name, "owner": "somebody", "state": "running" }));
        Ok(())
    }

    // It stays: what a run leaves behind is found.
    fn remove_stranger(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.0.lock().expect("nobody panics with it").iter().map(|one| one["id"].to_string()).collect())
    }
}

/// Makes a second machine of the same name, as if names were no keys.
async fn create(State(machines): State<Machines>, Path(name): Path<String>, Json(asked): Json<Value>) -> Json<Value> {
    let mut machines = machines.lock().expect("nobody panics with it");
    let id = format!("{name}-{}", machines.len());
    let machine = json!({
        "id": id, "name": name, "owner": asked["owner"], "state": "creating", "lease_until_ms": asked["lease_until_ms"],
        "tags": asked["tags"], "jit_config": asked["jit_config"],
    });
    machines.push(machine.clone());
    Json(machine)
}

/// Tells the secret as the reason of a failure.
async fn show(State(machines): State<Machines>, Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
    let machines = machines.lock().expect("nobody panics with it");
    let mut machine = machines.iter().find(|one| one["id"] == *id).cloned().ok_or(StatusCode::NOT_FOUND)?;
    machine["state"] = "failed".into();
    machine["reason"] = machine["jit_config"].clone();
    Ok(Json(machine))
}

async fn remove(State(machines): State<Machines>, Path(id): Path<String>) -> StatusCode {
    machines.lock().expect("nobody panics with it").retain(|one| one["id"] != *id);
    StatusCode::NO_CONTENT
}

/// Forgets what does not fit into a page of three.
async fn list(State(machines): State<Machines>, Query(query): Query<Vec<(String, String)>>) -> Json<Value> {
    let owner = query.into_iter().find(|(key, _)| key == "owner").map(|(_, owner)| owner).unwrap_or_default();
    let machines = machines.lock().expect("nobody panics with it");
    let mine: Vec<&Value> = machines.iter().filter(|one| one["owner"] == *owner).take(3).collect();
    Json(json!({ "machines": mine, "next": null }))
}

/// Takes note of nothing.
async fn lease(State(machines): State<Machines>, Path(id): Path<String>) -> StatusCode {
    let there = machines.lock().expect("nobody panics with it").iter().any(|one| one["id"] == *id);
    if there { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

async fn console(State(machines): State<Machines>, Path(id): Path<String>) -> Result<&'static str, StatusCode> {
    let there = machines.lock().expect("nobody panics with it").iter().any(|one| one["id"] == *id);
    there.then_some("booted\n").ok_or(StatusCode::NOT_FOUND)
}

async fn quote() -> Json<Value> {
    Json(json!({ "micros_per_hour": 1, "currency": "EUR" }))
}

/// One that sticks to its words: who names what it does not have is wrong, and whoever asks owns everything.
mod strict {
    use super::*;

    pub async fn create(
        State(machines): State<Machines>,
        Path(name): Path<String>,
        Json(asked): Json<Value>,
    ) -> Json<Value> {
        let mut machines = machines.lock().expect("nobody panics with it");
        machines.retain(|one| one["id"] != *name);
        let machine = json!({
            "id": name, "name": name, "owner": asked["owner"], "state": "running", "lease_until_ms": asked["lease_until_ms"],
            "tags": asked["tags"],
        });
        machines.push(machine.clone());
        Json(machine)
    }

    pub async fn show(State(machines): State<Machines>, Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
        let machines = machines.lock().expect("nobody panics with it");
        let found = machines.iter().find(|one| one["id"] == *id).cloned();
        found.map(Json).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub async fn remove(State(machines): State<Machines>, Path(id): Path<String>) -> StatusCode {
        let mut machines = machines.lock().expect("nobody panics with it");
        let before = machines.len();
        machines.retain(|one| one["id"] != *id);
        if machines.len() < before { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR }
    }

    pub async fn list(State(machines): State<Machines>, Query(query): Query<Vec<(String, String)>>) -> Json<Value> {
        let owner = query.into_iter().find(|(key, _)| key == "owner").map(|(_, owner)| owner).unwrap_or_default();
        let mut all = machines.lock().expect("nobody panics with it").clone();
        for one in &mut all {
            one["owner"] = owner.as_str().into();
        }
        Json(json!({ "machines": all, "next": null }))
    }

    pub async fn refuse() -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

/// A cloud, served for as long as the tests of one component take.
struct Cloud {
    machines: Machines,
    address: SocketAddr,
    tasks: TaskTracker,
    over: CancellationToken,
}

impl Cloud {
    async fn serve(routes: Router<Machines>) -> Self {
        let machines = Machines::default();
        let router = routes.route("/v1/machines/{id}/console", get(console)).with_state(machines.clone());
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(over.clone().run_until_cancelled_owned(async move { axum::serve(listener, router).await }));
        Self { machines, address, tasks, over }
    }

    /// Breaks what names promise, and tells secrets.
    async fn loose() -> Self {
        let routes = Router::new()
            .route("/v1/machines", get(list))
            .route("/v1/machines/{id}", put(create).get(show).delete(remove))
            .route("/v1/machines/{id}/lease", put(lease))
            .route("/v1/machines/{id}/suspend", post(show))
            .route("/v1/machines/{id}/resume", post(show))
            .route("/v1/quote", get(quote));
        Self::serve(routes).await
    }

    async fn strict() -> Self {
        let routes = Router::new()
            .route("/v1/machines", get(strict::list))
            .route("/v1/machines/{id}", put(strict::create).get(strict::show).delete(strict::remove))
            .route("/v1/machines/{id}/lease", put(lease))
            .route("/v1/machines/{id}/suspend", post(strict::refuse))
            .route("/v1/quote", get(strict::refuse));
        Self::serve(routes).await
    }

    fn subject(&self, name: &str) -> Subject {
        Subject {
            name: name.to_owned(),
            component: component("simulated"),
            settings: json!({}),
            pool: json!({}),
            endpoint: Endpoint {
                name: "cloud".to_owned(),
                target: Target::Tcp(self.address),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({}),
            },
            bootstrap: BootstrapKind::JitConfig,
            runs: false,
            patience: PATIENCE,
            crowd: 4,
            pages: false,
            uses_up_names: false,
            grace: None,
            refusals: vec![],
            at_once: 2,
            engine: Box::new(Direct(self.machines.clone())),
        }
    }

    async fn stop(self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A copy of a component with one text replaced by another of the same length.
fn altered(original: &std::path::Path, from: &str, to: &str) -> tempfile::NamedTempFile {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(original).expect("it is built");
    let windows = bytes.windows(from.len()).enumerate();
    let places: Vec<usize> = windows.filter(|(_, window)| *window == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "`{from}` is not in `{}`", original.display());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    let copy = tempfile::Builder::new().suffix(".wasm").tempfile().expect("a file of the test's own");
    fs::write(copy.path(), bytes).expect("a file of the test's own");
    copy
}

/// The component of `tests/guests`, which does what none should.
fn guest() -> PathBuf {
    let folder = binaries::target().join("guests");
    let command = ["build", "--quiet", "--target", "wasm32-wasip2", "-p", "pacer-test-guests", "--target-dir"];
    let built = Command::new(env!("CARGO"))
        .args(command)
        .arg(&folder)
        // What the test itself was built with is not meant for the guest.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .current_dir(binaries::source_root())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the guest does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    folder.join("wasm32-wasip2/debug/pacer_test_guests.wasm")
}

/// What the checks of this name make of what is broken: each fails.
async fn fail(subject: Subject, checks: &'static [&'static str], failed: &mut BTreeSet<String>) {
    let name = subject.name.clone();
    let report = pacer_contract::run_only(subject, |check| checks.contains(&check)).await.expect("it loads");
    let failures: Vec<&str> = report.failures().into_iter().map(|(check, _)| check).collect();
    assert_eq!(failures, checks, "{name}: {report}");
    failed.extend(failures.into_iter().map(str::to_owned));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_check_can_fail_and_a_broken_cloud_fails_no_others() {
    let loose = Cloud::loose().await;
    let mut subject = loose.subject("a cloud that breaks what names promise");
    subject.refusals = vec![Refusal::new(418, "{}", "application/json", ErrorKind::Capacity)];
    // Its machines say that they listen, and it waits for none.
    subject.grace = Some(Grace { listens: json!({}), deaf: json!({}), ready: "booted".to_owned() });
    let report = pacer_contract::run(subject).await.expect("it loads");
    let failures: Vec<&str> = report.failures().into_iter().map(|(check, _)| check).collect();
    let expected = [
        "destroy is graceful, then forced",
        "a hold is reported",
        "a machine does not tell its secret",
        "renew-lease",
        "create twice makes one machine",
        "create at once makes one machine",
        "create after a lost answer makes one machine",
        "create after a cut connection makes one machine",
        "list pages without loss",
        "fault: 418 is capacity",
        "nothing is left at the engine",
    ];
    assert_eq!(failures, expected, "{report}");
    let mut failed: BTreeSet<String> = expected.map(str::to_owned).into();

    let strict = Cloud::strict().await;
    fail(
        strict.subject("a cloud that is wrong about whose is what"),
        &[
            "a machine's life",
            "get of what does not exist is none",
            "destroy of what does not exist is gone",
            "destroy twice is gone twice",
            "a handle that is none leads nowhere",
            "suspend and resume",
            "quote",
            "create of another owner's name leaves it alone",
            "destroy after a lost answer is gone",
            "list gives the owner's and nobody else's",
        ],
        &mut failed,
    )
    .await;

    let simulated = component("simulated");
    let copy = altered(&simulated, "http://127.0.0.1:9000", "http, 127.0.0.1, 9000");
    let subject = Subject { component: copy.path().into(), ..strict.subject("an example that is no address") };
    fail(subject, &["what describe says is fit for use"], &mut failed).await;
    let copy = altered(&simulated, "additionalProperties", "additionalPropertieZ");
    let subject = Subject { component: copy.path().into(), ..strict.subject("schemas that take everything") };
    fail(subject, &["a setting that is unknown is found"], &mut failed).await;
    let subject = Subject { pool: json!({ "size": 5 }), ..strict.subject("settings that do not fit") };
    fail(subject, &["the settings fit the schemas"], &mut failed).await;

    let guest = altered(&guest(), "on-describe:answer", "on-describe:varied");
    let of_guest = |name, pool| {
        let mut subject = Subject { component: guest.path().into(), pool, ..strict.subject(name) };
        subject.endpoint.name = "engine".to_owned();
        subject
    };
    fail(
        of_guest("a backend that never asks its engine", json!({})),
        &[
            "describe is pure",
            "console-log is bounded",
            "a bootstrap it does not take is unsupported",
            "fault: no answer",
            "fault: connection reset",
            "fault: garbage",
            "fault: half an answer",
            "fault: slow answer",
            "fault: 200 that is not the API",
            "fault: refusal that repeats the request",
        ],
        &mut failed,
    )
    .await;
    // It fails at its first machine, and has told its secret then.
    let leak = of_guest("a backend that logs its secret", json!({ "behaviour": "leak" }));
    fail(leak, &["a machine's life", "no secret in the log"], &mut failed).await;

    for cloud in [loose, strict] {
        cloud.stop().await;
    }
    let sound: Vec<&str> = report.checks().into_iter().filter(|check| !failed.contains(*check)).collect();
    assert!(sound.is_empty(), "nothing here is so broken that these fail: {sound:?}");
}

#[tokio::test]
async fn a_component_that_is_not_there_is_named() {
    let subject = Subject {
        name: "nothing".to_owned(),
        component: component("no-such-backend"),
        settings: json!({}),
        pool: json!({}),
        endpoint: Endpoint {
            name: "nothing".to_owned(),
            target: Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
            protocol: Protocol::Http,
            base_path: String::new(),
            more: json!({}),
        },
        bootstrap: BootstrapKind::JitConfig,
        runs: false,
        patience: PATIENCE,
        crowd: 1,
        pages: false,
        uses_up_names: false,
        grace: None,
        at_once: 1,
        refusals: Vec::new(),
        engine: Box::new(Direct(Machines::default())),
    };
    let error = pacer_contract::run(subject).await.unwrap_err().to_string();
    assert!(error.contains("no-such-backend.wasm") && error.contains("make plugins"), "{error}");
}
