//! GitHub and the cloud, served together.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cloud::{Cloud, Conditions},
    github::{self, GitHub},
};

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    pub github: github::Settings,
    pub cloud: Conditions,
    /// Port 0 is any free one.
    pub github_addr: SocketAddr,
    pub cloud_addr: SocketAddr,
}

impl Default for Settings {
    fn default() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            github: github::Settings::default(),
            cloud: Conditions::default(),
            github_addr: anywhere,
            cloud_addr: anywhere,
        }
    }
}

/// A simulated world, until it is stopped.
pub struct Simulator {
    pub github: GitHub,
    pub cloud: Cloud,
    pub github_url: String,
    pub cloud_url: String,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

/// How jobs fared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub queued: usize,
    /// Concluded as was planned for them: a runner did them to their end.
    pub served: usize,
    pub cancelled: usize,
    /// Concluded otherwise: what ran them was gone before their end.
    pub lost: usize,
    /// From queued to started, sorted.
    pub waits: Vec<Duration>,
}

impl Summary {
    /// Jobs that are not over.
    pub fn open(&self) -> usize {
        self.queued - self.served - self.cancelled - self.lost
    }

    /// A quantile of the waits, 0 to 1.
    pub fn wait(&self, quantile: f64) -> Duration {
        let index = ((self.waits.len() as f64 - 1.0).max(0.0) * quantile).round() as usize;
        self.waits.get(index).copied().unwrap_or_default()
    }
}

impl Simulator {
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let seed = settings.github.seed;
        let github = GitHub::new(settings.github)?;
        let cloud = Cloud::new(github.clone(), seed, settings.cloud);
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        let github_url = serve(settings.github_addr, github.router(), &tracker, &stopping).await?;
        let cloud_url = serve(settings.cloud_addr, cloud.router(), &tracker, &stopping).await?;
        github.set_url(&github_url);
        github.start();
        Ok(Self { github, cloud, github_url, cloud_url, tracker, stopping })
    }

    pub async fn stop(&self) {
        self.stopping.cancel();
        self.cloud.stop().await;
        self.github.stop().await;
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// What must not have happened, in either.
    pub fn audit(&self) -> Vec<String> {
        let mut violations = self.github.audit();
        violations.extend(self.cloud.audit());
        violations
    }

    /// What is left that should not be, once everything is over.
    pub fn left(&self) -> Vec<String> {
        let machines = self.cloud.machines().into_iter().map(|machine| format!("machine `{}`", machine.name));
        let runners = self.github.runners().into_iter().map(|runner| format!("runner record `{}`", runner.name));
        machines.chain(runners).collect()
    }

    pub fn summary(&self) -> Summary {
        let jobs = self.github.jobs();
        let mut summary = Summary { queued: jobs.len(), ..Summary::default() };
        for job in jobs {
            match job.conclusion.as_deref() {
                Some(conclusion) if conclusion == job.planned => summary.served += 1,
                Some("cancelled") => summary.cancelled += 1,
                Some(_) => summary.lost += 1,
                None => {}
            }
            if let Some(started) = job.started_at {
                summary.waits.push(Duration::try_from(started.duration_since(job.created_at)).unwrap_or_default());
            }
        }
        summary.waits.sort_unstable();
        summary
    }
}

async fn serve(
    addr: SocketAddr,
    router: Router,
    tracker: &TaskTracker,
    stopping: &CancellationToken,
) -> anyhow::Result<String> {
    let listener = TcpListener::bind(addr).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let stopping = stopping.clone();
    tracker.spawn(async move {
        let server = axum::serve(listener, router);
        // Requests under way are cut: whoever asks has to stand that.
        stopping.run_until_cancelled(std::future::IntoFuture::into_future(server)).await
    });
    Ok(url)
}
