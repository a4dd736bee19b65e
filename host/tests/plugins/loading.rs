//! What is no backend is refused, by name and with the way out, and nothing else suffers.

use std::fs;

use pacer::{
    config::PluginLimits,
    plugins::{Compiler, ErrorKind, Inspection, available, inspect},
};

use crate::support::{LONG, World, altered, assert_works, describing, down, guest, run_on};

/// A backend `odd` of this file beside `guest`.
async fn refused(wasm: Option<&[u8]>, keys: &str) -> String {
    let world = World::new(&format!("  guest: {{ plugin: guest }}\n  odd: {{ plugin: odd{keys} }}"), "");
    if let Some(wasm) = wasm {
        world.put("odd", wasm);
    }
    let host = world.start().await;
    assert_works(&host, "guest").await;
    let reason = down(&host, "odd");
    assert!(reason.contains("odd.wasm"), "{reason}");
    let error = run_on(&host, "odd", "say hello", LONG).await.unwrap_err();
    assert_eq!((error.kind, error.asked), (ErrorKind::Unavailable, false));
    assert!(error.message.contains(&reason), "{error}");
    reason
}

fn says(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "`{part}` is not in: {reason}");
    }
}

/// A component whose types do not even parse.
fn cut_off() -> Vec<u8> {
    guest()[..guest().len() / 2].to_vec()
}

/// A backend for another version of the contract.
fn of_version(version: &str) -> Vec<u8> {
    let mut wasm = guest().to_vec();
    for interface in ["provisioner", "model", "log", "connect", "cache"] {
        let (from, to) = (format!("pacer:backend/{interface}@0.1.0"), format!("pacer:backend/{interface}@{version}"));
        let mut at = 0;
        while at + from.len() <= wasm.len() {
            if wasm[at..].starts_with(from.as_bytes()) {
                wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
            at += 1;
        }
    }
    wasm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_is_refused() {
    says(&refused(None, "").await, &["cannot read", "No such file"]);
    says(&refused(Some(b""), "").await, &["is not a WebAssembly component"]);
    says(&refused(Some(&[0x7f, 0x45, 1, 2, 3, 4, 5, 6, 7, 8]), "").await, &["does not begin with the bytes"]);
    says(&refused(Some(b"\0asm\x01\0\0\0"), "").await, &["core module", "wasm32-wasip2"]);
    says(&refused(Some(b"\0asm\x0d\0\x01\0garbage"), "").await, &["does not compile"]);
    says(&refused(Some(&cut_off()), "").await, &["does not compile"]);
    says(&refused(Some(b"\0asm\x0d\0\x01\0"), "").await, &["does not export `pacer:backend/provisioner@0.1.0`"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused() {
    says(&refused(Some(&of_version("0.2.0")), "").await, &["version 0.2.0", "this pacer speaks 0.1.0"]);
    let evil = altered("wasi:cli/environment", "evil:cli/environment");
    says(&refused(Some(&evil), "").await, &["imports `evil:cli/environment@", "does not offer"]);
    let later = altered("wasi:http/types@0.2.", "wasi:http/types@0.9.");
    says(&refused(Some(&later), "").await, &["imports `wasi:http/types@0.9.", "does not offer", "WASI 0.2"]);
    let incoming = altered("wasi:http/outgoing-handler@0.2.", "wasi:http/incoming-handler@0.2.");
    says(&refused(Some(&incoming), "").await, &["imports `wasi:http/incoming-handler@0.2.", "does not offer"]);
    let unknown = altered("pacer:backend/cache@0.1.0", "pacer:backend/stash@0.1.0");
    says(&refused(Some(&unknown), "").await, &["pacer:backend/stash@0.1.0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_introduce_itself_is_refused() {
    let panics = refused(Some(&describing("on-describe:panics")), "").await;
    says(&panics, &["does not introduce itself", "does not feel like introducing itself"]);
    let schema = refused(Some(&describing("on-describe:schema")), "").await;
    says(&schema, &["settings-schema is not JSON"]);
    let steers = refused(Some(&describing("on-describe:steers")), "").await;
    says(&steers, &["summary is more than one line"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_version_of_the_same_contract_is_taken() {
    let world = World::new("  guest: { plugin: guest }\n  later: { plugin: later }", "");
    world.put("later", &of_version("0.1.7"));
    assert_works(&*world.start().await, "later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_cannot_be_used_stops_its_backend_alone() {
    let credential = "{ bearer: \"two\\nlines-of-a-token\" }";
    let endpoint = format!("endpoints: {{ engine: {{ url: \"http://127.0.0.1:9\", credential: {credential} }} }}");
    let world = World::new(&format!("  guest: {{ plugin: guest }}\n  odd: {{ plugin: guest, {endpoint} }}"), "");
    let host = world.start().await;
    assert_works(&host, "guest").await;
    says(&down(&host, "odd"), &["endpoint `engine` of backend `odd`", "no header can hold"]);
    let error = run_on(&host, "odd", "say hello", LONG).await.unwrap_err();
    assert_eq!((error.kind, error.asked), (ErrorKind::Unavailable, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_held_to_its_size_and_its_digest() {
    let large = refused(Some(guest()), ", limits: { file_size: 64KiB }").await;
    says(&large, &[&guest().len().to_string(), "65536", "limits.file_size`"]);
    let pinned = refused(Some(guest()), &format!(", digest: \"sha256:{}\"", "0".repeat(64))).await;
    says(&pinned, &["the configuration pins 0000", "`digest`"]);
    let digest = look(guest()).await.digest;
    let world = World::new(&format!("  guest: {{ plugin: guest, digest: \"sha256:{digest}\" }}"), "");
    assert_works(&*world.start().await, "guest").await;
}

async fn look(wasm: &[u8]) -> Inspection {
    let world = World::new("  guest: { plugin: guest }", "");
    let path = world.put("looked-at", wasm);
    inspect(&path, &PluginLimits::default(), &world.config.plugins.cache_dir, Compiler::InProcess).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspecting_tells_what_it_is_before_it_is_trusted() {
    let good = look(guest()).await;
    assert_eq!(good.refused, None);
    assert_eq!(good.description.unwrap().name, "guest");
    assert!(good.imports.iter().any(|import| import == "pacer:backend/log@0.1.0"), "{:?}", good.imports);
    assert_eq!((good.not_offered.len(), good.digest.len()), (0, 64));

    for wasm in [&b""[..], b"garbage", b"\0asm\x01\0\0\0"] {
        let odd = look(wasm).await;
        assert!(odd.refused.unwrap().contains("is not a WebAssembly component"));
        assert_eq!(odd.size, wasm.len() as u64);
    }
    says(&look(&of_version("0.2.0")).await.refused.unwrap(), &["0.2.0", "0.1.0"]);
    let evil = look(&altered("wasi:cli/environment", "evil:cli/environment")).await;
    assert!(evil.not_offered[0].starts_with("evil:cli/environment@"), "{:?}", evil.not_offered);
    assert!(look(&describing("on-describe:panics")).await.refused.unwrap().contains("does not introduce itself"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_listed_with_who_uses_them() {
    let world = World::new("  guest: { plugin: guest }\n  second: { plugin: guest }", "");
    world.put("unused", b"");
    world.put(".hidden", b"");
    fs::write(world.dir.path().join("plugins/notes.txt"), "").unwrap();
    let found = available(&world.config).unwrap();
    let found: Vec<_> = found.iter().map(|plugin| (plugin.plugin.as_str(), plugin.used_by.join(","))).collect();
    assert_eq!(found, [("guest", "guest,second".to_owned()), ("unused", String::new())]);
}
