//! What goes wrong on demand, and how to ask for it.

use std::time::{Duration, Instant};

use pacer_simulator::{
    faults::Fault,
    github::{self, NewJob},
};
use reqwest::Method;
use serde_json::json;

use crate::play::{Answer, As, Play, REPO};

struct Caller<'a> {
    play: &'a Play,
    token: String,
}

impl Caller<'_> {
    async fn jit(&self, name: &str) -> reqwest::Result<Answer> {
        let body = json!({ "name": name, "runner_group_id": 1, "labels": ["linux"] });
        let path = format!("/repos/{REPO}/actions/runners/generate-jitconfig");
        self.play.try_call(As::Bearer(&self.token), Method::POST, &path, Some(&body)).await
    }

    async fn status(&self, name: &str) -> u16 {
        self.jit(name).await.expect("an answer").status
    }

    async fn list(&self) -> Answer {
        let path = format!("/repos/{REPO}/actions/runners");
        self.play.try_call(As::Bearer(&self.token), Method::GET, &path, None).await.expect("an answer")
    }
}

#[tokio::test]
async fn refusals_come_as_often_as_asked_for_without_an_effect() {
    let play = Play::start().await;
    let caller = Caller { play: &play, token: play.token().await };
    let faults = play.simulator.github.faults();
    for status in [403, 404, 409, 500, 502, 503] {
        faults.next("jit", 1, Fault::Status { status });
        assert_eq!(caller.status("pacer-one").await, status);
    }
    assert_eq!(caller.list().await.body["total_count"], 0);
    faults.next("jit", 2, Fault::Status { status: 500 });
    assert_eq!(caller.list().await.status, 200, "another operation");
    assert_eq!([caller.status("a").await, caller.status("b").await, caller.status("c").await], [500, 500, 201]);
    assert_eq!(faults.calls("jit"), 9);
    play.simulator.stop().await;
}

#[tokio::test]
async fn limits_say_when_to_come_back() {
    let play = Play::start().await;
    let caller = Caller { play: &play, token: play.token().await };
    let faults = play.simulator.github.faults();
    faults.next("jit", 1, Fault::RateLimited { retry_after: 17 });
    faults.next("jit", 1, Fault::SecondaryLimit { retry_after: Some(60) });
    let primary = caller.jit("pacer-one").await.expect("an answer");
    assert_eq!((primary.status, &primary.headers["retry-after"]), (429, &"17".parse().expect("a value")));
    let secondary = caller.jit("pacer-one").await.expect("an answer");
    assert_eq!((secondary.status, &secondary.headers["retry-after"]), (403, &"60".parse().expect("a value")));
    assert!(secondary.text.contains("secondary rate limit"), "{}", secondary.text);
    play.simulator.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_late_lost_or_garbage_has_its_effect() {
    let play = Play::start().await;
    let caller = Caller { play: &play, token: play.token().await };
    let faults = play.simulator.github.faults();
    let started = Instant::now();
    faults.next("jit", 1, Fault::Slow { ms: 50 });
    assert_eq!(caller.status("pacer-slow").await, 201);
    assert!(started.elapsed() >= Duration::from_millis(50));
    faults.next("jit", 1, Fault::LostAnswer);
    assert!(caller.jit("pacer-lost").await.is_err(), "the answer breaks off");
    faults.next("jit", 1, Fault::Garbage);
    let garbage = caller.jit("pacer-garbage").await.expect("an answer");
    assert!(garbage.body.is_null() && !garbage.text.is_empty(), "{garbage:?}");
    for name in ["pacer-slow", "pacer-lost", "pacer-garbage"] {
        assert_eq!(caller.status(name).await, 409, "`{name}` was made");
    }

    // An answer without a body is lost as well.
    let (id, _) = play.jit(&caller.token, "pacer-deleted", &["linux"]).await;
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    faults.next("delete", 1, Fault::LostAnswer);
    assert!(play.try_call(As::Bearer(&caller.token), Method::DELETE, &path, None).await.is_err(), "it breaks off");
    assert_eq!(play.delete(As::Bearer(&caller.token), &path).await.status, 404, "it was deleted");
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_share_of_the_calls_fails_and_a_seed_repeats_which() {
    let draw = async |seed: u64| {
        let play = Play::with(github::Settings { seed, ..github::Settings::default() }).await;
        let caller = Caller { play: &play, token: play.token().await };
        play.simulator.github.faults().share("runners", 0.5, Fault::Status { status: 500 });
        let mut drawn = Vec::new();
        for _ in 0..40 {
            drawn.push(caller.list().await.status);
        }
        play.simulator.github.faults().clear();
        assert_eq!(caller.list().await.status, 200);
        play.simulator.stop().await;
        drawn
    };
    let first = draw(3).await;
    assert!(first.contains(&500) && first.contains(&200), "{first:?}");
    assert_eq!(first, draw(3).await);
    assert_ne!(first, draw(4).await);
}

#[tokio::test]
async fn the_play_is_directed_over_http_as_well() {
    let play = Play::start().await;
    let caller = Caller { play: &play, token: play.token().await };
    let rule = json!({ "operation": "jit", "kind": "status", "status": 503, "count": 1 });
    let call = async |method: Method, path: &str, body| {
        play.try_call(As::Nobody, method, path, body).await.expect("an answer")
    };
    assert_eq!(call(Method::POST, "/_sim/faults", Some(&rule)).await.status, 200);
    assert_eq!(caller.status("pacer-one").await, 503);
    assert_eq!(caller.status("pacer-one").await, 201);

    let jobs = json!({ "repo": REPO, "labels": ["linux"], "count": 2, "waiting_ms": 600_000 });
    let ids = call(Method::POST, "/_sim/jobs", Some(&jobs)).await.body["ids"].clone();
    let first = ids[0].as_u64().expect("an id");
    assert_eq!(call(Method::POST, &format!("/_sim/jobs/{first}/cancel"), None).await.status, 200);
    let state = call(Method::GET, "/_sim/state", None).await.body;
    let mut statuses: Vec<_> = state["jobs"].as_array().expect("jobs").iter().map(|job| &job["status"]).collect();
    statuses.sort_by_key(ToString::to_string);
    assert_eq!(statuses, ["completed", "waiting"]);
    assert_eq!(call(Method::GET, "/_sim/audit", None).await.body, json!({ "violations": [] }));
    play.simulator.stop().await;
}

#[tokio::test]
async fn the_audit_names_what_must_not_happen() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, _) = play.jit(&token, "pacer-one", &["linux"]).await;
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    assert_eq!(play.delete(As::Bearer(&token), &path).await.status, 204);
    play.jit(&token, "pacer-one", &["linux"]).await;
    play.get(As::Nobody, &path).await;
    play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::ZERO));
    let violations = ["the name `pacer-one` was registered 2 times", "1 calls were not authorised"];
    assert_eq!(play.simulator.audit(), violations);
    assert_eq!(play.simulator.left(), ["runner record `pacer-one`"]);
    let summary = play.simulator.summary();
    assert_eq!((summary.queued, summary.served), (1, 0), "a job that was never served");
    play.simulator.stop().await;
}
