//! Who pacer is to GitHub: the App's JWT, and one token an installation.
//!
//! A token is minted once however many callers wait for it, renewed before it expires, and dropped when GitHub
//! refuses it. Tokens are opaque: of any length and any characters. They live in memory only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::model::{GitHubError, GitHubErrorKind};

/// GitHub's clock may be behind ours.
const BACKDATED: Duration = Duration::from_secs(60);
/// GitHub refuses more than ten minutes.
const JWT_LIFE: Duration = Duration::from_secs(9 * 60);
/// Signing takes about a millisecond, so a JWT serves for the better part of its life.
const JWT_REUSE: Duration = Duration::from_secs(5 * 60);
/// A token lives an hour: renewed at 53 minutes, so that no call in flight meets its end.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 60);
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
/// A token this close to its end is not used any more, even when no new one can be had.
const UNUSABLE_BEFORE: Duration = Duration::from_secs(60);
/// While renewing fails and the old token still works, GitHub is not asked for another more often than this.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// Installations whose tokens are kept; each is about 1 KiB.
const MAX_TOKENS: usize = 4_096;

pub(super) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The App and its key.
pub(super) struct AppKey {
    app_id: u64,
    key: EncodingKey,
    last: Mutex<Option<(Timestamp, SecretString)>>,
}

#[derive(Serialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

impl AppKey {
    /// Signs once, so that a key that cannot is found at the start.
    pub fn new(app_id: u64, pem: &SecretString, now: Timestamp) -> Result<Self, GitHubError> {
        let unusable = || {
            GitHubError {
            kind: GitHubErrorKind::Unauthorized,
            message: "`github.private_key_path`: not the PEM of an RSA private key; download a new key from the App's settings"
                .into(),
            retry_after: None,
        }
        };
        let key = EncodingKey::from_rsa_pem(pem.expose_secret().as_bytes()).map_err(|_| unusable())?;
        let app = Self { app_id, key, last: Mutex::new(None) };
        app.jwt(now).map_err(|_| unusable())?;
        Ok(app)
    }

    pub fn app_id(&self) -> u64 {
        self.app_id
    }

    pub fn jwt(&self, now: Timestamp) -> Result<SecretString, GitHubError> {
        let mut last = guard(&self.last);
        if let Some((signed, jwt)) = &*last
            && *signed <= now
            && now.duration_since(*signed).unsigned_abs() < JWT_REUSE
        {
            return Ok(jwt.clone());
        }
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(0);
        let claims = Claims {
            iat: now.as_second() - seconds(BACKDATED),
            exp: now.as_second() + seconds(JWT_LIFE),
            iss: self.app_id.to_string(),
        };
        let jwt =
            jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key).map_err(|_| GitHubError {
                kind: GitHubErrorKind::Unauthorized,
                message: "the App's private key cannot sign".into(),
                retry_after: None,
            })?;
        let jwt = SecretString::from(jwt);
        *last = Some((now, jwt.clone()));
        Ok(jwt)
    }
}

/// An installation's token.
pub(super) struct Token {
    pub secret: SecretString,
    pub expires_at: Timestamp,
}

impl Token {
    /// GitHub's word on the end of it, unless a clock is wrong.
    pub fn new(secret: SecretString, expires_at: Timestamp, now: Timestamp) -> Self {
        let longest = now.checked_add(LONGEST_TOKEN_LIFE).unwrap_or(expires_at);
        Self { secret, expires_at: expires_at.min(longest) }
    }

    fn lasts(&self, margin: Duration, now: Timestamp) -> bool {
        now.checked_add(margin).is_ok_and(|then| then < self.expires_at)
    }
}

type Outcome = Result<Arc<Token>, GitHubError>;
pub(super) type Minting = Shared<BoxFuture<'static, Outcome>>;

#[derive(Default)]
struct Slot {
    token: Option<Arc<Token>>,
    minting: Option<Minting>,
    renew_not_before: Option<Timestamp>,
}

/// The tokens of all installations.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<i64, Slot>>);

impl Tokens {
    /// The token in hand, or the one that `mint` brings; one call of it serves everybody who waits.
    pub async fn get(
        &self,
        installation: i64,
        now: Timestamp,
        mint: impl FnOnce() -> BoxFuture<'static, Outcome>,
    ) -> Outcome {
        let minting = {
            let mut slots = guard(&self.0);
            make_room(&mut slots, installation, now);
            let slot = slots.entry(installation).or_default();
            if let Some(token) = &slot.token {
                let resting = slot.renew_not_before.is_some_and(|then| now < then);
                if token.lasts(RENEW_BEFORE, now) || (resting && token.lasts(UNUSABLE_BEFORE, now)) {
                    return Ok(Arc::clone(token));
                }
            }
            slot.minting.get_or_insert_with(|| mint().shared()).clone()
        };
        let outcome = minting.clone().await;
        let mut slots = guard(&self.0);
        let slot = slots.entry(installation).or_default();
        if slot.minting.as_ref().is_some_and(|current| current.ptr_eq(&minting)) {
            slot.minting = None;
            if let Ok(token) = &outcome {
                slot.token = Some(Arc::clone(token));
                slot.renew_not_before = None;
            } else {
                slot.renew_not_before = now.checked_add(RENEW_AGAIN).ok();
            }
        }
        outcome.or_else(|error| match &slot.token {
            Some(old) if error.kind != GitHubErrorKind::NotFound && old.lasts(UNUSABLE_BEFORE, now) => {
                tracing::warn!(installation.id = installation, error = %error, "the installation's token cannot be renewed yet; the old one serves on");
                Ok(Arc::clone(old))
            }
            Some(_) | None => Err(error),
        })
    }

    /// GitHub refused this token. One that has come since stays.
    pub fn refuse(&self, installation: i64, refused: &Arc<Token>) {
        if let Some(slot) = guard(&self.0).get_mut(&installation)
            && slot.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused))
        {
            slot.token = None;
        }
    }
}

fn make_room(slots: &mut HashMap<i64, Slot>, wanted: i64, now: Timestamp) {
    if slots.len() < MAX_TOKENS || slots.contains_key(&wanted) {
        return;
    }
    slots.retain(|_, slot| slot.minting.is_some() || slot.token.as_ref().is_some_and(|token| token.expires_at > now));
    if slots.len() >= MAX_TOKENS {
        let ends_first = slots.iter().min_by_key(|(_, slot)| slot.token.as_ref().map(|token| token.expires_at));
        if let Some(id) = ends_first.map(|(id, _)| *id) {
            slots.remove(&id);
        }
    }
}
