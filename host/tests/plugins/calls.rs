//! What an ordinary backend does and says.

use std::{collections::BTreeSet, time::Duration};

use pacer::plugins::{Backends as _, Destruction, ErrorKind, Health};
use serde_json::json;

use crate::support::{LONG, World, assert_works, create, health, host, host_with, log_of, name, run, run_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_comes_once_and_goes() {
    let (_world, host) = host().await;
    let first = create(&host, "pacer-small-1", json!({})).await.unwrap();
    assert_eq!((first.handle.as_str(), first.name.as_str()), ("app-1/pacer-small-1", "pacer-small-1"));
    let again = create(&host, "pacer-small-1", json!({})).await.unwrap();
    assert_eq!(again.attributes, [("times".to_owned(), "2".to_owned())]);
    assert!(host.get(&name("guest"), &first.handle, LONG).await.unwrap().is_some());
    let gone = host.destroy(&name("guest"), &first.handle, Duration::ZERO, LONG).await.unwrap();
    assert_eq!(gone, Destruction::Gone);
    assert_eq!(host.get(&name("guest"), &first.handle, LONG).await.unwrap(), None);
    let stats = &host.status()[0].operations;
    let operations: Vec<_> = stats.iter().map(|stats| (stats.operation, stats.calls, stats.errors)).collect();
    assert_eq!(operations, [("create", 2, 0), ("destroy", 1, 0), ("get", 2, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_error_arrives_as_it_is() {
    let (_world, host) = host().await;
    let kinds = [
        ErrorKind::InvalidRequest,
        ErrorKind::InvalidConfig,
        ErrorKind::Unauthorized,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::Capacity,
        ErrorKind::Quota,
        ErrorKind::RateLimited,
        ErrorKind::Unavailable,
        ErrorKind::Interrupted,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
        ErrorKind::Other,
    ];
    for kind in kinds {
        let error = run(&host, &format!("error {kind} 1500")).await.unwrap_err();
        assert_eq!(error.kind, kind);
        assert_eq!(error.retry_after, Some(Duration::from_millis(1_500)));
        assert_eq!(error.message, "backend `guest`: as you asked");
        assert!(error.asked);
    }
    assert_eq!(run(&host, "error quota").await.unwrap_err().retry_after, None);
    assert!(!matches!(health(&host, "guest"), Health::Down(_)), "a backend that says no is called all the same");
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "guest"), Health::Ok);
    let unsupported = host.renew_lease(&name("guest"), "h", "2030-01-01T00:00:00Z".parse().unwrap(), LONG).await;
    assert_eq!(unsupported.unwrap_err().kind, ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_read_to_its_end_and_only_there() {
    let (_world, host) = host().await;
    let list = |owner: &'static str| {
        let host = host.clone();
        async move { host.list(&name("guest"), owner, LONG).await }
    };
    let names: BTreeSet<_> = list("app-1").await.unwrap().into_iter().map(|instance| instance.name).collect();
    assert_eq!(names.len(), 5);
    assert_eq!(list("strangers").await.unwrap(), [], "machines of others are not ours");
    for owner in ["circle", "endless"] {
        let error = list(owner).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("does not come to an end") && error.asked, "{error}");
    }
    for (owner, says) in [
        ("crowd", "a page has 1001 machines, 1000 are allowed"),
        ("masses", "more than 10000 machines"),
        ("far", "has more than 4096 bytes"),
    ] {
        let error = list(owner).await.unwrap_err();
        assert!(error.message.contains(says) && error.asked, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_contract_does_not_allow_is_a_fault() {
    let (_world, host) = host().await;
    for (behaviour, says) in [
        ("long-handle", "the handle of a machine has 1025 bytes, 1 to 1024 are allowed"),
        ("other-name", "asked for machine `pacer-small-1` of `app-1`, it gave `pacer-small-1-other` of `app-1`"),
    ] {
        let error = create(&host, "pacer-small-1", json!({ "behaviour": behaviour })).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains(says), "{error}");
        assert!(matches!(health(&host, "guest"), Health::Degraded(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_remembers_is_its_own() {
    let world = World::new("  guest: { plugin: guest }\n  other: { plugin: guest }", "");
    let host = world.start().await;
    assert_eq!(run(&host, "keep version 1.41").await.unwrap(), "kept");
    assert_eq!(run(&host, "recall version").await.unwrap(), "1.41");
    assert_eq!(run_on(&host, "other", "recall version", LONG).await.unwrap(), "nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_to_see() {
    let (_world, host) = host().await;
    assert_eq!(run(&host, "look").await.unwrap(), "nothing");
    assert_ne!(run(&host, "random").await.unwrap(), run(&host, "random").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_call_and_is_told() {
    let world = World::new("  guest: { plugin: guest }\n  other: { plugin: guest }", "");
    let host = world.start().await;
    let error = run(&host, "panic everything").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.starts_with("backend `guest`: `console-log` broke: wasm"), "{error}");
    assert!(error.message.contains("this is the end of everything"), "{error}");
    assert!(matches!(health(&host, "guest"), Health::Degraded(_)));
    assert_works(&host, "other").await;
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "guest"), Health::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_its_log_stays_one_line() {
    let world = World::new("  logs-lines: { plugin: guest }\n  guest: { plugin: guest }", "");
    let host = world.start().await;
    run_on(&host, "logs-lines", "log first", LONG).await.unwrap();
    let lines = log_of("logs-lines");
    let line = lines.iter().find(|line| line.contains("first")).unwrap();
    assert!(line.contains(r"\n\u{1b}[31mred") && line.contains("key=value") && line.contains("WARN"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_judged_by_schema_and_by_the_component() {
    let world = World::new(
        "  guest: { plugin: guest, settings: { doubtful: x } }\n  wrong: { plugin: guest, settings: { colour: red } }\n  \
         missing: { plugin: nowhere }",
        "projects:\n  - name: p\n    scope: repo\n    repos: [o/r]\n    pools:\n      \
         - { name: small, backend: guest, settings: { size: 101 } }\n      \
         - { name: odd, backend: guest, settings: { size: large } }\n      \
         - { name: unlucky, backend: guest, settings: { size: 13 } }\n",
    );
    let host = world.start().await;
    let findings: Vec<_> =
        host.validate(&world.config).await.into_iter().map(|f| (f.error, f.key.clone(), f.message)).collect();
    let found = |error: bool, key: &str, part: &str| {
        assert!(
            findings.iter().any(|(e, k, m)| *e == error && k == key && m.contains(part)),
            "{error} {key} {part} is not in {findings:#?}"
        );
    };
    found(false, "backends.guest.settings.doubtful", "nobody needs this");
    found(true, "backends.wrong.settings", "colour");
    found(true, "backends.missing", "nowhere.wasm");
    found(true, "projects[p].pools[small].settings.size", "more than 100");
    found(true, "projects[p].pools[odd].settings.size", "is not of type");
    found(true, "projects[p].pools[unlucky].settings", "bad luck");
    assert!(findings.iter().all(|(_, _, message)| !message.contains("Down(")), "for people: {findings:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_pool_is_found_among_any_number_of_other_findings() {
    let (world, host) = host_with("settings: { doubtful: very }").await;
    let fit = |size: u32| {
        let host = host.clone();
        async move { host.fit(&name("guest"), &json!({ "size": size }), LONG).await }
    };
    for (size, says) in [(101, "settings.size: more than 100"), (13, "settings: 13 brings bad luck"), (0, "minimum")] {
        let error = fit(size).await.unwrap_err();
        assert_eq!((error.kind, error.asked), (ErrorKind::InvalidConfig, false));
        assert!(error.message.contains(says), "{error}");
    }
    assert_eq!(fit(1).await.unwrap().name, "guest");
    // Judged good once is judged good: the component is not asked again.
    let asked = |host: &pacer::plugins::Host| {
        let stats = host.status().remove(0).operations;
        stats.iter().find(|stats| stats.operation == "validate").unwrap().calls
    };
    let before = asked(&host);
    fit(1).await.unwrap();
    assert_eq!(asked(&host), before);
    assert!(host.validate(&world.config).await.len() < 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_backend_that_are_refused_hold_back_its_pools() {
    let world = World::new("  guest: { plugin: guest, settings: { colour: red } }", "");
    let host = world.start().await;
    let error = host.fit(&name("guest"), &json!({}), LONG).await.unwrap_err();
    assert_eq!((error.kind, error.asked), (ErrorKind::InvalidConfig, false));
    assert!(error.message.contains("backends.guest.settings") && error.message.contains("colour"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_it_wants_is_shown_whether_granted_or_not() {
    let (_world, host) =
        host_with("endpoints: { engine: \"http://127.0.0.1:9\", other: \"unix:///run/docker.sock\" }").await;
    let status = &host.status()[0];
    let grants: Vec<_> =
        status.grants.iter().map(|g| (g.endpoint.as_str(), g.purpose.is_some(), g.root_equivalent)).collect();
    assert_eq!(grants, [("engine", true, false), ("other", false, true)]);
    let (_world, host) = crate::support::host().await;
    let grants = &host.status()[0].grants;
    assert_eq!((grants.len(), grants[0].target.is_none()), (1, true));
}
