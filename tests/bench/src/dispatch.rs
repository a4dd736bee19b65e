//! From a delivery to a machine, with the real binary between a simulated GitHub and a simulated cloud.
//!
//! What is simulated costs time as well and runs on the same machine: the figures are upper bounds.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use pacer_simulator::{Settings, Simulator, cloud::MachineState, github};
use pacer_tests::{pacer::TestPacer, wait::eventually, world::World};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tokio::runtime;

use crate::figures::{Figures, Target};

/// Jobs in a second, and how long they run.
const RATE: u32 = 100;
const SHORT: Duration = Duration::from_millis(500);
/// Jobs queued at once. They run long enough for all of their machines to be there together.
const BURST: usize = 10_000;
const LONG: Duration = Duration::from_secs(60);
/// Far longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Jobs that are over, in the database of a server that has run for long.
const HISTORY: u64 = 1_000_000;

pub fn measure(period: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let empty = steady(period, None, figures).await?;
        let full = steady(period, Some(HISTORY), figures).await?;
        figures.add(
            "queued -> running, p99, 1,000,000 stored jobs / none",
            full / empty.max(1.0),
            "x",
            Target::AtMost(2.0),
        );
        burst(figures).await
    })
}

struct Bench {
    world: World,
    pacer: TestPacer,
}

impl Bench {
    async fn start(history: Option<u64>) -> anyhow::Result<Self> {
        let settings = Settings {
            github: github::Settings {
                webhook_secret: pacer_tests::pacer::WEBHOOK_SECRET.to_owned(),
                ..github::Settings::default()
            },
            ..Settings::default()
        };
        let world = World { simulator: Simulator::start(settings).await? };
        let backends = format!(
            "{}\n  second: {{ plugin: docker, endpoints: {{ engine: \"unix:///nonexistent\" }} }}",
            world.cloud_backend()
        );
        let mut pacer = world.pacer().backends(&backends).section("telemetry: { log: warn }").prepare();
        pacer.edit_config("max_runners: 10", "max_runners: 20000");
        if let Some(jobs) = history {
            // The first start makes the tables.
            pacer.start().await;
            pacer.stop(PATIENCE).await;
            fill(&pacer.folder().join("pacer.db"), jobs).await?;
        }
        pacer.start().await;
        // Components are compiled beside the start; what a job waits for that is not what is measured here.
        eventually("both backends are loaded", PATIENCE, async || {
            let backends = pacer.api.get("/api/v1/backends").await.json();
            let backends = backends["items"].as_array()?.clone();
            let well = backends.iter().any(|one| one["name"] == "sim" && one["health"]["status"] == "ok");
            // Nobody answers the second one; its version is known once its component is there.
            (well && backends.len() == 2 && backends.iter().all(|one| one["version"].is_string())).then_some(())
        })
        .await;
        world.deliver_to(&pacer);
        Ok(Self { world, pacer })
    }

    /// Resident memory of the server, in MiB.
    fn memory(&self) -> f64 {
        self.pacer.process().resident_memory() as f64 / f64::from(1 << 20)
    }
}

/// A steady load; answers with the 99th percentile from queued to running, in milliseconds.
async fn steady(period: Duration, history: Option<u64>, figures: &mut Figures) -> anyhow::Result<f64> {
    let bench = Bench::start(history).await?;
    if history.is_none() {
        figures.add("memory, idle, two backends", bench.memory(), "MiB", Target::AtMost(80.0));
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let ends = Instant::now() + period;
    while Instant::now() < ends {
        tick.tick().await;
        bench.world.queue(1, SHORT);
    }
    bench.world.settled().await;
    let summary = bench.world.simulator.summary();
    let p99 = summary.wait(0.99).as_secs_f64() * 1e3;
    if history.is_none() {
        let metrics = bench.pacer.api.metrics().await;
        let quantile = |share| metrics.quantile("pacer_job_create_seconds", share).unwrap_or(f64::NAN) * 1e3;
        figures.add("delivery -> create, p50, 100 jobs/s", quantile(0.5), "ms", Target::AtMost(10.0));
        figures.add("delivery -> create, p99, 100 jobs/s", quantile(0.99), "ms", Target::AtMost(50.0));
        figures.add("queued -> running, p50, 100 jobs/s", summary.wait(0.5).as_secs_f64() * 1e3, "ms", Target::None);
    }
    figures.add(
        format!("queued -> running, p99, 100 jobs/s, {} stored jobs", history.unwrap_or(0)),
        p99,
        "ms",
        Target::None,
    );
    Ok(p99)
}

async fn burst(figures: &mut Figures) -> anyhow::Result<()> {
    let bench = Bench::start(None).await?;
    let began = Instant::now();
    bench.world.queue(BURST, LONG);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while bench.world.simulator.cloud.made().len() < BURST {
        anyhow::ensure!(began.elapsed() < PATIENCE, "the burst was not created within {PATIENCE:?}");
        tick.tick().await;
    }
    figures.add(
        "burst of 10,000 jobs, until all are created",
        began.elapsed().as_secs_f64(),
        "s",
        Target::AtMost(20.0),
    );
    let alive = bench.world.simulator.cloud.machines();
    let alive = alive.iter().filter(|one| matches!(one.state, MachineState::Creating | MachineState::Running)).count();
    anyhow::ensure!(alive == BURST, "only {alive} of {BURST} machines are there when the memory is looked at");
    figures.add("memory with 10,000 runners", bench.memory(), "MiB", Target::AtMost(250.0));
    Ok(())
}

/// Fills the database with jobs that are over, as years of use would.
async fn fill(database: &Path, jobs: u64) -> anyhow::Result<()> {
    let mut connection = SqliteConnectOptions::new().filename(database).connect().await?;
    sqlx::query(
        "INSERT INTO jobs (id, attempt, run_id, repo, repo_key, name, labels, status, conclusion, project, pool, runner, \
         losses, received_at, queued_at, claimed_at, starting_at, running_at, completed_at, updated_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
         SELECT 900000000 + i, 1, 900000000 + i, 'octocat/hello-world', 'octocat/hello-world', 'build', '[\"self-hosted\"]', \
         'completed', 'success', 'my-app', 'small', 'pacer-small-' || i, 0, t, t, t, t, t, t, t \
         FROM (SELECT i, (unixepoch() - 864000) * 1000 + i AS t FROM n)",
    )
    .bind(i64::try_from(jobs)?)
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    Ok(())
}
