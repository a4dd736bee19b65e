//! Sends what happened, through good and bad weather, and keeps the log of deliveries.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::{GitHub, Settings, payload, state};
use crate::dice::Dice;

/// GitHub gives up after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Deliveries under way at once.
const AT_ONCE: usize = 64;
/// Deliveries that are kept in the log.
const KEPT: usize = 100_000;

/// How well deliveries get through.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Share that is not sent at all, and is in the log as failed.
    pub lost: f64,
    /// Share that is neither sent nor logged.
    pub forgotten: f64,
    /// Share that is sent twice.
    pub doubled: f64,
    /// How long each is under way; with a range they overtake each other.
    pub delay: Range<Duration>,
}

impl Default for Weather {
    fn default() -> Self {
        Self { lost: 0.0, forgotten: 0.0, doubled: 0.0, delay: Duration::ZERO..Duration::ZERO }
    }
}

/// An attempt, as in the App's log.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: u64,
    pub guid: String,
    pub delivered_at: Timestamp,
    pub redelivery: bool,
    pub duration: f64,
    pub status: String,
    pub status_code: u16,
    pub action: &'static str,
    pub repo: String,
    pub body: Arc<Vec<u8>>,
}

pub struct Webhooks {
    client: reqwest::Client,
    secret: String,
    at_once: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

struct Inner {
    url: Option<String>,
    weather: Weather,
    dice: Dice,
    next_id: u64,
    log: BTreeMap<u64, Attempt>,
    order: VecDeque<u64>,
    sent: u64,
    arrived: u64,
}

impl Webhooks {
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .user_agent("GitHub-Hookshot/51a1b2c")
            .pool_max_idle_per_host(AT_ONCE)
            .build()?;
        let inner = Inner {
            url: settings.webhook_url.clone(),
            weather: settings.weather.clone(),
            dice: Dice::new(settings.seed ^ 0x3eb),
            next_id: 100_000,
            log: BTreeMap::new(),
            order: VecDeque::new(),
            sent: 0,
            arrived: 0,
        };
        Ok(Self {
            client,
            secret: settings.webhook_secret.clone(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            inner: Mutex::new(inner),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    pub fn set_url(&self, url: &str) {
        self.inner().url = Some(url.to_owned());
    }

    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.sent, inner.arrived)
    }

    /// The log, newest first.
    pub fn log(&self) -> Vec<Attempt> {
        self.inner().log.values().rev().cloned().collect()
    }

    pub fn attempt(&self, id: u64) -> Option<Attempt> {
        self.inner().log.get(&id).cloned()
    }

    fn record(&self, mut attempt: Attempt) {
        let inner = &mut *self.inner();
        inner.next_id += 1;
        attempt.id = inner.next_id;
        inner.order.push_back(attempt.id);
        inner.log.insert(attempt.id, attempt);
        while inner.order.len() > KEPT {
            if let Some(oldest) = inner.order.pop_front() {
                inner.log.remove(&oldest);
            }
        }
    }

    /// Sends a delivery once and logs how that went.
    pub async fn send(&self, guid: &str, action: &'static str, repo: &str, body: Arc<Vec<u8>>, redelivery: bool) {
        let Some(url) = self.inner().url.clone() else { return };
        self.inner().sent += 1;
        let started = std::time::Instant::now();
        let answer = match self.at_once.acquire().await {
            Ok(_permit) => self.post(&url, guid, &body).await,
            Err(_) => return,
        };
        let (status, status_code) = match answer {
            Ok(status) if (200..300).contains(&status) => ("OK".to_owned(), status),
            Ok(status) => (format!("Invalid HTTP Response: {status}"), status),
            Err(error) if error.is_timeout() => ("timed out".to_owned(), 0),
            Err(_) => ("failed to connect to host".to_owned(), 502),
        };
        if status == "OK" {
            self.inner().arrived += 1;
        }
        self.record(Attempt {
            id: 0,
            guid: guid.to_owned(),
            delivered_at: state::now(),
            redelivery,
            duration: started.elapsed().as_secs_f64(),
            status,
            status_code,
            action,
            repo: repo.to_owned(),
            body,
        });
    }

    async fn post(&self, url: &str, guid: &str, body: &Arc<Vec<u8>>) -> reqwest::Result<u16> {
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("accept", "*/*")
            .header("x-github-event", "workflow_job")
            .header("x-github-delivery", guid)
            .header("x-github-hook-id", "480211")
            .header("x-github-hook-installation-target-type", "integration")
            .header("x-github-hook-installation-target-id", "123456")
            .header("x-hub-signature-256", sign(&self.secret, body))
            .body(body.as_ref().clone());
        Ok(request.send().await?.status().as_u16())
    }
}

/// `sha256=` and the HMAC of the body.
pub fn sign(secret: &str, body: &[u8]) -> String {
    // An HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// Sends what is told, until the play is over.
pub async fn deliver(github: GitHub) {
    loop {
        let told: Vec<_> = github.inner.state().told.drain(..).collect();
        for told in told {
            let (guid, fate) = {
                let inner = &mut *github.inner.webhooks.inner();
                let weather = inner.weather.clone();
                let dice = &mut inner.dice;
                let guid = format!("{}-{}-{}-{}-{}", dice.hex(8), dice.hex(4), dice.hex(4), dice.hex(4), dice.hex(12));
                let copies = if dice.chance(weather.doubled) { 2 } else { 1 };
                let delays: Vec<Duration> = (0..copies).map(|_| dice.within(&weather.delay)).collect();
                let fate = if dice.chance(weather.forgotten) {
                    Fate::Forgotten
                } else if dice.chance(weather.lost) {
                    Fate::Lost
                } else {
                    Fate::Sent(delays)
                };
                (guid, fate)
            };
            let owner = told.job.repo.split('/').next().unwrap_or_default().to_lowercase();
            let organization = github.settings().orgs.iter().any(|org| org.to_lowercase() == owner);
            let api = "https://api.github.com";
            match fate {
                Fate::Forgotten => {}
                Fate::Lost => github.inner.webhooks.record(Attempt {
                    id: 0,
                    guid,
                    delivered_at: state::now(),
                    redelivery: false,
                    duration: 10.0,
                    status: "failed to connect to host".to_owned(),
                    status_code: 502,
                    action: told.action,
                    repo: told.job.repo.clone(),
                    body: Arc::new(payload::delivery(&told, api, organization)),
                }),
                Fate::Sent(delays) => {
                    for delay in delays {
                        let (github, guid, told) = (github.clone(), guid.clone(), told.clone());
                        github.inner.tracker.clone().spawn(async move {
                            let stopping = github.inner.stopping.clone();
                            let sending = async {
                                if !delay.is_zero() {
                                    tokio::time::sleep(delay).await;
                                }
                                let body = Arc::new(payload::delivery(&told, api, organization));
                                github.inner.webhooks.send(&guid, told.action, &told.job.repo, body, false).await;
                            };
                            stopping.run_until_cancelled(sending).await;
                        });
                    }
                }
            }
        }
        tokio::select! {
            () = github.inner.told.notified() => {}
            () = github.inner.stopping.cancelled() => return,
        }
    }
}

enum Fate {
    Sent(Vec<Duration>),
    Lost,
    Forgotten,
}
