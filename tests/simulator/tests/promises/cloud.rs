//! The small cloud: its contract, its machines, and how they end.

use std::time::Duration;

use pacer_simulator::{
    cloud::{Conditions, MachineState},
    faults::Fault,
    github::{self, NewJob},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::play::{Play, REPO};

struct Cloud<'a> {
    play: &'a Play,
    client: reqwest::Client,
}

impl<'a> Cloud<'a> {
    fn of(play: &'a Play, conditions: Conditions) -> Self {
        play.simulator.cloud.set_conditions(conditions);
        Self { play, client: reqwest::Client::builder().no_proxy().build().expect("a client") }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.play.simulator.cloud_url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn create(&self, name: &str, owner: &str, jit_config: &str) -> (u16, Value) {
        let body = json!({
            "owner": owner, "jit_config": jit_config, "labels": ["linux"], "lease_until_ms": 1_000,
            "tags": { "pool": "small" },
        });
        self.call(Method::PUT, &format!("/v1/machines/{name}"), Some(&body)).await
    }

    fn state(&self, name: &str) -> Option<MachineState> {
        let machines = self.play.simulator.cloud.machines();
        machines.into_iter().find(|machine| machine.name == name).map(|machine| machine.state)
    }

    async fn until(&self, name: &str, state: MachineState) {
        self.play.until(&format!("`{name}` is {state:?}"), |_| self.state(name) == Some(state)).await;
    }
}

/// Machines that boot and then do nothing, so that they hold still.
fn stuck() -> Conditions {
    Conditions { stuck: 1.0, ..Conditions::default() }
}

#[tokio::test]
async fn a_create_is_idempotent_by_name_for_its_owner_alone() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, stuck());
    let (status, machine) = cloud.create("pacer-one", "app-1", "-").await;
    assert_eq!((status, &machine["state"]), (201, &json!("creating")));
    let shown = ["id", "name", "owner", "state", "reason", "created_at_ms", "lease_until_ms", "hold", "tags"];
    for key in shown.into_iter().chain(["price_micros_per_hour", "currency"]) {
        assert!(machine.get(key).is_some(), "`{key}` is missing in {machine}");
    }
    assert!(!machine.to_string().contains("jit"), "the configuration stays inside");
    let (status, again) = cloud.create("pacer-one", "app-1", "-").await;
    assert_eq!((status, &again["id"]), (200, &machine["id"]));
    let (status, refusal) = cloud.create("pacer-one", "app-2", "-").await;
    assert_eq!((status, &refusal["code"]), (409, &json!("conflict")));
    assert_eq!(play.simulator.cloud.made()["pacer-one"], 1);
    play.simulator.stop().await;
}

#[tokio::test]
async fn machines_are_shown_listed_by_owner_leased_and_deleted() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, stuck());
    for number in 0..5 {
        cloud.create(&format!("pacer-{number}"), "app-1", "-").await;
    }
    cloud.create("other", "app-2", "-").await;
    let (mut names, mut path) = (Vec::new(), "/v1/machines?owner=app-1&limit=2".to_owned());
    let mut id = String::new();
    loop {
        let (_, page) = cloud.call(Method::GET, &path, None).await;
        let machines = page["machines"].as_array().expect("machines");
        assert!(machines.len() <= 2);
        names.extend(machines.iter().map(|machine| machine["name"].as_str().expect("a name").to_owned()));
        id = machines.first().map_or(id, |machine| machine["id"].as_str().expect("an id").to_owned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/machines?owner=app-1&limit=2&cursor={next}");
    }
    assert_eq!(names, ["pacer-0", "pacer-1", "pacer-2", "pacer-3", "pacer-4"]);

    let machine = format!("/v1/machines/{id}");
    let lease = json!({ "lease_until_ms": 77 });
    assert_eq!(cloud.call(Method::PUT, &format!("{machine}/lease"), Some(&lease)).await.1["lease_until_ms"], 77);
    assert_eq!(cloud.call(Method::GET, &machine, None).await.1["lease_until_ms"], 77);
    assert!(cloud.call(Method::GET, &format!("{machine}/console"), None).await.1.is_string());
    assert_eq!(cloud.call(Method::GET, "/v1/quote", None).await.1["currency"], "EUR");
    assert_eq!(cloud.call(Method::DELETE, &machine, None).await.0, 204);
    for (method, path) in [
        (Method::GET, machine.clone()),
        (Method::DELETE, machine.clone()),
        (Method::PUT, format!("{machine}/lease")),
        (Method::GET, format!("{machine}/console")),
    ] {
        let body = (method == Method::PUT).then_some(&lease);
        let (status, refusal) = cloud.call(method.clone(), &path, body).await;
        assert_eq!((status, &refusal["code"]), (404, &json!("not_found")), "{method} {path}");
    }
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_stop_that_takes_time_says_so_until_the_machine_is_gone() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, Conditions { stop_ms: (30, 31), ..stuck() });
    let id = cloud.create("pacer-one", "app-1", "-").await.1["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/machines/{id}?grace_ms=1000");
    assert_eq!(cloud.call(Method::DELETE, &path, None).await, (200, json!({ "state": "stopping" })));
    play.until("it is gone", |simulator| simulator.cloud.machines().is_empty()).await;
    assert_eq!(cloud.call(Method::DELETE, &path, None).await.0, 404);
    play.simulator.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_invalid_in_the_clouds_words() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, stuck());
    let good = json!({ "owner": "app-1", "jit_config": "-", "lease_until_ms": 1 });
    let mut wrong = vec![json!([]), json!({}), json!({ "owner": 1, "jit_config": "-", "lease_until_ms": 1 })];
    for (key, value) in [("owner", json!("")), ("lease_until_ms", json!("soon")), ("tags", json!([1]))] {
        let mut body = good.clone();
        body[key] = value;
        wrong.push(body);
    }
    for body in wrong {
        let (status, refusal) = cloud.call(Method::PUT, "/v1/machines/pacer-one", Some(&body)).await;
        assert_eq!((status, &refusal["code"]), (422, &json!("invalid")), "{body}: {refusal}");
    }
    let (status, refusal) = cloud.call(Method::PUT, "/v1/machines/pacer-one", None).await;
    assert_eq!((status, &refusal["code"]), (422, &json!("invalid")));
    let (status, refusal) = cloud.call(Method::GET, "/v1/machines?limit=many", None).await;
    assert_eq!((status, &refusal["code"]), (422, &json!("invalid")));
    assert_eq!(play.simulator.cloud.machines().len(), 0);
    assert_eq!(cloud.call(Method::PUT, "/v1/machines/pacer-one", Some(&good)).await.0, 201);
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_full_cloud_and_faults_say_what_is_the_matter() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, Conditions { capacity: Some(1), ..stuck() });
    assert_eq!(cloud.create("pacer-one", "app-1", "-").await.0, 201);
    let (status, refusal) = cloud.create("pacer-two", "app-1", "-").await;
    assert_eq!((status, &refusal["code"]), (507, &json!("capacity")));
    assert_eq!(cloud.create("pacer-one", "app-1", "-").await.0, 200, "it is there already");

    let faults = play.simulator.cloud.faults();
    faults.next("create", 1, Fault::RateLimited { retry_after: 3 });
    assert_eq!(cloud.create("pacer-one", "app-1", "-").await.1["code"], "rate_limited");
    faults.next("list", 1, Fault::Status { status: 503 });
    assert_eq!(cloud.call(Method::GET, "/v1/machines", None).await.1["code"], "unavailable");
    faults.next("quote", 1, Fault::Garbage);
    assert!(cloud.call(Method::GET, "/v1/quote", None).await.1.is_string());
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_machine_serves_one_job_and_stops() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, Conditions::default());
    let (_, config) = play.jit(&play.token().await, "pacer-one", &["linux"]).await;
    let job = play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::from_millis(5)));
    let id = cloud.create("pacer-one", "app-1", &config).await.1["id"].as_str().expect("an id").to_owned();
    cloud.until("pacer-one", MachineState::Stopped).await;
    assert_eq!(play.simulator.github.job(job).and_then(|job| job.conclusion).as_deref(), Some("success"));
    let (_, console) = cloud.call(Method::GET, &format!("/v1/machines/{id}/console"), None).await;
    assert!(console.as_str().expect("a text").contains(&format!("job {job} is over")), "{console}");
    assert!(!console.as_str().expect("a text").contains(&config), "no secret on the console");
    assert_eq!(play.simulator.left(), ["machine `pacer-one`"], "until somebody deletes it");
    assert_eq!(cloud.call(Method::DELETE, &format!("/v1/machines/{id}"), None).await.0, 204);
    assert_eq!(play.simulator.left(), Vec::<String>::new());
    assert_eq!(play.simulator.audit(), Vec::<String>::new());
    play.simulator.stop().await;
}

#[tokio::test]
async fn machines_die_when_they_are_told_to() {
    let settings = github::Settings { lost_after: Duration::from_millis(5), ..github::Settings::default() };
    let play = Play::with(settings).await;
    let cloud = Cloud::of(&play, Conditions::default());
    let token = play.token().await;
    let fates = [
        ("before", Conditions { dead_before: 1.0, ..Conditions::default() }),
        ("idle", Conditions { dead_idle: 1.0, ..Conditions::default() }),
    ];
    for (name, conditions) in fates {
        play.simulator.cloud.set_conditions(conditions);
        let (_, config) = play.jit(&token, name, &["linux"]).await;
        cloud.create(name, "app-1", &config).await;
        cloud.until(name, MachineState::Failed).await;
        let runner = play.simulator.github.runners().into_iter().find(|runner| runner.name == name);
        assert!(runner.is_some_and(|runner| !runner.online), "its record is left, offline");
    }

    play.simulator.cloud.set_conditions(Conditions { dead_busy: 1.0, ..Conditions::default() });
    let (_, config) = play.jit(&token, "busy", &["linux"]).await;
    let job = play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::from_millis(10)));
    cloud.create("busy", "app-1", &config).await;
    cloud.until("busy", MachineState::Failed).await;
    play.until("its job fails", |simulator| {
        simulator.github.job(job).is_some_and(|job| job.conclusion.as_deref() == Some("failure"))
    })
    .await;

    play.simulator.cloud.set_conditions(Conditions::default());
    let (_, config) = play.jit(&token, "taken", &["gpu"]).await;
    cloud.create("taken", "app-1", &config).await;
    cloud.until("taken", MachineState::Running).await;
    play.simulator.cloud.interrupt("taken");
    assert_eq!(cloud.state("taken"), Some(MachineState::Interrupted));
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_machine_that_is_deleted_in_the_middle_of_its_job_is_a_violation_and_the_job_is_not_served() {
    let settings = github::Settings { lost_after: Duration::from_millis(5), ..github::Settings::default() };
    let play = Play::with(settings).await;
    let cloud = Cloud::of(&play, Conditions::default());
    let token = play.token().await;
    let (_, config) = play.jit(&token, "pacer-one", &["linux"]).await;
    let job = play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::from_secs(600)));
    let id = cloud.create("pacer-one", "app-1", &config).await.1["id"].as_str().expect("an id").to_owned();
    play.until("it runs", |simulator| simulator.github.job_of("pacer-one") == Some(job)).await;
    assert_eq!(cloud.call(Method::DELETE, &format!("/v1/machines/{id}"), None).await.0, 204);
    play.until("the job is over", |simulator| simulator.summary().open() == 0).await;
    let summary = play.simulator.summary();
    assert_eq!((summary.served, summary.lost, summary.cancelled), (0, 1, 0));
    assert_eq!(play.simulator.audit(), [format!("machine `pacer-one` was deleted in the middle of job {job}")]);
    play.simulator.stop().await;
}

#[tokio::test]
async fn conditions_change_over_http_and_keep_what_is_not_named() {
    let play = Play::start().await;
    let cloud = Cloud::of(&play, Conditions { stuck: 0.5, ..Conditions::default() });
    assert_eq!(cloud.call(Method::POST, "/_sim/cloud", Some(&json!({ "capacity": 3 }))).await.0, 200);
    let conditions = play.simulator.cloud.conditions();
    assert_eq!((conditions.capacity, conditions.stuck), (Some(3), 0.5));
    let (status, refusal) = cloud.call(Method::POST, "/_sim/cloud", Some(&json!({ "capacity": "many" }))).await;
    assert_eq!((status, &refusal["code"]), (422, &json!("invalid")));
    play.simulator.stop().await;
}
