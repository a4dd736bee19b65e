//! Who may look: the bearer token, or a session that the sign-in form made from it.
//!
//! A session is a signed stamp: when it is over, and a number of its own. Its key is derived from the token, so a changed
//! token ends every session. Of those that were signed out the stamp is remembered until it is over, or pacer starts anew. The cookie is `SameSite=Strict` and every POST is checked for where it comes from, so another site can
//! neither sign somebody in nor out. Another way to sign in is another [`Credential`].

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::ConnectInfo;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{error::ApiError, throttle::Throttle};
use crate::config::{Auth, Config};

/// A working day.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Of sessions that were signed out and are not over; who signs out more often than this in a day has the token.
const MOST_ENDED: usize = 4096;
const PURPOSE: &[u8] = b"pacer console session v1";

/// Who asks, as the access log and the audit name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The doors are open.
    Anyone,
    /// Whoever holds `auth.token`.
    Token,
}

impl Actor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Token => "token",
        }
    }
}

/// Sessions that were signed out, with the second they would have been over.
#[derive(Debug, Default)]
pub struct Ended(Mutex<HashMap<String, i64>>);

impl Ended {
    fn contains(&self, stamp: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(stamp)
    }

    fn add(&self, stamp: &str, until: i64, now: Timestamp) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, until| *until > now.as_second());
        if ended.len() < MOST_ENDED {
            ended.insert(stamp.to_owned(), until);
        }
    }
}

/// How a request says who it is from.
#[derive(Debug)]
enum Credential<'a> {
    Bearer(&'a str),
    Session(&'a str),
}

/// Who the request is from; `Ok(None)` when it does not say. A wrong bearer token counts as a try.
pub fn authenticate(
    config: &Config,
    throttle: &Throttle,
    ended: &Ended,
    headers: &HeaderMap,
    address: IpAddr,
    now: Timestamp,
) -> Result<Option<Actor>, ApiError> {
    let token = match &config.auth {
        Auth::Disabled => return Ok(Some(Actor::Anyone)),
        Auth::Token(token) => token,
    };
    match credential(config, headers) {
        Some(Credential::Bearer(given)) => Ok(try_token(token, throttle, given, address, now)?.then_some(Actor::Token)),
        Some(Credential::Session(session)) => {
            let held = held(token, session, now).filter(|(stamp, _)| !ended.contains(stamp));
            Ok(held.map(|_| Actor::Token))
        }
        None => Ok(None),
    }
}

/// Compares a token. A wrong one counts against its address, and is an error while that has to wait.
pub fn try_token(
    token: &SecretString,
    throttle: &Throttle,
    given: &str,
    address: IpAddr,
    now: Timestamp,
) -> Result<bool, ApiError> {
    // Signatures are compared, not tokens: their lengths are equal, so the time does not show the token's.
    let right: bool = sign(token, given.as_bytes()).ct_eq(&sign(token, token.expose_secret().as_bytes())).into();
    if !right {
        throttle.wrong(address, now).map_err(ApiError::slow_down)?;
        tracing::warn!(client.address = %address, "a wrong token was given from {address}");
    }
    Ok(right)
}

/// The `Set-Cookie` of a new session.
pub fn open_session(config: &Config, token: &SecretString, now: Timestamp) -> String {
    let stamp = format!("{}-{:016x}", (now + SESSION).as_second(), rand::random::<u64>());
    let signature = hex::encode(sign(token, stamp.as_bytes()));
    cookie(config, &format!("{stamp}.{signature}"), SESSION.as_secs())
}

/// Ends the session of a request for good. The `Set-Cookie` takes it away from the browser.
pub fn close_session(config: &Config, ended: &Ended, headers: &HeaderMap, now: Timestamp) -> String {
    if let (Auth::Token(token), Some(session)) = (&config.auth, session(config, headers))
        && let Some((stamp, until)) = held(token, session, now)
    {
        ended.add(stamp, until, now);
    }
    cookie(config, "", 0)
}

/// Whether a POST comes from one of our own pages, or from no browser at all.
pub fn from_here(config: &Config, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(site) = text(http::HeaderName::from_static("sec-fetch-site"))
        && !matches!(site, "same-origin" | "none")
    {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    origin == public_origin(config) || (authority.is_some() && authority == text(header::HOST))
}

/// Where to go after signing in: a path of ours, whatever was asked for.
pub fn safe_next(next: &str) -> &str {
    let ours = next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !next.starts_with("/signin")
        && !next.starts_with("/signout");
    if ours { next } else { "/jobs" }
}

/// Where a request comes from. What `X-Forwarded-For` says counts only as far as trusted proxies wrote it: each adds
/// whom it heard from at the end, so the last one that is none of them is the client. Anybody can write the rest.
pub fn client_address(config: &Config, extensions: &http::Extensions, headers: &HeaderMap) -> IpAddr {
    let peer = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip().to_canonical());
    let trusted = |address: &IpAddr| config.server.trusted_proxies.iter().any(|network| network.contains(address));
    if headers.contains_key("x-forwarded-for") && !trusted(&peer) {
        name_the_proxy(peer);
    }
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let mut client = peer;
    for heard in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !trusted(&client) {
            break;
        }
        match heard.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client
}

/// Says once that a reverse proxy may not be known as one.
fn name_the_proxy(peer: IpAddr) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            client.address = %peer,
            "{peer} says with `X-Forwarded-For` whom it asks for, and is not believed: if it is your reverse proxy, add \
             it to `server.trusted_proxies`; until then everybody behind it counts as one caller"
        );
    }
}

/// The token of an `Authorization: Bearer`. Any other scheme is not for pacer: a proxy's own, perhaps.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn credential<'a>(config: &Config, headers: &'a HeaderMap) -> Option<Credential<'a>> {
    let bearer = bearer(headers).map(Credential::Bearer);
    bearer.or_else(|| session(config, headers).map(Credential::Session))
}

fn session<'a>(config: &Config, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = cookie_name(config);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// The stamp of a session that is signed and not over, and when it is.
fn held<'a>(token: &SecretString, session: &'a str, now: Timestamp) -> Option<(&'a str, i64)> {
    let (stamp, signature) = session.split_once('.')?;
    let until: i64 = stamp.split_once('-')?.0.parse().ok()?;
    let signature = hex::decode(signature).ok()?;
    let signed: bool = sign(token, stamp.as_bytes()).ct_eq(signature.as_slice()).into();
    (signed && until > now.as_second()).then_some((stamp, until))
}

fn sign(token: &SecretString, message: &[u8]) -> [u8; 32] {
    let key = mac(token.expose_secret().as_bytes(), PURPOSE);
    mac(&key, message)
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

pub fn is_https(config: &Config) -> bool {
    config.server.public_url.starts_with("https://")
}

/// The prefix makes browsers refuse it from other hosts and without TLS; without TLS it may not be used.
fn cookie_name(config: &Config) -> &'static str {
    if is_https(config) { "__Host-pacer_session" } else { "pacer_session" }
}

fn cookie(config: &Config, value: &str, max_age: u64) -> String {
    let secure = if is_https(config) { "; Secure" } else { "" };
    format!("{}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}", cookie_name(config))
}

fn public_origin(config: &Config) -> &str {
    let url = config.server.public_url.as_str();
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find('/').map_or(url, |end| &url[..start + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_here() {
        for (next, expected) in [
            ("/jobs?status=queued", "/jobs?status=queued"),
            ("/jobs/1-1", "/jobs/1-1"),
            ("https://evil.example/", "/jobs"),
            ("//evil.example/", "/jobs"),
            ("/\\evil.example", "/jobs"),
            ("/\t/evil.example", "/jobs"),
            ("/signin?next=/signin", "/jobs"),
            ("", "/jobs"),
        ] {
            assert_eq!(safe_next(next), expected, "{next:?}");
        }
    }

    #[test]
    fn a_session_ends_with_its_token_and_its_time() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let token = SecretString::from("a".repeat(32));
        let expires = now.as_second() + 10;
        let stamp = format!("{expires}-00ff");
        let session = format!("{stamp}.{}", hex::encode(sign(&token, stamp.as_bytes())));
        assert_eq!(held(&token, &session, now), Some((stamp.as_str(), expires)));
        assert_eq!(held(&token, &session, now + Duration::from_secs(10)), None);
        assert_eq!(held(&SecretString::from("b".repeat(32)), &session, now), None);
        let longer = session.replacen(&expires.to_string(), &(expires + 1).to_string(), 1);
        for broken in ["", ".", "-.", "x.y", &session[..session.len() - 2], &longer] {
            assert_eq!(held(&token, broken, now), None, "{broken}");
        }
    }
}
