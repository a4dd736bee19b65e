//! What a real engine cannot be made to do at will: lost and late answers, refusals, garbage.

use std::time::Duration;

use pacer_backend::{
    Backend, Bootstrap, Cache, Destruction, Error, ErrorKind, Exported, InstanceState,
    testing::{Memory, Script},
};
use serde_json::{Value, json};

use super::{SECRET, call, request};
use crate::{C, Docker};

const MINUTE: Duration = Duration::from_secs(60);

/// Runs against a script that starts after the version was negotiated, and sees to its being used up.
fn play<T>(script: &Script, act: impl FnOnce(&C<'_>) -> T) -> T {
    play_within(MINUTE, script, act)
}

fn play_within<T>(deadline: Duration, script: &Script, act: impl FnOnce(&C<'_>) -> T) -> T {
    let memory = Memory::default();
    memory.set("api", b"/v1.41");
    let result = act(&call(script, &memory, deadline));
    script.done();
    result
}

fn create(script: &Script, pool: &Value) -> Result<pacer_backend::Instance, Error> {
    play(script, |call| Exported::<Docker>::create(call, request("pacer-a", "me", pool)))
}

fn inspected(id: &str, status: &str, more: &Value) -> String {
    let mut state = json!({ "Status": status });
    state.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let labels = json!({ "pacer.owner": "me", "pacer.runner": "pacer-a" });
    let config = json!({ "Labels": labels, "Env": [format!("ACTIONS_RUNNER_INPUT_JITCONFIG={SECRET}")] });
    json!({ "Id": id, "Created": "2026-01-02T03:04:05Z", "Config": config, "State": state }).to_string()
}

fn said(message: &str) -> String {
    json!({ "message": message }).to_string()
}

mod versions {
    use super::*;

    fn negotiated(answer: &str) -> Result<String, Error> {
        let memory = Memory::default();
        let script = Script::default().on("GET /version", 200, answer).on("GET /", 404, "");
        Docker::get(&call(&script, &memory, MINUTE), "a")?;
        let asked = memory.get("api").expect("it is remembered");
        Ok(String::from_utf8(asked).expect("text"))
    }

    #[test]
    fn the_newest_version_that_both_speak_is_spoken() {
        let check = |newest: &str, oldest: &str, expected: &str| {
            let answer = json!({ "ApiVersion": newest, "MinAPIVersion": oldest }).to_string();
            assert_eq!(negotiated(&answer).unwrap(), expected);
        };
        check("1.40", "1.12", "/v1.40");
        check("1.41", "1.24", "/v1.41");
        check("1.52", "1.44", "/v1.47");
        check("1.60", "1.50", "/v1.50");
    }

    #[test]
    fn an_engine_that_is_too_old_or_none_is_refused() {
        let old = negotiated(r#"{"ApiVersion":"1.39","MinAPIVersion":"1.12"}"#).unwrap_err();
        assert_eq!(old.kind, ErrorKind::InvalidConfig);
        assert!(old.message.contains("1.39") && old.message.contains("19.03"), "{}", old.message);
        for answer in ["{}", "<html>", "[]", r#"{"ApiVersion":7}"#, r#"{"ApiVersion":"new"}"#] {
            assert_eq!(negotiated(answer).unwrap_err().kind, ErrorKind::Unavailable, "{answer}");
        }
    }

    #[test]
    fn a_proxy_that_forbids_the_question_leaves_the_engines_own_version() {
        let script = Script::default().on("GET /version", 403, "no").on("GET /containers/a/json", 404, "");
        let memory = Memory::default();
        let context = call(&script, &memory, MINUTE);
        assert!(Docker::get(&context, "a").unwrap().is_none());
        script.done();
    }

    #[test]
    fn a_refusal_with_the_version_unchanged_is_not_repeated() {
        let script = Script::default()
            .on("POST /v1.41/containers/create", 400, said("bad"))
            .on("GET /version", 200, r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#)
            .on("GET /v1.41/containers/pacer-a/json", 404, "");
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidConfig);
    }
}

mod creating {
    use super::*;

    const CREATE: &str = "POST /v1.41/containers/create?name=pacer-a";
    const INSPECT: &str = "GET /v1.41/containers/pacer-a/json";

    #[test]
    fn other_bootstraps_are_not_taken() {
        let mut other = request("pacer-a", "me", &json!({ "image": "a" }));
        other.bootstrap = Bootstrap::StartScript("#!/bin/sh".into());
        let error = play(&Script::default(), |call| Docker::create(call, other)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
    }

    #[test]
    fn a_missing_image_is_pulled_and_the_create_repeated() {
        let progress = "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n";
        let script = Script::default()
            .on(CREATE, 404, said("No such image"))
            .on("GET /v1.41/images/host%3A5000/a%3Alatest/json", 404, "")
            .on("POST /v1.41/images/create?fromImage=host%3A5000%2Fa%3Alatest", 200, progress)
            .on(CREATE, 201, r#"{"Id":"1f"}"#)
            .on("POST /v1.41/containers/1f/start", 204, "")
            .on("GET /v1.41/containers/1f/json", 200, inspected("1f", "running", &json!({})));
        let made = create(&script, &json!({ "image": "host:5000/a" })).unwrap();
        assert_eq!(made.handle, "1f");
        assert!(script.sent.borrow()[0].contains(SECRET));
        assert_eq!(script.sent.borrow().iter().filter(|body| body.contains(SECRET)).count(), 2);
    }

    #[test]
    fn always_pulls_before_the_create_but_not_for_what_exists() {
        let pool = json!({ "image": "a:1", "pull": "always", "platform": "linux/arm64" });
        let script = Script::default()
            .on(INSPECT, 404, "")
            .on("POST /v1.41/images/create?fromImage=a%3A1&platform=linux%2Farm64", 200, "")
            .on("POST /v1.41/containers/create?name=pacer-a&platform=linux%2Farm64", 201, r#"{"Id":"1f"}"#)
            .on("POST /v1.41/containers/1f/start", 204, "")
            .on("GET /v1.41/containers/1f/json", 200, inspected("1f", "running", &json!({})));
        create(&script, &pool).unwrap();
        let script = Script::default()
            .on(INSPECT, 200, inspected("1f", "running", &json!({})))
            .on("POST /v1.41/containers/create", 409, "")
            .on(INSPECT, 200, inspected("1f", "running", &json!({})));
        create(&script, &pool).unwrap();
    }

    #[test]
    fn an_image_of_another_platform_is_pulled_too() {
        let pool = json!({ "image": "a:1", "platform": "linux/arm64" });
        let script = Script::default().on(CREATE, 404, said("does not match the specified platform")).on(
            "POST /v1.41/images/create?fromImage=a%3A1&platform",
            404,
            said("no such manifest"),
        );
        assert_eq!(create(&script, &pool).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn something_else_that_is_missing_is_no_missing_image() {
        let script = Script::default()
            .on(CREATE, 404, said("network n not found"))
            .on("GET /v1.41/images/a%3A1/json", 200, "{}")
            .on(INSPECT, 404, "");
        let error = create(&script, &json!({ "image": "a:1", "network": "n" })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("network n not found"), "{}", error.message);
    }

    #[test]
    fn beside_a_platform_that_must_not_be_pulled_it_is_none_either() {
        let pool = json!({ "image": "a:1", "platform": "linux/arm64", "pull": "never", "network": "n" });
        let create = |there, more: fn(Script) -> Script| {
            let script = Script::default().on(CREATE, 404, said("network n not found"));
            let script = more(script.on("GET /v1.41/images/a%3A1/json", there, "{}"));
            create(&script, &pool).unwrap_err().message
        };
        let message = create(200, |script| script.on(INSPECT, 404, ""));
        assert!(message.contains("network n not found"), "{message}");
        let message = create(404, |script| script);
        assert!(message.contains("no image `a:1`"), "{message}");
    }

    #[test]
    fn a_platform_that_would_be_ignored_is_refused() {
        let pool = json!({ "image": "a:1", "platform": "linux/arm64" });
        let check = |answer: &str, refused: bool| {
            let memory = Memory::default();
            let script = Script::default().on("GET /version", 200, answer);
            let script = if refused { script } else { script.on("POST /v1.41/containers/create", 500, "") };
            let script = if refused { script } else { script.on(INSPECT, 404, "") };
            let error = Docker::create(&call(&script, &memory, MINUTE), request("pacer-a", "me", &pool)).unwrap_err();
            assert_eq!(error.kind == ErrorKind::InvalidConfig, refused, "{}", error.message);
            assert_eq!(error.message.contains("1.40 and would ignore `platform`"), refused, "{}", error.message);
            script.done();
        };
        check(r#"{"ApiVersion":"1.40"}"#, true);
        check(r#"{"ApiVersion":"1.41"}"#, false);
    }

    #[test]
    fn a_pull_that_fails_has_the_kind_that_the_engine_gives() {
        let check = |status, body: &str, kind| {
            let script = Script::default().on(CREATE, 404, "").on("GET /v1.41/images/a%3A1/json", 404, "").on(
                "POST /v1.41/images/create",
                status,
                body,
            );
            let script = if status == 400 { script.on("GET /version", 500, "") } else { script };
            let error = create(&script, &json!({ "image": "a:1" })).unwrap_err();
            assert_eq!(error.kind, kind, "{status} {body}");
            assert!(error.message.contains("pulling `a:1`"), "{}", error.message);
        };
        check(404, "", ErrorKind::NotFound);
        check(401, "", ErrorKind::Unauthorized);
        check(403, "", ErrorKind::Unauthorized);
        check(429, "", ErrorKind::RateLimited);
        check(400, "", ErrorKind::InvalidConfig);
        check(500, "", ErrorKind::Unavailable);
        let late = |code: &str| format!("{{\"status\":\"x\"}}\n{{\"errorDetail\":{code},\"error\":\"it failed\"}}\n");
        check(200, &late("{}"), ErrorKind::Unavailable);
        check(200, &late("{\"code\":401}"), ErrorKind::Unauthorized);
        check(200, &late("{\"code\":429}"), ErrorKind::RateLimited);
        check(200, &late("{\"code\":1}"), ErrorKind::Unavailable);
        // However long the progress is, its end is read.
        let long = format!("{}{}", "{\"status\":\"x\"}\n".repeat(1_000_000), late("{\"code\":404}"));
        check(200, &long, ErrorKind::NotFound);
    }

    #[test]
    fn a_start_that_is_refused_removes_what_was_made() {
        let script = Script::default()
            .on(CREATE, 201, r#"{"Id":"1f"}"#)
            .on("POST /v1.41/containers/1f/start", 403, said("denied by a plugin"))
            .on("DELETE /v1.41/containers/1f?force=1", 500, "");
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthorized);
        assert!(error.message.contains("denied by a plugin"), "{}", error.message);
    }

    #[test]
    fn a_start_that_may_have_happened_leaves_what_was_made_to_the_next_call() {
        let script =
            Script::default().on(CREATE, 201, r#"{"Id":"1f"}"#).on("POST /v1.41/containers/1f/start", 500, said("eof"));
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("eof"), "{}", error.message);
    }

    #[test]
    fn a_runtime_that_the_engine_ignores_is_never_started() {
        let body =
            json!({ "Id": "1f", "Config": {}, "State": { "Status": "created" }, "HostConfig": { "Runtime": "oci" } });
        let script = Script::default()
            .on(CREATE, 201, r#"{"Id":"1f"}"#)
            .on("GET /v1.41/containers/1f/json", 200, body.to_string())
            .on("DELETE /v1.41/containers/1f?force=1", 204, "");
        let error = create(&script, &json!({ "image": "a", "runtime": "runsc" })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidConfig);
        assert!(error.message.contains("`runtime: runsc`"), "{}", error.message);
    }

    #[test]
    fn a_name_that_is_being_taken_is_waited_for() {
        let script = Script::default().on(CREATE, 409, said("in use")).on(INSPECT, 404, "").on(INSPECT, 404, "").on(
            INSPECT,
            200,
            inspected("1f", "running", &json!({})),
        );
        assert_eq!(create(&script, &json!({ "image": "a" })).unwrap().handle, "1f");
    }

    #[test]
    fn a_name_held_by_nothing_is_asked_for_again_later() {
        let script = Script::default().on(CREATE, 409, "").on(INSPECT, 404, "");
        let error = play_within(Duration::from_millis(60), &script, |call| {
            Docker::create(call, request("pacer-a", "me", &json!({ "image": "a" })))
        });
        assert_eq!(error.unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn an_engine_that_says_a_taken_name_otherwise_is_understood() {
        let script = Script::default()
            .on(CREATE, 500, said("the container name is already in use"))
            .on(INSPECT, 200, inspected("1f", "created", &json!({})))
            .on("POST /v1.41/containers/1f/start", 304, "")
            .on("GET /v1.41/containers/1f/json", 200, inspected("1f", "running", &json!({})));
        assert!(matches!(create(&script, &json!({ "image": "a" })).unwrap().state, InstanceState::Running));
    }

    #[test]
    fn one_that_vanishes_meanwhile_is_made_anew_by_the_next_try() {
        let script = Script::default()
            .on(CREATE, 409, "")
            .on(INSPECT, 200, inspected("1f", "created", &json!({})))
            .on("POST /v1.41/containers/1f/start", 404, "")
            .on("GET /v1.41/containers/1f/json", 404, "");
        assert_eq!(create(&script, &json!({ "image": "a" })).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn an_engine_that_quotes_the_secret_does_not_get_it_into_an_error() {
        let script = Script::default().on(CREATE, 400, said(&format!("bad value JIT={SECRET}!")));
        let script = script.on("GET /version", 500, "").on(INSPECT, 404, "");
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert!(!error.message.contains(SECRET));
        // A part of it is as bad as the whole.
        let cut = format!("{}{SECRET}", "x".repeat(1024 - 20 - "`POST engine/v1.41/containers/create`: 500: ".len()));
        let script = Script::default().on(CREATE, 500, said(&cut)).on(INSPECT, 404, "");
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert!(!error.message.contains(&SECRET[..16]) && error.message.ends_with("[left out]"), "{}", error.message);
        let script = Script::default().on(CREATE, 500, said(&format!("JIT={SECRET}!"))).on(INSPECT, 404, "");
        let error = create(&script, &json!({ "image": "a" })).unwrap_err();
        assert!(error.message.contains("JIT=[left out]"), "{}", error.message);
    }

    #[test]
    fn garbage_is_an_engine_that_cannot_be_used_now() {
        for answer in ["", "{}", "[]", "<html>", r#"{"Id":7}"#] {
            let script = Script::default().on(CREATE, 201, answer);
            assert_eq!(create(&script, &json!({ "image": "a" })).unwrap_err().kind, ErrorKind::Unavailable, "{answer}");
        }
    }
}

mod destroying {
    use super::*;

    fn destroy(script: &Script, deadline: Duration, grace_ms: u64) -> Result<Destruction, Error> {
        play_within(deadline, script, |call| Docker::destroy(call, "1f", grace_ms))
    }

    fn seen(status: &str) -> Script {
        Script::default().on("GET /v1.41/containers/1f/json", 200, inspected("1f", status, &json!({})))
    }

    const REMOVE: &str = "DELETE /v1.41/containers/1f?force=1&v=1";

    #[test]
    fn the_grace_is_what_is_asked_for_as_far_as_the_call_has_room() {
        let check = |deadline: u64, grace_ms: u64, seconds: u64| {
            let stop = format!("POST /v1.41/containers/1f/stop?t={seconds}");
            let script = seen("running").on(&stop, 204, "").on(REMOVE, 204, "");
            assert_eq!(destroy(&script, Duration::from_secs(deadline), grace_ms).unwrap(), Destruction::Gone);
        };
        check(60, 0, 0);
        check(60, 1, 1);
        check(60, 30_000, 30);
        check(60, 600_000, 53);
        check(6, 600_000, 0);
        check(60, u64::MAX, 53);
    }

    #[test]
    fn the_pools_own_grace_counts_when_it_is_shorter() {
        let check = |own: &str, seconds: u64| {
            let labels = json!({ "pacer.stop-timeout": own });
            // Podman says 0 of every container that was made without one.
            let config = json!({ "Labels": labels, "StopTimeout": 0 });
            let body = json!({ "Id": "1f", "Config": config, "State": { "Status": "running" } }).to_string();
            let stop = format!("POST /v1.41/containers/1f/stop?t={seconds}");
            let script =
                Script::default().on("GET /v1.41/containers/1f/json", 200, body).on(&stop, 204, "").on(REMOVE, 204, "");
            assert_eq!(destroy(&script, MINUTE, 30_000).unwrap(), Destruction::Gone);
        };
        check("0", 0);
        check("7", 7);
        check("40", 30);
        check("nonsense", 30);
    }

    #[test]
    fn what_is_not_running_is_removed_at_once() {
        for status in ["exited", "created", "dead", "removing"] {
            assert_eq!(destroy(&seen(status).on(REMOVE, 204, ""), MINUTE, 1000).unwrap(), Destruction::Gone);
        }
    }

    #[test]
    fn a_stop_that_fails_ends_in_a_removal_by_force() {
        for status in [304, 409, 500] {
            let script = seen("running").on("POST /v1.41/containers/1f/stop", status, "").on(REMOVE, 204, "");
            assert_eq!(destroy(&script, MINUTE, 1000).unwrap(), Destruction::Gone, "{status}");
        }
        let script = seen("paused")
            .on("POST /v1.41/containers/1f/unpause", 500, "")
            .on("POST /v1.41/containers/1f/stop", 500, "")
            .on(REMOVE, 204, "");
        assert_eq!(destroy(&script, MINUTE, 1000).unwrap(), Destruction::Gone);
    }

    #[test]
    fn what_the_engine_fails_at_looking_at_is_stopped_and_removed() {
        const INSPECT: &str = "GET /v1.41/containers/1f/json";
        let script = Script::default()
            .on(INSPECT, 500, said("layer is broken"))
            .on("POST /v1.41/containers/1f/stop?t=9", 500, "")
            .on(REMOVE, 204, "");
        assert_eq!(destroy(&script, MINUTE, 9000).unwrap(), Destruction::Gone);
        for (status, kind) in [(403, ErrorKind::Unauthorized), (429, ErrorKind::RateLimited)] {
            let script = Script::default().on(INSPECT, status, "");
            assert_eq!(destroy(&script, MINUTE, 9000).unwrap_err().kind, kind, "no failure of the engine's: {status}");
        }
    }

    #[test]
    fn a_stop_that_is_forbidden_is_not_replaced_by_force() {
        let script = seen("running").on("POST /v1.41/containers/1f/stop", 403, "");
        assert_eq!(destroy(&script, MINUTE, 1000).unwrap_err().kind, ErrorKind::Unauthorized);
    }

    #[test]
    fn the_removals_answer_is_the_answer() {
        let check = |status| destroy(&seen("exited").on(REMOVE, status, ""), MINUTE, 0);
        assert_eq!(check(404).unwrap(), Destruction::Gone);
        assert_eq!(check(409).unwrap(), Destruction::Stopping);
        assert_eq!(check(500).unwrap_err().kind, ErrorKind::Unavailable);
        let script = seen("running").on("POST /v1.41/containers/1f/stop", 404, "");
        assert_eq!(destroy(&script, MINUTE, 0).unwrap(), Destruction::Gone);
    }
}

mod looking {
    use super::*;

    fn get(body: &str) -> Result<Option<pacer_backend::Instance>, Error> {
        let script = Script::default().on("GET /v1.41/containers/a-b/json", 200, body);
        play(&script, |call| Docker::get(call, "a-b"))
    }

    #[test]
    fn each_of_the_engines_words_has_its_state() {
        let check = |status: &str, more: Value, expected: &str| {
            let found = get(&inspected("1f", status, &more)).unwrap().unwrap();
            assert_eq!(format!("{:?}", found.state), expected, "{status}");
        };
        check("created", json!({}), "InstanceState::Creating");
        check("configured", json!({}), "InstanceState::Creating");
        check("created", json!({ "Error": "no device" }), "InstanceState::Failed(\"it did not start: no device\")");
        check("running", json!({ "Error": "" }), "InstanceState::Running");
        check("restarting", json!({}), "InstanceState::Running");
        check("removing", json!({}), "InstanceState::Stopping");
        check("stopped", json!({ "ExitCode": 0 }), "InstanceState::Stopped");
        check("exited", json!({ "ExitCode": -1 }), "InstanceState::Failed(\"exit code -1\")");
        check(
            "exited",
            json!({ "OOMKilled": true }),
            "InstanceState::Failed(\"exit code 0, killed for exceeding its memory\")",
        );
        check("dead", json!({}), "InstanceState::Failed(\"the engine says `dead`\")");
    }

    #[test]
    fn addresses_and_tags_come_along() {
        let found = get(&json!({
            "Id": "1f", "State": { "Status": "running" },
            "Config": { "Labels": { "pacer.target": "octocat/a", "pacer.hold": "false", "pacer.stop-timeout": "3", "other": "x" } },
            "NetworkSettings": { "Networks": { "none": { "IPAddress": "" }, "one": { "IPAddress": "10.0.0.2" } } },
        }).to_string());
        let found = found.unwrap().unwrap();
        assert_eq!(found.addresses, ["10.0.0.2"]);
        assert_eq!(found.attributes, [("target".to_owned(), "octocat/a".to_owned())]);
        assert!(!found.hold);
        assert_eq!((found.created_at_ms, found.lease_until_ms), (None, None));
    }

    #[test]
    fn garbage_is_an_error_and_not_an_absence() {
        for body in ["", "null", "{}", "[]", r#"{"Id":"1","Config":{},"State":{}}"#, "<html>"] {
            assert_eq!(get(body).unwrap_err().kind, ErrorKind::Unavailable, "{body}");
        }
    }

    #[test]
    fn a_listing_leaves_out_strangers_and_what_vanished_and_inspects_what_ended() {
        let one = |id: &str, owner: &str, state: &str| json!({ "Id": id, "State": state, "Created": 5, "Labels": { "pacer.owner": owner } });
        let listed = json!([
            one("4", "me", "running"), one("3", "you", "running"), one("2", "me", "exited"), one("1", "me", "exited"),
            { "Id": "0", "State": "running", "Labels": null },
        ]);
        let script = Script::default()
            .on(
                "GET /v1.41/containers/json?all=1&filters=%7B%22label%22%3A%5B%22pacer.owner%3Dme%22%5D%7D",
                200,
                listed.to_string(),
            )
            .on("GET /v1.41/containers/1/json", 404, "")
            .on("GET /v1.41/containers/2/json", 200, inspected("2", "exited", &json!({ "ExitCode": 9 })));
        let page = play(&script, |call| Docker::list(call, "me", None)).unwrap();
        let seen: Vec<_> = page.instances.iter().map(|it| (it.handle.as_str(), format!("{:?}", it.state))).collect();
        assert_eq!(
            seen,
            [("2", "InstanceState::Failed(\"exit code 9\")".to_owned()), ("4", "InstanceState::Running".to_owned()),]
        );
        assert_eq!(page.instances[1].created_at_ms, Some(5000));
        for body in ["{}", "", "[{}]", "<html>"] {
            let script = Script::default().on("GET /v1.41/containers/json", 200, body);
            let error = play(&script, |call| Docker::list(call, "me", None)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{body}");
        }
    }

    #[test]
    fn what_is_no_id_is_not_asked_for() {
        for handle in ["", "..", "../a", "a/b", "a?b", "a b", "ä"] {
            let nothing = Script::default();
            assert!(play(&nothing, |call| Docker::get(call, handle)).unwrap().is_none(), "{handle}");
            assert_eq!(play(&nothing, |call| Docker::destroy(call, handle, 0)).unwrap(), Destruction::Gone, "{handle}");
        }
    }

    #[test]
    fn one_that_cannot_be_looked_at_does_not_hide_the_others() {
        let one = |id: &str, state: &str| json!({ "Id": id, "State": state, "Labels": { "pacer.owner": "me" } });
        let listed = json!([one("1", "exited"), one("2", "created"), one("3", "exited")]).to_string();
        let script = Script::default()
            .on("GET /v1.41/containers/json", 200, listed)
            .on("GET /v1.41/containers/1/json", 500, said("layer is broken"))
            .on("GET /v1.41/containers/2/json", 500, "")
            .on("GET /v1.41/containers/3/json", 200, inspected("3", "exited", &json!({})));
        let page = play(&script, |call| Docker::list(call, "me", None)).unwrap();
        let [one, two, three] = page.instances.as_slice() else { panic!("{:?}", page.instances) };
        assert!(matches!(&one.state, InstanceState::Failed(why) if why.contains("`exited`") && why.contains("layer")));
        assert!(matches!((&two.state, &three.state), (InstanceState::Creating, InstanceState::Stopped)));
    }

    #[test]
    fn a_log_that_cannot_be_read_is_not_supported() {
        let check = |status, kind| {
            let script = Script::default().on("GET /v1.41/containers/1f/logs?stdout=1&stderr=1&tail=", status, "");
            assert_eq!(play(&script, |call| Docker::console_log(call, "1f", 10)).unwrap_err().kind, kind);
        };
        check(501, ErrorKind::Unsupported);
        check(404, ErrorKind::NotFound);
        check(500, ErrorKind::Unavailable);
    }

    #[test]
    fn a_pause_that_did_not_take_is_an_error() {
        let script = Script::default().on("POST /v1.41/containers/1f/pause", 204, "").on(
            "GET /v1.41/containers/1f/json",
            200,
            inspected("1f", "running", &json!({})),
        );
        assert_eq!(play(&script, |call| Docker::suspend(call, "1f")).unwrap_err().kind, ErrorKind::Unavailable);
    }
}
