//! `pacer check`, `plugin list`, `plugin inspect` and `plugin compile` as they are typed, with real components.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{World, altered, guest};

const ONE: &str = "  guest: { plugin: guest }";

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs pacer in a directory, with whatever configuration is there.
fn pacer(directory: &Path, arguments: &[&str]) -> Said {
    pacer_with(directory, arguments, b"")
}

fn pacer_with(directory: &Path, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pacer"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("PACER_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pacer starts");
    // Who refuses early does not read to the end.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    Said {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Said {
    fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "`{part}` is not in: {}{}", self.out, self.err);
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// What `check --json` found about one subject.
fn findings(said: &Said, subject: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let json = said.json();
    let findings = json["findings"].as_array().expect("a list").iter().filter(|finding| finding["subject"] == subject);
    findings.map(|finding| (text(&finding["level"]), text(&finding["message"]))).collect()
}

#[test]
fn check_loads_every_backend_and_says_what_it_is() {
    let world = World::new(ONE, "");
    let said = pacer(world.dir.path(), &["check"]);
    said.says(0, &["✓ backend guest", "speaks pacer:backend@0.1.0, digest ", "\n0 errors, "]);
}

#[test]
fn check_names_what_does_not_load_and_goes_on_with_the_others() {
    let backends =
        "  guest: { plugin: guest }\n  core: { plugin: core }\n  gone: { plugin: gone }\n  later: { plugin: later }";
    let world = World::new(backends, "");
    world.put("core", b"\0asm\x01\0\0\0");
    world.put("later", &altered("pacer:backend/provisioner@0.1.0", "pacer:backend/provisioner@0.9.0"));
    let said = pacer(world.dir.path(), &["check", "--json"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let check = |name: &str, level: &str, parts: &[&str]| {
        let found = findings(&said, &format!("backend {name}"));
        assert_eq!(found[0].0, level, "{found:?}");
        for part in parts {
            assert!(found[0].1.contains(part), "`{part}` is not in: {}", found[0].1);
        }
        if level == "error" {
            assert_eq!(found.len(), 1, "said once: {found:?}");
        }
    };
    check("guest", "ok", &["`guest` "]);
    check("core", "error", &["core.wasm", "core module", "wasm32-wasip2"]);
    check("gone", "error", &["gone.wasm", "`backends.gone.plugin`", "there are `core`, `guest`, `later`"]);
    check("later", "error", &["version 0.9.0", "this pacer speaks 0.1.0"]);
}

#[test]
fn check_judges_settings_by_key() {
    let projects = "projects: [{ name: p, scope: repo, repos: [o/r], pools: [\
                    { name: small, backend: guest, settings: { unheard_of: 1 } }] }]";
    let world = World::new("  guest: { plugin: guest, settings: { unheard_of: 1 } }", projects);
    let said = pacer(world.dir.path(), &["check"]);
    said.says(1, &["✗ settings", "backends.guest.settings", "projects[p].pools[small].settings", "unheard_of"]);
}

#[test]
fn check_tells_a_granted_endpoint_from_one_that_nobody_asked_for() {
    let world = World::new("  guest: { plugin: guest, endpoints: { stray: \"http://127.0.0.1:9\" } }", "");
    let said = pacer(world.dir.path(), &["check", "--json"]);
    let found = findings(&said, "backend guest");
    let stray = found.iter().find(|(_, message)| message.contains("`stray`")).unwrap();
    assert_eq!(stray.0, "warning");
    assert!(stray.1.contains("remove `backends.guest.endpoints.stray`"), "{}", stray.1);
}

#[test]
fn check_names_an_endpoint_that_cannot_be_used_and_goes_on_with_the_others() {
    let endpoint = "{ url: \"http://127.0.0.1:9\", credential: { bearer: \"two\\nlines-of-a-token\" } }";
    let backends =
        format!("  guest: {{ plugin: guest }}\n  odd: {{ plugin: guest, endpoints: {{ engine: {endpoint} }} }}");
    let world = World::new(&backends, "");
    let said = pacer(world.dir.path(), &["check", "--json"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert_eq!(findings(&said, "backend guest")[0].0, "ok");
    let odd = findings(&said, "backend odd");
    assert!(odd[0].0 == "error" && odd[0].1.contains("endpoint `engine`"), "{odd:?}");
    assert!(!said.out.contains("lines-of-a-token"), "{}", said.out);
}

#[test]
fn check_online_asks_github_and_the_backends() {
    // The configuration's GitHub is a port on which nobody listens.
    let world = World::new(ONE, "");
    let said = pacer(world.dir.path(), &["check", "--online", "--json"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert_eq!(findings(&said, "GitHub")[0].0, "error");
    let backend = findings(&said, "backend guest");
    assert!(backend.iter().any(|(_, message)| message.contains("answers; `app-1` has ")), "{backend:?}");
}

#[test]
fn plugins_are_listed_with_the_files_that_nobody_uses() {
    let world = World::new("  guest: { plugin: guest }", "");
    world.put("spare", guest());
    let said = pacer(world.dir.path(), &["plugin", "list"]);
    said.says(0, &["✓ guest", "    sha256 ", "  spare", "used by no backend"]);
    let json = pacer(world.dir.path(), &["plugin", "list", "--json"]).json();
    assert_eq!(json["backends"][0]["health"]["status"], "ok");
    assert_eq!(json["backends"][0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(json["unused"].as_array().unwrap().len(), 1);
    assert_eq!(json["unused"][0]["plugin"], "spare");
}

#[test]
fn a_backend_that_is_down_is_listed_with_the_reason() {
    let world = World::new("  guest: { plugin: guest }\n  odd: { plugin: odd }", "");
    world.put("odd", b"#!/bin/sh");
    pacer(world.dir.path(), &["plugin", "list"])
        .says(1, &["✓ guest", "✗ odd", "does not begin with the bytes of WebAssembly"]);
    fs::remove_dir_all(world.dir.path().join("plugins")).unwrap();
    pacer(world.dir.path(), &["plugin", "list"]).says(1, &["✗ guest", "No such file"]);
}

#[test]
fn a_component_is_inspected_by_its_name_its_file_and_without_a_configuration() {
    let world = World::new(ONE, "");
    let file = world.dir.path().join("plugins/guest.wasm");
    let by_name = pacer(world.dir.path(), &["plugin", "inspect", "guest"]);
    by_name.says(0, &["  sha256  ", "✓ it fits this pacer (pacer:backend@0.1.0)", "settings of a pool"]);
    let by_file = pacer(world.dir.path(), &["plugin", "inspect", "plugins/guest.wasm", "--json"]);
    assert_eq!(by_file.code, 0, "{}", by_file.err);
    let digest = by_file.json()["digest"].as_str().unwrap().to_owned();
    assert!(by_name.out.contains(&digest));

    let elsewhere = tempfile::tempdir().unwrap();
    let without = pacer(elsewhere.path(), &["plugin", "inspect", file.to_str().unwrap(), "--json"]);
    assert_eq!(without.json()["digest"], digest.as_str());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_component_is_inspected_within_the_limits_of_the_configuration() {
    let world = World::new(ONE, "plugins: { dir: plugins, limits: { file_size: 64KiB } }");
    let said = pacer(world.dir.path(), &["plugin", "inspect", "guest"]);
    said.says(1, &["more than the 65536 of `plugins.limits.file_size`"]);
}

#[test]
fn what_cannot_be_inspected_says_why() {
    let world = World::new(ONE, "");
    world.put("odd", b"\0asm\x01\0\0\0");
    pacer(world.dir.path(), &["plugin", "inspect", "odd"])
        .says(1, &["✗ it would be refused: ", "core module", "sha256"]);
    pacer(world.dir.path(), &["plugin", "inspect", "unheard-of"])
        .says(1, &["`unheard-of` is neither a file nor a plugin in ", "`pacer plugin list`"]);
    let elsewhere = tempfile::tempdir().unwrap();
    pacer(elsewhere.path(), &["plugin", "inspect", "unheard-of"]).says(1, &["`unheard-of` is no file", "config.yaml"]);
}

#[test]
fn what_is_compiled_goes_into_the_file_and_what_is_not_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("code");
    pacer_with(directory.path(), &["plugin", "compile", "code"], guest()).says(0, &[]);
    assert!(fs::metadata(&output).unwrap().len() > 0);
    let garbage = pacer_with(directory.path(), &["plugin", "compile", "none"], b"\0asm\x0d\0\x01\0garbage");
    assert_ne!(garbage.code, 0);
    assert!(!garbage.err.is_empty());
}
