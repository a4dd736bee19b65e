//! Kills the server at random moments under load, again and again, and looks at what is left after it has settled:
//! no job may be lost or cut off, no machine and no registration left, no job served twice, and no machine made that no job
//! needed.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use pacer_simulator::{cloud::Conditions, github::NewJob};
use pacer_tests::world::{REPO, World};

/// Kills the server at random moments under load and looks at what is left.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often it is killed.
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// What the moments are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Jobs queued before each kill, and how long they run.
const JOBS: u64 = 8;
/// Jobs queued while there is no server.
const MISSED: u64 = 2;
const DURATION: Duration = Duration::from_millis(600);
/// A server is killed within so long after it answered.
const LONGEST_LIFE_MS: u64 = 1_500;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let world = World::with_seed(arguments.seed).await;
    let (github, cloud) = (&world.simulator.github, &world.simulator.cloud);
    cloud.set_conditions(Conditions { boot_ms: (0, 500), ..Conditions::default() });
    let mut pacer = world.pacer().section("telemetry: { log: warn }").prepare();
    pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
    pacer.edit_config("max_runners: 10", "max_runners: 50");

    let mut moment = arguments.seed;
    for _ in 0..arguments.kills {
        pacer.spawn();
        pacer.alive().await;
        world.deliver_to(&pacer);
        for _ in 0..JOBS {
            github.queue(NewJob::new(REPO, &["self-hosted", "linux"], DURATION));
        }
        // A linear congruence: repeatable, and good enough to hit every phase of a life.
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((moment >> 33) % LONGEST_LIFE_MS)).await;
        pacer.kill();
        for _ in 0..MISSED {
            github.queue(NewJob::new(REPO, &["self-hosted", "linux"], DURATION));
        }
    }
    pacer.start().await;
    world.settled().await;

    let unneeded = world.unneeded_machines(&pacer).await;
    let deliveries = pacer.api.deliveries().await;
    let enqueued = |source| deliveries.iter().filter(|one| one.result == "enqueued" && one.source == source).count();
    let (told, log) = (enqueued("webhook"), enqueued("delivery-log"));
    let summary = world.simulator.summary();
    let made = cloud.made().len();
    let (kills, queued, served) = (arguments.kills, summary.queued, summary.served);
    let longest = summary.wait(1.0).as_secs_f64();
    say(&format!(
        "{kills} kills (seed {}): {queued} jobs queued, {served} served, longest wait {longest:.1} s",
        arguments.seed
    ));
    say(&format!(
        "{made} machines made for them, 0 left; 0 registrations left; no job was handed out twice or cut off"
    ));
    // Nothing is kept of what a repository was asked for.
    let scan = queued.saturating_sub(told + log);
    say(&format!(
        "{told} jobs were told of by webhook in time; healed: {log} from the delivery log, {scan} from their repository"
    ));
    for machine in &unneeded {
        say(&format!("  ! {machine}"));
    }
    Ok(if served == queued && unneeded.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "what a command says goes to standard output")]
fn say(line: &str) {
    println!("{line}");
}
