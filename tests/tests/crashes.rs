//! The server ends, politely or not, and goes on where it was.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _};

use pacer_tests::{
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
    let made = world.simulator.cloud.made().len();
    let jobs = world.simulator.summary().queued;
    // A machine whose making was cut off is taken down and made anew; nothing else may cost a second one.
    assert!(made <= jobs + 6, "{made} machines for {jobs} jobs");
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
