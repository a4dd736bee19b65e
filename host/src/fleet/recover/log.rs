//! The App's delivery log: what of it has not been taken in yet.
//!
//! A look goes through the log from its newest entry back to the mark, and takes in what no attempt brought home, oldest
//! first and each as it comes. The mark moves up to the oldest one that is still missing, so nothing is lost when a look
//! ends early; and what cannot be had holds nothing else up.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use tracing::warn;

use crate::github::{DeliveryAttempt, GitHubApi, GitHubError, GitHubErrorKind, MissedDelivery};

/// GitHub keeps deliveries for three days.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// How much a look overlaps the one before: deliveries are logged when they are over, up to this much later.
const OVERLAP: Duration = Duration::from_secs(120);
/// Payloads are read a few at a time, so that other calls of the App get through.
const AT_ONCE: usize = 4;
/// Missed deliveries that one look remembers, about 200 bytes each. The next one goes on with what is beyond.
const MAX_MISSED: usize = 20_000;
/// In so many looks a delivery could not be read while others could: then it is given up.
const TRIES: u32 = 3;
/// The log is not asked further when the first so many of a look cannot be read: GitHub is in trouble.
const IN_TROUBLE: usize = 4;
/// Where GitHub names no time.
const PAUSE: Duration = Duration::from_secs(60);

/// What became of a delivery.
#[derive(Debug)]
pub enum Taken {
    In,
    /// It can never be taken in.
    Unusable(String),
    /// The store does not take it now.
    NotNow,
}

/// Where missed deliveries go.
pub trait Intake: Sync {
    fn take(&self, missed: MissedDelivery) -> BoxFuture<'_, Taken>;

    /// Waits; false when it is over.
    fn pause(&self, time: Duration) -> BoxFuture<'_, bool>;
}

#[derive(Debug)]
pub struct DeliveryLog {
    /// What was delivered before is settled.
    mark: Timestamp,
    /// Settled deliveries since the mark, by GUID.
    settled: HashMap<String, Timestamp>,
    /// Looks in which a delivery could not be read.
    tries: HashMap<String, u32>,
}

impl DeliveryLog {
    /// All of the log that there is.
    pub fn new(now: Timestamp) -> Self {
        Self { mark: now - KEPT, settled: HashMap::new(), tries: HashMap::new() }
    }

    /// One look. It waits for its turn where GitHub's limits make it; an error is of the log as a whole.
    pub async fn look(
        &mut self,
        github: &dyn GitHubApi,
        intake: &dyn Intake,
        now: Timestamp,
    ) -> Result<(), GitHubError> {
        self.mark = self.mark.max(now - KEPT);
        let (missed, whole) = self.missed(github, intake).await?;
        let outcome = self.take_in(github, intake, &missed).await;
        let left = missed.iter().filter(|one| !self.settled.contains_key(&one.guid));
        let oldest = left.map(|one| one.delivered_at).min();
        if whole {
            self.mark = self.mark.max(oldest.unwrap_or(now).min(now - OVERLAP));
        }
        self.settled.retain(|_, delivered_at| *delivered_at >= self.mark);
        let open: HashSet<&str> = missed.iter().map(|one| one.guid.as_str()).collect();
        self.tries.retain(|guid, _| open.contains(guid.as_str()) && !self.settled.contains_key(guid));
        outcome
    }

    /// Deliveries since the mark that no attempt brought home and that are not settled, oldest first; and whether these are all.
    async fn missed(
        &self,
        github: &dyn GitHubApi,
        intake: &dyn Intake,
    ) -> Result<(Vec<DeliveryAttempt>, bool), GitHubError> {
        let mut missed: HashMap<String, DeliveryAttempt> = HashMap::new();
        // A first attempt that arrived has none before it.
        let mut healed = HashSet::new();
        let mut cursor: Option<String> = None;
        let whole = loop {
            let page = patiently(intake, || github.delivery_log(cursor.as_deref())).await?;
            let beyond = page.attempts.iter().any(|attempt| attempt.delivered_at < self.mark);
            for attempt in page.attempts {
                if attempt.event != "workflow_job" || attempt.delivered_at < self.mark {
                    continue;
                }
                if !attempt.arrived {
                    if !healed.contains(&attempt.guid) && !self.settled.contains_key(&attempt.guid) {
                        missed.entry(attempt.guid.clone()).or_insert(attempt);
                    }
                } else if attempt.redelivery {
                    healed.insert(attempt.guid);
                }
            }
            match page.next {
                Some(next) if !beyond && cursor.as_ref() != Some(&next) => cursor = Some(next),
                Some(_) | None => break true,
            }
            if missed.len() >= MAX_MISSED {
                break false;
            }
        };
        let mut missed: Vec<_> = missed.into_values().collect();
        missed.sort_by_key(|attempt| (attempt.delivered_at, attempt.id));
        Ok((missed, whole))
    }

    async fn take_in(
        &mut self,
        github: &dyn GitHubApi,
        intake: &dyn Intake,
        missed: &[DeliveryAttempt],
    ) -> Result<(), GitHubError> {
        let mut unread: Vec<(&DeliveryAttempt, GitHubError)> = Vec::new();
        let mut read = false;
        for some in missed.chunks(AT_ONCE) {
            let payloads = join_all(some.iter().map(|one| patiently(intake, || github.delivery(one.id)))).await;
            for (one, payload) in some.iter().zip(payloads) {
                match payload {
                    Ok(payload) => {
                        read = true;
                        let Some(payload) = payload else {
                            self.settle(one);
                            continue;
                        };
                        let (guid, event) = (one.guid.clone(), one.event.clone());
                        match intake.take(MissedDelivery { guid, event, payload }).await {
                            Taken::In => self.settle(one),
                            Taken::Unusable(reason) => self.give_up(one, &reason),
                            Taken::NotNow => return Ok(()),
                        }
                    }
                    Err(error) => match error.kind {
                        GitHubErrorKind::Unauthorized | GitHubErrorKind::Forbidden | GitHubErrorKind::RateLimited => {
                            return Err(error);
                        }
                        GitHubErrorKind::NotFound
                        | GitHubErrorKind::NameTaken
                        | GitHubErrorKind::Rejected
                        | GitHubErrorKind::Unavailable => unread.push((one, error)),
                    },
                }
            }
            if !read && unread.len() >= IN_TROUBLE {
                break;
            }
        }
        if !read {
            return unread.into_iter().next().map_or(Ok(()), |(_, error)| Err(error));
        }
        for (one, error) in unread {
            let tries = self.tries.entry(one.guid.clone()).or_default();
            *tries += 1;
            if *tries >= TRIES {
                self.give_up(one, &error.message);
            }
        }
        Ok(())
    }

    fn settle(&mut self, one: &DeliveryAttempt) {
        self.settled.insert(one.guid.clone(), one.delivered_at);
    }

    fn give_up(&mut self, one: &DeliveryAttempt, reason: &str) {
        warn!(delivery.id = %one.guid, "delivery `{}` of the App's log is given up: {reason}", one.guid);
        metrics::counter!("pacer_deliveries_given_up_total").increment(1);
        self.settle(one);
    }
}

/// Asks again when it is time, where a limit is all that is in the way.
async fn patiently<'a, T>(
    intake: &dyn Intake,
    ask: impl Fn() -> BoxFuture<'a, Result<T, GitHubError>>,
) -> Result<T, GitHubError> {
    loop {
        match ask().await {
            Err(error) if error.kind == GitHubErrorKind::RateLimited => {
                if !intake.pause(error.retry_after.unwrap_or(PAUSE)).await {
                    return Err(error);
                }
            }
            outcome => return outcome,
        }
    }
}
