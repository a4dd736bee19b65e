//! Deliveries acknowledged per second, durably, against the same handler with storing switched off.
//!
//! Both run in this process, on a runtime of their own, one after the other and again: what a neighbour takes from the
//! one it takes from the other as well.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use pacer::{
    clock::SystemClock,
    fleet::job::{Assignment, JobKey, JobStatus},
    ingest::{IngestState, Intake, WebhookSecrets, router},
    store::{Changed, Ingest, IngestResult, Op, OpOutcome, Store, StoreError},
};
use secrecy::SecretString;
use tokio::{
    runtime,
    sync::broadcast::{Receiver, error::RecvError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    figures::{Figures, Target, quantile_ms},
    load::{Deliveries, Outcome, Pace, send},
};

const SECRET: &str = "secret-of-the-benchmark";
/// As long as names of companies and repositories are.
const REPO: &str = "acme-engineering/storefront-services";
const CONNECTIONS: u32 = 64;
/// Rounds of each of the two; the best of each counts.
const ROUNDS: usize = 3;
const SLOW_RATE: u32 = 500;

/// Says yes at once.
struct Nothing;

impl Intake for Nothing {
    fn take(&self, _: Ingest) -> BoxFuture<'_, Result<IngestResult, StoreError>> {
        Box::pin(async { Ok(IngestResult::Enqueued(JobKey { id: 1, attempt: 1 }, JobStatus::Queued)) })
    }
}

/// The real one.
struct Durable(Store);

impl Intake for Durable {
    fn take(&self, ingest: Ingest) -> BoxFuture<'_, Result<IngestResult, StoreError>> {
        Box::pin(async move {
            match self.0.write(vec![Op::Ingest(Box::new(ingest))]).await?.pop() {
                Some(OpOutcome::Ingested(result)) => Ok(result),
                Some(OpOutcome::Applied(_)) | None => Err(StoreError::Closed),
            }
        })
    }
}

/// A webhook on a port of its own, in a thread of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(database: Option<&Path>) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let database = database.map(|path| format!("sqlite:{}", path.display()));
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let served = serve(database, stopped, &sender);
            if let Err(error) = served {
                sender.send(Err(error)).ok();
            }
        });
        let address = receiver.recv()??;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(
    database: Option<String>,
    stop: CancellationToken,
    ready: &mpsc::Sender<anyhow::Result<SocketAddr>>,
) -> anyhow::Result<()> {
    runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let clock = Arc::new(SystemClock);
        let tasks = TaskTracker::new();
        let (intake, store): (Arc<dyn Intake>, _) = match database {
            Some(url) => {
                let store = Store::open(&url, clock.clone()).await?;
                let (_, changes) = store.follow().await?;
                tasks.spawn(follow(changes));
                (Arc::new(Durable(store.clone())), Some(store))
            }
            None => (Arc::new(Nothing), None),
        };
        let secrets = WebhookSecrets::new(&[SecretString::from(SECRET)]);
        let route = |_: &_, _: &[String]| {
            let project = "my-app".parse().expect("a name");
            let pool = Some("small".parse().expect("a name"));
            Ok(Assignment { project, pool, reason: None })
        };
        let state = IngestState::new(Arc::new(ArcSwap::from_pointee(secrets)), Arc::new(route), intake, clock, tasks);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        ready.send(listener.local_addr().map_err(Into::into))?;
        axum::serve(listener, router(state)).with_graceful_shutdown(stop.cancelled_owned()).await?;
        if let Some(store) = store {
            store.close().await;
        }
        Ok(())
    })
}

/// Takes every commit in, as the fleet does beside the webhook.
async fn follow(mut changes: Receiver<Arc<[Changed]>>) {
    while !matches!(changes.recv().await, Err(RecvError::Closed)) {}
}

pub fn measure(folder: &Path, period: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let clients = runtime::Builder::new_multi_thread().enable_all().build()?;
    let run = |database: Option<&Path>, pace: Pace| -> anyhow::Result<Outcome> {
        let server = Server::start(database)?;
        let deliveries = Arc::new(Deliveries::new(REPO, &["self-hosted", "my-app", "linux"], SECRET)?);
        clients.block_on(send(server.address, deliveries, CONNECTIONS, pace, period))
    };
    let (mut durable, mut nothing, mut size) = (0.0_f64, 0.0_f64, 0);
    for round in 0..ROUNDS {
        let outcome = run(Some(&folder.join(format!("ingest-{round}.db"))), Pace::Flat)?;
        (durable, size) = (durable.max(outcome.rate()), outcome.body_bytes);
        nothing = nothing.max(run(None, Pace::Flat)?.rate());
    }
    figures.add(
        format!("durable acknowledgements, {CONNECTIONS} connections, {:.1} KB each", size as f64 / 1e3),
        durable,
        "/s",
        Target::AtLeast(5_000.0),
    );
    figures.add("  the same handler with storing switched off", nothing, "/s", Target::None);
    figures.add("  durable, of that", 100.0 * durable / nothing, "%", Target::AtLeast(50.0));
    let slow = run(Some(&folder.join("ingest-slow.db")), Pace::PerSecond(SLOW_RATE))?;
    figures.add(
        format!("durable acknowledgement at {SLOW_RATE}/s, p50"),
        quantile_ms(&slow.taken, 0.5),
        "ms",
        Target::None,
    );
    figures.add(
        format!("durable acknowledgement at {SLOW_RATE}/s, p99"),
        quantile_ms(&slow.taken, 0.99),
        "ms",
        Target::AtMost(50.0),
    );
    Ok(())
}
