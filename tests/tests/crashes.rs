//! The server ends, politely or not, and goes on where it was.

use std::{fs::File, io::Write as _, path::PathBuf, process::Command, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _};

use pacer_tests::{
    engine::not_run,
    pacer::WEBHOOK_SECRET,
    wait::eventually,
    webhook::JobPayload,
    world::{REPO, World},
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn killed_at_any_moment_it_loses_no_job_and_leaves_no_machine() {
    let world = World::with_seed(7).await;
    let mut pacer = world.pacer().prepare();
    pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
    // Different moments of a life: right at the start, in the middle of a burst, with machines that boot and run.
    for (round, ms) in [40u64, 120, 250, 400, 700, 1_100].into_iter().enumerate() {
        pacer.spawn();
        pacer.alive().await;
        world.deliver_to(&pacer);
        world.queue(6 + round, Duration::from_millis(400));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        pacer.kill();
    }
    pacer.start().await;
    world.settled().await;
    // A machine whose making was cut off is taken down and made anew; nothing else may cost a second one.
    assert_eq!(world.unneeded_machines(&pacer).await, Vec::<String>::new());
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_it_began_and_the_next_start_goes_on() {
    let world = World::start().await;
    let mut pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    world.queue(8, Duration::from_secs(3));
    eventually("machines run", SOON, async || (world.simulator.cloud.machines().len() >= 4).then_some(())).await;
    let status = pacer.stop(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    assert!(!world.simulator.cloud.machines().is_empty(), "machines outlive the server");
    let made = world.simulator.cloud.made().len();
    pacer.start().await;
    world.settled().await;
    assert!(world.simulator.cloud.made().len() <= 8.max(made), "no machine was made twice");
}

#[tokio::test]
async fn a_database_that_somebody_locks_is_a_503_until_it_is_let_go() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    let database = pacer.folder().join("pacer.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
    let mut other = options.connect().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let delivery = |id| JobPayload::queued(id, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET);
    let mut id = 50_000;
    eventually("the lock is felt", SOON, async || {
        id += 1;
        (delivery(id).send(&pacer.api).await.status.as_u16() == 503).then_some(())
    })
    .await;
    other.close().await.unwrap();
    let refused = delivery(id);
    eventually("what was refused is taken now", SOON, async || {
        refused.send(&pacer.api).await.status.is_success().then_some(())
    })
    .await;
}

/// A file system of this size, for as long as the test holds it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(at: PathBuf, kib: u32) -> Option<Self> {
        std::fs::create_dir(&at).expect("the folder of the test is writable");
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "pacer-test"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server that is killed with the test may still have its files open for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_a_503_until_there_is_room() {
    let world = World::start().await;
    let mut pacer = world.pacer().prepare();
    let Some(disk) = SmallDisk::mount(pacer.folder().join("data"), 4096) else {
        return not_run("a_full_disk_is_a_503_until_there_is_room", "this user may not mount a file system");
    };
    pacer.edit_config("sqlite:pacer.db", "sqlite:data/pacer.db");
    pacer.start().await;
    let delivery = |id| JobPayload::queued(id, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET);
    assert_eq!(delivery(60_000).send(&pacer.api).await.status.as_u16(), 202);

    let filler = disk.0.join("filler");
    let mut file = File::create(&filler).unwrap();
    // Ends when nothing more fits.
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    let mut taken = vec![60_000];
    let mut id = 60_000;
    let refused = eventually("the full disk is felt", SOON, async || {
        id += 1;
        let answer = delivery(id).send(&pacer.api).await;
        if answer.status.is_success() {
            taken.push(id);
        }
        (answer.status.as_u16() == 503).then_some(answer.text)
    })
    .await;
    assert!(refused.contains("error"), "{refused}");
    assert!(pacer.log().contains("no space left"), "{}", pacer.log());

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    eventually("what was refused is taken now", SOON, async || {
        delivery(id).send(&pacer.api).await.status.is_success().then_some(())
    })
    .await;
    taken.push(id);
    pacer.kill();
    pacer.start().await;
    let known: Vec<i64> = pacer.api.jobs().await.iter().map(|job| job.github_job_id).collect();
    for id in taken {
        assert!(known.contains(&id), "{id} was acknowledged and is not among {known:?}");
    }
    // Before its disk goes.
    pacer.kill();
}
