//! Against a real Incus: a private one that `tests/engines/incusd.sh` starts, or the one whose socket is in
//! `PACER_TEST_INCUS`. Without either these tests say so and pass, unless `CI=true`.

use std::time::{Duration, Instant};

use pacer_backend::{
    Backend, Bootstrap, Destruction, ErrorKind, InstanceState,
    testing::{Memory, Socket},
};
use serde_json::json;

use super::{
    PATIENCE, SECRET, call,
    fixture::{Fixture, IMAGE},
    request,
};
use crate::IncusBackend;

#[test]
fn a_runner_lives_from_create_to_destroy() {
    let Some(fixture) = Fixture::new("life") else { return };
    let pool = json!({ "config": { "environment.COLOUR": "green", "user.team": "a" }, "memory": "64MiB", "cpus": 1 });
    let made = fixture.create("one", pool.clone()).unwrap();
    assert_eq!((&made.name, &made.owner), (&fixture.name("one"), &fixture.owner));
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
    assert_eq!(made.lease_until_ms, Some(1_900_000_000_123));
    assert_eq!(made.attributes, [("pool".into(), "small".into()), ("project".into(), "my-app".into())]);
    assert!(!made.hold && made.created_at_ms > Some(1_600_000_000_000));

    let again = fixture.create("one", pool).unwrap();
    assert_eq!(again.handle, made.handle, "the second create returns the first instance");
    let got = fixture.get(&made.handle).unwrap();
    let listed = fixture.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].handle, listed[0].created_at_ms), (&made.handle, got.created_at_ms));

    let log = fixture.says(&made.handle, "COLOUR green");
    assert!(log.contains("-rw-------    1") && log.contains(&format!("length {}", SECRET.len())), "{log}");
    let shown = fixture.incus(&["config", "show", "--expanded", &made.handle]).unwrap();
    assert!(shown.contains("limits.memory: 64MiB") && shown.contains("limits.cpu: \"1\""), "{shown}");
    assert!(shown.contains("user.team: a") && !shown.contains(SECRET), "{shown}");

    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone);
    assert!(fixture.get(&made.handle).is_none());
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone, "twice");
    assert_eq!(fixture.destroy("no-such-instance", Duration::from_secs(5)), Destruction::Gone, "unknown");
    assert!(fixture.list().is_empty());
}

#[test]
fn concurrent_creates_of_one_name_make_one_instance() {
    let Some(fixture) = Fixture::new("race") else { return };
    let (socket, owner, name) = (fixture.server.socket.clone(), fixture.owner.clone(), fixture.name("one"));
    let handles: Vec<_> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..8)
            .map(|_| {
                let (socket, owner, name) = (&socket, &owner, &name);
                scope.spawn(move || {
                    let (socket, memory) = (Socket(socket.clone()), Memory::default());
                    let jit = Bootstrap::JitConfig(SECRET.into());
                    let request = request(name, owner, &json!({ "image": IMAGE }), jit);
                    let made = IncusBackend::create(&call(&socket, &memory, "{}", PATIENCE), request);
                    made.map(|it| (it.handle, matches!(it.state, InstanceState::Running)))
                })
            })
            .collect();
        racing.into_iter().map(|one| one.join().unwrap().unwrap()).collect()
    });
    assert!(handles.iter().all(|one| one == &handles[0] && one.1), "{handles:?}");
    assert_eq!(fixture.list().len(), 1);
}

#[test]
fn a_create_that_was_cut_off_before_the_start_is_continued() {
    let Some(fixture) = Fixture::new("cut") else { return };
    let owner = format!("user.pacer.owner={}", fixture.owner);
    let runner = format!("user.pacer.runner={}", fixture.name("one"));
    fixture.incus(&["init", IMAGE, &fixture.name("one"), "-c", &owner, "-c", &runner]).unwrap();
    let found = fixture.get(&fixture.name("one")).unwrap();
    assert!(matches!(found.state, InstanceState::Creating), "{:?}", found.state);
    let made = fixture.create("one", json!({})).unwrap();
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
    fixture.says(&made.handle, &format!("length {}", SECRET.len()));
    assert_eq!(fixture.list().len(), 1);
}

#[test]
fn a_strangers_instance_is_neither_taken_nor_listed_nor_destroyed() {
    let Some(fixture) = Fixture::new("mine") else { return };
    let Some(stranger) = Fixture::new("stranger") else { return };
    let name = fixture.name("one");
    let jit = || Bootstrap::JitConfig(SECRET.into());
    let theirs = stranger.with(|call| {
        IncusBackend::create(call, request(&name, &stranger.owner, &json!({ "image": IMAGE }), jit())).unwrap()
    });
    let refused = fixture.create("one", json!({})).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("somebody else"), "{}", refused.message);
    assert!(fixture.list().is_empty());
    assert!(matches!(fixture.get(&theirs.handle).unwrap().state, InstanceState::Running), "it was left alone");

    // Nobody's: made by hand.
    let hand = fixture.name("hand");
    fixture.incus(&["init", IMAGE, &hand]).unwrap();
    assert!(fixture.get(&hand).is_none());
    assert_eq!(fixture.destroy(&hand, Duration::ZERO), Destruction::Gone);
    assert_eq!(fixture.create("hand", json!({})).unwrap_err().kind, ErrorKind::Conflict);
    fixture.incus(&["delete", &hand]).expect("it is still there");
}

#[test]
fn what_is_missing_is_named_and_nothing_is_left() {
    let Some(fixture) = Fixture::new("missing") else { return };
    let check = |more, kind, word: &str| {
        let error = fixture.create("one", more).unwrap_err();
        assert_eq!(error.kind, kind, "{}", error.message);
        assert!(error.message.contains(word), "{}", error.message);
        assert!(!error.message.contains(SECRET), "{}", error.message);
        assert!(fixture.list().is_empty(), "{}: {:?}", error.message, fixture.list());
    };
    check(json!({ "image": "no-such-image" }), ErrorKind::NotFound, "no image `no-such-image`");
    check(json!({ "image": "0".repeat(64) }), ErrorKind::NotFound, "no image `000");
    check(json!({ "profiles": ["no-such-profile"] }), ErrorKind::NotFound, "no profile `no-such-profile`");
    check(json!({ "config": { "limits.nonsense": "1" } }), ErrorKind::Other, "limits.nonsense");
    check(json!({ "storage": "no-such-pool" }), ErrorKind::NotFound, "torage pool");
    check(json!({ "jit_file": "/no/such/directory" }), ErrorKind::InvalidConfig, "jit_file");
    check(json!({ "config": { "raw.lxc": "lxc.init.cmd = /no-such-init" } }), ErrorKind::Other, "");
    check(json!({ "type": "virtual-machine" }), ErrorKind::Unsupported, "`bootstrap.kind`");
}

#[test]
fn how_an_instance_ended_is_told() {
    let Some(fixture) = Fixture::new("end") else { return };
    let well = fixture
        .create("well", json!({ "config": { "environment.BRIEF": "1", "environment.COLOUR": "green" } }))
        .unwrap();
    assert!(matches!(fixture.ended(&well.handle).state, InstanceState::Stopped));
    let log = fixture.log(&well.handle, 10_000);
    assert!(log.trim_end().ends_with("COLOUR green"), "its log outlives it: {log}");
    assert_eq!(fixture.log(&well.handle, 7), "green\r\n", "and is not used up");
    // A second create of an ended one starts nothing again.
    assert!(matches!(fixture.create("well", json!({})).unwrap().state, InstanceState::Stopped));
    assert_eq!(fixture.destroy(&well.handle, Duration::from_secs(30)), Destruction::Gone);

    let pool = json!({ "ephemeral": true, "config": { "environment.BRIEF": "1" } });
    match fixture.create("brief", pool) {
        Ok(brief) => fixture.until("its deletion", || fixture.get(&brief.handle).is_none().then_some(())),
        Err(error) => assert!(error.message.contains("was removed"), "{}", error.message),
    }
    let lasting = fixture.create("lasting", json!({ "ephemeral": true })).unwrap();
    fixture.says(&lasting.handle, "COLOUR");
    assert_eq!(fixture.destroy(&lasting.handle, Duration::from_secs(10)), Destruction::Gone);
    assert!(fixture.list().is_empty());
}

#[test]
fn a_stop_is_graceful_first_and_forced_in_the_end() {
    let Some(fixture) = Fixture::new("stop") else { return };
    let polite = fixture.create("polite", json!({})).unwrap();
    fixture.says(&polite.handle, "COLOUR");
    let started = Instant::now();
    assert_eq!(fixture.destroy(&polite.handle, Duration::from_secs(50)), Destruction::Gone);
    assert!(started.elapsed() < Duration::from_secs(15), "it was not waited for longer than it took");

    let deaf = |name| {
        let made = fixture.create(name, json!({ "config": { "environment.DEAF": "1" } })).unwrap();
        fixture.says(&made.handle, "COLOUR");
        made
    };
    let first = deaf("deaf");
    let started = Instant::now();
    assert_eq!(fixture.destroy(&first.handle, Duration::from_secs(2)), Destruction::Gone);
    assert!(started.elapsed() >= Duration::from_secs(2), "it had its grace, not {:?}", started.elapsed());
    assert!(fixture.get(&first.handle).is_none());

    // A grace that is longer than the call is cut, and the machine is gone all the same.
    let longer = deaf("longer");
    let gone = fixture.within(Duration::from_secs(10), |call| IncusBackend::destroy(call, &longer.handle, 60_000));
    assert_eq!(gone.unwrap(), Destruction::Gone);
    assert!(fixture.list().is_empty());
}

#[test]
fn a_suspended_instance_is_held_and_goes_on_or_ends() {
    let Some(fixture) = Fixture::new("freeze") else { return };
    let made = fixture.create("one", json!({})).unwrap();
    fixture.says(&made.handle, "COLOUR");
    let suspend = || fixture.with(|call| IncusBackend::suspend(call, &made.handle));
    let resume = || fixture.with(|call| IncusBackend::resume(call, &made.handle));
    suspend().unwrap();
    suspend().expect("a repetition is none");
    assert!(fixture.get(&made.handle).unwrap().hold);
    assert!(fixture.list()[0].hold && matches!(fixture.list()[0].state, InstanceState::Running));
    let resumed = resume().unwrap();
    assert!(matches!(resumed.state, InstanceState::Running) && !resumed.hold, "{:?}", resumed.state);
    resume().expect("a repetition is none");
    suspend().unwrap();
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(10)), Destruction::Gone, "frozen");
    assert_eq!(suspend().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(resume().unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn leases_and_holds_change_with_the_machine() {
    let Some(fixture) = Fixture::new("lease") else { return };
    let made = fixture.create("one", json!({})).unwrap();
    fixture.with(|call| IncusBackend::renew_lease(call, &made.handle, 1_900_000_999_000)).unwrap();
    let seen = fixture.get(&made.handle).unwrap();
    assert_eq!((seen.lease_until_ms, seen.attributes), (Some(1_900_000_999_000), made.attributes), "and nothing else");
    fixture.incus(&["config", "set", &made.handle, "user.pacer.hold=true"]).unwrap();
    assert!(fixture.get(&made.handle).unwrap().hold && fixture.list()[0].hold);
    let absent = fixture.with(|call| IncusBackend::renew_lease(call, "no-such-instance", 1)).unwrap_err();
    assert_eq!(absent.kind, ErrorKind::NotFound);
    let log = fixture.with(|call| IncusBackend::console_log(call, "no-such-instance", 10)).unwrap_err();
    assert_eq!(log.kind, ErrorKind::NotFound);
}

#[test]
fn a_start_script_becomes_the_machines_user_data() {
    let Some(fixture) = Fixture::new("script") else { return };
    let data = "#!/bin/sh\necho hello\n";
    let made = fixture.boot("one", json!({}), Bootstrap::StartScript(data.into())).unwrap();
    assert_eq!(fixture.incus(&["config", "get", &made.handle, "cloud-init.user-data"]).unwrap(), data.trim());
    let log = fixture.says(&made.handle, "COLOUR");
    assert!(!log.contains("length"), "no file was pushed: {log}");
}

#[test]
fn a_project_is_a_world_of_its_own_and_a_full_one_is_told() {
    let Some(mut fixture) = Fixture::new("project") else { return };
    let project = fixture.name("p");
    let limits = ["-c", "features.images=false", "-c", "features.profiles=false", "-c", "limits.instances=1"];
    fixture.incus(&[&["project", "create", &project], &limits[..]].concat()).unwrap();
    fixture.settings = json!({ "project": project }).to_string();
    let made = fixture.create("one", json!({})).unwrap();
    assert_eq!(fixture.list().len(), 1);
    let full = fixture.create("two", json!({})).unwrap_err();
    assert_eq!(full.kind, ErrorKind::Quota, "{}", full.message);

    let elsewhere = std::mem::replace(&mut fixture.settings, "{}".into());
    assert!(fixture.get(&made.handle).is_none() && fixture.list().is_empty());
    fixture.settings = json!({ "project": "no-such-project" }).to_string();
    assert_eq!(fixture.create("one", json!({})).unwrap_err().kind, ErrorKind::NotFound);
    fixture.settings = elsewhere;
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone);
    fixture.incus(&["project", "delete", &project]).expect("nothing of it is left");
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    let (socket, memory) = (Socket("/nonexistent/incus.sock".into()), Memory::default());
    let error = IncusBackend::list(&call(&socket, &memory, "{}", PATIENCE), "me", None).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
