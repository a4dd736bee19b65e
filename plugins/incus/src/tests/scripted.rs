//! What a real server cannot be made to do at will: refusals, operations that fail or do not end, full storage.

use pacer_backend::{
    Backend, Bootstrap, Destruction, Error, ErrorKind, Exported, Instance, InstanceState,
    testing::{Memory, Script},
};
use serde_json::{Value, json};

use super::{PATIENCE, SECRET, call, request};
use crate::{C, IncusBackend};

const MAKE: &str = "POST /1.0/instances?project=default";
const LOOK: &str = "GET /1.0/instances/one?project=default";
const OPERATIONS: &str = "GET /1.0/operations?recursion=1";
const FILES: &str = "POST /1.0/instances/one/files?path=%2Fetc%2Fpacer-runner.env";
const STATE: &str = "PUT /1.0/instances/one/state";
const REMOVE: &str = "DELETE /1.0/instances/one";

fn play<T>(script: &Script, act: impl FnOnce(&C<'_>) -> T) -> T {
    let result = act(&call(script, &Memory::default(), "{}", PATIENCE));
    script.done();
    result
}

fn create(script: &Script) -> Result<Instance, Error> {
    let jit = Bootstrap::JitConfig(SECRET.into());
    play(script, |call| {
        Exported::<IncusBackend>::create(call, request("one", "me", &json!({ "image": "debian" }), jit))
    })
}

fn destroy(script: &Script, grace_ms: u64) -> Result<Destruction, Error> {
    play(script, |call| IncusBackend::destroy(call, "one", grace_ms))
}

fn answer(metadata: &Value) -> String {
    json!({ "type": "sync", "metadata": metadata }).to_string()
}

fn error(message: &str) -> String {
    json!({ "type": "error", "error": message }).to_string()
}

fn instance(status: &str) -> String {
    answer(&json!({
        "name": "one", "status": status, "last_used_at": "2026-01-02T03:04:05Z",
        "config": { "user.pacer.owner": "me", "user.pacer.runner": "one" },
    }))
}

/// What a request starts, and what the wait for it says.
trait Operation {
    fn ends(self, request: &str, code: u16, why: &str) -> Self;
}

impl Operation for Script {
    fn ends(self, request: &str, code: u16, why: &str) -> Self {
        self.on(request, 202, json!({ "operation": "/1.0/operations/7" }).to_string()).on(
            "GET /1.0/operations/7/wait?timeout=",
            200,
            answer(&json!({ "status_code": code, "err": why })),
        )
    }
}

/// As far as the instance was made.
fn made() -> Script {
    Script::default().ends(MAKE, 200, "").on(LOOK, 200, instance("Stopped"))
}

/// The questions that explain a refusal: the image and the profile are there.
fn refused(kind: u16, why: &str) -> Script {
    let root = json!({ "devices": { "root": { "type": "disk", "path": "/", "pool": "fast" } } });
    Script::default()
        .ends(MAKE, kind, why)
        .on(OPERATIONS, 200, answer(&json!({})))
        .on(LOOK, 404, "")
        .on("GET /1.0/images/aliases/debian", 200, answer(&json!({})))
        .on("GET /1.0/profiles/default", 200, answer(&root))
}

#[test]
fn an_instance_that_is_being_started_is_waited_for() {
    let starting = json!({ "running": [{ "resources": { "instances": ["/1.0/instances/one?project=default"] } }] });
    let script = Script::default()
        .ends(MAKE, 400, "Instance \"one\" already exists")
        .on(OPERATIONS, 200, answer(&starting))
        .on(LOOK, 200, instance("Stopped"))
        .on(OPERATIONS, 200, answer(&starting))
        .on(LOOK, 200, instance("Running"))
        .on(LOOK, 200, instance("Running"));
    assert!(matches!(create(&script).unwrap().state, InstanceState::Running));
}

#[test]
fn an_instance_that_is_made_gets_its_configuration_and_is_started() {
    let script = made().on(FILES, 200, answer(&json!({}))).ends(STATE, 200, "").on(LOOK, 200, instance("Running"));
    assert!(matches!(create(&script).unwrap().state, InstanceState::Running));
    let sent = script.sent.borrow();
    assert!(
        sent.iter().filter(|body| body.contains(SECRET)).eq([&format!("ACTIONS_RUNNER_INPUT_JITCONFIG={SECRET}\n")])
    );
}

#[test]
fn a_refusal_is_of_the_kind_that_can_be_looked_up() {
    let check = |script: Script, kind: ErrorKind, says: &str| {
        let error = create(&script).unwrap_err();
        assert_eq!(error.kind, kind, "{}", error.message);
        assert!(error.message.contains(says), "{}", error.message);
    };
    let state = |usage: i64| answer(&json!({ "resources": { "instances": { "limit": 3, "usage": usage } } }));
    let space = |used: u64| answer(&json!({ "space": { "used": used, "total": 1000 } }));
    const PROJECT: &str = "GET /1.0/projects/default/state";
    const STORAGE: &str = "GET /1.0/storage-pools/fast/resources";
    check(refused(400, "no more").on(PROJECT, 200, state(3)), ErrorKind::Quota, "no more");
    let full = || refused(400, "write failed").on(PROJECT, 200, state(2));
    check(full().on(STORAGE, 200, space(991)), ErrorKind::Capacity, "write failed");
    check(full().on(STORAGE, 200, space(990)), ErrorKind::Capacity, "write failed");
    check(full().on(STORAGE, 200, space(989)), ErrorKind::Other, "write failed");
    // What may not be asked explains nothing.
    check(full().on(STORAGE, 403, error("no")), ErrorKind::Other, "write failed");
    let missing = Script::default().ends(MAKE, 400, "x").on(OPERATIONS, 200, answer(&json!({}))).on(LOOK, 404, "");
    check(missing.on("GET /1.0/images/aliases/debian", 404, ""), ErrorKind::NotFound, "no image `debian`");
}

#[test]
fn a_status_of_the_request_itself_is_the_kind() {
    for (status, kind) in [(403, ErrorKind::Unauthorized), (404, ErrorKind::NotFound)] {
        let script = Script::default().on(MAKE, status, error("so it is"));
        let script = script.on(OPERATIONS, 200, answer(&json!({}))).on(LOOK, 404, "");
        let refused = create(&script).unwrap_err();
        assert_eq!(refused.kind, kind);
        assert!(refused.message.contains("so it is"), "{}", refused.message);
    }
}

#[test]
fn a_server_that_quotes_the_secret_does_not_get_it_into_an_error() {
    let script = made().on(FILES, 500, error(&format!("cannot write ACTIONS_RUNNER_INPUT_JITCONFIG={SECRET}")));
    let error = create(&script).unwrap_err();
    assert!(error.message.ends_with("JITCONFIG=[left out]"), "{}", error.message);
}

#[test]
fn what_does_not_start_is_taken_away_and_what_may_run_is_left() {
    // The image lacks the directory: nothing ran.
    let script = made()
        .on(FILES, 404, "")
        .ends(STATE, 400, "it is not running")
        .on(LOOK, 200, instance("Stopped"))
        .ends(REMOVE, 200, "")
        .on(LOOK, 404, "");
    assert_eq!(create(&script).unwrap_err().kind, ErrorKind::InvalidConfig);
    // The answer about the start is lost.
    let script = made().on(FILES, 200, answer(&json!({}))).on(STATE, 503, "");
    assert_eq!(create(&script).unwrap_err().kind, ErrorKind::Unavailable);
    // The start does not end in time.
    let script = made().on(FILES, 200, answer(&json!({}))).ends(STATE, 103, "");
    let slow = create(&script).unwrap_err();
    assert_eq!(slow.kind, ErrorKind::Unavailable);
    assert!(slow.message.contains("timeouts.create"), "{}", slow.message);
}

#[test]
fn an_operation_that_was_forgotten_is_judged_by_what_it_left() {
    let started = json!({ "operation": "/1.0/operations/7" }).to_string();
    let script = Script::default()
        .on(LOOK, 200, instance("Stopped"))
        .on(REMOVE, 202, started)
        .on("GET /1.0/operations/7/wait", 404, "")
        .on(LOOK, 404, "");
    assert_eq!(destroy(&script, 0).unwrap(), Destruction::Gone);
}

#[test]
fn a_stop_is_asked_for_then_forced_and_a_forbidden_one_is_not_forced() {
    let script = Script::default()
        .on(LOOK, 200, instance("Running"))
        .ends(STATE, 400, "it did not stop in time")
        .ends(STATE, 200, "")
        .on(LOOK, 200, instance("Stopped"))
        .ends(REMOVE, 200, "")
        .on(LOOK, 404, "");
    assert_eq!(destroy(&script, 5000).unwrap(), Destruction::Gone);
    let sent: Vec<String> = script.sent.borrow().iter().filter(|body| !body.is_empty()).cloned().collect();
    assert_eq!(sent, [r#"{"action":"stop","timeout":5}"#, r#"{"action":"stop","force":true}"#].map(ordered));

    let script = Script::default().on(LOOK, 200, instance("Running")).on(STATE, 403, error("no"));
    assert_eq!(destroy(&script, 5000).unwrap_err().kind, ErrorKind::Unauthorized);

    let script =
        Script::default().on(LOOK, 200, instance("Running")).ends(STATE, 103, "").on(LOOK, 200, instance("Running"));
    assert_eq!(destroy(&script, 0).unwrap(), Destruction::Stopping, "the next call ends it");
}

/// With its keys as they are sent.
fn ordered(text: &str) -> String {
    serde_json::from_str::<Value>(text).unwrap().to_string()
}

#[test]
fn each_of_the_servers_words_has_its_state() {
    let state = |status: &str| {
        let found = json!({ "name": "one", "status": status, "config": { "user.pacer.owner": "me" },
            "last_used_at": "2026-01-02T03:04:05Z" });
        let script = Script::default().on("GET /1.0/instances?recursion=1&filter=", 200, answer(&json!([found])));
        let mut page = play(&script, |call| IncusBackend::list(call, "me", None)).unwrap();
        format!("{:?}", page.instances.remove(0).state)
    };
    for (status, expected) in [
        ("Running", "Running"),
        ("Frozen", "Running"),
        ("Starting", "Creating"),
        ("Stopping", "Stopping"),
        ("Stopped", "Stopped"),
        ("Error", "Failed"),
    ] {
        assert!(state(status).contains(expected), "{status}: {}", state(status));
    }
}

#[test]
fn what_no_instance_can_be_called_is_not_asked_for() {
    for handle in ["", "..", "../one", "one/state", "one?x", "ä", "o ne"] {
        let nothing = Script::default();
        assert!(play(&nothing, |call| IncusBackend::get(call, handle)).unwrap().is_none(), "{handle}");
        assert_eq!(
            play(&nothing, |call| IncusBackend::destroy(call, handle, 0)).unwrap(),
            Destruction::Gone,
            "{handle}"
        );
    }
}

#[test]
fn garbage_is_an_error_and_not_an_absence() {
    for body in ["", "[]", "<html>", r#"{"metadata":{"name":7}}"#] {
        let script = Script::default().on(LOOK, 200, body);
        let error = play(&script, |call| IncusBackend::get(call, "one")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{body}");
    }
}
