//! Against a real daemon that `tests/engines/libvirtd.sh` starts: QEMU in software emulation, and libvirt's driver for
//! tests. Where there is none these tests say so and pass, unless `CI=true`.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Bootstrap, Destruction, ErrorKind, InstanceState,
    connect::Connector,
    testing::{Socket, not_run, run},
};
use serde_json::json;

use super::{
    call,
    fixture::{BASE, Fixture, PATIENCE},
    request,
};
use crate::{
    Machines,
    api::Libvirt,
    names::{Part, Place},
};

#[test]
fn a_machine_lives_from_create_to_destroy() {
    let Some(fixture) = Fixture::new("life") else { return };
    let made = fixture.create("one", &json!({ "disk": "1g" })).unwrap();
    assert_eq!((made.name.as_str(), made.owner.as_str()), ("life-one", "life"));
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
    assert_eq!(made.lease_until_ms, Some(1_900_000_000_123));
    assert!(made.created_at_ms > Some(1_600_000_000_000), "{:?}", made.created_at_ms);
    assert!(made.attributes.contains(&("pool".into(), "<small> & \"odd\"".into())), "{:?}", made.attributes);
    assert!(!made.hold);

    let again = fixture.create("one", &json!({})).unwrap();
    assert_eq!(again.handle, made.handle, "the second create returns the first machine");
    assert_eq!((again.created_at_ms, &again.attributes), (made.created_at_ms, &made.attributes));
    let got = fixture.get(&made.handle).unwrap();
    let listed = fixture.list();
    assert_eq!(listed.len(), 1);
    for found in [&got, &listed[0]] {
        assert_eq!((&found.handle, &found.name, &found.owner), (&made.handle, &made.name, &made.owner));
        assert_eq!((found.lease_until_ms, found.created_at_ms), (made.lease_until_ms, made.created_at_ms));
        assert_eq!(found.attributes, made.attributes);
    }

    let info = fixture.virsh(&["vol-dumpxml", "pacer.life.life-one.disk.qcow2", "default"]);
    assert!(info.contains("<capacity unit='bytes'>1073741824</capacity>") && info.contains(BASE), "{info}");
    let info = fixture.virsh(&["dominfo", "life-one"]);
    assert!(info.contains("Persistent:     no"), "{info}");

    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone);
    assert_eq!(fixture.left(), Vec::<String>::new());
    assert!(fixture.get(&made.handle).is_none() && fixture.list().is_empty());
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone, "twice");
    for unknown in ["no-such-machine", "x/y/default", "x/y/no-such-pool"] {
        assert_eq!(fixture.destroy(unknown, Duration::from_secs(5)), Destruction::Gone, "unknown");
        assert!(fixture.get(unknown).is_none());
    }
}

#[test]
fn leases_are_renewed_and_holds_are_seen() {
    let Some(fixture) = Fixture::new("lease") else { return };
    let made = fixture.create("one", &json!({})).unwrap();
    fixture.with(|call| Machines::renew_lease(call, &made.handle, 2_000_000_000_000)).unwrap();
    let got = fixture.get(&made.handle).unwrap();
    assert_eq!(got.lease_until_ms, Some(2_000_000_000_000));
    assert_eq!((got.attributes, got.created_at_ms), (made.attributes, made.created_at_ms), "the rest stays");
    let hold = ["metadata", "lease-one", "urn:pacer:hold:1", "--key", "hold", "--set", "<hold/>", "--live"];
    fixture.virsh(&hold);
    assert!(fixture.get(&made.handle).unwrap().hold && fixture.list()[0].hold);
    fixture.with(|call| Machines::renew_lease(call, &made.handle, 2_000_000_000_001)).unwrap();
    assert!(fixture.get(&made.handle).unwrap().hold, "a renewal leaves the hold alone");
    let unknown = fixture.with(|call| Machines::renew_lease(call, "x/y/default", 1)).unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}

#[test]
fn a_machine_is_paused_and_goes_on() {
    let Some(fixture) = Fixture::new("pause") else { return };
    let made = fixture.create("one", &json!({})).unwrap();
    for _ in 0..2 {
        fixture.with(|call| Machines::suspend(call, &made.handle)).unwrap();
        assert_eq!(fixture.virsh(&["domstate", "pause-one"]), "paused");
    }
    for _ in 0..2 {
        let resumed = fixture.with(|call| Machines::resume(call, &made.handle)).unwrap();
        assert!(matches!(resumed.state, InstanceState::Running));
        assert_eq!(fixture.virsh(&["domstate", "pause-one"]), "running");
    }
    fixture.with(|call| Machines::suspend(call, &made.handle)).unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(1)), Destruction::Gone, "paused, and deaf to ACPI");
    assert!(Instant::now() >= until, "it had its grace");
}

#[test]
fn concurrent_creates_of_one_name_make_one_machine() {
    let Some(fixture) = Fixture::new("race") else { return };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..6).map(|_| scope.spawn(|| fixture.create("one", &json!({})))).collect();
        racing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for outcome in &outcomes {
        let made = outcome.as_ref().unwrap();
        assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
        assert_eq!(made.handle, "race-one/race/default");
    }
    assert_eq!(fixture.virsh(&["list", "--all", "--name"]).lines().filter(|name| name.starts_with("race")).count(), 1);
    assert_eq!(fixture.list().len(), 1);
}

#[test]
fn strangers_are_neither_taken_nor_listed_nor_destroyed() {
    let (Some(fixture), Some(other)) = (Fixture::new("mine"), Fixture::new("other")) else { return };
    let name = fixture.name("one");
    let theirs = other
        .with(|call| {
            let bootstrap = Bootstrap::StartScript("true".into());
            Machines::create(call, request(&name, &other.owner, &Fixture::pool(&json!({})), bootstrap))
        })
        .unwrap();
    let refused = fixture.create("one", &json!({})).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("somebody else"), "{}", refused.message);
    assert!(fixture.list().is_empty());
    let mine = Place::new(&name, &fixture.owner, "default").unwrap().handle();
    assert_eq!(fixture.destroy(&mine, Duration::ZERO), Destruction::Gone);
    assert!(matches!(other.get(&theirs.handle).unwrap().state, InstanceState::Running), "it was left alone");
    other.destroy(&theirs.handle, Duration::ZERO);
}

#[test]
fn what_a_machine_left_behind_is_listed_and_removed() {
    let Some(fixture) = Fixture::new("ended") else { return };
    let made = fixture.create("one", &json!({})).unwrap();
    fixture.virsh(&["destroy", "ended-one"]);
    let listed = fixture.list();
    assert_eq!((listed.len(), &listed[0].handle, &listed[0].owner), (1, &made.handle, &made.owner));
    assert!(matches!(listed[0].state, InstanceState::Stopped), "{:?}", listed[0].state);
    let got = fixture.get(&made.handle).unwrap();
    assert!(matches!(got.state, InstanceState::Stopped));
    assert_eq!((&got.name, &got.owner), (&made.name, &made.owner));

    let again = fixture.create("one", &json!({})).unwrap();
    assert!(matches!(again.state, InstanceState::Stopped), "a name is used once: {:?}", again.state);
    assert_eq!(fixture.virsh(&["list", "--all", "--name"]).lines().filter(|name| name.starts_with("ended")).count(), 0);

    // A log daemon rotates: such files libvirt does not know of before it looks.
    let rotated = format!("{}/pool/pacer.ended.ended-one.console.log.0", fixture.dir());
    std::fs::write(&rotated, "old").unwrap();
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(9)), Destruction::Gone);
    assert_eq!(fixture.left(), Vec::<String>::new());
    assert!(fixture.list().is_empty());
}

#[test]
fn a_create_that_was_cut_off_before_its_machine_is_continued() {
    let Some(fixture) = Fixture::new("cut") else { return };
    let place = Place::new("cut-one", "cut", "default").unwrap();
    let (disk, seed) = (place.volume(Part::Disk), place.volume(Part::Seed));
    fixture.virsh(&["vol-create-as", "default", &disk, "64M", "--format", "qcow2"]);
    fixture.virsh(&["vol-create-as", "default", &seed, "100", "--format", "raw"]);
    let listed = fixture.list();
    assert!(matches!(listed[0].state, InstanceState::Stopped) && listed.len() == 1, "half of one is found as well");
    let made = fixture.create("one", &json!({})).unwrap();
    assert!(matches!(made.state, InstanceState::Running), "{:?}", made.state);
    let seed = std::fs::read(format!("{}/pool/{seed}", fixture.dir())).unwrap();
    assert!(seed.len() > 50_000, "the seed is the new try's: {}", seed.len());
}

#[test]
fn what_cannot_start_leaves_nothing() {
    let Some(fixture) = Fixture::new("fail") else { return };
    let check = |more: serde_json::Value, kind: ErrorKind, says: &str| {
        let error = fixture.create("one", &more).unwrap_err();
        assert_eq!(error.kind, kind, "{more}: {}", error.message);
        assert!(error.message.contains(says), "{more}: {}", error.message);
        assert_eq!(fixture.left(), Vec::<String>::new(), "{more}");
    };
    check(json!({ "base_image": "none.qcow2" }), ErrorKind::NotFound, "no volume `none.qcow2`");
    check(json!({ "storage_pool": "none" }), ErrorKind::NotFound, "error 49");
    check(json!({ "network": "none-such" }), ErrorKind::NotFound, "error 43");
    check(json!({ "disk": "1m" }), ErrorKind::InvalidConfig, "smaller than the base image");
    check(json!({ "machine": "no-such-machine" }), ErrorKind::InvalidConfig, "error 27");
    check(json!({ "arch": "sparc99" }), ErrorKind::InvalidConfig, "sparc99");
    check(json!({ "memory": "900t" }), ErrorKind::Capacity, "MiB are asked for");
    let template =
        "<domain type='qemu'><name>{{name}}</name><metadata>{{metadata}}</metadata><x>{{disk}}{{seed}}</x></domain>";
    check(json!({ "template": template }), ErrorKind::InvalidConfig, "libvirt refused");
    check(json!({ "cpus": 0 }), ErrorKind::InvalidConfig, "/pool/cpus");
    let bad = fixture.boot("one", &json!({}), Bootstrap::JitConfig("e30=".into())).unwrap_err();
    assert_eq!(bad.kind, ErrorKind::Unsupported);
}

#[test]
fn a_guest_reads_its_seed_runs_its_script_and_goes_down() {
    let Some(fixture) = Fixture::new("boot") else { return };
    let Some(template) = fixture.guest() else { return };
    let script = "#!/bin/sh\necho \"the script says $((40 + 2)) at $(hostname)\"\npoweroff\n";
    let settings = json!({ "template": template, "memory": "192m" });
    let made = fixture.boot("one", &settings, Bootstrap::StartScript(script.into())).unwrap();
    fixture.until("the guest to go down", || {
        fixture.get(&made.handle).filter(|it| matches!(it.state, InstanceState::Stopped))
    });
    let log = fixture.log(&made.handle, 64 * 1024);
    for line in [
        "guest: seed has meta-data user-data",
        "guest: instance-id: \"boot-one\"",
        "the script says 42",
        "guest: told to power off",
    ] {
        assert!(log.contains(line), "`{line}` is not in the log:\n{log}");
    }
    assert!(log.ends_with(&fixture.log(&made.handle, 10)) && fixture.log(&made.handle, 10).len() == 10);
    assert_eq!(fixture.log(&made.handle, 0), "");
    assert_eq!(fixture.virsh(&["list", "--all", "--name"]).lines().filter(|name| name.starts_with("boot")).count(), 0);
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(30)), Destruction::Gone);
    assert_eq!(fixture.left(), Vec::<String>::new());
    let gone = fixture.with(|call| Machines::console_log(call, &made.handle, 10)).unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound);
}

#[test]
fn a_guest_that_listens_goes_down_within_its_grace() {
    let Some(fixture) = Fixture::new("button") else { return };
    let Some(template) = fixture.guest() else { return };
    let settings = json!({ "template": template, "memory": "192m" });
    let script = "#!/bin/sh\necho waiting\nsleep 600\n";
    let made = fixture.boot("one", &settings, Bootstrap::StartScript(script.into())).unwrap();
    fixture.until("the guest", || Some(()).filter(|()| fixture.log(&made.handle, 65_536).contains("waiting")));
    let started = Instant::now();
    // The log goes with the machine, so it is read by its file, which stays open.
    let place = Place::of_handle(&made.handle).unwrap();
    let file = std::fs::File::open(format!("{}/pool/{}", fixture.dir(), place.volume(Part::Console))).unwrap();
    assert_eq!(fixture.destroy(&made.handle, Duration::from_secs(60)), Destruction::Gone);
    assert!(started.elapsed() < Duration::from_secs(45), "it did not wait for the whole grace");
    let log = std::io::read_to_string(file).unwrap();
    assert!(log.contains("guest: power button"), "it was asked first:\n{log}");
}

#[test]
fn the_memory_of_the_firmware_goes_with_the_machine() {
    let Some(fixture) = Fixture::new("efi") else { return };
    if !Path::new("/usr/share/qemu/firmware/60-edk2-x86_64.json").exists() {
        return not_run("there is no EFI firmware; on Debian `apt-get install ovmf`");
    }
    let memory = || {
        let everything = run(Command::new("find").arg(fixture.dir())).unwrap();
        let files = everything.lines().filter(|path| path.contains("efi-one") && path.ends_with(".fd"));
        files.map(str::to_owned).collect::<Vec<_>>()
    };
    let settings = json!({ "firmware": "efi", "machine": "q35" });
    let made = fixture.create("one", &settings).unwrap();
    assert_eq!(memory(), [format!("{}/pool/pacer.efi.efi-one.nvram.fd", fixture.dir())], "in the storage pool alone");
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone);
    assert_eq!(memory(), Vec::<String>::new());

    let made = fixture.create("two", &settings).unwrap();
    fixture.virsh(&["destroy", "efi-two"]);
    assert_eq!(fixture.destroy(&made.handle, Duration::ZERO), Destruction::Gone, "of one that ended by itself as well");
    assert_eq!(fixture.left(), Vec::<String>::new());
}

#[test]
fn a_burst_does_not_take_more_than_there_is() {
    const FIT: usize = 2;
    // A daemon of its own: the machines of other tests count.
    let Some(mut fixture) = Fixture::alone("burst") else { return };
    let stream = Socket(fixture.engine.socket.clone()).connect("libvirt", PATIENCE).unwrap();
    let cpus = Libvirt::open(stream, "qemu:///session").unwrap().node().unwrap().cpus;
    fixture.settings["cpu_overcommit"] = (FIT as f64 / cpus as f64).into();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let create = |number: i32| fixture.create(&number.to_string(), &json!({}));
        let all: Vec<_> = (0..3 * FIT as i32).map(|number| scope.spawn(move || create(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), FIT, "those that were first stay");
    for refusal in refused {
        let error = refusal.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Capacity, "{}", error.message);
        assert!(error.message.contains("virtual processors are given away"), "{}", error.message);
    }
    let mut made: Vec<_> = made.into_iter().map(|one| one.unwrap().name).collect();
    made.sort();
    let mut listed: Vec<_> = fixture.list().into_iter().map(|one| one.name).collect();
    listed.sort();
    assert_eq!(listed, made, "of the others nothing is left");
}

#[test]
fn the_driver_for_tests_is_full_and_says_so() {
    let Some(fixture) = Fixture::new("full") else { return };
    let check = |settings: serde_json::Value, pool: serde_json::Value, kind: ErrorKind, says: &str| {
        let mut whole = json!({ "base_image": "base", "storage_pool": "default-pool", "domain_type": "test" });
        whole.as_object_mut().unwrap().extend(pool.as_object().unwrap().clone());
        let error = call(&Socket(fixture.engine.socket.clone()), &settings, PATIENCE, |call| {
            // The driver's state lives as long as a connection to it.
            let stream = Socket(fixture.engine.socket.clone()).connect("libvirt", PATIENCE).unwrap();
            let mut held = Libvirt::open(stream, "test:///default").unwrap();
            let storage = held.pool("default-pool").unwrap();
            let base = "<volume><name>base</name><capacity>1048576</capacity></volume>";
            held.create_volume(&storage, base).unwrap();
            let bootstrap = Bootstrap::StartScript("true".into());
            let error = Machines::create(call, request("full-one", "full", &whole, bootstrap)).unwrap_err();
            let volumes = held.volumes(&storage).unwrap();
            assert_eq!(volumes.len(), 1, "only the base image is left: {volumes:?}");
            error
        });
        assert_eq!(error.kind, kind, "{}", error.message);
        assert!(error.message.contains(says), "{}", error.message);
    };
    // It has 3 GiB, and a machine with 8 GiB in it that is always there.
    let uri = "test:///default";
    check(json!({ "uri": uri }), json!({ "memory": "64m" }), ErrorKind::Capacity, "has 0 MiB");
    check(json!({ "uri": "test:///nowhere" }), json!({}), ErrorKind::InvalidConfig, "error 27");
}
