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

use super::{
    GitHub, Settings, payload, shapes,
    state::{self, Told},
};
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
    /// Where it went.
    pub url: String,
    /// What it said: its body is made of it whenever it is needed, always the same.
    pub told: Arc<Told>,
}

pub struct Webhooks {
    client: reqwest::Client,
    secret: String,
    app_id: u64,
    at_once: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

/// A delivery that is to be sent.
struct Copy {
    guid: String,
    told: Arc<Told>,
    delay: Duration,
}

struct Inner {
    pending: VecDeque<Copy>,
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
            pending: VecDeque::new(),
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
            app_id: settings.app_id,
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

    pub fn url(&self) -> Option<String> {
        self.inner().url.clone()
    }

    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.sent, inner.arrived)
    }

    /// The log before an attempt, newest first.
    pub fn log(&self, before: u64, succeeded: Option<bool>, most: usize) -> Vec<Attempt> {
        let inner = self.inner();
        let attempts = inner.log.range(..before).rev().map(|(_, attempt)| attempt);
        attempts
            .filter(|attempt| succeeded.is_none_or(|succeeded| succeeded == (attempt.status == "OK")))
            .take(most)
            .cloned()
            .collect()
    }

    pub fn log_len(&self) -> usize {
        self.inner().log.len()
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

    /// Takes in what happened. What becomes of each delivery is decided here, by the weather there is now and in the
    /// order in which it happened, so that a seed repeats it.
    pub fn accept(&self, told: impl Iterator<Item = Told>) {
        let mut lost = Vec::new();
        {
            let inner = &mut *self.inner();
            for told in told {
                let (told, dice, weather) = (Arc::new(told), &mut inner.dice, &inner.weather);
                let guid = format!("{}-{}-{}-{}-{}", dice.hex(8), dice.hex(4), dice.hex(4), dice.hex(4), dice.hex(12));
                let copies = if dice.chance(weather.doubled) { 2 } else { 1 };
                let delays: Vec<Duration> = (0..copies).map(|_| dice.within(&weather.delay)).collect();
                if dice.chance(weather.forgotten) {
                    continue;
                }
                if dice.chance(weather.lost) {
                    lost.push((guid, told, inner.url.clone().unwrap_or_default()));
                    continue;
                }
                let copies =
                    delays.into_iter().map(|delay| Copy { guid: guid.clone(), told: Arc::clone(&told), delay });
                inner.pending.extend(copies);
            }
        }
        for (guid, told, url) in lost {
            self.record(Attempt {
                id: 0,
                guid,
                delivered_at: state::now(),
                redelivery: false,
                duration: PATIENCE.as_secs_f64(),
                status: "failed to connect to host".to_owned(),
                status_code: 502,
                url,
                told,
            });
        }
    }

    fn take_pending(&self) -> VecDeque<Copy> {
        std::mem::take(&mut self.inner().pending)
    }

    /// Sends a delivery once and logs how that went.
    pub async fn send(&self, github: &GitHub, guid: &str, told: &Arc<Told>, redelivery: bool) {
        let Some(url) = self.inner().url.clone() else { return };
        self.inner().sent += 1;
        let started = std::time::Instant::now();
        let answer = match self.at_once.acquire().await {
            Ok(_permit) => self.post(&url, guid, told.body(github)).await,
            Err(_) => return,
        };
        let (status, status_code) = match answer {
            Ok(status) if (200..300).contains(&status) => ("OK".to_owned(), status),
            Ok(status) => (format!("Invalid HTTP Response: {status}"), status),
            Err(error) if error.is_timeout() => ("timed out".to_owned(), 0),
            Err(_) => ("failed to connect to host".to_owned(), 502),
        };
        // The log first: who sees the count finds the attempt.
        let arrived = status == "OK";
        self.record(Attempt {
            id: 0,
            guid: guid.to_owned(),
            delivered_at: state::now(),
            redelivery,
            duration: started.elapsed().as_secs_f64(),
            status,
            status_code,
            url,
            told: Arc::clone(told),
        });
        if arrived {
            self.inner().arrived += 1;
        }
    }

    /// What goes with a delivery, as GitHub spells it.
    pub fn headers(&self, guid: &str, body: &[u8]) -> [(&'static str, String); 8] {
        [
            ("Content-Type", "application/json".to_owned()),
            ("X-GitHub-Event", "workflow_job".to_owned()),
            ("X-GitHub-Delivery", guid.to_owned()),
            ("X-GitHub-Hook-ID", "480211".to_owned()),
            ("X-GitHub-Hook-Installation-Target-Type", "integration".to_owned()),
            ("X-GitHub-Hook-Installation-Target-ID", self.app_id.to_string()),
            ("X-Hub-Signature", sign_as_before(&self.secret, body)),
            ("X-Hub-Signature-256", sign(&self.secret, body)),
        ]
    }

    async fn post(&self, url: &str, guid: &str, body: Vec<u8>) -> reqwest::Result<u16> {
        let mut request = self.client.post(url).header("accept", "*/*");
        for (name, value) in self.headers(guid, &body) {
            request = request.header(name, value);
        }
        Ok(request.body(body).send().await?.status().as_u16())
    }
}

/// `sha256=` and the HMAC of the body.
pub fn sign(secret: &str, body: &[u8]) -> String {
    // An HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The signature that GitHub still sends for receivers of old.
fn sign_as_before(secret: &str, body: &[u8]) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    format!("sha1={}", hex::encode(aws_lc_rs::hmac::sign(&key, body)))
}

/// Sends what is told, until the play is over.
pub async fn deliver(github: GitHub) {
    loop {
        for copy in github.inner.webhooks.take_pending() {
            let sender = github.clone();
            github.inner.tracker.spawn(async move {
                let sending = async {
                    if !copy.delay.is_zero() {
                        tokio::time::sleep(copy.delay).await;
                    }
                    sender.inner.webhooks.send(&sender, &copy.guid, &copy.told, false).await;
                };
                sender.inner.stopping.run_until_cancelled(sending).await;
            });
        }
        tokio::select! {
            () = github.inner.told.notified() => {}
            () = github.inner.stopping.cancelled() => return,
        }
    }
}

impl Told {
    pub fn owner(&self) -> &str {
        self.job.repo.split('/').next().unwrap_or_default()
    }

    /// The body of its delivery.
    pub fn body(&self, github: &GitHub) -> Vec<u8> {
        payload::delivery(self, shapes::API, github.knows_org(self.owner()))
    }
}
