//! One call of GitHub, from permission to verdict: credential, budget, slot, wire, limits, retries.
//!
//! Reads and removals are repeated a bounded number of times when GitHub or the way to it fails. A registration is
//! not: its answer may be what was lost, and only the caller can look the name up. What a limit refused was not
//! done, so that is always safe to send again.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    app::Pinged,
    auth::{AppKey, Token, Tokens, guard},
    budget::{Budget, Class, Limit, Quota, Wait},
    error::{self, limit_refusal, rate_limited, shape, unavailable},
    http::{Answer, Http, NoAnswer, REQUEST_TIMEOUT, Request, Url},
    installations::Installations,
    model::{GitHubError, GitHubErrorKind},
};
use crate::{clock::SharedClock, config, fleet::runner::Target};

/// GitHub allows 100 requests at once; a few are left for whoever else uses the App.
const MAX_IN_FLIGHT: usize = 90;
/// Of these, at most so many for what is not a job start.
const MAX_LOW_IN_FLIGHT: usize = 30;
/// How long a call waits for a slot: twice the longest call.
const SLOT_WAIT: Duration = Duration::from_secs(30);
/// Times a call that may be repeated is repeated.
const RETRIES: u32 = 2;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Accounts whose limits are kept.
const MAX_BUDGETS: usize = 4_096;

/// A client of GitHub's API for one App. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub http: Http,
    pub app: AppKey,
    pub clock: SharedClock,
    pub installations: Installations,
    tokens: Tokens,
    budgets: Mutex<HashMap<Account, Budget>>,
    slots: Semaphore,
    low_slots: Semaphore,
    pub groups: Mutex<HashMap<(String, String), (i64, Timestamp)>>,
    pub pinged: Mutex<Pinged>,
    /// Of what goes on for nobody in particular. Nothing waits for it: all of it has its own deadline.
    pub tracker: TaskTracker,
}

/// Whose limits a call is counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Account {
    App,
    Installation(i64),
}

/// In whose name a call is made.
#[derive(Clone, Copy)]
pub(super) enum Identity<'a> {
    App,
    Installation {
        target: &'a Target,
        hint: Option<i64>,
    },
    /// Minting: the App's name, for this installation.
    Mint(i64),
}

/// A call, as the endpoints describe it.
pub(super) struct Call<'a> {
    /// For metrics: a fixed word.
    pub endpoint: &'static str,
    /// How messages begin: what was tried.
    pub subject: &'static str,
    pub identity: Identity<'a>,
    pub class: Class,
    pub method: Method,
    pub url: Url,
    pub body: Option<serde_json::Value>,
    /// Answers that the endpoint itself understands. Any other is an error.
    pub accept: &'static [StatusCode],
    /// What the App must be allowed for this.
    pub permission: Option<&'static str>,
    /// Whether it may be repeated after a fault.
    pub repeatable: bool,
    /// The target whose registrations it counts among.
    pub registers: Option<&'a Target>,
    /// When its caller stops waiting, if that is sooner than the patience of its class.
    pub deadline: Option<Instant>,
}

impl<'a> Call<'a> {
    /// A read.
    pub fn get(endpoint: &'static str, subject: &'static str, identity: Identity<'a>, class: Class, url: Url) -> Self {
        Self {
            endpoint,
            subject,
            identity,
            class,
            method: Method::GET,
            url,
            body: None,
            accept: &[StatusCode::OK],
            permission: None,
            repeatable: true,
            registers: None,
            deadline: None,
        }
    }

    /// How long it may wait for its turn from now on.
    fn patience(&self) -> Duration {
        let patience = self.class.patience();
        self.deadline.map_or(patience, |deadline| patience.min(deadline.saturating_duration_since(Instant::now())))
    }
}

#[derive(Clone)]
enum Credential {
    Jwt(SecretString),
    Token(i64, Arc<Token>),
}

impl Credential {
    fn expose(&self) -> &str {
        match self {
            Self::Jwt(jwt) => jwt.expose_secret(),
            Self::Token(_, token) => token.secret.expose_secret(),
        }
    }

    fn account(&self) -> Account {
        match self {
            Self::Jwt(_) => Account::App,
            Self::Token(id, _) => Account::Installation(*id),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.inner.http.host())
            .field("app_id", &self.inner.app.app_id())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Sets everything up; asks nothing yet. Fails when the key, the URL or the CA are unusable.
    pub fn new(config: &config::GitHub, clock: SharedClock) -> Result<Self, GitHubError> {
        Self::with_timeout(config, clock, REQUEST_TIMEOUT)
    }

    pub(super) fn with_timeout(
        config: &config::GitHub,
        clock: SharedClock,
        timeout: Duration,
    ) -> Result<Self, GitHubError> {
        let http = Http::new(&config.api_url, config.ca.as_deref(), timeout)?;
        let app = AppKey::new(config.app_id, &config.private_key, clock.now())?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                app,
                clock,
                installations: Installations::default(),
                tokens: Tokens::default(),
                budgets: Mutex::default(),
                slots: Semaphore::new(MAX_IN_FLIGHT),
                low_slots: Semaphore::new(MAX_LOW_IN_FLIGHT),
                groups: Mutex::default(),
                pinged: Mutex::default(),
                tracker: TaskTracker::new(),
            }),
        })
    }
}

#[derive(Deserialize)]
struct MintedToken {
    token: SecretString,
    expires_at: Timestamp,
}

impl Inner {
    /// Makes a call and decodes its answer; `expected` says in a message what the answer should have been.
    pub async fn fetch<T: DeserializeOwned>(
        self: &Arc<Self>,
        call: &Call<'_>,
        expected: &'static str,
    ) -> Result<(T, HeaderMap), GitHubError> {
        let answer = self.call(call).await?;
        let value = serde_json::from_slice(&answer.body).map_err(|reason| shape(call.subject, expected, &reason))?;
        Ok((value, answer.headers))
    }

    /// Makes a call. The answer's status is one the call accepts.
    pub async fn call(self: &Arc<Self>, call: &Call<'_>) -> Result<Answer, GitHubError> {
        let (mut faults, mut renewed, mut held_back) = (0, false, false);
        loop {
            let credential = self.credential(call.identity).await?;
            let error = match self.attempt(call, &credential).await {
                Ok(answer) if call.accept.contains(&answer.status) => return Ok(answer),
                Ok(answer) => {
                    if let (StatusCode::UNAUTHORIZED, Credential::Token(id, token), false) =
                        (answer.status, &credential, renewed)
                    {
                        renewed = true;
                        self.tokens.refuse(*id, token);
                        continue;
                    }
                    return Err(error::refusal(call, &answer, credential.expose(), self.clock.now()));
                }
                Err(error) => error,
            };
            match error.kind {
                // A server that says when it is back is not asked before.
                GitHubErrorKind::Unavailable
                    if call.repeatable && faults < RETRIES && error.retry_after <= Some(call.patience()) =>
                {
                    tokio::time::sleep(backoff(faults).max(error.retry_after.unwrap_or_default())).await;
                    faults += 1;
                }
                // It was not done, and the budget now makes the next round wait, if this call may wait that long.
                GitHubErrorKind::RateLimited if !held_back && error.retry_after < Some(call.patience()) => {
                    held_back = true;
                }
                GitHubErrorKind::Unavailable
                | GitHubErrorKind::RateLimited
                | GitHubErrorKind::Unauthorized
                | GitHubErrorKind::Forbidden
                | GitHubErrorKind::NotFound
                | GitHubErrorKind::NameTaken
                | GitHubErrorKind::Rejected => return Err(error),
            }
        }
    }

    /// As [`Inner::call`], of a named type: a call may need a credential, and getting one is a call.
    pub fn call_for_credential<'a>(
        self: &'a Arc<Self>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Answer, GitHubError>> {
        self.call(call).boxed()
    }

    async fn credential(self: &Arc<Self>, identity: Identity<'_>) -> Result<Credential, GitHubError> {
        match identity {
            Identity::App | Identity::Mint(_) => Ok(Credential::Jwt(self.app.jwt(self.clock.now())?)),
            Identity::Installation { target, hint } => {
                let id = self.installation(target, hint).await?;
                match self.token(id).await {
                    Ok(token) => Ok(Credential::Token(id, token)),
                    Err(error) if error.kind == GitHubErrorKind::NotFound => {
                        // Installed anew, it has another id.
                        self.installations.forget(id, self.clock.now());
                        let now_id = self.installation(target, None).await?;
                        if now_id == id {
                            return Err(error);
                        }
                        Ok(Credential::Token(now_id, self.token(now_id).await?))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn token(self: &Arc<Self>, installation: i64) -> Result<Arc<Token>, GitHubError> {
        let inner = Arc::clone(self);
        self.tokens.get(installation, self.clock.now(), || async move { inner.mint(installation).await }.boxed()).await
    }

    async fn mint(self: Arc<Self>, installation: i64) -> Result<Arc<Token>, GitHubError> {
        let call = Call {
            method: Method::POST,
            accept: &[StatusCode::CREATED],
            ..Call::get(
                "access_tokens",
                "installation token",
                Identity::Mint(installation),
                Class::Mint,
                self.http.url(&format!("app/installations/{installation}/access_tokens"), &[]),
            )
        };
        let answer = self.call_for_credential(&call).await?;
        let minted: MintedToken = serde_json::from_slice(&answer.body)
            .map_err(|reason| shape(call.subject, "an installation token with `expires_at`", &reason))?;
        Ok(Arc::new(Token::new(minted.token, minted.expires_at, self.clock.now())))
    }

    /// Sends it once: an answer of any status but a limit's or a fault's.
    async fn attempt(&self, call: &Call<'_>, credential: &Credential) -> Result<Answer, GitHubError> {
        let account = credential.account();
        self.admitted(account, call).await?;
        let _slots = self.slots(call).await?;
        let started = Instant::now();
        let sent = self.send(call, credential).await;
        metrics::histogram!("pacer_github_request_seconds", "endpoint" => call.endpoint)
            .record(started.elapsed().as_secs_f64());
        let status = sent.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status.as_str().to_owned());
        metrics::counter!("pacer_github_requests_total", "endpoint" => call.endpoint, "status" => status).increment(1);
        let answer = sent?;
        self.note(account, call, &answer)?;
        if answer.status.is_server_error() {
            let error = unavailable(call.subject, format_args!("GitHub answered {}", answer.status));
            return Err(GitHubError { retry_after: retry_after(&answer.headers), ..error });
        }
        Ok(answer)
    }

    /// Waits for the budget as long as the call may.
    async fn admitted(&self, account: Account, call: &Call<'_>) -> Result<(), GitHubError> {
        let deadline = Instant::now() + call.patience();
        let target = call.registers.map(ToString::to_string);
        loop {
            let now = self.clock.now();
            let verdict =
                self.budget(account, |budget| budget.admit(call.class, !call.method.is_safe(), target.as_deref(), now));
            let Err(wait) = verdict else { return Ok(()) };
            if Instant::now() + wait.time > deadline {
                return Err(rate_limited(call.subject, wait));
            }
            // Those who wait for the same moment must not all come in it.
            tokio::time::sleep(wait.time + Duration::from_millis(rand::random_range(0..250))).await;
        }
    }

    fn budget<T>(&self, account: Account, with: impl FnOnce(&mut Budget) -> T) -> T {
        let mut budgets = guard(&self.budgets);
        if budgets.len() >= MAX_BUDGETS && !budgets.contains_key(&account) {
            budgets.retain(|known, _| *known == Account::App);
        }
        with(budgets.entry(account).or_insert_with(|| Budget::new(self.http.is_github_com())))
    }

    async fn slots(
        &self,
        call: &Call<'_>,
    ) -> Result<(Option<tokio::sync::SemaphorePermit<'_>>, tokio::sync::SemaphorePermit<'_>), GitHubError> {
        let both = async {
            let low = match call.class {
                Class::Mint | Class::Jit => None,
                Class::Delete | Class::Reconcile | Class::List => self.low_slots.acquire().await.ok(),
            };
            self.slots.acquire().await.map(|slot| (low, slot))
        };
        match tokio::time::timeout(SLOT_WAIT, both).await {
            Ok(Ok(slots)) => Ok(slots),
            Ok(Err(_)) | Err(_) => {
                Err(unavailable(call.subject, format_args!("too many calls of GitHub are in flight")))
            }
        }
    }

    /// Follows one redirect, for repositories that were renamed, and only within the origin.
    async fn send(&self, call: &Call<'_>, credential: &Credential) -> Result<Answer, GitHubError> {
        let no_answer = |reason: NoAnswer| unavailable(call.subject, format_args!("`{}`: {reason}", self.http.host()));
        let request = |url: Url| Request {
            method: call.method.clone(),
            url,
            bearer: credential.expose(),
            body: call.body.as_ref(),
        };
        let answer = self.http.send(request(call.url.clone())).await.map_err(no_answer)?;
        if !answer.status.is_redirection() {
            return Ok(answer);
        }
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let Some(url) = location.and_then(|location| self.http.same_origin(&call.url, location)) else {
            return Err(GitHubError {
                kind: GitHubErrorKind::Rejected,
                message: format!(
                    "{}: `{}` redirects to another origin, where no token is sent; check `github.api_url`",
                    call.subject,
                    self.http.host()
                ),
                retry_after: None,
            });
        };
        let answer = self.http.send(request(url)).await.map_err(no_answer)?;
        if answer.status.is_redirection() {
            return Err(unavailable(call.subject, format_args!("GitHub redirects more than once")));
        }
        Ok(answer)
    }

    /// Takes note of what the answer says of limits; an error when it is a limit's.
    fn note(&self, account: Account, call: &Call<'_>, answer: &Answer) -> Result<(), GitHubError> {
        let now = self.clock.now();
        let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
        let quota = || {
            Some(Quota {
                limit: u32::try_from(number("x-ratelimit-limit")?).ok()?,
                remaining: u32::try_from(number("x-ratelimit-remaining")?).ok()?,
                reset: Timestamp::from_second(number("x-ratelimit-reset")?).ok()?,
            })
        };
        let quota = quota();
        let resource =
            answer.headers.get("x-ratelimit-resource").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let refused = limit_refusal(answer);
        let (pause, remaining) = self.budget(account, |budget| {
            if let Some(quota) = quota {
                budget.note(resource, quota, now);
            }
            let pause = if refused {
                Some(budget.refused(retry_after(&answer.headers), resource, quota, now))
            } else {
                budget.accepted(now);
                None
            };
            (pause, budget.remaining())
        });
        if let (Some(remaining), Account::Installation(id)) = (remaining, account) {
            metrics::gauge!("pacer_github_rate_remaining", "installation" => id.to_string()).set(f64::from(remaining));
        }
        pause.map_or(Ok(()), |time| Err(rate_limited(call.subject, Wait { time, limit: Limit::Asked })))
    }
}

/// Whole seconds; a date, which the header may hold too, is not what GitHub sends.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.max(1)))
}

/// Doubles, and a random half of it.
fn backoff(faults: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << faults.min(6)).mul_f64(rand::random_range(0.5..1.0))
}
