//! `pacer-simulator serve`: the simulated world as a command, for `make demo` and for trying pacer out by hand.

use std::{net::SocketAddr, ops::Range, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pacer_simulator::{
    Settings, Simulator,
    cloud::Conditions,
    github::{self, NewJob, Weather, parse_range},
    simulator::Summary,
};
use tokio::time::Instant;

/// A stateful GitHub, its runners and a small cloud, for trying pacer out.
#[derive(Debug, Parser)]
#[command(name = "pacer-simulator", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve GitHub and the cloud, and keep jobs flowing. Ends with a summary; exits with 1 if a job was not served.
    Serve(Box<Serve>),
}

#[derive(Debug, Args)]
struct Serve {
    /// Where the GitHub API is served: `github.api_url`.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Where the cloud's API is served: the endpoint `cloud` of the backend `simulated`.
    #[arg(long, default_value = "127.0.0.1:9001")]
    cloud: SocketAddr,
    /// Where webhooks go.
    #[arg(long, default_value = "http://127.0.0.1:3000/api/webhook")]
    webhook: String,
    /// The webhook secret: `github.webhook_secret`.
    #[arg(long, env = "SIMULATOR_WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
    /// Where the App's private key is written: `github.private_key_path`.
    #[arg(long, value_name = "FILE")]
    key_out: PathBuf,
    /// The App's id: `github.app_id`.
    #[arg(long, default_value_t = 123_456)]
    app_id: u64,
    /// Repositories, `owner/name`.
    #[arg(long = "repo", value_name = "OWNER/NAME", default_value = "octocat/hello-world")]
    repos: Vec<String>,
    /// Organisations.
    #[arg(long = "org", value_name = "ORG")]
    orgs: Vec<String>,
    /// What every random choice is made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Jobs queued in a second.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Labels of the jobs; several sets, separated by `;`, take turns.
    #[arg(long, default_value = "self-hosted,linux")]
    labels: String,
    /// How long jobs run, in milliseconds.
    #[arg(long, value_parser = parse_range, default_value = "1000..8000")]
    duration_ms: Range<Duration>,
    /// How long machines boot, in milliseconds.
    #[arg(long, value_parser = parse_range, default_value = "300..1500")]
    boot_ms: Range<Duration>,
    /// Share of webhooks that get lost on their way.
    #[arg(long, default_value_t = 0.0)]
    lose: f64,
    /// Share of webhooks that get lost and are in no log.
    #[arg(long, default_value_t = 0.0)]
    forget: f64,
    /// Share of webhooks that are sent twice.
    #[arg(long, default_value_t = 0.0)]
    double: f64,
    /// How long webhooks are under way, in milliseconds; in a range they overtake each other.
    #[arg(long, value_parser = parse_range, default_value = "0..0")]
    delay_ms: Range<Duration>,
    /// Keep to GitHub's limits: 5,000 calls in an hour, 900 points in a minute, 1,500 registrations in 5, 100 calls at
    /// once.
    #[arg(long)]
    limits: bool,
    /// How long to queue jobs, in seconds; without it until interrupted.
    #[arg(long = "for", value_name = "SECONDS")]
    queue_for: Option<u64>,
    /// How long the last jobs may take to be served, in seconds.
    #[arg(long, default_value_t = 60)]
    drain: u64,
}

/// How long the server may take to answer before the first job.
const START: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("warn").init();
    let Command::Serve(options) = Cli::parse().command;
    match serve(*options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("pacer-simulator: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a command says goes to standard output")]
fn say(line: &str) {
    println!("{line}");
}

async fn serve(options: Serve) -> anyhow::Result<bool> {
    let mut stop = Stop::listen()?;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let simulator = Simulator::start(Settings {
        github: github::Settings {
            app_id: options.app_id,
            webhook_url: Some(options.webhook.clone()),
            webhook_secret: options.secret.clone(),
            seed: options.seed,
            repos: options.repos.clone(),
            orgs: options.orgs.clone(),
            weather: Weather {
                lost: options.lose,
                forgotten: options.forget,
                doubled: options.double,
                delay: options.delay_ms.clone(),
            },
            hourly_limit: options.limits.then_some(5_000),
            secondary: options.limits.then(github::Secondary::default),
            ..github::Settings::default()
        },
        cloud: Conditions { boot_ms: (ms(options.boot_ms.start), ms(options.boot_ms.end)), ..Conditions::default() },
        github_addr: options.listen,
        cloud_addr: options.cloud,
    })
    .await
    .context("cannot serve")?;
    write_key(&options.key_out, simulator.github.private_key_pem())
        .with_context(|| format!("cannot write the App's key to {}", options.key_out.display()))?;
    say(&format!("GitHub at {}, cloud at {}, seed {}", simulator.github_url, simulator.cloud_url, options.seed));

    let going = tokio::select! {
        answered = wait_for_server(&options.webhook) => answered.map(|()| true)?,
        () = stop.asked() => false,
    };
    if going {
        tokio::select! {
            () = queue(&simulator, &options) => {}
            () = stop.asked() => {}
        }
    }
    say("no more jobs are queued; waiting for the last ones");
    let served = tokio::select! {
        served = drain(&simulator, Duration::from_secs(options.drain)) => served,
        () = stop.asked() => false,
    };
    let fine = summarise(&simulator, served);
    simulator.stop().await;
    Ok(fine)
}

/// Only its owner may read a private key.
fn write_key(path: &PathBuf, pem: &str) -> std::io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())
}

struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn wait_for_server(webhook: &str) -> anyhow::Result<()> {
    let url = reqwest::Url::parse(webhook).context("--webhook is not a URL")?.join("/healthz")?;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let deadline = Instant::now() + START;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while Instant::now() < deadline {
        tick.tick().await;
        if client.get(url.clone()).send().await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
    }
    anyhow::bail!("nobody answers at {url}")
}

async fn queue(simulator: &Simulator, options: &Serve) {
    let sets: Vec<Vec<&str>> = options.labels.split(';').map(|set| set.split(',').map(str::trim).collect()).collect();
    let pause = Duration::from_secs_f64(1.0 / options.rate.clamp(0.001, 10_000.0));
    let ends = options.queue_for.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut tick = tokio::time::interval(pause);
    let span = options.duration_ms.end.saturating_sub(options.duration_ms.start);
    for turn in 0usize.. {
        tick.tick().await;
        if ends.is_some_and(|ends| Instant::now() >= ends) {
            return;
        }
        let repo = &options.repos[turn % options.repos.len()];
        // Spread evenly over the range, in an order that does not look sorted.
        let share = (turn * 7 % 11) as f64 / 10.0;
        let duration = options.duration_ms.start + span.mul_f64(share);
        simulator.github.queue(NewJob::new(repo, &sets[turn % sets.len()], duration));
    }
}

/// How long machines whose job is over, or that got none, may take to go. What is there after that is kept by its pool
/// on purpose.
const TIDY: Duration = Duration::from_secs(15);

/// Waits until every job is over, and then a little for the machines to go.
async fn drain(simulator: &Simulator, time: Duration) -> bool {
    let served = until(Instant::now() + time, || {
        let summary = simulator.summary();
        summary.open() == 0
    })
    .await;
    until(Instant::now() + TIDY, || simulator.cloud.machines().is_empty()).await;
    served
}

async fn until(deadline: Instant, met: impl Fn() -> bool) -> bool {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        if met() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

fn summarise(simulator: &Simulator, served: bool) -> bool {
    let summary = simulator.summary();
    let (sent, arrived) = simulator.github.deliveries();
    let (left, violations) = (simulator.left(), simulator.audit());
    let ms = |quantile| summary.wait(quantile).as_millis();
    let Summary { queued, served: done, cancelled, lost, .. } = summary;
    say(&format!("jobs: {queued} queued, {done} served, {cancelled} cancelled, {lost} lost with their machines"));
    say(&format!("wait from queued to running: p50 {} ms, p95 {} ms, longest {} ms", ms(0.5), ms(0.95), ms(1.0)));
    say(&format!("webhooks: {sent} sent, {arrived} taken in"));
    let made = simulator.cloud.made();
    say(&format!("machines: {} made, {} at once at most, {} left", made.len(), simulator.cloud.peak(), left.len()));
    for line in violations.iter().chain(&left).take(20) {
        say(&format!("  ! {line}"));
    }
    let fine = served && lost == 0 && violations.is_empty();
    say(if fine { "every job was served" } else { "NOT every job was served, or something went wrong that must not" });
    fine
}
