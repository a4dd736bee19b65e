use std::time::Duration;

use pacer_backend::{
    Backend, Bootstrap, Call, Destruction, ErrorKind, InstanceState, RunnerRequest,
    testing::{Memory, Script, context},
};

use super::{Pool, Settings, Simulated};

const M: &str =
    r#"{"id":"m1","name":"pacer-a","owner":"app-1","state":"running","price_micros_per_hour":9,"currency":"USD"}"#;

fn with<T>(script: &Script, run: impl FnOnce(&Call<'_, Settings>) -> T) -> T {
    let memory = Memory::default();
    let out = run(&Call::new(context("{}", Duration::from_secs(5)), script, &memory).unwrap());
    script.done();
    out
}

fn request(pool: Pool) -> RunnerRequest<Pool> {
    let bootstrap = Bootstrap::JitConfig("s3cret".into());
    RunnerRequest {
        name: "pacer-a".into(),
        owner: "app-1".into(),
        labels: vec![],
        pool,
        bootstrap,
        lease_until_ms: 7,
        tags: vec![],
    }
}

#[test]
fn creates_and_hands_the_bootstrap_over() {
    let script = Script::default().on("PUT /v1/machines/pacer-a", 201, M);
    let made = with(&script, |c| Simulated::create(c, request(Pool { boot_ms: Some(3), ..Pool::default() }))).unwrap();
    assert_eq!((made.handle.as_str(), made.price.unwrap().micros_per_hour), ("m1", 9));
    let sent: serde_json::Value = serde_json::from_str(&script.sent.borrow()[0]).unwrap();
    assert_eq!((&sent["jit_config"], &sent["boot_ms"]), (&"s3cret".into(), &3.into()));
}

#[test]
fn a_machine_is_given_its_script_where_it_fetches_its_configuration() {
    let script = Script::default().on("PUT /v1/machines/pacer-a", 201, M);
    let request = RunnerRequest { bootstrap: Bootstrap::StartScript("#!/bin/sh".into()), ..request(Pool::default()) };
    with(&script, |c| Simulated::create(c, request)).unwrap();
    let sent: serde_json::Value = serde_json::from_str(&script.sent.borrow()[0]).unwrap();
    assert_eq!((&sent["start_script"], &sent["jit_config"]), (&"#!/bin/sh".into(), &serde_json::Value::Null));
}

#[test]
fn the_code_in_the_body_decides_the_kind_and_the_header_the_wait() {
    let script = Script::default().on("PUT", 503, r#"{"code":"capacity","message":"full"}"#).with("Retry-After", "7");
    let e = with(&script, |c| Simulated::create(c, request(Pool::default()))).unwrap_err();
    assert_eq!((e.kind, e.retry_after_ms), (ErrorKind::Capacity, Some(7000)));
    let e = with(&Script::default().on("PUT", 503, "<html>"), |c| Simulated::create(c, request(Pool::default())));
    assert_eq!(e.unwrap_err().kind, ErrorKind::Unavailable);
}

#[test]
fn fails_on_request_without_asking_the_cloud() {
    let pool = Pool { fail: Some("quota".into()), ..Pool::default() };
    let e = with(&Script::default(), |c| Simulated::create(c, request(pool))).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Quota);
}

#[test]
fn absent_machines_are_none_and_gone() {
    assert!(
        with(&Script::default().on("GET /v1/machines/m1", 404, ""), |c| Simulated::get(c, "m1")).unwrap().is_none()
    );
    for (status, body, want) in [
        (404, "", Destruction::Gone),
        (204, "", Destruction::Gone),
        (200, r#"{"state":"stopping"}"#, Destruction::Stopping),
    ] {
        let script = Script::default().on("DELETE /v1/machines/m1?grace_ms=5", status, body);
        assert_eq!(with(&script, |c| Simulated::destroy(c, "m1", 5)).unwrap(), want);
    }
}

#[test]
fn lists_the_owner_only_and_knows_no_strange_state() {
    let other = M.replace("app-1", "app-2");
    let odd = M.replace("running", "dancing");
    let script = Script::default().on(
        "GET /v1/machines?owner=app-1&limit=500&cursor=a%2Fb",
        200,
        format!(r#"{{"machines":[{odd},{other}],"next":"z"}}"#),
    );
    let page = with(&script, |c| Simulated::list(c, "app-1", Some("a/b"))).unwrap();
    assert_eq!((page.instances.len(), page.next.as_deref()), (1, Some("z")));
    assert!(matches!(page.instances[0].state, InstanceState::Failed(_)));
}

#[test]
fn the_page_tells_every_setting_and_every_kind() {
    let page = include_str!("../../../docs/backends/simulated.md");
    let described = Simulated::describe();
    let schema: pacer_backend::serde_json::Value = pacer_backend::serde_json::from_str(&described.pool_schema).unwrap();
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("| `{key}` |")), "`{key}` is not in the table of a pool's keys");
    }
    for (word, _) in super::KINDS {
        assert!(page.contains(&format!("`{word}`")), "`{word}` is not told");
    }
}
