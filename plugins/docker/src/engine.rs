//! The engine's API: which version is spoken, and the requests made of it.
//!
//! Only statuses and fields decide anything; the engine's sentences are passed on to people and never read.

use std::{
    io::{BufRead, BufReader, Read},
    time::Duration,
};

use pacer_backend::{
    Call, Destruction, Error, ErrorKind, Page,
    http::{Request, Response, encode, kind_of},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    container::{Listed, Seen},
    settings::{Pool, Settings, tagged},
};

/// The name of the endpoint.
pub const ENDPOINT: &str = "engine";
/// The oldest API that is spoken, that of Docker 19.03; Podman's compatible API answers it too.
const OLDEST: Version = (1, 40);
/// The newest API that this backend was written against. An engine that asks for a newer one is spoken to in its own
/// oldest: what is used here has been the same since [`OLDEST`].
const NEWEST: Version = (1, 47);
/// Under this key the negotiated version is remembered.
const API_KEY: &str = "api";
/// Containers in one page of a listing.
pub const PAGE: usize = 500;
/// The first API in which the platform of a container can be asked for; an older one ignores the question.
const PLATFORMS: Version = (1, 41);
/// Bytes of a listing, which the engine cannot page: at about 2 KB each, some 8,000 containers. It is what the host
/// lets through unless it is told otherwise.
const LIST_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one line of a pull's progress; they are a few hundred.
const LINE_MAX: u64 = 64 * 1024;
/// Kept for the removal that follows a stop.
const REMOVAL: Duration = Duration::from_secs(6);
/// What the engine may need beyond the grace to kill and to answer.
const STOP_MARGIN: Duration = Duration::from_secs(3);

type Version = (u32, u32);

#[derive(Clone, Copy)]
enum Verb {
    Get,
    Post,
    Delete,
}

/// The engine, as one call sees it.
pub struct Engine<'c, 't>(pub &'c Call<'t, Settings>);

/// What `/version` says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spoken {
    #[serde(rename = "ApiVersion")]
    newest: String,
    #[serde(rename = "MinAPIVersion")]
    oldest: String,
}

impl Engine<'_, '_> {
    /// Asks with the remembered version. A refusal may mean that the engine was replaced by one that no longer speaks
    /// it, so it is negotiated again and the request repeated if that changed anything.
    fn ask(&self, verb: Verb, path: &str, body: Option<&Value>, limit: Option<Duration>) -> Result<Response, Error> {
        let known = self.remembered();
        let remembered = known.is_some();
        let api = known.map_or_else(|| self.negotiate(), Ok)?;
        let response = self.send(verb, &format!("{api}{path}"), body, limit)?;
        if response.status == 400 && remembered {
            // Where the question fails, the refusal is the better answer.
            match self.negotiate() {
                Ok(now) if now != api => return self.send(verb, &format!("{now}{path}"), body, limit),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(response)
    }

    fn remembered(&self) -> Option<String> {
        self.0.cache.get(API_KEY).and_then(|bytes| String::from_utf8(bytes).ok())
    }

    fn send(&self, verb: Verb, path: &str, body: Option<&Value>, limit: Option<Duration>) -> Result<Response, Error> {
        let mut request = match verb {
            Verb::Get => Request::get(ENDPOINT, path),
            Verb::Post => Request::post(ENDPOINT, path),
            Verb::Delete => Request::delete(ENDPOINT, path),
        };
        if let Some(body) = body {
            request = request.json(body)?;
        }
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        request.send(self.0)
    }

    /// The path's first part, `/v1.41`: the newest version that both speak. Empty, which means the engine's own
    /// newest, where something between forbids the question.
    fn negotiate(&self) -> Result<String, Error> {
        let response = self.send(Verb::Get, "/version", None, None)?;
        let api = match response.status {
            403..=405 => String::new(),
            _ => {
                let said: Spoken = response.success()?.json()?;
                let newest = version(&said.newest).ok_or_else(|| {
                    Error::unavailable("the engine does not say which API version it speaks; is it a container engine?")
                })?;
                let oldest = version(&said.oldest).unwrap_or(OLDEST);
                if newest < OLDEST {
                    return Err(Error::invalid_config(format!(
                        "the engine speaks API {}.{} at most and {}.{} is needed; update it to Docker 19.03 or later",
                        newest.0, newest.1, OLDEST.0, OLDEST.1
                    )));
                }
                let spoken = newest.min(NEWEST).max(oldest);
                format!("/v{}.{}", spoken.0, spoken.1)
            }
        };
        self.0.cache.set(API_KEY, api.as_bytes());
        Ok(api)
    }

    /// Asks for a container of this name; any status is an answer.
    pub fn create(&self, name: &str, pool: &Pool, body: &Value) -> Result<Response, Error> {
        let mut path = format!("/containers/create?name={}", encode(name));
        if let Some(platform) = &pool.platform {
            let api = self.remembered().map_or_else(|| self.negotiate(), Ok)?;
            let spoken = api.strip_prefix("/v").and_then(version).unwrap_or(NEWEST);
            if spoken < PLATFORMS {
                return Err(Error::invalid_config(format!(
                    "the engine speaks API {}.{} and would ignore `platform`, which needs {}.{}; update it to Docker \
                     20.10 or later",
                    spoken.0, spoken.1, PLATFORMS.0, PLATFORMS.1
                )));
            }
            path.push_str(&format!("&platform={}", encode(platform)));
        }
        self.ask(Verb::Post, &path, Some(body), None)
    }

    /// `start`, `pause`, `unpause`; any status is an answer.
    pub fn act(&self, id: &str, action: &str) -> Result<Response, Error> {
        self.ask(Verb::Post, &format!("/containers/{}/{action}", encode(id)), None, None)
    }

    /// The container of this id or name.
    pub fn inspect(&self, id: &str) -> Result<Option<Seen>, Error> {
        self.look(id)?.or_else(|refusal| refusal.success()?.json().map(Some))
    }

    /// The container of this id or name, or the engine's refusal to tell.
    fn look(&self, id: &str) -> Result<Result<Option<Seen>, Response>, Error> {
        let response = self.ask(Verb::Get, &format!("/containers/{}/json", encode(id)), None, None)?;
        match response.status {
            404 => Ok(Ok(None)),
            _ if response.is_success() => response.json().map(|seen| Ok(Some(seen))),
            _ => Ok(Err(response)),
        }
    }

    /// The containers of `owner` whose id follows `cursor`. The engine cannot page, so the cut is made here; ids never
    /// change, so what comes or goes between two pages moves nothing else.
    pub fn list(&self, owner: &str, cursor: Option<&str>, page: usize) -> Result<Page, Error> {
        let filters = json!({ "label": [format!("pacer.owner={owner}")] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", encode(&filters));
        let bytes = self.ask(Verb::Get, &path, None, None)?.success()?.bytes(LIST_MAX)?;
        let mut listed: Vec<Listed> = serde_json::from_slice(&bytes)
            .map_err(|_| Error::unavailable("the engine's listing of its containers is not the JSON expected"))?;
        listed.retain(|one| one.owner() == owner && cursor.is_none_or(|c| one.id.as_str() > c));
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        let more = listed.len() > page;
        listed.truncate(page);
        let next = if more { listed.last().map(|one| one.id.clone()) } else { None };
        let mut instances = Vec::with_capacity(listed.len());
        for one in listed {
            if one.has_ended() {
                // A listing has no exit code. What is gone by now is left out, and what cannot be looked at is no
                // reason to know nothing of the others.
                instances.extend(match self.look(&one.id)? {
                    Ok(seen) => seen.map(Seen::into_instance),
                    Err(refusal) => Some(one.into_unknown(&fail(refusal))),
                });
            } else {
                instances.push(one.into_instance());
            }
        }
        Ok(Page { instances, next })
    }

    /// Ends what has this handle. An engine that fails at looking at a container may still be able to remove it.
    pub fn destroy(&self, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        match self.look(handle)? {
            Ok(None) => Ok(Destruction::Gone),
            Ok(Some(seen)) => self.end(&seen.id, Some(&seen), grace_ms),
            Err(refusal) if refusal.status >= 500 => self.end(handle, None, grace_ms),
            Err(refusal) => Err(fail(refusal)),
        }
    }

    /// Stops within the grace as far as the call has room for it, then removes by force.
    fn end(&self, id: &str, seen: Option<&Seen>, grace_ms: u64) -> Result<Destruction, Error> {
        if seen.is_none_or(Seen::is_up) {
            if seen.is_some_and(Seen::is_paused) {
                // Frozen processes receive no signal. If this fails the removal still ends them.
                let _ = self.act(id, "unpause")?;
            }
            let grace = grace_ms.div_ceil(1000);
            let wished = seen.and_then(Seen::stop_timeout).map_or(grace, |own| grace.min(own));
            // The engine kills when `t` is over, so `t` never exceeds what the call has left.
            let seconds = wished.min(self.0.remaining().saturating_sub(REMOVAL).as_secs());
            let path = format!("/containers/{}/stop?t={seconds}", encode(id));
            let limit = Duration::from_secs(seconds) + STOP_MARGIN;
            match self.ask(Verb::Post, &path, None, Some(limit)) {
                Ok(answer) if answer.status == 404 => return Ok(Destruction::Gone),
                // The operator forbids it: to remove without a stop is not what was allowed.
                Ok(answer) if matches!(answer.status, 401 | 403) => return Err(fail(answer)),
                // Whatever else came of it, the removal ends it.
                Ok(_) | Err(_) => {}
            }
        }
        self.remove(id)
    }

    /// Removes by force, anonymous volumes with it.
    pub fn remove(&self, id: &str) -> Result<Destruction, Error> {
        let response = self.ask(Verb::Delete, &format!("/containers/{}?force=1&v=1", encode(id)), None, None)?;
        match response.status {
            404 => Ok(Destruction::Gone),
            // Somebody's removal of it is in progress.
            409 => Ok(Destruction::Stopping),
            _ if response.is_success() => Ok(Destruction::Gone),
            _ => Err(fail(response)),
        }
    }

    /// Both output streams' last `lines`.
    pub fn logs(&self, id: &str, lines: u32) -> Result<Box<dyn Read>, Error> {
        let path = format!("/containers/{}/logs?stdout=1&stderr=1&tail={lines}", encode(id));
        let response = self.ask(Verb::Get, &path, None, None)?;
        match response.status {
            // The operator chose a logging driver that cannot be read.
            501 => Err(response.into_error(ErrorKind::Unsupported)),
            _ => response.success().map(Response::into_reader),
        }
    }

    /// Whether the engine has the image.
    pub fn has_image(&self, image: &str) -> Result<bool, Error> {
        // The name is part of the path as it is: its slashes and its colon belong there.
        let name: Vec<_> = tagged(image).split('/').map(encode).collect();
        let response = self.ask(Verb::Get, &format!("/images/{}/json", name.join("/")), None, None)?;
        match response.status {
            404 => Ok(false),
            _ if response.is_success() => Ok(true),
            _ => Err(fail(response)),
        }
    }

    /// Pulls, and reads the progress to its end: the engine reports a pull that fails late inside a 200.
    pub fn pull(&self, pool: &Pool) -> Result<(), Error> {
        let image = &pool.image;
        let mut path = format!("/images/create?fromImage={}", encode(&tagged(image)));
        if let Some(platform) = &pool.platform {
            path.push_str(&format!("&platform={}", encode(platform)));
        }
        let response = self.ask(Verb::Post, &path, None, None).map_err(|e| slow_pull(image, e))?;
        if !response.is_success() {
            let mut error = fail(response);
            error.message = format!("pulling `{image}`: {}", error.message);
            return Err(error);
        }
        let mut stream = BufReader::new(response.into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut stream)
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)
                .map_err(|e| slow_pull(image, Error::unavailable(e.to_string())))?;
            if line.is_empty() {
                return Ok(());
            }
            let Ok(said) = serde_json::from_slice::<Value>(&line) else { continue };
            if let Some(text) = said["error"].as_str() {
                let code = said["errorDetail"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
                let kind = code.filter(|code| *code >= 400).map_or(ErrorKind::Unavailable, kind_of);
                return Err(Error::new(kind, format!("pulling `{image}`: {text}")));
            }
        }
    }
}

fn slow_pull(image: &str, error: Error) -> Error {
    let way_out = "if the image is large, pull it beforehand or raise the pool's `timeouts.create`";
    Error::new(error.kind, format!("pulling `{image}` broke off ({}); {way_out}", error.message))
}

/// A 400 of the engine judges what the pool's settings became.
pub fn fail(response: Response) -> Error {
    let kind = if response.status == 400 { ErrorKind::InvalidConfig } else { kind_of(response.status) };
    response.into_error(kind)
}

/// `1.41` as numbers, which compare as versions do.
fn version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
