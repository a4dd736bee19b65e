//! Each limit ends a call, says which one it was, and leaves the others alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use pacer::plugins::{Backends as _, ErrorKind, Health};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    LONG, TestClock, World, assert_works, create, down, health, host, host_with, log_of, name, request, run, run_on,
};

/// Two backends of one component: `guest` with these limits, and `other`.
fn pair(limits: &str) -> World {
    World::new(&format!("  guest: {{ plugin: guest, limits: {{ {limits} }} }}\n  other: {{ plugin: guest }}"), "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computing_is_bounded() {
    let world = pair("cpu: 200ms");
    let host = world.start().await;
    let (spun, other) = tokio::join!(run(&host, "spin"), run_on(&host, "other", "say hello", LONG));
    let error = spun.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("200 ms") && error.message.contains("`backends.guest.limits.cpu`"), "{error}");
    // The processor's time, of which a busy machine takes no more than an idle one.
    let computed = error.message.split_once("it computed for ").and_then(|(_, rest)| rest.split_once(" ms"));
    let computed: u64 = computed.unwrap().0.parse().unwrap();
    assert!((200..1_000).contains(&computed), "{error}");
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
        // Its engine may hang.
        assert!(matches!(health(&host, "guest"), Health::Degraded(_)));
    }
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "guest"), Health::Ok);
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
async fn memory_that_others_took_is_no_fault() {
    let world = World::new(
        "  guest: { plugin: guest }\n  other: { plugin: guest }",
        "plugins: { dir: plugins, cache_dir: \"CACHE\", limits: { memory: 60MiB, total_memory: 104MiB } }",
    );
    let host = world.start().await;
    let mut holding = JoinSet::new();
    holding.spawn({
        let host = host.clone();
        async move { run_on(&host, "other", "hold 50000000 60000", LONG).await }
    });
    let patience = Instant::now() + LONG;
    while host.memory_in_use() < 60_000_000 {
        assert!(Instant::now() < patience && holding.try_join_next().is_none());
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        let error = run(&host, "grow").await.unwrap_err();
        let says = ["109051904", "`plugins.limits.total_memory`"];
        assert!(says.iter().all(|part| error.message.contains(part)), "{error}");
        assert_eq!((error.kind, error.asked), (ErrorKind::Unavailable, false), "{error}");
    }
    assert_eq!(health(&host, "guest"), Health::Ok);
    assert_works(&host, "guest").await;
    holding.shutdown().await;
    assert_eq!(host.memory_in_use(), 0, "a call that is given up gives back what it held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_begins_without_room_for_what_the_host_may_hold_for_it() {
    let world = World::new(
        "  guest: { plugin: guest }",
        "plugins: { dir: plugins, cache_dir: \"CACHE\", limits: { memory: 8MiB, total_memory: 8MiB } }",
    );
    let reason = down(&*world.start().await, "guest");
    assert!(reason.contains("was not begun") && reason.contains("`plugins.limits.total_memory`"), "{reason}");

    let (_world, host) = host().await;
    let mut held = JoinSet::new();
    held.spawn({
        let host = host.clone();
        async move { run(&host, "sleep 60000").await }
    });
    let patience = Instant::now() + LONG;
    // A request of 56 KiB for each of 256 resources, and what crosses the wall.
    while host.memory_in_use() < (256 * 56 + 2_048) << 10 {
        assert!(Instant::now() < patience && held.try_join_next().is_none());
        tokio::task::yield_now().await;
    }
    held.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_room() {
    let world = World::new(
        "  guest: { plugin: guest }",
        "plugins: { dir: plugins, cache_dir: \"CACHE\", limits: { memory: 30MiB, total_memory: 30MiB } }",
    );
    let host = world.start().await;
    // There is room for one at a time.
    let mut calls = JoinSet::new();
    for _ in 0..5 {
        let host = host.clone();
        calls.spawn(async move { run(&host, "sleep 50").await });
    }
    while let Some(outcome) = calls.join_next().await {
        assert_eq!(outcome.unwrap().unwrap(), "slept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_never_sent_are_bounded_in_bytes() {
    let (_world, host) = host().await;
    let taken: usize = run(&host, "unsent 40").await.unwrap().parse().unwrap();
    assert!((1_000_000..(40 * 57) << 10).contains(&taken), "{taken} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_component_holds_fits() {
    let (_world, host) = host().await;
    assert_eq!(run(&host, "burst 100").await.unwrap(), "fired");
    assert_eq!(run(&host, "random-bytes 65536").await.unwrap(), "65536");
    let error = run(&host, "random-bytes 65537").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_has_a_store_of_its_own() {
    let (_world, host) = host().await;
    for _ in 0..3 {
        assert_eq!(run(&host, "count").await.unwrap(), "0");
    }
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
        assert!(error.message.contains("2097152"), "{behaviour}: {error}");
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
            host.create(&name("guest"), request.into(), Duration::from_secs(30)).await
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
async fn machines_that_will_not_stop_leave_room_for_others() {
    let world = pair("concurrency: 4");
    let host = world.start().await;
    let backend = name("guest");
    let stubborn = |deadline| host.destroy(&backend, "stubborn", LONG, deadline);
    let mut stops: FuturesUnordered<_> = (0..8).map(|_| stubborn(3 * LONG)).collect();
    // Each has asked for its turn before the machine is.
    assert!(futures::poll!(stops.next()).is_pending());
    let made = tokio::select! {
        made = create(&host, "pacer-small-1", json!({})) => made,
        stopped = stops.next() => panic!("it stopped: {stopped:?}"),
    };
    assert_eq!(made.unwrap().name, "pacer-small-1");
    assert_eq!(host.status().iter().map(|status| status.under_way).sum::<usize>(), 2);
    let error = stubborn(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!((error.kind, error.asked), (ErrorKind::Unavailable, false), "{error}");
    let says = ["all removals, 2 of its 4 calls", "`backends.guest.limits.concurrency`"];
    assert!(says.iter().all(|part| error.message.contains(part)), "{error}");
    drop(stops);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_break_together_are_one_reason_to_pause() {
    let (_world, host) = host().await;
    let mut calls = JoinSet::new();
    for _ in 0..11 {
        let host = host.clone();
        calls.spawn(async move { run(&host, "sleep-panic 2000 everything").await });
    }
    let patience = Instant::now() + LONG;
    while host.status()[0].under_way < 11 {
        assert!(Instant::now() < patience && calls.try_join_next().is_none());
        tokio::task::yield_now().await;
    }
    while let Some(outcome) = calls.join_next().await {
        assert!(outcome.unwrap().unwrap_err().message.contains("broke"));
    }
    let error = run(&host, "say hello").await.unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(5)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_tells_nothing_is_given_back() {
    let world = World::new("  guest: { plugin: guest }", "");
    let clock = Arc::new(TestClock::default());
    let host = world.start_at(clock.clone()).await;
    for _ in 0..5 {
        assert!(run(&host, "panic everything").await.unwrap_err().message.contains("broke"));
    }
    clock.advance(Duration::from_secs(10));
    let error = run_on(&host, "guest", "sleep 60000", Duration::from_millis(300)).await.unwrap_err();
    assert!(error.message.contains("did not answer"), "{error}");
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "guest"), Health::Ok);
}
