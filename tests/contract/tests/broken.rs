//! The suite finds what is broken, and only that: a cloud that breaks the promises its backend relies on.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{get, put},
};
use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Refusal, Subject,
    proxy::{Protocol, Target},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::subjects::component;

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
    Json(json!({ "micros_per_hour": 1, "currency": "euro" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_cloud_fails_the_checks_of_what_it_breaks_and_no_others() {
    let machines = Machines::default();
    let router = Router::new()
        .route("/v1/machines", get(list))
        .route("/v1/machines/{id}", put(create).get(show).delete(remove))
        .route("/v1/machines/{id}/lease", put(lease))
        .route("/v1/machines/{id}/console", get(console))
        .route("/v1/machines/{id}/suspend", axum::routing::post(show))
        .route("/v1/machines/{id}/resume", axum::routing::post(show))
        .route("/v1/quote", get(quote))
        .with_state(machines.clone());
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(over.clone().run_until_cancelled_owned(async move { axum::serve(listener, router).await }));

    let refusals = vec![Refusal::new(418, "{}", "application/json", ErrorKind::Capacity)];
    let report = pacer_contract::run(Subject {
        name: "a broken cloud".to_owned(),
        component: component("simulated"),
        settings: json!({}),
        pool: json!({}),
        endpoint: Endpoint {
            name: "cloud".to_owned(),
            target: Target::Tcp(address),
            protocol: Protocol::Http,
            base_path: String::new(),
            more: json!({}),
        },
        bootstrap: BootstrapKind::JitConfig,
        runs: false,
        patience: Duration::from_secs(5),
        crowd: 4,
        at_once: 2,
        refusals,
        engine: Box::new(Direct(machines)),
    })
    .await
    .unwrap();
    over.cancel();
    tasks.close();
    tasks.wait().await;

    let failed: Vec<&str> = report.failures().into_iter().map(|(check, _)| check).collect();
    let expected = [
        "a hold is reported",
        "a machine does not tell its secret",
        "renew-lease",
        "quote",
        "create twice makes one machine",
        "create at once makes one machine",
        "create after a lost answer makes one machine",
        "create after a cut connection makes one machine",
        "list pages without loss",
        "fault: 418 is capacity",
        "nothing is left at the engine",
    ];
    assert_eq!(failed, expected, "{report}");
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
        patience: Duration::from_secs(1),
        crowd: 1,
        at_once: 1,
        refusals: Vec::new(),
        engine: Box::new(Direct(Machines::default())),
    };
    let error = pacer_contract::run(subject).await.unwrap_err().to_string();
    assert!(error.contains("no-such-backend.wasm") && error.contains("make plugins"), "{error}");
}
