//! A component whose file is replaced while the server runs.

use std::fs;

use pacer::plugins::{Backends as _, Health, Host};
use tokio::task::JoinSet;

use crate::support::{LONG, World, altered, assert_works, describing, guest, health, name, run, run_on};

/// What was replaced is taken once two looks found the same.
async fn look_twice(host: &Host) {
    host.look().await;
    host.look().await;
}

/// A guest that answers `burst` otherwise.
fn other() -> Vec<u8> {
    altered("fired", "FIRED")
}

fn degraded(host: &Host) -> String {
    let health = health(host, "guest");
    let Health::Degraded(reason) = health else { panic!("it is {health:?}") };
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_is_taken_and_calls_under_way_end_on_the_old_one() {
    let world = World::new("  guest: { plugin: guest }\n  second: { plugin: guest }", "");
    let host = world.start().await;
    assert_eq!(run(&host, "keep version 1").await.unwrap(), "kept");
    assert_eq!(run(&host, "burst 1").await.unwrap(), "fired");
    let before = host.digest(&name("guest")).unwrap();
    let mut under_way = JoinSet::new();
    under_way.spawn({
        let host = host.clone();
        async move { run(&host, "sleep 3000").await }
    });
    while host.status()[0].under_way == 0 {
        tokio::task::yield_now().await;
    }
    world.put("guest", &other());
    host.look().await;
    assert_eq!(run(&host, "burst 1").await.unwrap(), "fired", "it may still be written");
    host.look().await;
    assert_eq!(run(&host, "burst 1").await.unwrap(), "FIRED");
    assert_eq!(run_on(&host, "second", "burst 1", LONG).await.unwrap(), "FIRED");
    assert_ne!(host.digest(&name("guest")).unwrap(), before);
    assert_eq!(run(&host, "recall version").await.unwrap(), "nothing", "what the old one remembered is its own");
    assert_eq!(under_way.join_next().await.unwrap().unwrap().unwrap(), "slept");
    assert_eq!(health(&host, "guest"), Health::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_displaces_nothing_and_is_said() {
    let world = World::new("  guest: { plugin: guest }", "");
    let host = world.start().await;
    for (broken, says) in [
        (b"garbage".to_vec(), "is not a WebAssembly component"),
        (guest()[..guest().len() / 2].to_vec(), "does not compile"),
        (altered("pacer:backend/cache@0.1.0", "pacer:backend/stash@0.1.0"), "does not offer"),
        (describing("on-describe:panics"), "does not introduce itself"),
    ] {
        world.put("guest", &broken);
        look_twice(&host).await;
        let reason = degraded(&host);
        assert!(reason.contains("loaded from before") && reason.contains(says), "{reason}");
        assert_works(&host, "guest").await;
    }
    fs::remove_file(world.dir.path().join("plugins/guest.wasm")).unwrap();
    look_twice(&host).await;
    assert!(degraded(&host).contains("is gone"), "{}", degraded(&host));
    assert_works(&host, "guest").await;
    world.put("guest", guest());
    look_twice(&host).await;
    assert_eq!(health(&host, "guest"), Health::Ok, "the same as before is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_at_once_does_not_leave_the_one_that_mends_it_outside() {
    let world = World::new("  guest: { plugin: guest }", "");
    let host = world.start().await;
    for _ in 0..5 {
        assert!(run(&host, "panic everything").await.unwrap_err().message.contains("broke"));
    }
    assert!(run(&host, "say hello").await.unwrap_err().message.contains("keeps breaking"));
    world.put("guest", &other());
    look_twice(&host).await;
    assert_works(&host, "guest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_digest_than_the_pinned_one_is_not_taken() {
    let digest = World::new("  guest: { plugin: guest }", "").start().await.digest(&name("guest")).unwrap();
    let world = World::new(&format!("  guest: {{ plugin: guest, digest: \"sha256:{digest}\" }}"), "");
    let host = world.start().await;
    world.put("guest", &other());
    look_twice(&host).await;
    assert!(degraded(&host).contains("the configuration pins"), "{}", degraded(&host));
    assert_eq!(run(&host, "burst 1").await.unwrap(), "fired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_settings_that_were_taken_is_not_taken() {
    let pools = "projects: [{ name: p, scope: repo, repos: [o/r], pools: [\
                 { name: small, backend: guest, settings: { size: 7 } }] }]";
    let world = World::new("  guest: { plugin: guest }", pools);
    let host = world.start().await;
    world.put("guest", &altered("integer", "boolean"));
    look_twice(&host).await;
    let reason = degraded(&host);
    assert!(reason.contains("refuses the settings in force") && reason.contains("pools[small]"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_missing_is_taken_when_it_comes() {
    let world = World::new("  guest: { plugin: guest }\n  late: { plugin: late }", "");
    let host = world.start().await;
    assert!(matches!(health(&host, "late"), Health::Down(_)));
    world.put("late", guest());
    // Nobody asks for a look: the host looks by itself.
    while health(&host, "late") != Health::Ok {
        tokio::task::yield_now().await;
    }
    assert_works(&host, "late").await;
}
