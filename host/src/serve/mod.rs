//! `pacer serve`: puts the parts together, and takes them apart in order.
//!
//! At the end of a server's life nothing new is taken in, work in flight comes to its end within one grace, and then
//! the store closes. Machines keep running: the next start takes them over.

mod connections;
mod reload;
mod sources;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use secrecy::ExposeSecret as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    callback::{self, Callbacks, Tokens},
    clock::{SharedClock, SystemClock},
    config::{Auth, Config, Endpoint},
    console,
    fleet::{Fleet, Parts},
    github::{self, GitHubApi},
    ingest::{self, IngestState, Intake, WebhookSecrets},
    plugins, routing,
    store::{Ingest, IngestResult, Op, OpOutcome, Store, StoreError},
    telemetry::{self, Telemetry},
};
use reload::Reload;

/// How often what is past its retention is pruned.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often the gauges are brought up to date; scrapes come every 15 s or less often.
const GAUGES: Duration = Duration::from_secs(5);

/// Serves until it is told to stop (SIGTERM or SIGINT).
pub async fn run(config: Arc<Config>) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let telemetry = telemetry::init(&config.telemetry)?;
    hide_secrets(&telemetry, &config);
    announce(&config);

    let clock: SharedClock = Arc::new(SystemClock);
    let limits = connections::Limits::of_this_process();
    let listener = listen(config.server.addr).await?;
    let store = Store::open(&config.database.url, clock.clone()).await?;
    let github = github::Client::new(&config.github, clock.clone())?;
    let backends = plugins::Host::start(&config, clock.clone()).await?;
    let route = route(&config);
    let tokens = Arc::new(Tokens::new(&config.github.private_key));
    let fleet = Fleet::start(Parts {
        config: config.clone(),
        store: store.clone(),
        github: Arc::new(github.clone()),
        backends: backends.clone(),
        clock: clock.clone(),
        tokens: tokens.clone(),
        route: route.clone(),
    })
    .await?;
    let fleet = Arc::new(fleet);

    let stopping = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(judge_settings(config.clone(), backends.clone()));
    tasks.spawn(prune(config.clone(), store.clone(), clock.clone(), stopping.clone()));
    tasks.spawn(gauges(fleet.clone(), telemetry.metrics(), stopping.clone()));
    let sources = sources::sources(&config, &store, &fleet, &backends, Arc::new(github) as Arc<dyn GitHubApi>, &clock);
    let current = Arc::new(ArcSwap::new(config.clone()));
    let callbacks = Callbacks {
        config: current.clone(),
        tokens,
        machines: fleet.clone(),
        audit: sources.audit.clone(),
        clock: clock.clone(),
        throttle: Arc::default(),
        spent: Arc::default(),
    };
    let state = console::State::new(current.clone(), sources, telemetry.metrics(), clock.clone(), stopping.clone());
    let secrets = Arc::new(ArcSwap::from_pointee(WebhookSecrets::new(&config.github.webhook_secrets)));
    let intake = Arc::new(StoreIntake(store.clone()));
    let ingest = IngestState::new(secrets.clone(), route, intake, clock, tasks.clone());
    // Deliveries have a log line of their own.
    let router = ingest::router(ingest).merge(callback::router(callbacks)).merge(console::router(state));

    info!("pacer {} serves {} at http://{}", env!("CARGO_PKG_VERSION"), config.server.public_url, config.server.addr);
    info!("the webhook of the GitHub App is {}/api/webhook", config.server.public_url);
    let connections = TaskTracker::new();
    connections.spawn(connections::accept(listener, router, limits, stopping.clone(), connections.clone()));
    let grace = config.server.shutdown_grace;
    let reload = Reload { started_with: config, current, secrets, telemetry };
    let ended = tokio::select! {
        () = signals.until_stop(&reload) => Ok(()),
        () = fleet.broken() => Err(anyhow::anyhow!(
            "the planner broke, and nothing would be decided any more; its panic is above, nothing is lost: start pacer anew"
        )),
    };

    let deadline = Instant::now() + grace;
    stopping.cancel();
    connections.close();
    let (answered, ()) = tokio::join!(timeout_at(deadline, connections.wait()), fleet.shutdown(grace));
    if answered.is_err() {
        warn!("some connections did not end within {grace:?} and are cut");
    }
    tasks.close();
    if timeout_at(deadline, tasks.wait()).await.is_err() {
        warn!("background work did not end within {grace:?}");
    }
    store.close().await;
    info!("stopped");
    ended
}

/// What a person or a supervisor tells the process. Caught from the start: what is not caught would end it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn until_stop(mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return info!("told to stop (SIGINT)"),
                _ = self.terminate.recv() => return info!("told to stop (SIGTERM)"),
                _ = self.hangup.recv() => reload.run().await,
            }
        }
    }
}

/// Where a job belongs, by this configuration.
pub fn route(config: &Config) -> Arc<ingest::Route> {
    let router = routing::Router::new(config);
    Arc::new(move |repo, labels| router.route(repo, labels).assignment())
}

/// Deliveries go into the store.
pub struct StoreIntake(pub Store);

impl Intake for StoreIntake {
    fn take(&self, ingest: Ingest) -> BoxFuture<'_, Result<IngestResult, StoreError>> {
        async move {
            let outcomes = self.0.write(vec![Op::Ingest(Box::new(ingest))]).await?;
            match outcomes.into_iter().next() {
                Some(OpOutcome::Ingested(result)) => Ok(result),
                Some(OpOutcome::Applied(_)) | None => Err(StoreError::Closed),
            }
        }
        .boxed()
    }
}

async fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!(
            "cannot listen on `server.addr` {addr}: is another server on it, or is it not an address of this machine?"
        )
    })
}

/// Every secret of the configuration is blanked out of whatever is logged.
fn hide_secrets(telemetry: &Telemetry, config: &Config) {
    telemetry.hide(&config.github.private_key);
    config.github.webhook_secrets.iter().for_each(|secret| telemetry.hide(secret));
    if let Auth::Token(token) = &config.auth {
        telemetry.hide(token);
    }
    let endpoints = config.backends.values().flat_map(|backend| backend.endpoints.values());
    endpoints.flat_map(Endpoint::secrets).for_each(|secret| telemetry.hide(&secret));
}

fn announce(config: &Config) {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    match &config.auth {
        Auth::Disabled => warn!(
            "`auth: {{ disabled: true }}`: whoever reaches {} may see and do everything; set `auth.token` before anybody else can",
            config.server.addr
        ),
        Auth::Token(token) => {
            debug_assert!(!token.expose_secret().is_empty(), "the configuration refuses empty tokens")
        }
    }
}

/// Says what the backends think of the settings; what is wrong shows again when a runner is asked for.
async fn judge_settings(config: Arc<Config>, backends: Arc<plugins::Host>) {
    for finding in backends.validate(&config).await {
        if finding.is_error() {
            error!("{finding}");
        } else {
            warn!("{finding}");
        }
    }
}

async fn prune(config: Arc<Config>, store: Store, clock: SharedClock, stopping: CancellationToken) {
    loop {
        match store.prune(&config.retention, clock.now()).await {
            Ok(pruned) => info!(
                jobs = pruned.jobs,
                runners = pruned.runners,
                deliveries = pruned.deliveries,
                audit = pruned.audit,
                "what was past its retention is pruned"
            ),
            Err(error) => warn!(%error, "what is past its retention cannot be pruned yet"),
        }
        if stopping.run_until_cancelled(tokio::time::sleep(PRUNE)).await.is_none() {
            return;
        }
    }
}

async fn gauges(fleet: Arc<Fleet>, metrics: telemetry::Metrics, stopping: CancellationToken) {
    while stopping.run_until_cancelled(tokio::time::sleep(GAUGES)).await.is_some() {
        fleet.report_gauges();
        metrics.run_upkeep();
    }
}
