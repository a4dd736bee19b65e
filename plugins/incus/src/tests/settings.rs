//! Settings: their schemas, what is found before anything starts, and the page that tells them.

use pacer_backend::{Backend, Bootstrap, Exported, Finding, Severity};
use serde_json::{Value, json};

use super::request;
use crate::{
    IncusBackend,
    settings::{Pool, backend_schema, body, pool_schema},
};

fn pool(more: &Value) -> Value {
    let mut whole = json!({ "image": "debian" });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

fn keys(schema: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap();
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

fn findings(settings: &Value, pool: Option<&Value>) -> Vec<Finding> {
    Exported::<IncusBackend>::validate(&settings.to_string(), pool.map(Value::to_string).as_deref())
}

#[test]
fn schemas_are_closed_and_tell_every_setting() {
    for schema in [pool_schema(), backend_schema()] {
        let schema: Value = serde_json::from_str(&schema).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"].as_object().unwrap().values().all(|one| one["description"].is_string()));
    }
    // A setting that is not known is an error that tells those that are.
    let typo = findings(&json!({}), Some(&pool(&json!({ "cpuz": 1 }))));
    for key in keys(&pool_schema()) {
        assert!(typo[0].message.contains(&format!("`{key}`")), "{key}: {}", typo[0].message);
    }
    let typo = findings(&json!({ "host": "x" }), None);
    for key in keys(&backend_schema()) {
        assert!(typo[0].message.contains(&format!("`{key}`")), "{key}: {}", typo[0].message);
    }
    assert!(IncusBackend::describe().capabilities.contains(&"renew-lease".to_owned()));
}

#[test]
fn the_page_tells_every_setting() {
    let page = include_str!("../../../../docs/backends/incus.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    for key in keys(&pool_schema()) {
        assert!(
            rows.iter().any(|row| row.contains(&format!("`{key}`"))),
            "`{key}` is not in the table of a pool's keys"
        );
    }
    for key in keys(&backend_schema()) {
        assert!(page.contains(&format!("Of the backend: `{key}`")), "`{key}` is not told");
    }
}

#[test]
fn defaults_are_those_of_the_schema() {
    let parsed: Pool = serde_json::from_value(pool(&json!({}))).unwrap();
    let schema: Value = serde_json::from_str(&pool_schema()).unwrap();
    let default = |key: &str| schema["properties"][key]["default"].clone();
    assert_eq!(default("profiles"), json!(parsed.profiles));
    assert_eq!(default("jit_file"), parsed.jit_file);
    let sent = body(&request("one", "me", &pool(&json!({})), Bootstrap::JitConfig("secret".into())));
    assert_eq!((&sent["type"], &sent["ephemeral"]), (&default("type"), &default("ephemeral")));
}

#[test]
fn bad_settings_are_found_where_they_are() {
    let check = |more: Value, path: &str| {
        let found = findings(&json!({}), Some(&pool(&more)));
        let errors: Vec<_> = found.iter().filter(|one| one.severity == Severity::Error).map(|one| &one.path).collect();
        assert_eq!(errors, if path.is_empty() { vec![] } else { vec![path] }, "{more}");
    };
    check(json!({}), "");
    check(json!({ "image": "" }), "/pool/image");
    check(json!({ "disk": "20GiB" }), "/pool/disk");
    check(json!({ "disk": "20GiB", "storage": "fast" }), "");
    check(json!({ "storage": "fast", "devices": { "root": { "type": "disk" } } }), "/pool/devices/root");
    check(json!({ "jit_file": "runner.env" }), "/pool/jit_file");
    check(json!({ "jit_file": "/etc/" }), "/pool/jit_file");
    check(json!({ "config": { "cloud-init.user-data": "x" } }), "/pool/config/cloud-init.user-data");
    check(json!({ "config": { "cloud-init.vendor-data": "x" } }), "");
    check(json!({ "config": { "user.pacer.owner": "me" } }), "/pool/config/user.pacer.owner");
    check(json!({ "config": { "user.pacer.hold": "true" } }), "");
    check(json!({ "config": { "limits.cpu": "1" } }), "");
    check(json!({ "cpus": 1, "config": { "limits.cpu": "1" } }), "/pool/config/limits.cpu");
    check(json!({ "memory": "1GiB", "config": { "limits.memory": "1GiB" } }), "/pool/config/limits.memory");
    assert_eq!(findings(&json!({ "project": "" }), None)[0].path, "/settings/project");
}

#[test]
fn what_is_dangerous_is_a_warning() {
    for key in ["security.privileged", "raw.lxc"] {
        let found = findings(&json!({}), Some(&pool(&json!({ "config": { key: "true" } }))));
        let warnings: Vec<_> = found.iter().map(|one| (&one.severity, one.path.as_str())).collect();
        assert_eq!(warnings, [(&Severity::Warning, format!("/pool/config/{key}").as_str())]);
    }
    assert!(findings(&json!({}), Some(&pool(&json!({ "config": { "security.privileged": "false" } })))).is_empty());
}

#[test]
fn a_request_says_what_the_settings_say() {
    let settings = pool(&json!({
        "image": "a".repeat(64), "type": "virtual-machine", "cpus": 2, "memory": "4GiB", "storage": "fast", "disk": "20GiB",
        "config": { "user.team": "a" },
    }));
    let sent = body(&request("one", "me", &settings, Bootstrap::StartScript("true".into())));
    assert_eq!(sent["source"], json!({ "type": "image", "fingerprint": "a".repeat(64) }));
    assert_eq!(sent["devices"]["root"], json!({ "type": "disk", "path": "/", "pool": "fast", "size": "20GiB" }));
    let config = |key: &str| sent["config"][key].as_str();
    assert_eq!(
        (config("limits.cpu"), config("limits.memory"), config("user.team")),
        (Some("2"), Some("4GiB"), Some("a"))
    );
    assert_eq!((config("user.pacer.owner"), config("user.pacer.pool")), (Some("me"), Some("small")));
    assert_eq!(config("cloud-init.user-data"), Some("#!/bin/sh\ntrue"), "what is no script yet becomes one");
    let sent = body(&request("one", "me", &pool(&json!({})), Bootstrap::JitConfig("secret".into())));
    assert!(!sent.to_string().contains("secret"), "{sent}");
}
