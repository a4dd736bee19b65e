//! Settings: each is in the schema, in the documentation and in the engine's request; bad ones are refused with a way out.

use pacer_backend::{Exported, Severity};
use serde_json::{Value, json};

use crate::{
    Docker,
    settings::{JIT, Pool, backend_schema, pool_schema, tagged},
};

/// Every setting, with a value that is not its default, and where it goes in the engine's request.
fn everything() -> Vec<(&'static str, Value, &'static str, Value)> {
    vec![
        ("image", json!("a:1"), "/Image", json!("a:1")),
        ("pull", json!("never"), "", Value::Null),
        ("platform", json!("linux/arm64"), "", Value::Null),
        ("command", json!(["a", "b"]), "/Cmd", json!(["a", "b"])),
        ("entrypoint", json!(["e"]), "/Entrypoint", json!(["e"])),
        ("env", json!({ "A": "1" }), "/Env/0", json!("A=1")),
        ("user", json!("1001"), "/User", json!("1001")),
        ("group_add", json!(["docker"]), "/HostConfig/GroupAdd", json!(["docker"])),
        ("workdir", json!("/w"), "/WorkingDir", json!("/w")),
        ("hostname", json!("h"), "/Hostname", json!("h")),
        ("network", json!("n"), "/HostConfig/NetworkMode", json!("n")),
        ("dns", json!(["10.0.0.1"]), "/HostConfig/Dns", json!(["10.0.0.1"])),
        ("extra_hosts", json!(["a:10.0.0.1"]), "/HostConfig/ExtraHosts", json!(["a:10.0.0.1"])),
        ("cpus", json!(1.5), "/HostConfig/NanoCpus", json!(1_500_000_000)),
        ("cpuset_cpus", json!("0-1"), "/HostConfig/CpusetCpus", json!("0-1")),
        ("memory", json!("512m"), "/HostConfig/Memory", json!(536_870_912)),
        ("memory_swap", json!("-1"), "/HostConfig/MemorySwap", json!(-1)),
        ("pids_limit", json!(9), "/HostConfig/PidsLimit", json!(9)),
        ("shm_size", json!("1G"), "/HostConfig/ShmSize", json!(1_073_741_824)),
        ("ulimits", json!(["nofile=1:2"]), "/HostConfig/Ulimits", json!([{ "Name": "nofile", "Soft": 1, "Hard": 2 }])),
        ("volumes", json!(["/a:/b:ro"]), "/HostConfig/Binds", json!(["/a:/b:ro"])),
        ("tmpfs", json!({ "/tmp": "size=1m" }), "/HostConfig/Tmpfs", json!({ "/tmp": "size=1m" })),
        ("devices", json!(["/dev/kvm"]), "/HostConfig/Devices/0/PathInContainer", json!("/dev/kvm")),
        ("read_only", json!(true), "/HostConfig/ReadonlyRootfs", json!(true)),
        ("cap_add", json!(["SYS_PTRACE"]), "/HostConfig/CapAdd", json!(["SYS_PTRACE"])),
        ("cap_drop", json!(["ALL"]), "/HostConfig/CapDrop", json!(["ALL"])),
        (
            "security_opt",
            json!(["no-new-privileges:true"]),
            "/HostConfig/SecurityOpt/0",
            json!("no-new-privileges:true"),
        ),
        ("privileged", json!(true), "/HostConfig/Privileged", json!(true)),
        ("runtime", json!("runsc"), "/HostConfig/Runtime", json!("runsc")),
        ("init", json!(false), "/HostConfig/Init", json!(false)),
        ("stop_signal", json!("SIGINT"), "/StopSignal", json!("SIGINT")),
        ("stop_timeout", json!(0), "/StopTimeout", json!(0)),
        ("labels", json!({ "a": "b" }), "/Labels", json!({ "pacer.owner": "me" })),
    ]
}

fn pool(settings: &Value) -> Pool {
    serde_json::from_value(settings.clone()).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

#[test]
fn each_setting_is_in_the_schema_in_the_documentation_and_in_the_request() {
    let schema = pool_schema();
    let properties = schema["properties"].as_object().unwrap();
    let documentation = include_str!("../../../../docs/backends/docker.md");
    let all = everything();
    let names: std::collections::BTreeSet<_> = all.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, properties.keys().map(String::as_str).collect(), "the table above is complete");

    let full: serde_json::Map<_, _> = all.iter().map(|(name, value, ..)| ((*name).to_owned(), value.clone())).collect();
    let body = pool(&Value::Object(full)).body("jit", [("pacer.owner".to_owned(), "me".to_owned())].into()).unwrap();
    for (name, _, pointer, expected) in all {
        let described = properties[name]["description"].as_str().unwrap_or_default();
        assert!(!described.is_empty(), "`{name}` has no description");
        assert!(documentation.contains(&format!("| `{name}` |")), "`{name}` is not in docs/backends/docker.md");
        if !pointer.is_empty() {
            assert_eq!(body.pointer(pointer), Some(&expected), "{name}");
        }
    }
    assert_eq!(body["Env"][1], format!("{JIT}=jit"));
}

#[test]
fn schemas_are_closed_and_say_which_dialect_they_are() {
    for schema in [pool_schema(), backend_schema()] {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["additionalProperties"], false);
    }
    let typo = Exported::<Docker>::validate("{}", Some(r#"{"image":"a","comand":[]}"#));
    // What was found is never quoted, a key may be a misplaced value; the host's own check of the schema names it.
    assert!(typo[0].message.contains("expected one of `image`"), "{:?}", typo[0].message);
    let unknown = Exported::<Docker>::validate(r#"{"host":"x"}"#, None);
    assert_eq!(unknown[0].path, "/settings");
}

#[test]
fn what_is_not_set_stays_the_engines_default() {
    let body = pool(&json!({ "image": "a" })).body("jit", [].into()).unwrap();
    let host: Vec<_> = body["HostConfig"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(host, ["Privileged", "ReadonlyRootfs", "Tmpfs"]);
    let top: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(top, ["Env", "HostConfig", "Image", "Labels"]);
}

#[test]
fn bad_settings_are_found_where_they_are() {
    let check = |settings: Value, path: &str| {
        let mut whole = json!({ "image": "a" });
        whole.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let found = pool(&whole).findings();
        let paths: Vec<_> = found.iter().filter(|f| f.severity == Severity::Error).map(|f| f.path.as_str()).collect();
        assert_eq!(paths, if path.is_empty() { vec![] } else { vec![path] }, "{settings}");
        let refused = pool(&whole).body("jit", [].into()).is_err();
        assert_eq!(refused, !path.is_empty(), "{settings}");
    };
    check(json!({ "image": " " }), "/pool/image");
    check(json!({ "image": "a b" }), "/pool/image");
    check(json!({ "memory": "4 gigs" }), "/pool/memory");
    check(json!({ "memory": "0" }), "/pool/memory");
    check(json!({ "memory": "-1" }), "/pool/memory");
    check(json!({ "memory": "99999999999t" }), "/pool/memory");
    check(json!({ "memory": "" }), "/pool/memory");
    check(json!({ "memory": "4gb", "shm_size": "64 m", "memory_swap": "-1" }), "");
    check(json!({ "cpus": 0 }), "/pool/cpus");
    check(json!({ "cpus": -1.5 }), "/pool/cpus");
    check(json!({ "env": { JIT: "x" } }), &format!("/pool/env/{JIT}"));
    check(json!({ "env": { (format!("{JIT}=x")): "y" } }), &format!("/pool/env/{JIT}=x"));
    check(json!({ "env": { "": "y" } }), "/pool/env/");
    check(json!({ "volumes": ["/a:/b", "cache:/c:ro", "/a:b"] }), "/pool/volumes/2");
    check(json!({ "volumes": ["./a:/b"] }), "/pool/volumes/0");
    check(json!({ "volumes": ["../a:/b"] }), "/pool/volumes/0");
    check(json!({ "volumes": ["/a"] }), "/pool/volumes/0");
    check(json!({ "volumes": ["/a:/"] }), "/pool/volumes/0");
    check(json!({ "volumes": ["/a:/b:ro:rw"] }), "/pool/volumes/0");
    check(json!({ "tmpfs": { "tmp": "" } }), "/pool/tmpfs/tmp");
    check(json!({ "tmpfs": { "a/~b": "" } }), "/pool/tmpfs/a~1~0b");
    check(json!({ "tmpfs": { "/tmp": "size=64m,mode=1777" } }), "");
    check(json!({ "devices": ["/dev/kvm:/dev/kvm:rw", "/etc/passwd"] }), "/pool/devices/1");
    check(json!({ "devices": ["/dev/kvm:/dev/kvm:x"] }), "/pool/devices/0");
    check(json!({ "ulimits": ["nofile=1024", "core=-1", "nofile=2:1"] }), "/pool/ulimits/2");
    check(json!({ "ulimits": ["nofile"] }), "/pool/ulimits/0");
    check(json!({ "extra_hosts": ["name"] }), "/pool/extra_hosts/0");
    check(json!({ "workdir": "w" }), "/pool/workdir");
    check(json!({ "labels": { "pacer.owner": "x" } }), "/pool/labels/pacer.owner");
    check(json!({ "labels": { "pacer.hold": "true", "team": "a" } }), "");
}

#[test]
fn what_works_and_is_dangerous_is_a_warning() {
    let check = |settings: Value, path: &str| {
        let found = pool(&settings).findings();
        assert!(found.iter().any(|f| f.severity == Severity::Warning && f.path == path), "{settings}");
    };
    check(json!({ "image": "a", "privileged": true }), "/pool/privileged");
    check(json!({ "image": "a", "network": "host" }), "/pool/network");
    check(json!({ "image": "a", "volumes": ["/var/run/docker.sock:/var/run/docker.sock"] }), "/pool/volumes/0");
}

#[test]
fn a_pull_names_one_tag() {
    let check = |image: &str, expected: &str| assert_eq!(tagged(image), expected);
    check("busybox", "busybox:latest");
    check("busybox:1", "busybox:1");
    check("host:5000/a/b", "host:5000/a/b:latest");
    check("host:5000/a/b:2", "host:5000/a/b:2");
    check("a@sha256:00", "a@sha256:00");
}
