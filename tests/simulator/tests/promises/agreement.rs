//! Every request that the simulator takes and every answer that it gives fits GitHub's published description.

use std::{collections::BTreeSet, time::Duration};

use pacer_simulator::github::{NewJob, description::GITHUB};
use reqwest::Method;
use serde_json::{Value, json};

use crate::play::{As, ORG, Play, REPO};

/// Described, and never answered here: the simulator's limits are faults, its caches none, its repositories do not move.
const NOT_PLAYED: [(&str, u16); 5] = [
    ("/app/hook/deliveries/{delivery_id}", 422),
    ("/app/hook/deliveries/{delivery_id}/attempts", 422),
    ("/rate_limit", 304),
    ("/rate_limit", 404),
    ("/repos/{owner}/{repo}/installation", 301),
];

#[tokio::test]
async fn every_described_answer_of_every_operation_is_played_and_fits() {
    let play = Play::start().await;
    as_the_app(&play).await;
    with_runners(&play, &play.token().await, &format!("/repos/{REPO}")).await;
    with_runners(&play, &play.org_token().await, &format!("/orgs/{ORG}")).await;
    with_jobs(&play).await;

    let seen = play.seen();
    let missing: BTreeSet<_> = GITHUB
        .operations()
        .into_iter()
        .flat_map(|operation| GITHUB.statuses(&operation).into_iter().map(move |status| (operation.clone(), status)))
        .filter(|(operation, status)| !NOT_PLAYED.contains(&(operation.path.as_str(), *status)))
        .filter(|called| !seen.contains(called))
        .collect();
    assert!(missing.is_empty(), "described, and not called by this test: {missing:#?}");
    play.simulator.stop().await;
}

async fn as_the_app(play: &Play) {
    assert_eq!(play.get(As::App, "/app").await.status, 200);
    let hook = play.get(As::App, "/app/hook/config").await;
    assert_eq!((hook.status, &hook.body["content_type"]), (200, &json!("json")));
    assert_eq!(hook.body["secret"], "********", "it is never shown");
    assert_eq!(play.get(As::Nobody, "/app").await.status, 401);
    for path in [format!("/repos/{REPO}/installation"), format!("/orgs/{ORG}/installation")] {
        let id = play.get(As::App, &path).await.body["id"].as_u64().expect("an id");
        assert_eq!(play.get(As::App, &format!("/app/installations/{id}")).await.status, 200);
        let tokens = format!("/app/installations/{id}/access_tokens");
        assert_eq!(play.post(As::App, &tokens, &json!({ "permissions": { "actions": "read" } })).await.status, 201);
        assert_eq!(play.call(As::Nobody, Method::POST, &tokens, None).await.status, 401);
        assert_eq!(play.post(As::App, &tokens, &json!({ "permissions": { "actions": "write" } })).await.status, 422);
        let owner = path.split('/').nth(2).expect("an owner");
        play.simulator.github.suspend(owner, true);
        assert_eq!(play.call(As::App, Method::POST, &tokens, None).await.status, 403);
        play.simulator.github.suspend(owner, false);
    }
    assert_eq!(play.get(As::App, "/repos/nobody/nothing/installation").await.status, 404);
    assert_eq!(play.get(As::App, "/orgs/nobody/installation").await.status, 404);
    assert_eq!(play.get(As::App, "/app/installations/1").await.status, 404);
    assert_eq!(play.call(As::App, Method::POST, "/app/installations/1/access_tokens", None).await.status, 404);

    let all = play.get(As::App, "/app/installations").await;
    let one = GITHUB.operation("GET", "/app/installations/1").expect("an operation");
    for installation in all.body.as_array().expect("installations") {
        let faults = GITHUB.faults_of_answer(&one, 200, Some(installation));
        assert!(faults.is_empty(), "GET /app/installations: {faults:#?}");
    }
    assert_eq!(play.get(As::Bearer(&play.token().await), "/rate_limit").await.status, 200);
}

async fn with_runners(play: &Play, token: &str, scope: &str) {
    let who = As::Bearer(token);
    let jit = format!("{scope}/actions/runners/generate-jitconfig");
    let body = json!({ "name": "pacer-one", "runner_group_id": 1, "labels": ["Self-Hosted"], "work_folder": "_work" });
    let made = play.post(who, &jit, &body).await;
    assert_eq!(made.status, 201);
    assert_eq!(play.post(who, &jit, &body).await.status, 409);
    assert_eq!(play.post(who, &jit, &json!({})).await.status, 422);
    let elsewhere = scope.replace("hello-world", "nothing").replace(ORG, "nobody");
    let gone = play.post(who, &format!("{elsewhere}/actions/runners/generate-jitconfig"), &body).await;
    assert_eq!(gone.status, 404, "what an installation does not reach looks as if it did not exist");
    let no_group = json!({ "name": "pacer-two", "runner_group_id": 77, "labels": ["linux"] });
    assert_eq!(play.post(who, &jit, &no_group).await.status, 404);

    let id = made.body["runner"]["id"].as_u64().expect("an id");
    let runner = format!("{scope}/actions/runners/{id}");
    for path in [format!("{scope}/actions/runners"), format!("{scope}/actions/runners?name=pacer-one")] {
        let list = play.get(who, &path).await;
        assert_eq!((list.status, &list.body["total_count"]), (200, &json!(1)));
        assert_eq!(list.body["runners"][0]["labels"][0]["name"], "self-hosted", "labels come back in lower case");
    }
    assert_eq!(play.get(who, &runner).await.status, 200);

    let repo = if scope.starts_with("/orgs") { format!("{ORG}/widgets") } else { REPO.to_owned() };
    let job = play.simulator.github.queue(NewJob::new(&repo, &["self-hosted"], Duration::from_secs(1)));
    let config = made.body["encoded_jit_config"].as_str().expect("a configuration");
    let session = play.simulator.github.connect(config).expect("it connects");
    assert_eq!(play.delete(who, &runner).await.status, 422, "it is busy with {job}");
    session.done("success");
    let body = json!({ "name": "pacer-three", "runner_group_id": 1, "labels": ["linux"] });
    let id = play.post(who, &jit, &body).await.body["runner"]["id"].as_u64().expect("an id");
    assert_eq!(play.delete(who, &format!("{scope}/actions/runners/{id}")).await.status, 204);
    if scope.starts_with("/orgs") {
        assert_eq!(play.get(who, &format!("{scope}/actions/runner-groups")).await.status, 200);
    }
}

async fn with_jobs(play: &Play) {
    let (token, github) = (play.token().await, &play.simulator.github);
    let who = As::Bearer(&token);
    let labels = ["self-hosted", "linux"];
    let waiting = NewJob { waiting: Some(Duration::from_secs(600)), ..NewJob::new(REPO, &labels, Duration::ZERO) };
    let held = github.queue(waiting);
    let queued = github.queue(NewJob::new(REPO, &labels, Duration::ZERO));
    let (_, config) = play.jit(&token, "pacer-four", &labels).await;
    let session = github.connect(&config).expect("it connects");
    let cancelled = github.queue(NewJob::new(REPO, &labels, Duration::ZERO));
    github.cancel(cancelled);

    for (id, status) in [(held, "waiting"), (queued, "in_progress"), (cancelled, "completed")] {
        let job = play.get(who, &format!("/repos/{REPO}/actions/jobs/{id}")).await;
        assert_eq!(job.body["status"], status);
        let run = job.body["run_id"].as_u64().expect("a run");
        assert_eq!(play.get(who, &format!("/repos/{REPO}/actions/runs/{run}/jobs?filter=latest")).await.status, 200);
        let runs = play.get(who, &format!("/repos/{REPO}/actions/runs?status={status}")).await;
        let runs = runs.body["workflow_runs"].as_array().expect("runs").clone();
        assert!(runs.iter().any(|listed| listed["id"] == run), "{run} is {status}");
    }
    session.done("failure");
    assert_eq!(play.get(who, &format!("/repos/{REPO}/actions/jobs/{queued}")).await.body["conclusion"], "failure");

    play.received(3).await;
    play.until("deliveries are logged", |simulator| simulator.github.deliveries().1 >= 3).await;
    let log = play.get(As::App, "/app/hook/deliveries?per_page=2").await;
    let id = log.body[0]["id"].as_u64().expect("a delivery");
    assert_eq!(play.get(As::App, "/app/hook/deliveries?cursor=nonsense").await.status, 400);
    assert_eq!(play.get(As::App, "/app/hook/deliveries?status=nonsense").await.status, 422);
    assert_eq!(play.get(As::App, &format!("/app/hook/deliveries/{id}")).await.status, 200);
    assert_eq!(play.get(As::App, "/app/hook/deliveries/nonsense").await.status, 400);
    let again = format!("/app/hook/deliveries/{id}/attempts");
    assert_eq!(play.call(As::App, Method::POST, &again, None).await.status, 202);
    let nonsense = "/app/hook/deliveries/nonsense/attempts";
    assert_eq!(play.call(As::App, Method::POST, nonsense, None).await.status, 400);
}

/// What GitHub's description forbids, the simulator refuses; what it allows within GitHub's other rules is taken.
#[tokio::test]
async fn it_takes_the_bodies_that_are_described_and_refuses_the_others() {
    let play = Play::start().await;
    let token = play.token().await;
    let path = format!("/repos/{REPO}/actions/runners/generate-jitconfig");
    let operation = GITHUB.operation("POST", &path).expect("an operation");
    let many = |count: usize| (0..count).map(|n| format!("label-{n}")).collect::<Vec<_>>();
    let good = json!({ "name": "n", "runner_group_id": 1, "labels": ["linux"], "work_folder": "_work" });
    let changes: Vec<(&str, Value)> = vec![
        ("name", json!("x")),
        ("name", json!(7)),
        ("name", Value::Null),
        ("runner_group_id", json!("1")),
        ("runner_group_id", json!(1.5)),
        ("runner_group_id", Value::Null),
        ("labels", json!([])),
        ("labels", json!(many(1))),
        ("labels", json!(many(100))),
        ("labels", json!(many(101))),
        ("labels", json!(["é".repeat(256)])),
        ("labels", json!("linux")),
        ("labels", json!([1])),
        ("labels", Value::Null),
        ("work_folder", json!(3)),
        ("work_folder", json!("elsewhere")),
        ("unheard_of", json!(true)),
    ];
    for (number, (field, value)) in changes.iter().enumerate() {
        let mut body = good.clone();
        body["name"] = json!(format!("pacer-{number}"));
        match value {
            Value::Null => drop(body.as_object_mut().expect("an object").remove(*field)),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                body[*field] = value.clone();
            }
        }
        let described = GITHUB.faults_of_request(&operation, Some(&body)).is_empty();
        let answer = play.post(As::Bearer(&token), &path, &body).await;
        assert_eq!(answer.status, if described { 201 } else { 422 }, "{body} answered {}", answer.body);
    }

    let id = play.get(As::App, &format!("/repos/{REPO}/installation")).await.body["id"].as_u64().expect("an id");
    let path = format!("/app/installations/{id}/access_tokens");
    let operation = GITHUB.operation("POST", &path).expect("an operation");
    for body in [
        json!({}),
        json!({ "repositories": ["hello-world"], "permissions": { "actions": "read", "administration": "write" } }),
        json!({ "permissions": { "actions": "everything" } }),
        json!({ "permissions": "all" }),
        json!({ "repositories": "hello-world" }),
        json!({ "repository_ids": ["one"] }),
    ] {
        let described = GITHUB.faults_of_request(&operation, Some(&body)).is_empty();
        let answer = play.post(As::App, &path, &body).await;
        assert_eq!(answer.status, if described { 201 } else { 422 }, "{body} answered {}", answer.body);
    }
    play.simulator.stop().await;
}

/// A test of the tests: the description does find fault.
#[test]
fn answers_that_do_not_fit_are_found() {
    let jit = GITHUB.operation("POST", "/repos/o/r/actions/runners/generate-jitconfig").expect("an operation");
    let runner = json!({ "id": 1, "name": "n", "os": "linux", "status": "online", "busy": false, "labels": [] });
    let good = json!({ "runner": runner, "encoded_jit_config": "e30=" });
    assert_eq!(GITHUB.faults_of_answer(&jit, 201, Some(&good)), Vec::<String>::new());
    let mut wrong = good.clone();
    wrong["runner"]["id"] = json!("one");
    assert_eq!(GITHUB.faults_of_answer(&jit, 201, Some(&wrong)).len(), 1);
    assert_eq!(GITHUB.faults_of_answer(&jit, 201, Some(&json!({ "runner": runner }))).len(), 1);
    assert_eq!(GITHUB.faults_of_answer(&jit, 201, None).len(), 1);
    assert_eq!(GITHUB.faults_of_answer(&jit, 500, Some(&good)).len(), 1);
    let delete = GITHUB.operation("DELETE", "/orgs/o/actions/runners/1").expect("an operation");
    assert_eq!(GITHUB.faults_of_answer(&delete, 204, Some(&json!({}))).len(), 1);
    let runs = GITHUB.operation("GET", "/repos/o/r/actions/runs").expect("an operation");
    assert!(!GITHUB.faults_of_answer(&runs, 200, Some(&json!({ "total_count": 1, "workflow_runs": [{}] }))).is_empty());
    let job = GITHUB.operation("GET", "/repos/o/r/actions/jobs/1").expect("an operation");
    let faults = GITHUB.faults_of_answer(&job, 200, Some(&json!({ "started_at": "yesterday", "runner_id": null })));
    assert!(faults.iter().any(|fault| fault.contains("date-time")), "{faults:?}");
    assert!(!faults.iter().any(|fault| fault.starts_with("/runner_id")), "it may be null: {faults:?}");
}
