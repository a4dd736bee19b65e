//! Settings: what is found before anything starts.

use pacer_backend::{Backend, Exported, Severity};
use serde_json::{Value, json};

use crate::{
    Machines,
    settings::{Network, Pool, backend_schema, bytes, pool_schema},
};

fn pool(more: &Value) -> Pool {
    let mut whole = json!({ "base_image": "base.qcow2" });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[test]
fn schemas_are_closed_and_tell_every_setting() {
    for schema in [pool_schema(), backend_schema()] {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"].as_object().unwrap().values().all(|one| one["description"].is_string()));
    }
    // A setting that is not known is an error that tells those that are.
    let typo = Exported::<Machines>::validate("{}", Some(r#"{"base_image":"a","cpuz":1}"#));
    for key in pool_schema()["properties"].as_object().unwrap().keys() {
        assert!(typo[0].message.contains(&format!("`{key}`")), "{key}: {}", typo[0].message);
    }
    let typo = Exported::<Machines>::validate(r#"{"host":"x"}"#, None);
    for key in backend_schema()["properties"].as_object().unwrap().keys() {
        assert!(typo[0].message.contains(&format!("`{key}`")), "{key}: {}", typo[0].message);
    }
    assert!(Machines::describe().capabilities.contains(&"console-log".to_owned()));
}

#[test]
fn defaults_are_those_of_the_schema() {
    let pool = pool(&json!({}));
    let defaults = |key: &str| pool_schema()["properties"][key]["default"].clone();
    assert_eq!(defaults("storage_pool"), pool.storage_pool);
    assert_eq!(defaults("network"), pool.network);
    assert_eq!(defaults("cpus"), pool.cpus);
    assert_eq!(defaults("memory"), pool.memory);
    assert_eq!(defaults("domain_type"), pool.domain_type.word());
    let settings: crate::settings::Settings = serde_json::from_value(json!({})).unwrap();
    let defaults = |key: &str| backend_schema()["properties"][key]["default"].clone();
    assert_eq!(defaults("uri"), settings.uri);
    assert_eq!(defaults("cpu_overcommit"), json!(1));
    assert_eq!(bytes(defaults("memory_reserve").as_str().unwrap()), Some(settings.reserve_kib() * 1024));
}

#[test]
fn bad_settings_are_found_where_they_are() {
    let check = |settings: Value, path: &str| {
        let found = pool(&settings).findings();
        let paths: Vec<_> = found.iter().filter(|f| f.severity == Severity::Error).map(|f| f.path.as_str()).collect();
        assert_eq!(paths, if path.is_empty() { vec![] } else { vec![path] }, "{settings}");
        assert_eq!(pool(&settings).check().is_err(), !path.is_empty(), "{settings}");
    };
    check(json!({}), "");
    check(json!({ "base_image": "" }), "/pool/base_image");
    check(json!({ "base_image": "../etc/passwd" }), "/pool/base_image");
    check(json!({ "base_image": "a/b" }), "/pool/base_image");
    check(json!({ "storage_pool": "a\nb" }), "/pool/storage_pool");
    check(json!({ "base_pool": ".x" }), "/pool/base_pool");
    check(json!({ "network": "bridge:" }), "/pool/network");
    check(json!({ "network": "bridge:br0" }), "");
    check(json!({ "cpus": 0 }), "/pool/cpus");
    check(json!({ "cpus": 513 }), "/pool/cpus");
    check(json!({ "memory": "lots" }), "/pool/memory");
    check(json!({ "memory": "1m" }), "/pool/memory");
    check(json!({ "memory": "999999999999t" }), "/pool/memory");
    check(json!({ "disk": "0" }), "/pool/disk");
    check(json!({ "disk": "20 GB", "memory": "4g" }), "");
    check(json!({ "machine": "q35'/>" }), "/pool/machine");
    check(json!({ "arch": "" }), "/pool/arch");
    check(json!({ "cpu": "a b" }), "/pool/cpu");
    check(json!({ "template": "<domain/>".repeat(9000) }), "/pool/template");
}

#[test]
fn the_backends_own_settings_are_judged_too() {
    let check = |settings: Value, path: &str| {
        let found = Exported::<Machines>::validate(&settings.to_string(), None);
        let paths: Vec<_> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, if path.is_empty() { vec![] } else { vec![path] }, "{settings}");
    };
    check(json!({}), "");
    check(json!({ "uri": "qemu:///session" }), "");
    check(json!({ "uri": "test:///default" }), "");
    check(json!({ "uri": "qemu+ssh://host/system" }), "/settings/uri");
    check(json!({ "uri": "qemu://host/system" }), "/settings/uri");
    check(json!({ "uri": "qemu:///system?socket=/x" }), "/settings/uri");
    check(json!({ "uri": "system" }), "/settings/uri");
    check(json!({ "cpu_overcommit": 0 }), "/settings/cpu_overcommit");
    check(json!({ "memory_reserve": "much" }), "/settings/memory_reserve");
    check(json!({ "cpu_overcommit": 2.5, "memory_reserve": "4g" }), "");
}

#[test]
fn what_works_and_is_probably_not_meant_is_a_warning() {
    let check = |settings: Value, path: &str| {
        let found = pool(&settings).findings();
        assert!(found.iter().any(|f| f.severity == Severity::Warning && f.path == path), "{settings}");
    };
    check(json!({ "network": "none" }), "/pool/network");
    check(json!({ "domain_type": "qemu" }), "/pool/domain_type");
    check(json!({ "domain_type": "test" }), "/pool/domain_type");
    check(json!({ "domain_type": "qemu", "cpu": "host-passthrough" }), "/pool/cpu");
    check(json!({ "template": "x", "machine": "q35" }), "/pool/machine");
    assert!(pool(&json!({})).findings().is_empty());
}

#[test]
fn words_have_one_meaning() {
    let network = |text: &str| format!("{:?}", pool(&json!({ "network": text })).network());
    assert_eq!(network("user"), format!("{:?}", Network::User));
    assert_eq!(network("none"), format!("{:?}", Network::None));
    assert_eq!(network("bridge:x"), format!("{:?}", Network::Bridge("x")));
    assert_eq!(network("bridged"), format!("{:?}", Network::Named("bridged")));
    for (text, expected) in
        [("1024", Some(1024)), ("4g", Some(4 << 30)), ("1 KB", Some(1024)), ("0", None), ("-1", None), ("", None)]
    {
        assert_eq!(bytes(text), expected, "{text}");
    }
}
