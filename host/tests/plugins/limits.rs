//! Each limit ends a call, says which one it was, and leaves the others alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pacer::plugins::{Backends as _, ErrorKind, Health};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    LONG, TestClock, World, assert_works, health, host, host_with, log_of, name, request, run, run_on,
};

/// Two backends of one component: `guest` with these limits, and `other`.
fn pair(limits: &str) -> World {
    World::new(&format!("  guest: {{ plugin: guest, limits: {{ {limits} }} }}\n  other: {{ plugin: guest }}"), "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computing_is_bounded() {
    let world = pair("cpu: 200ms");
    let host = world.start().await;
    let started = Instant::now();
    let (spun, other) = tokio::join!(run(&host, "spin"), run_on(&host, "other", "say hello", LONG));
    let error = spun.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("200 ms") && error.message.contains("`backends.guest.limits.cpu`"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(other.unwrap(), "hello");
    assert_works(&host, "guest").await;
    assert_eq!(host.memory_in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_not_computing() {
    let (_world, host) = host_with("limits: { cpu: 300ms }").await;
    assert_eq!(run(&host, "sleep 1500").await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_wait_and_is_no_fault() {
    let (_world, host) = host().await;
    for behaviour in ["sleep 60000", "spin-for 9000"] {
        let started = Instant::now();
        let error = run_on(&host, "guest", behaviour, Duration::from_millis(400)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("did not answer within 400ms"), "{error}");
        assert!(error.asked);
        assert!(started.elapsed() < Duration::from_secs(5), "{behaviour}: {:?}", started.elapsed());
        assert_eq!(health(&host, "guest"), Health::Ok);
    }
    assert_works(&host, "guest").await;
    assert_eq!((host.memory_in_use(), host.status()[0].under_way), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded() {
    let world = pair("memory: 16MiB");
    let host = world.start().await;
    let error = run(&host, "grow").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("16777216") && error.message.contains("`backends.guest.limits.memory`"), "{error}");
    assert_works(&host, "guest").await;
    assert_works(&host, "other").await;
    assert_eq!(host.memory_in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_after_a_refusal_it_survived_is_not_blamed_on_memory() {
    let world = pair("memory: 16MiB");
    let host = world.start().await;
    let error = run(&host, "survive").await.unwrap_err();
    assert!(error.message.contains("refused: true, given: true"), "{error}");
    assert!(error.message.contains("broke") && !error.message.contains("limits.memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_all_calls_is_bounded() {
    let world = World::new(
        "  guest: { plugin: guest }\n  other: { plugin: guest }",
        "plugins: { dir: plugins, cache_dir: \"CACHE\", limits: { memory: 60MiB, total_memory: 64MiB } }",
    );
    let host = world.start().await;
    let mut holding = JoinSet::new();
    holding.spawn({
        let host = host.clone();
        async move { run_on(&host, "other", "hold 50000000 60000", Duration::from_secs(20)).await }
    });
    let patience = Instant::now() + LONG;
    while host.memory_in_use() < 50_000_000 {
        assert!(Instant::now() < patience && holding.try_join_next().is_none());
        tokio::task::yield_now().await;
    }
    let error = run(&host, "grow").await.unwrap_err();
    assert!(error.message.contains("67108864") && error.message.contains("`plugins.limits.total_memory`"), "{error}");
    assert_works(&host, "guest").await;
    holding.shutdown().await;
    assert_eq!(host.memory_in_use(), 0, "a call that is given up gives back what it held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stack_is_bounded() {
    let (_world, host) = host().await;
    let error = run(&host, "recurse").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    // A Rust component keeps its stack at the bottom of its memory, and falls out of that.
    let fell = ["out of bounds memory access", "call stack exhausted"].iter().any(|word| error.message.contains(word));
    assert!(fell, "{error}");
    assert_works(&host, "guest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_holds_of_the_host_is_bounded() {
    let (_world, host) = host().await;
    for behaviour in ["pollables", "fields"] {
        let error = run(&host, behaviour).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal, "{behaviour}: {error}");
        assert!(error.message.contains("resource"), "{behaviour}: {error}");
        assert_works(&host, "guest").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_the_wall_at_once_is_bounded() {
    let (_world, host) = host().await;
    assert_eq!(run(&host, "giant 1000000").await.unwrap().len(), 1_000_000);
    for behaviour in ["giant 20000000", "giant-log 20000000"] {
        let error = run(&host, behaviour).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("8388608"), "{behaviour}: {error}");
        assert_works(&host, "guest").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_dropped_and_counted() {
    let world = World::new("  floods: { plugin: guest, limits: { log: 4KiB } }\n  guest: { plugin: guest }", "");
    let host = world.start().await;
    for behaviour in ["flood-stdout", "flood-log", "flood-line"] {
        let before = log_of("floods").len();
        assert_eq!(run_on(&host, "floods", behaviour, LONG).await.unwrap(), "flooded");
        let lines = log_of("floods").split_off(before);
        let size: usize = lines.iter().map(String::len).sum();
        assert!(size < 100_000, "{behaviour}: {size} bytes in {} lines", lines.len());
        assert!(lines.iter().any(|line| line.contains("`backends.floods.limits.log`")), "{behaviour}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_are_bounded() {
    let world = pair("concurrency: 2");
    let host = world.start().await;
    let mut held = JoinSet::new();
    for _ in 0..2 {
        let host = host.clone();
        held.spawn(async move {
            let request = request("pacer-small-1", json!({ "behaviour": "slow" }), "the-bootstrap");
            host.create(&name("guest"), request, Duration::from_secs(30)).await
        });
    }
    let patience = Instant::now() + LONG;
    while host.status().iter().map(|status| status.under_way).sum::<usize>() < 2 {
        assert!(Instant::now() < patience);
        tokio::task::yield_now().await;
    }
    let error = run_on(&host, "guest", "say hello", Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.asked, "it did not come to the component");
    assert!(
        error.message.contains("2 calls") && error.message.contains("`backends.guest.limits.concurrency`"),
        "{error}"
    );
    assert_works(&host, "other").await;
    held.shutdown().await;
    assert_works(&host, "guest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_breaking_is_left_alone_for_a_while() {
    let world = World::new("  guest: { plugin: guest }\n  other: { plugin: guest }", "");
    let clock = Arc::new(TestClock::default());
    let host = world.start_at(clock.clone()).await;
    for _ in 0..5 {
        assert!(run(&host, "panic everything").await.unwrap_err().message.contains("broke"));
    }
    let error = run(&host, "say hello").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.asked && error.retry_after.is_some());
    assert!(error.message.contains("keeps breaking") && error.message.contains("the end of everything"), "{error}");
    assert!(matches!(health(&host, "guest"), Health::Down(_)));
    assert_works(&host, "other").await;
    clock.advance(Duration::from_secs(10));
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "guest"), Health::Ok);
}
