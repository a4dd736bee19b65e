//! From a delivery to a machine, with the real binary between a simulated GitHub and a simulated cloud.
//!
//! What is simulated costs time as well and runs on the same machine: the figures are upper bounds.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pacer_simulator::{Settings, Simulator, cloud::MachineState, github};
use pacer_tests::{pacer::TestPacer, wait::eventually, world::World};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tokio::runtime;

use crate::figures::{Figures, Target, quantile_ms};

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
        figures.add("queued -> create, p99, 1,000,000 stored jobs / none", full / empty, "x", Target::AtMost(2.0));
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

/// A steady load; answers with the 99th percentile from queued at GitHub to asked for at the cloud, in milliseconds.
///
/// On that way are the delivery, its commit, the plan and its commit, the registration at GitHub, the component's call and
/// its request: more than the promise counts. Any runner serves any job of the class, so the n-th machine is for the n-th job.
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
    let simulator = &bench.world.simulator;
    let mut queued: Vec<i64> = simulator.github.jobs().iter().map(|job| job.created_at.as_millisecond()).collect();
    queued.sort_unstable();
    let asked = simulator.cloud.asked_at_ms();
    anyhow::ensure!(asked.len() >= queued.len(), "{} jobs, and only {} machines", queued.len(), asked.len());
    let mut waits: Vec<Duration> = asked
        .iter()
        .zip(&queued)
        .map(|(asked, queued)| Duration::from_millis(u64::try_from(asked - queued).unwrap_or_default()))
        .collect();
    waits.sort_unstable();
    let (p50, p99) = (quantile_ms(&waits, 0.5), quantile_ms(&waits, 0.99));
    let summary = simulator.summary();
    if history.is_none() {
        figures.add("queued -> create at the cloud, p50, 100 jobs/s", p50, "ms", Target::AtMost(10.0));
        figures.add("queued -> create at the cloud, p99, 100 jobs/s", p99, "ms", Target::AtMost(50.0));
        figures.add("queued -> running, p50, 100 jobs/s", summary.wait(0.5).as_secs_f64() * 1e3, "ms", Target::None);
        figures.add("queued -> running, p99, 100 jobs/s", summary.wait(0.99).as_secs_f64() * 1e3, "ms", Target::None);
    } else {
        figures.add("queued -> create at the cloud, p99, 1,000,000 stored jobs", p99, "ms", Target::AtMost(50.0));
    }
    Ok(p99.max(1.0))
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

/// Fills the database as years of use would: with jobs that are over, their deliveries, runners and histories.
async fn fill(database: &Path, jobs: u64) -> anyhow::Result<()> {
    const ROWS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1), \
         job (i, id, runner, t) AS (SELECT i, 900000000 + i, 'pacer-small-' || i, (unixepoch() - 864000) * 1000 + i FROM n)";
    let statements = [
        "INSERT INTO jobs (id, attempt, run_id, repo, repo_key, name, labels, status, conclusion, project, pool, runner, \
         losses, received_at, queued_at, claimed_at, starting_at, running_at, completed_at, updated_at) SELECT id, 1, id, \
         'octocat/hello-world', 'octocat/hello-world', 'build', '[\"self-hosted\"]', 'completed', 'success', 'my-app', \
         'small', runner, 0, t, t, t, t, t, t, t FROM job",
        "INSERT INTO runners (name, state, project, pool, backend, target, handle, job_id, job_attempt, created_at, state_at, \
         deadline, registered_at, busy_at) SELECT runner, 'gone', 'my-app', 'small', 'sim', 'repo:octocat/hello-world', \
         'm-' || i, id, 1, t, t, t, t, t FROM job",
        "INSERT INTO deliveries (guid, received_at, event, action, result, job_id, job_attempt, source) SELECT \
         '5f0c2b3e-0000-4000-8000-' || id, t, 'workflow_job', 'queued', 'enqueued', id, 1, 'webhook' FROM job",
        "INSERT INTO events (at, job_id, job_attempt, runner, kind) SELECT t, id, 1, runner, 'job.running' FROM job",
        "INSERT INTO events (at, job_id, job_attempt, runner, kind) SELECT t, id, 1, runner, 'runner.busy' FROM job",
    ];
    let mut connection = SqliteConnectOptions::new().filename(database).connect().await?;
    for statement in statements {
        let (insert, select) = statement.split_once(") SELECT ").context("an insert of a selection")?;
        let text = format!("{insert}) {ROWS} SELECT {select}");
        sqlx::query(AssertSqlSafe(text)).bind(i64::try_from(jobs)?).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
