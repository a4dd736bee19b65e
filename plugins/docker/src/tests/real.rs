//! Against a real engine: a private one that `tests/engines/dockerd.sh` starts, or the one whose socket is in
//! `PACER_TEST_DOCKER` (Podman's too). Without either these tests say so and pass, unless `CI=true`.

use std::time::{Duration, Instant};

use pacer_backend::{
    Backend, Cache, Destruction, ErrorKind, Instance, InstanceState,
    testing::{Memory, Socket},
};
use serde_json::{Value, json};

use super::{
    SECRET, call,
    fixture::{Fixture, IMAGE, PATIENCE},
    request,
};
use crate::{Docker, engine::Engine as Api};

#[test]
fn a_runner_lives_from_create_to_destroy() {
    let Some(fixture) = Fixture::new("life") else { return };
    let show = "echo length ${#ACTIONS_RUNNER_INPUT_JITCONFIG} $COLOUR; exec sleep 300";
    let pool = json!({ "command": ["sh", "-c", show], "env": { "COLOUR": "green" }, "labels": { "team": "a" } });
    let made = fixture.create("one", pool.clone()).unwrap();
    assert_eq!((made.name, made.owner.as_str()), (fixture.name("one"), fixture.owner.as_str()));
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
    assert_eq!(made.lease_until_ms, Some(1_900_000_000_123));
    assert!(made.attributes.contains(&("project".into(), "my-app".into())), "{:?}", made.attributes);
    assert!(!made.hold);

    let again = fixture.create("one", pool).unwrap();
    assert_eq!(again.handle, made.handle, "the second create returns the first container");
    let got = fixture.get(&made.handle).unwrap();
    let listed = fixture.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].handle, made.handle);
    let seconds = |it: &Instance| it.created_at_ms.map(|ms| ms / 1000);
    assert_eq!(seconds(&listed[0]), seconds(&got));
    assert!(got.created_at_ms > Some(1_600_000_000_000), "{:?}", got.created_at_ms);
    assert_eq!(fixture.get(&fixture.name("one")).unwrap().handle, made.handle, "a name is a handle as well");

    let log = fixture.until("the log", || Some(fixture.log(&made.handle, 1000)).filter(|log| log.contains('\n')));
    assert_eq!(log, format!("length {} green\n", SECRET.len()));
    assert_eq!(fixture.log(&made.handle, 4), "een\n");

    let mut raw = fixture.raw(&made.handle);
    assert_eq!(raw["Config"]["Labels"]["team"], "a");
    let environment = raw["Config"]["Env"].take().to_string();
    assert_eq!(environment.matches(SECRET).count(), 1);
    assert!(!raw.to_string().contains(SECRET), "the secret is in the environment and nowhere else");

    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone);
    assert!(fixture.get(&made.handle).is_none());
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone, "twice");
    assert_eq!(fixture.destroy("no-such-container", Duration::from_secs(5)), Destruction::Gone, "unknown");
    assert!(fixture.list().is_empty());
}

#[test]
fn concurrent_creates_of_one_name_make_one_container() {
    let Some(fixture) = Fixture::new("race") else { return };
    let (socket, owner, name) = (fixture.engine.socket.clone(), fixture.owner.clone(), fixture.name("one"));
    let handles: Vec<_> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..8)
            .map(|_| {
                let (socket, owner, name) = (&socket, &owner, &name);
                scope.spawn(move || {
                    let pool = json!({ "image": IMAGE, "network": "none", "command": ["sleep", "300"] });
                    let (socket, memory) = (Socket(socket.clone()), Memory::default());
                    let made = Docker::create(&call(&socket, &memory, PATIENCE), request(name, owner, &pool));
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
    let owner = format!("pacer.owner={}", fixture.owner);
    let half = |name: &str, secret: &str| {
        let (name, variable) = (fixture.name(name), format!("ACTIONS_RUNNER_INPUT_JITCONFIG={secret}"));
        let id = fixture.docker(&[
            "create",
            "--name",
            &name,
            "--network",
            "none",
            "--label",
            &owner,
            "--env",
            &variable,
            IMAGE,
            "sleep",
            "300",
        ]);
        let found = fixture.get(&id).unwrap();
        assert!(matches!(found.state, InstanceState::Creating), "{:?}", found.state);
        id
    };
    let id = half("one", SECRET);
    let made = fixture.shell("one", "sleep 300");
    assert_eq!(made.handle, id);
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);

    // The name was registered anew since: what never ran with the old registration is replaced.
    let id = half("two", "an older one");
    let made = fixture.shell("two", "sleep 300");
    assert_ne!(made.handle, id);
    assert!(fixture.get(&id).is_none());
    assert_eq!(fixture.list().len(), 2);
}

#[test]
fn a_strangers_container_is_neither_taken_nor_listed() {
    let Some(fixture) = Fixture::new("mine") else { return };
    let Some(stranger) = Fixture::new("stranger") else { return };
    let name = fixture.name("one");
    let theirs = stranger
        .with(|call| {
            let pool = json!({ "image": IMAGE, "network": "none", "command": ["sleep", "300"] });
            Docker::create(call, request(&name, &stranger.owner, &pool))
        })
        .unwrap();
    let refused = fixture.create("one", json!({})).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("somebody else"), "{}", refused.message);
    assert!(fixture.list().is_empty());
    assert!(matches!(fixture.get(&theirs.handle).unwrap().state, InstanceState::Running), "it was left alone");
}

#[test]
fn a_missing_image_is_an_error_that_says_so() {
    let Some(fixture) = Fixture::new("image") else { return };
    let never = fixture.create("a", json!({ "image": "localhost/none:1" })).unwrap_err();
    assert_eq!(never.kind, ErrorKind::NotFound);
    assert!(never.message.contains("`pull` is `never`"), "{}", never.message);
    for pull in ["missing", "always"] {
        // Nothing listens there, so the engine can pull nothing.
        let failed = fixture.create("a", json!({ "image": "127.0.0.1:1/none:1", "pull": pull })).unwrap_err();
        assert!(matches!(failed.kind, ErrorKind::Unavailable), "{pull}: {:?} {}", failed.kind, failed.message);
        assert!(failed.message.contains("127.0.0.1:1/none:1"), "{}", failed.message);
    }
    let wrong = fixture.create("a", json!({ "image": "Not_A:Name:At:All", "pull": "missing" })).unwrap_err();
    let expected = if fixture.is_podman() { ErrorKind::Unavailable } else { ErrorKind::InvalidConfig };
    assert_eq!(wrong.kind, expected, "{}", wrong.message);
    assert!(fixture.with(|call| Api(call).has_image(IMAGE)).unwrap());
    let present = fixture.create("b", json!({ "pull": "missing", "command": ["true"] })).unwrap();
    assert!(matches!(fixture.ended(&present.handle).state, InstanceState::Stopped));
    assert_eq!(fixture.list().len(), 1, "what failed left nothing");
}

#[test]
fn what_cannot_start_leaves_nothing_and_says_why() {
    let Some(fixture) = Fixture::new("start") else { return };
    let podman = fixture.is_podman();
    let check = |settings: Value, kinds: &[ErrorKind], word: &str| {
        let failed = fixture.create("a", settings.clone()).expect_err(&settings.to_string());
        let told = kinds.contains(&failed.kind) || podman && failed.kind == ErrorKind::Unavailable;
        assert!(told, "{settings}: {:?} {}", failed.kind, failed.message);
        assert!(failed.message.contains(word), "{settings}: {}", failed.message);
        assert!(!failed.message.contains("no image"), "{}", failed.message);
        assert!(!failed.message.contains(SECRET));
        assert!(fixture.list().is_empty(), "{settings}");
    };
    check(json!({ "network": "no-such-network", "pull": "missing" }), &[ErrorKind::NotFound], "no-such-network");
    check(json!({ "runtime": "no-such-runtime" }), &[ErrorKind::InvalidConfig], "no-such-runtime");
    check(
        json!({ "command": ["no-such-program"] }),
        &[ErrorKind::InvalidConfig, ErrorKind::NotFound],
        "no-such-program",
    );
    check(json!({ "memory": "1k" }), &[ErrorKind::InvalidConfig], "emory");
    check(json!({ "env": { "ACTIONS_RUNNER_INPUT_JITCONFIG": "mine" } }), &[ErrorKind::InvalidConfig], "JITCONFIG");
}

#[test]
fn how_a_container_ended_is_told() {
    let Some(fixture) = Fixture::new("end") else { return };
    let well = fixture.shell("well", "exit 0");
    assert!(matches!(fixture.ended(&well.handle).state, InstanceState::Stopped));
    let badly = fixture.shell("badly", "exit 3");
    let failed = |it: Instance| match it.state {
        InstanceState::Failed(reason) => reason,
        InstanceState::Creating
        | InstanceState::Running
        | InstanceState::Stopping
        | InstanceState::Stopped
        | InstanceState::Interrupted(_) => panic!("{:?}", it.state),
    };
    assert_eq!(failed(fixture.ended(&badly.handle)), "exit code 3");
    // A second create of an ended one starts nothing again.
    assert_eq!(failed(fixture.create("badly", json!({})).unwrap()), "exit code 3");

    let fill = json!({ "command": ["sh", "-c", "tail /dev/zero"], "memory": "16m", "memory_swap": "16m" });
    let greedy = fixture.create("greedy", fill).unwrap();
    let reason = failed(fixture.ended(&greedy.handle));
    let expected = if fixture.is_podman() { "exit code 137" } else { "exit code 137, killed for exceeding its memory" };
    assert_eq!(reason, expected);
    for one in [well, badly, greedy] {
        assert_eq!(fixture.destroy(&one.handle, Duration::from_secs(30)), Destruction::Gone);
    }
}

/// A shell that ignores the request to stop, once it says so.
fn stubborn(fixture: &Fixture, name: &str, more: Value) -> Instance {
    let mut pool = json!({ "command": ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"] });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = fixture.create(name, pool).unwrap();
    fixture.until("the shell", || fixture.log(&made.handle, 100).contains("ready").then_some(()));
    made
}

#[test]
fn a_stop_is_graceful_first_and_forced_in_the_end() {
    let Some(fixture) = Fixture::new("stop") else { return };
    let pool = json!({ "command": ["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"] });
    let polite = fixture.create("polite", pool).unwrap();
    fixture.until("the shell", || fixture.log(&polite.handle, 100).contains("ready").then_some(()));
    let started = Instant::now();
    assert_eq!(fixture.destroy(&polite.handle, Duration::from_secs(50)), Destruction::Gone);
    assert!(started.elapsed() < Duration::from_secs(10), "it was not waited for longer than it took");

    let deaf = stubborn(&fixture, "deaf", json!({}));
    let started = Instant::now();
    assert_eq!(fixture.destroy(&deaf.handle, Duration::from_secs(1)), Destruction::Gone);
    assert!(started.elapsed() >= Duration::from_secs(1), "it had its grace, not {:?}", started.elapsed());
    assert!(fixture.get(&deaf.handle).is_none());

    // A grace that is longer than the call is cut, and the machine is gone all the same.
    let longer = stubborn(&fixture, "longer", json!({}));
    let minute = 60_000;
    let gone = fixture.within(Duration::from_secs(8), |call| Docker::destroy(call, &longer.handle, minute));
    assert_eq!(gone.unwrap(), Destruction::Gone);

    // The pool's own grace is shorter than pacer's.
    let own = stubborn(&fixture, "own", json!({ "stop_timeout": 1 }));
    let started = Instant::now();
    assert_eq!(fixture.destroy(&own.handle, Duration::from_secs(50)), Destruction::Gone);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(fixture.list().is_empty());
}

#[test]
fn a_suspended_container_is_held_and_goes_on_or_ends() {
    let Some(fixture) = Fixture::new("pause") else { return };
    let made = stubborn(&fixture, "one", json!({}));
    let suspend = || fixture.with(|call| Docker::suspend(call, &made.handle));
    let resume = || fixture.with(|call| Docker::resume(call, &made.handle));
    suspend().unwrap();
    suspend().expect("a repetition is none");
    assert_eq!(fixture.raw(&made.handle)["State"]["Status"], "paused");
    assert!(fixture.get(&made.handle).unwrap().hold);
    assert!(fixture.list()[0].hold);
    let resumed = resume().unwrap();
    assert!(matches!(resumed.state, InstanceState::Running) && !resumed.hold, "{:?}", resumed.state);
    resume().expect("a repetition is none");
    suspend().unwrap();
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(1)), Destruction::Gone, "frozen");
    assert_eq!(suspend().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(resume().unwrap_err().kind, ErrorKind::NotFound);

    let ended = fixture.shell("ended", "exit 0");
    fixture.ended(&ended.handle);
    assert!(fixture.with(|call| Docker::suspend(call, &ended.handle)).is_err());
    let held = fixture.create("held", json!({ "labels": { "pacer.hold": "true" }, "command": ["true"] })).unwrap();
    assert!(held.hold && fixture.get(&held.handle).unwrap().hold);
}

#[test]
fn settings_arrive_in_the_container() {
    let Some(fixture) = Fixture::new("set") else { return };
    let show = "id -u; ulimit -n; cat /proc/sys/kernel/hostname; pwd; touch /x || echo read-only; touch /t/x && echo tmpfs; \
        grep builder /etc/hosts; grep -E 'CapEff|NoNewPrivs' /proc/self/status";
    let made = fixture
        .create(
            "one",
            json!({
                "command": ["-c", show], "entrypoint": ["sh"], "user": "1001", "workdir": "/tmp", "hostname": "ci",
                "cpus": 0.5, "memory": "64m", "pids_limit": 50, "shm_size": "1m", "ulimits": ["nofile=100:200", "nproc=1000:1000"],
                "read_only": true, "tmpfs": { "/t": "size=1m,mode=1777" }, "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"], "extra_hosts": ["builder:10.1.2.3"],
                "stop_signal": "SIGINT", "stop_timeout": 7, "cpuset_cpus": "0",
            }),
        )
        .unwrap();
    fixture.ended(&made.handle);
    let log = fixture.log(&made.handle, 10_000);
    let has = |line: &str| assert!(log.lines().any(|l| l == line), "{line} is not in:\n{log}");
    ["1001", "100", "ci", "/tmp", "read-only", "tmpfs", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
        .into_iter()
        .for_each(has);
    assert!(log.contains("10.1.2.3"), "{log}");
    let runtime = fixture.create("two", json!({ "runtime": "runc", "command": ["true"] }));
    // Podman would leave a runtime out without a word: that is refused before the start.
    assert_eq!(
        runtime.map(drop).map_err(|e| e.kind),
        if fixture.is_podman() { Err(ErrorKind::InvalidConfig) } else { Ok(()) }
    );
    let raw = fixture.raw(&made.handle);
    let host = &raw["HostConfig"];
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["Memory"], 64 * 1024 * 1024);
    assert_eq!(host["PidsLimit"], 50);
    assert_eq!(host["ShmSize"], 1024 * 1024);
    assert_eq!(host["CpusetCpus"], "0");
    assert!(raw["Config"]["StopSignal"] == "SIGINT" || raw["Config"]["StopSignal"] == "2");
    assert_eq!(raw["Config"]["StopTimeout"], 7);
}

#[test]
fn pages_follow_each_other_without_gap_or_repetition() {
    let Some(fixture) = Fixture::new("pages") else { return };
    let mut made: Vec<_> = (0..5).map(|n| fixture.shell(&n.to_string(), "sleep 300").handle).collect();
    made.sort();
    let page = |cursor: Option<&str>| fixture.with(|call| Api(call).list(&fixture.owner, cursor, 2)).unwrap();
    let first = page(None);
    assert_eq!(first.instances.len(), 2);
    // What goes meanwhile moves nothing else, the cursor's own container included.
    fixture.destroy(&made[1], Duration::ZERO);
    let second = page(first.next.as_deref());
    let third = page(second.next.as_deref());
    assert_eq!(third.next, None);
    let seen: Vec<_> = [first, second, third].into_iter().flat_map(|p| p.instances).map(|it| it.handle).collect();
    assert_eq!(seen, made);
}

#[test]
fn the_api_version_is_negotiated_once_and_again_when_the_engine_changed() {
    let Some(fixture) = Fixture::new("api") else { return };
    fixture.list();
    let known = fixture.memory.get("api").expect("it is remembered");
    assert!(known.starts_with(b"/v1."), "{known:?}");
    if fixture.is_podman() {
        // It answers to every version.
        return;
    }
    // As an engine that was downgraded: it refuses what it spoke before.
    fixture.memory.set("api", b"/v1.999");
    assert!(fixture.get("no-such-container").is_none());
    assert_eq!(fixture.memory.get("api"), Some(known));
}

#[test]
fn an_engine_that_is_not_there_is_unavailable() {
    let (socket, memory) = (Socket("/nonexistent/engine.sock".into()), Memory::default());
    let error = Docker::list(&call(&socket, &memory, PATIENCE), "me", None).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
