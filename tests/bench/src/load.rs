//! A generator of deliveries: real payloads, signed one by one, over connections that stay open.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pacer_tests::webhook::{JobPayload, next_guid, sign};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// No delivery takes longer unless something is broken; GitHub itself gives up after ten seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A job id of as many digits as GitHub's own, so that bodies have one length.
const FIRST_JOB: i64 = 50_000_000_000;

/// How deliveries are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection sends the next one as soon as it has its answer.
    Flat,
    /// So many a second over all connections, each at its appointed time whatever became of the ones before.
    PerSecond(u32),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the appointed time to the answer, sorted.
    pub taken: Vec<Duration>,
    pub elapsed: Duration,
    pub body_bytes: usize,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.taken.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// New jobs of a repository, each told once.
#[derive(Debug)]
pub struct Deliveries {
    before: Vec<u8>,
    after: Vec<u8>,
    secret: String,
    next: AtomicI64,
}

impl Deliveries {
    pub fn new(repo: &str, labels: &[&str], secret: &str) -> anyhow::Result<Self> {
        // The id stands in the text more than once; only where it identifies the job does it have to change.
        let text = JobPayload::queued(FIRST_JOB, repo, labels).json().to_string();
        let marker = format!("\"id\":{FIRST_JOB},");
        let (before, after) = text.split_once(&marker).context("the payload names its job")?;
        Ok(Self {
            before: format!("{before}\"id\":").into_bytes(),
            after: format!(",{after}").into_bytes(),
            secret: secret.to_owned(),
            next: AtomicI64::new(FIRST_JOB),
        })
    }

    fn next(&self, host: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let body = [&self.before[..], id.as_bytes(), &self.after].concat();
        Ok(Request::post("/api/webhook")
            .header("host", host)
            .header("content-type", "application/json")
            .header("user-agent", "GitHub-Hookshot/044aadd")
            .header("x-github-event", "workflow_job")
            .header("x-github-delivery", next_guid())
            .header("x-hub-signature-256", sign(&self.secret, &body))
            .body(Full::new(body.into()))?)
    }
}

/// Sends deliveries for a period. Any answer but 202 is an error.
pub async fn send(
    server: SocketAddr,
    deliveries: Arc<Deliveries>,
    connections: u32,
    pace: Pace,
    period: Duration,
) -> anyhow::Result<Outcome> {
    let tasks = TaskTracker::new();
    let started = Instant::now();
    let senders: Vec<_> = (0..connections)
        .map(|index| {
            let deliveries = deliveries.clone();
            tasks.spawn(async move { sender(server, &deliveries, (index, connections), pace, started, period).await })
        })
        .collect();
    tasks.close();
    let mut outcome = Outcome::default();
    for sender in senders {
        outcome.taken.extend(sender.await??);
    }
    outcome.elapsed = started.elapsed();
    outcome.taken.sort();
    outcome.body_bytes = deliveries.before.len() + deliveries.after.len() + 11;
    Ok(outcome)
}

async fn sender(
    server: SocketAddr,
    deliveries: &Deliveries,
    (index, connections): (u32, u32),
    pace: Pace,
    started: Instant,
    period: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let host = server.to_string();
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    let tasks = TaskTracker::new();
    let driver = tasks.spawn(driver);
    let mut taken = Vec::new();
    for turn in 0.. {
        let appointed = match pace {
            Pace::Flat => Instant::now(),
            Pace::PerSecond(rate) => {
                let number = turn * connections + index;
                let at = started + Duration::from_secs(1) * number / rate;
                tokio::time::sleep_until(at.into()).await;
                at
            }
        };
        if appointed.duration_since(started) >= period {
            break;
        }
        exchange(&mut connection, deliveries.next(&host)?).await?;
        taken.push(appointed.elapsed());
    }
    driver.abort();
    Ok(taken)
}

async fn exchange(connection: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    let exchanged = async {
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == 202, "a delivery got {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    };
    tokio::time::timeout(ANSWER, exchanged).await.context("a delivery got no answer in time")?
}
