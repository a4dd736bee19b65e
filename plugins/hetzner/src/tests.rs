//! Against a double: Hetzner cannot be had without an account. It is written from the published description of the API and
//! refuses what that says is refused; whether the real one does the same is not known here.

use std::{cell::Cell, collections::BTreeMap, io::Cursor, time::Duration};

use pacer_backend::{
    Backend, Bootstrap, Call, Destruction, Error, ErrorKind, Instance, InstanceState, RunnerRequest, Severity,
    http::{Request, Response, Transport},
    testing::{Memory, context},
};
use pacer_simulator::hetzner;
use serde_json::{Value, json};

use crate::{
    Hetzner, labels,
    settings::{Pool, Settings},
};

#[derive(Default)]
struct Double {
    project: hetzner::Hetzner,
    lose: Cell<bool>,
}

impl Double {
    fn left(&self) -> usize {
        self.project.machines().len()
    }

    fn exists(&self, handle: &str) -> bool {
        self.project.machines().contains_key(&handle.parse().unwrap())
    }

    /// The next request has its effect and nobody hears of it.
    fn lose_next(&self) {
        self.lose.set(true);
    }
}

impl Transport for Double {
    fn send(&self, request: &Request, _: Duration) -> Result<Response, Error> {
        assert_eq!(request.endpoint, "hetzner");
        assert!(request.headers.iter().all(|(name, _)| name != "authorization"), "the token is the host's");
        let (status, headers, body) = self.project.answer(request.method, &request.path, &request.body);
        if self.lose.take() {
            return Err(Error::unavailable("the connection was reset"));
        }
        Ok(Response::new(request.to_string(), status, headers, Box::new(Cursor::new(body))))
    }
}

fn with<T>(double: &Double, run: impl FnOnce(&Call<'_, Settings>) -> T) -> T {
    let memory = Memory::default();
    run(&Call::new(context("{}", Duration::from_secs(30)), double, &memory).unwrap())
}

fn request(name: &str, owner: &str, more: Value) -> RunnerRequest<Pool> {
    let mut pool = json!({ "server_types": ["cx23"], "image": "debian-12", "ssh_keys": ["ci"] });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    RunnerRequest {
        name: name.into(),
        owner: owner.into(),
        labels: vec![],
        pool: serde_json::from_value(pool).unwrap(),
        bootstrap: Bootstrap::CloudInit("#cloud-config\n{}".into()),
        lease_until_ms: 1_900_000_000_123,
        tags: vec![("project".into(), "app".into()), ("target".into(), "repo:octocat/app".into())],
    }
}

fn create(double: &Double, name: &str, owner: &str, more: Value) -> Result<Instance, pacer_backend::Error> {
    with(double, |call| Hetzner::create(call, request(name, owner, more)))
}

fn gone(double: &Double, handle: &str, grace_ms: u64) {
    let done = |_: usize| with(double, |call| Hetzner::destroy(call, handle, grace_ms)).unwrap() == Destruction::Gone;
    assert!((0..10).any(done), "it goes");
}

#[test]
fn a_server_lives_from_create_to_destroy() {
    let double = Double::default();
    let made = create(&double, "pacer-a", "app-1", json!({ "locations": ["fsn1"] })).unwrap();
    assert_eq!(
        (made.name.as_str(), made.owner.as_str(), made.lease_until_ms),
        ("pacer-a", "app-1", Some(1_900_000_000_123))
    );
    assert!(matches!(made.state, InstanceState::Creating), "{:?}", made.state);
    assert_eq!(made.price.as_ref().map(|price| (price.micros_per_hour, price.currency.as_str())), Some((5_600, "EUR")));
    for tag in [("project", "app"), ("target", "repo:octocat/app")] {
        assert!(made.attributes.contains(&(tag.0.into(), tag.1.into())), "{:?}", made.attributes);
    }
    let again = create(&double, "pacer-a", "app-1", json!({})).unwrap();
    assert_eq!(again.handle, made.handle, "the second create returns the first server");
    let got = with(&double, |call| Hetzner::get(call, &made.handle)).unwrap().unwrap();
    assert!(matches!(got.state, InstanceState::Running) && !got.hold && !got.addresses.is_empty());
    with(&double, |call| Hetzner::renew_lease(call, &made.handle, 2_000_000_000_000)).unwrap();
    double.project.label(made.handle.parse().unwrap(), "pacer.hold", "1");
    let got = with(&double, |call| Hetzner::get(call, &made.handle)).unwrap().unwrap();
    assert_eq!((got.lease_until_ms, got.hold), (Some(2_000_000_000_000), true));

    gone(&double, &made.handle, 5_000);
    assert_eq!(double.project.asked_to_shut_down(), std::slice::from_ref(&made.handle), "gently first");
    assert!(with(&double, |call| Hetzner::get(call, &made.handle)).unwrap().is_none());
    gone(&double, &made.handle, 0);
    for strange in ["", "x", "1/../2", "99999"] {
        assert_eq!(with(&double, |call| Hetzner::destroy(call, strange, 0)).unwrap(), Destruction::Gone, "{strange}");
        assert!(with(&double, |call| Hetzner::get(call, strange)).unwrap().is_none());
    }
    assert_eq!(double.left(), 0);
}

#[test]
fn only_an_owners_servers_are_listed_and_every_page_is() {
    let double = Double::default();
    for number in 0..60 {
        create(&double, &format!("pacer-{number}"), "app-1", json!({})).unwrap();
    }
    let theirs = create(&double, "other", "app-2", json!({})).unwrap();
    double.project.stranger("web");
    let (mut names, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = with(&double, |call| Hetzner::list(call, "app-1", cursor.as_deref())).unwrap();
        names.extend(page.instances.iter().map(|one| one.name.clone()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((names.len(), names.contains(&"other".to_owned())), (60, false));
    let refused = create(&double, "other", "app-1", json!({})).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{}", refused.message);
    let stranger = double.project.stranger("db").to_string();
    assert_eq!(with(&double, |call| Hetzner::destroy(call, &stranger, 0)).unwrap(), Destruction::Gone);
    assert!(double.exists(&stranger), "a stranger's server is left alone");
    assert!(double.exists(&theirs.handle));
}

#[test]
fn types_and_locations_are_tried_in_order() {
    let double = Double::default();
    double.project.full("cx23", "fsn1");
    double.project.full("cx23", "nbg1");
    let more = json!({ "server_types": ["cx23", "cpx22"], "locations": ["fsn1", "nbg1"] });
    let made = create(&double, "pacer-a", "app-1", more.clone()).unwrap();
    assert!(made.attributes.contains(&("server-type".into(), "cpx22".into())), "{:?}", made.attributes);
    double.project.full("cpx22", "fsn1");
    double.project.full("cpx22", "nbg1");
    let full = create(&double, "pacer-b", "app-1", more).unwrap_err();
    assert_eq!(full.kind, ErrorKind::Capacity, "{}", full.message);
    assert!(full.message.contains("`cpx22` in `nbg1`"), "{}", full.message);
}

#[test]
fn what_is_not_to_be_had_somewhere_does_not_hide_that_the_rest_is_full() {
    // `hel1` has no `cpx22`, `fsn1` and `nbg1` have no `cpx11`.
    let refused = |types: &[&str], full: &[(&str, &str)]| {
        let double = Double::default();
        for (kind, location) in full {
            double.project.full(kind, location);
        }
        let more = json!({ "server_types": types, "locations": ["fsn1", "hel1"] });
        create(&double, "pacer-a", "app-1", more).map_err(|error| (error.kind, error.message))
    };
    let (kind, message) = refused(&["cpx22"], &[("cpx22", "fsn1")]).unwrap_err();
    assert!(kind == ErrorKind::Capacity && message.contains("`cpx22` in `fsn1`"), "{message}");
    let (kind, message) = refused(&["cpx11", "cpx22"], &[("cpx22", "fsn1")]).unwrap_err();
    assert!(kind == ErrorKind::Capacity && message.contains("`cpx22` in `fsn1`"), "{message}");
    let (kind, message) = refused(&["cpx11"], &[]).unwrap_err();
    assert!(kind == ErrorKind::InvalidConfig && message.contains("`cpx11` in `fsn1`"), "the first: {message}");
    assert!(refused(&["cpx11", "cpx22"], &[]).is_ok(), "the next place decides");
}

#[test]
fn every_shortage_leads_to_the_next_place() {
    for code in ["resource_unavailable", "placement_error", "no_space_left_in_location"] {
        let double = Double::default();
        double.project.refuse(422, code);
        let more = json!({ "server_types": ["cx23", "cpx22"], "locations": ["fsn1", "nbg1"] });
        let full = create(&double, "pacer-a", "app-1", more).unwrap_err();
        assert!(full.kind == ErrorKind::Capacity && full.message.contains("`cpx22` in `nbg1`"), "{}", full.message);
    }
}

#[test]
fn an_empty_limit_is_waited_for_and_not_until_it_is_full() {
    for (full_again, wait) in [(10, 10), (3000, 60)] {
        let double = Double::default();
        double.project.full_again_in(full_again);
        double.project.refuse(429, "rate_limit_exceeded");
        let refused = create(&double, "pacer-a", "app-1", json!({})).unwrap_err();
        let told = refused.retry_after_ms.unwrap() / 1000;
        assert!(refused.kind == ErrorKind::RateLimited && (wait - 5..=wait).contains(&told), "{told} s");
        double.project.refuse(500, "server_error");
        assert_eq!(create(&double, "pacer-a", "app-1", json!({})).unwrap_err().retry_after_ms, None);
    }
}

#[test]
fn a_locked_server_is_taken_down_a_little_later() {
    let double = Double::default();
    let made = create(&double, "pacer-a", "app-1", json!({ "firewalls": [7] })).unwrap();
    double.project.lock(made.handle.parse().unwrap(), 1);
    let locked = with(&double, |call| Hetzner::destroy(call, &made.handle, 0)).unwrap_err();
    assert_eq!(locked.kind, ErrorKind::Unavailable, "{}", locked.message);
    gone(&double, &made.handle, 0);
    assert_eq!(double.left(), 0);
}

#[test]
fn refusals_are_of_a_kind_and_the_bootstrap_is_in_none() {
    for (status, code, kind) in [
        (401, "unauthorized", ErrorKind::Unauthorized),
        (403, "token_readonly", ErrorKind::Unauthorized),
        (403, "resource_limit_exceeded", ErrorKind::Quota),
        (412, "resource_unavailable", ErrorKind::Capacity),
        (422, "invalid_input", ErrorKind::InvalidConfig),
        (423, "locked", ErrorKind::Unavailable),
        (429, "rate_limit_exceeded", ErrorKind::RateLimited),
        (500, "server_error", ErrorKind::Unavailable),
        (503, "", ErrorKind::Unavailable),
    ] {
        let double = Double::default();
        double.project.refuse(status, code);
        let refused = create(&double, "pacer-a", "app-1", json!({})).unwrap_err();
        assert_eq!(refused.kind, kind, "{code}: {}", refused.message);
        assert!(!refused.message.contains("#cloud-config"), "{}", refused.message);
    }
    let double = Double::default();
    let mut long = request("pacer-a", "app-1", json!({}));
    long.bootstrap = Bootstrap::CloudInit("x".repeat(33_000));
    assert_eq!(with(&double, |call| Hetzner::create(call, long)).unwrap_err().kind, ErrorKind::InvalidRequest);
    let mut direct = request("pacer-a", "app-1", json!({}));
    direct.bootstrap = Bootstrap::JitConfig("e30=".into());
    assert_eq!(with(&double, |call| Hetzner::create(call, direct)).unwrap_err().kind, ErrorKind::Unsupported);
    let odd = create(&double, "pacer-a", "an owner", json!({})).unwrap_err();
    assert_eq!(odd.kind, ErrorKind::InvalidConfig);
    assert_eq!(double.left(), 0);
}

#[test]
fn a_lost_answer_is_no_second_server_and_a_price_is_told() {
    let double = Double::default();
    double.lose_next();
    assert_eq!(create(&double, "pacer-a", "app-1", json!({})).unwrap_err().kind, ErrorKind::Unavailable);
    create(&double, "pacer-a", "app-1", json!({})).unwrap();
    assert_eq!(double.left(), 1);
    let price = with(&double, |call| Hetzner::quote(call, request("x", "y", json!({})).pool)).unwrap().unwrap();
    assert_eq!((price.micros_per_hour, price.currency.as_str()), (5_900, "EUR"), "in the dearest location");
}

#[test]
fn settings_that_cannot_work_are_found() {
    let found = |more: Value| -> Vec<String> {
        let findings = request("a", "b", more).pool.findings();
        findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| finding.path.clone())
            .collect()
    };
    assert_eq!(found(json!({})), [""; 0]);
    assert_eq!(found(json!({ "server_types": [] })), ["/pool/server_types"]);
    assert_eq!(found(json!({ "ipv4": false, "ipv6": false })), ["/pool/networks"]);
    assert_eq!(found(json!({ "labels": { "pacer-owner": "me" } })), ["/pool/labels/pacer-owner"]);
    assert_eq!(found(json!({ "labels": { "team": "a b" } })), ["/pool/labels/team"]);
}

#[test]
fn a_long_target_comes_back_whole() {
    let double = Double::default();
    let target = format!("repo:{}/{}", "o".repeat(39), "long-name.".repeat(9) + "_repository");
    let mut asked = request("pacer-a", "app-1", json!({}));
    asked.tags = vec![("target".into(), target.clone()), ("pool".into(), "/".into())];
    let made = with(&double, |call| Hetzner::create(call, asked)).unwrap();
    let of = |key: &str| made.attributes.iter().find(|(one, _)| one == key).map(|(_, value)| value.as_str());
    assert_eq!((of("target"), of("pool")), (Some(target.as_str()), None));
}

#[test]
fn a_tag_comes_back_as_it_was_or_not_at_all() {
    let long = "x".repeat(64);
    for text in ["app", "repo:octocat/hello-world", "org:acme", "a_b", "ü.ü", "a_", "", "/a", "a-", &long, "a%41"] {
        let mut all = BTreeMap::new();
        let is_put = labels::put(&mut all, "t.key", text);
        assert!(all.iter().all(|(key, value)| labels::is_value(key) && labels::is_value(value)), "{all:?}");
        let read = labels::read(&all, "t.").remove("key");
        match is_put {
            true => assert_eq!(read.as_deref().unwrap_or_default(), text),
            false => assert!(read.is_none() && ["ü.ü", "/a", "a-"].contains(&text), "{text}: {all:?}"),
        }
    }
    for theirs in ["a_b", "a_", "a_zz", "a_ff"] {
        let all = BTreeMap::from([("t.key".to_owned(), theirs.to_owned())]);
        assert_eq!(labels::read(&all, "t.")["key"], theirs, "what is no code stays as it is");
    }
}
