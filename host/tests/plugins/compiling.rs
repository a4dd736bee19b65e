//! Compiled code: kept, made anew when it is not usable, and only where nobody else can write.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use pacer::plugins::{Compiler, Health, Host};

use crate::support::{LONG, TestClock, World, altered, assert_works, down, health};

const ONE: &str = "  guest: { plugin: guest }";

fn cached(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compiled_is_used_again_and_what_is_broken_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("new/cache");
    let world = World::with_cache(&cache, ONE, "");
    assert_works(&*world.start().await, "guest").await;
    let [file] = &cached(&cache)[..] else { panic!("{:?}", cached(&cache)) };
    let made = fs::metadata(file).unwrap().modified().unwrap();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);

    assert_works(&*world.start().await, "guest").await;
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), made, "it was compiled again");

    let whole = fs::metadata(file).unwrap().len();
    for broken in [&b""[..], b"garbage", &fs::read(file).unwrap()[..4_096]] {
        fs::remove_file(file).unwrap();
        fs::write(file, broken).unwrap();
        assert_works(&*world.start().await, "guest").await;
        assert_eq!(fs::metadata(file).unwrap().len(), whole);
        assert_eq!(cached(&cache).len(), 1, "nothing is left behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_others_can_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::with_cache(dir.path(), ONE, "");
    let reason = down(&*world.start().await, "guest");
    assert!(reason.contains("mode 755") && reason.contains("chmod 700"), "{reason}");
    assert!(cached(dir.path()).is_empty());
}

/// A child that reads what to compile until its input ends, looked at as the kernel sees it.
#[test]
fn a_child_limits_itself_before_it_takes_anything_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pacer"))
        .args(["plugin", "compile"])
        .arg(dir.path().join("out"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limits = || fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let limited = |limits: &str, name: &str, limit: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).eq([limit, limit])
    };
    let patience = Instant::now() + LONG;
    loop {
        let limits = limits();
        let all = [("Max address space", "4294967296"), ("Max cpu time", "240"), ("Max core file size", "0")];
        if all.iter().all(|(name, limit)| limited(&limits, name, limit)) {
            break;
        }
        assert!(Instant::now() < patience, "it is not limited: {limits}");
        std::thread::yield_now();
    }
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success(), "nothing came in");
}

/// The compiler is a program that never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compiled_does_not_wait_for_what_is_being_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let backends = "  guest: { plugin: guest }\n  another: { plugin: another }";
    let world = World::with_cache(&cache, backends, "");
    assert_works(&*world.start().await, "guest").await;
    world.put("another", &altered("does whatever", "did whatever "));
    let sleeper = world.dir.path().join("sleeper");
    fs::write(&sleeper, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&sleeper, fs::Permissions::from_mode(0o755)).unwrap();
    let host = Host::start_with(&world.config, Arc::new(TestClock::default()), Compiler::Child(sleeper)).await.unwrap();
    // The first in line is the one that does not come to its end.
    assert_works(&host, "guest").await;
    assert_eq!(health(&host, "another"), Health::Loading);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_compiles_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let world = World::with_cache(&cache, "  guest: { plugin: guest }\n  odd: { plugin: odd }", "");
    world.put("odd", b"\0asm\x0d\0\x01\0garbage");
    let child = |program: &str| {
        let (config, compiler) = (world.config.clone(), Compiler::Child(program.into()));
        async move {
            let host = Host::start_with(&config, Arc::new(TestClock::default()), compiler).await.unwrap();
            host.settled().await;
            host
        }
    };
    let host = child(env!("CARGO_BIN_EXE_pacer")).await;
    assert_works(&host, "guest").await;
    let reason = down(&host, "odd");
    assert!(reason.contains("odd.wasm does not compile: the compiler ended with exit status"), "{reason}");
    assert_eq!(cached(&cache).len(), 1, "nothing is left behind");

    fs::remove_dir_all(&cache).unwrap();
    let reason = down(&*child("/nowhere/pacer").await, "guest");
    assert!(reason.contains("start /nowhere/pacer to compile"), "{reason}");
    let reason = down(&*child("/bin/false").await, "guest");
    assert!(reason.contains("the compiler ended with exit status: 1"), "{reason}");
}
