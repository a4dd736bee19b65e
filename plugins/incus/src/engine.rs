//! Incus' API 1.0: the requests made of it, and its operations.
//!
//! It answers most failures with 500 and a sentence. Sentences are for people; where the reason matters, what was
//! named is looked up.

use std::{io::Read, time::Duration};

use pacer_backend::{
    Call, Destruction, Error, ErrorKind, RunnerRequest,
    http::{Request, Response, encode, kind_of},
};
use serde_json::{Value, json};

use crate::{
    instance::{OWNER, Seen, State},
    settings::{Pool, Settings, body},
};

/// The name of the endpoint.
pub const ENDPOINT: &str = "incus";
/// Bytes of a listing, which Incus cannot page: at about 3 KB each, some 5,000 instances.
const LIST_MAX: usize = 16 * 1024 * 1024;
/// Kept for what follows the wait for an operation: a look at what came of it.
const LOOK: Duration = Duration::from_secs(1);
/// Kept for the forced stop and the removal that follow a graceful stop.
const REMOVAL: Duration = Duration::from_secs(6);
/// How long an instance that did not start may refuse to be deleted.
const SETTLING: Duration = Duration::from_secs(5);
/// How long an instance that another call is making may refuse to be used: an image is unpacked meanwhile.
pub const BUSY: Duration = Duration::from_secs(30);
/// Between two looks at an instance that another operation keeps busy.
pub const POLL: Duration = Duration::from_millis(100);
/// A storage pool of which less than this part is free is full.
const FREE_PART: u64 = 100;
/// The status code of an operation that ended well; those below it have not ended.
const SUCCESS: u64 = 200;

/// The server, as one call sees it.
pub struct Incus<'c, 't>(pub &'c Call<'t, Settings>);

impl Incus<'_, '_> {
    fn path(&self, path: &str) -> String {
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("/1.0{path}{sign}project={}", encode(&self.0.settings.project))
    }

    fn look(&self, path: &str) -> Result<Response, Error> {
        Request::get(ENDPOINT, self.path(path)).send(self.0)
    }

    /// Sends, and waits for the operation if it started one: whether that ended before the call has to.
    fn finish(&self, request: Request) -> Result<bool, Error> {
        let response = success(request.send(self.0)?)?;
        let started: Value = response.json()?;
        let Some(operation) = started["operation"].as_str().filter(|path| path.starts_with("/1.0/operations/")) else {
            return Ok(true);
        };
        let seconds = self.0.remaining().saturating_sub(LOOK).as_secs().max(1);
        let response = Request::get(ENDPOINT, format!("{operation}/wait?timeout={seconds}")).send(self.0)?;
        if response.status == 404 {
            // It ended and was forgotten. What came of it is seen in what it was done to.
            return Ok(true);
        }
        // A failure is told in the body of a 200.
        let ended: Value = success(response)?.json()?;
        if ended["type"] == "error" {
            let kind = match ended["error_code"].as_u64().and_then(|code| u16::try_from(code).ok()) {
                Some(400) => ErrorKind::InvalidConfig,
                Some(code @ 401..=499) => kind_of(code),
                Some(_) | None => ErrorKind::Other,
            };
            return Err(Error::new(kind, format!("incus: {}", ended["error"].as_str().unwrap_or("no reason given"))));
        }
        let operation = &ended["metadata"];
        match operation["status_code"].as_u64() {
            Some(SUCCESS) => Ok(true),
            Some(0..SUCCESS) => Ok(false),
            Some(_) | None => Err(Error::other(format!("incus: {}", operation["err"].as_str().unwrap_or("cancelled")))),
        }
    }

    /// Asks for the instance and waits until it is there.
    pub fn make(&self, request: &RunnerRequest<Pool>) -> Result<(), Error> {
        match self.finish(Request::post(ENDPOINT, self.path("/instances")).json(&body(request))?)? {
            true => Ok(()),
            false => Err(Error::unavailable(format!(
                "`{}` is still being made; if the image is large, raise the pool's `timeouts.create`",
                request.name
            ))),
        }
    }

    /// Why no instance could be made: an image or a profile that is not there, a full project, full storage, or `error`
    /// itself.
    pub fn explain(&self, pool: &Pool, error: Error) -> Error {
        if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::NotFound) {
            return error;
        }
        // What cannot be told explains nothing.
        let ask = |path: String| match self.look(&path) {
            Ok(answer) if answer.status == 404 => None,
            answer => Some(answer.and_then(Response::json::<Value>).map_or(Value::Null, |all| part(all, "metadata"))),
        };
        let kind = if pool.is_fingerprint() { "" } else { "aliases/" };
        if ask(format!("/images/{kind}{}", encode(&pool.image))).is_none() {
            return Error::not_found(format!("incus has no image `{}`; see `incus image list`", pool.image));
        }
        let mut storage = pool.storage.clone();
        for profile in &pool.profiles {
            let Some(found) = ask(format!("/profiles/{}", encode(profile))) else {
                return Error::not_found(format!("incus has no profile `{profile}`; see `incus profile list`"));
            };
            let mut disks = found["devices"].as_object().into_iter().flat_map(|devices| devices.values());
            let root = disks.find(|one| one["path"] == "/").and_then(|one| one["pool"].as_str());
            storage = storage.or(root.map(str::to_owned));
        }
        let state = ask(format!("/projects/{}/state", encode(&self.0.settings.project))).unwrap_or_default();
        let no_more = ["instances", "containers", "virtual-machines"].iter().any(|one| {
            let counted = &state["resources"][one];
            // Its documentation writes them small, and 6.0 large.
            let count = |small: &str, large: &str| counted[small].as_i64().or_else(|| counted[large].as_i64());
            count("limit", "Limit").is_some_and(|limit| limit >= 0 && count("usage", "Usage") >= Some(limit))
        });
        if no_more {
            return Error { kind: ErrorKind::Quota, ..error };
        }
        let space = storage.and_then(|pool| ask(format!("/storage-pools/{}/resources", encode(&pool))));
        let space = space.map_or(Value::Null, |resources| part(resources, "space"));
        let is_full = match (space["used"].as_u64(), space["total"].as_u64()) {
            (Some(used), Some(total)) => used >= total - total / FREE_PART,
            _ => false,
        };
        if is_full { Error { kind: ErrorKind::Capacity, ..error } } else { error }
    }

    /// The instance of this name, whoever's it is.
    pub fn find(&self, name: &str) -> Result<Option<Seen>, Error> {
        let response = self.look(&format!("/instances/{}", encode(name)))?;
        if response.status == 404 {
            return Ok(None);
        }
        metadata(success(response)?).map(Some)
    }

    /// The instance of this name, once it is up or no operation is at work on it: one that is being started seems to be
    /// stopped.
    pub fn find_settled(&self, name: &str) -> Result<Option<Seen>, Error> {
        let until = self.0.remaining().saturating_sub(BUSY).max(POLL);
        loop {
            let operations: Value = success(self.look("/operations?recursion=1")?)?.json()?;
            let path = format!("/1.0/instances/{name}");
            let about = |one: &Value| one.as_str().is_some_and(|one| one.split('?').next() == Some(&path));
            let busy = operations["metadata"]["running"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|operation| operation["resources"]["instances"].as_array().into_iter().flatten().any(about));
            let found = self.find(name)?;
            if !busy || found.as_ref().is_some_and(Seen::is_up) || self.0.remaining() <= until {
                return Ok(found);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The instance of this name if pacer made it. What no instance can be called leads Incus elsewhere, however it is
    /// encoded.
    pub fn ours(&self, name: &str) -> Result<Option<Seen>, Error> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(None);
        }
        Ok(self.find(name)?.filter(|seen| !seen.owner().is_empty()))
    }

    /// Its addresses. None where the state cannot be told, as of one that is just ending.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let state = self.look(&format!("/instances/{}/state", encode(name))).and_then(success).and_then(metadata);
        state.map(State::addresses).unwrap_or_default()
    }

    /// The owner's instances.
    pub fn list(&self, owner: &str) -> Result<Vec<Seen>, Error> {
        let filter = encode(&format!("config.{OWNER} eq {owner}"));
        metadata(success(self.look(&format!("/instances?recursion=1&filter={filter}"))?)?)
    }

    /// Adds keys to an instance's configuration.
    pub fn configure(&self, name: &str, config: &Value) -> Result<(), Error> {
        let path = self.path(&format!("/instances/{}", encode(name)));
        self.finish(Request::patch(ENDPOINT, path).json(&json!({ "config": config }))?).map(drop)
    }

    /// Writes a file that only root reads.
    pub fn push(&self, name: &str, file: &str, content: String) -> Result<(), Error> {
        let path = self.path(&format!("/instances/{}/files?path={}", encode(name), encode(file)));
        let mut request = Request::post(ENDPOINT, path).header("content-type", "application/octet-stream");
        for (header, value) in [("type", "file"), ("write", "overwrite"), ("uid", "0"), ("gid", "0"), ("mode", "0600")]
        {
            request = request.header(&format!("x-incus-{header}"), value);
        }
        request.body = content.into_bytes();
        let response = request.send(self.0)?;
        if response.status == 404 {
            return Err(Error::invalid_config(format!("`jit_file: {file}`: the image has no such directory")));
        }
        success(response).map(drop)
    }

    /// Changes an instance's state: whether it has come to that before the call has to end.
    pub fn act(&self, name: &str, state: &Value) -> Result<bool, Error> {
        self.finish(Request::put(ENDPOINT, self.path(&format!("/instances/{}/state", encode(name)))).json(state)?)
    }

    /// Stops within the grace as far as the call has room for it, else by force: whether it is down.
    pub fn stop(&self, seen: &Seen, grace_ms: u64) -> Result<bool, Error> {
        if seen.is_frozen() {
            // Frozen processes receive no signal. If this fails the forced stop still ends them.
            let _ = self.act(&seen.name, &json!({ "action": "unfreeze" }))?;
        }
        let seconds = grace_ms.div_ceil(1000).min(self.0.remaining().saturating_sub(REMOVAL).as_secs());
        if seconds > 0 {
            match self.act(&seen.name, &json!({ "action": "stop", "timeout": seconds })) {
                Ok(true) => return Ok(true),
                // The operator forbids it: to end it without asking is not what was allowed.
                Err(error) if error.kind == ErrorKind::Unauthorized => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        let forced = self.act(&seen.name, &json!({ "action": "stop", "force": true }));
        match self.find(&seen.name)? {
            Some(seen) if seen.is_up() => forced.map(|_| false),
            Some(_) | None => Ok(true),
        }
    }

    /// Deletes an instance that is down, its disk with it.
    pub fn remove(&self, name: &str) -> Result<Destruction, Error> {
        let path = self.path(&format!("/instances/{}", encode(name)));
        let removed = self.finish(Request::delete(ENDPOINT, path));
        match self.find(name)? {
            None => Ok(Destruction::Gone),
            Some(_) => removed.map(|_| Destruction::Stopping),
        }
    }

    /// Ends and deletes what did not start. If this fails, the sweep finds it by its owner.
    pub fn discard(&self, seen: &Seen) {
        let until = self.0.remaining().saturating_sub(SETTLING).max(POLL);
        // Right after a start that failed it seems to run for a moment, and cannot be deleted.
        while !matches!(self.stop(seen, 0).and_then(|_| self.remove(&seen.name)), Ok(Destruction::Gone))
            && self.0.remaining() > until
        {
            std::thread::sleep(POLL);
        }
    }

    /// What is kept of the console: of a running container what nobody has read yet, of a stopped one everything.
    pub fn console(&self, name: &str) -> Result<Box<dyn Read>, Error> {
        success(self.look(&format!("/instances/{}/console", encode(name)))?).map(Response::into_reader)
    }
}

/// Passes 2xx on. A 400 judges what the pool's settings became.
fn success(response: Response) -> Result<Response, Error> {
    match response.status {
        400 => Err(response.into_error(ErrorKind::InvalidConfig)),
        _ => response.success(),
    }
}

/// What an answer is about.
fn metadata<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, Error> {
    let answer = serde_json::from_slice(&response.bytes(LIST_MAX)?).unwrap_or_default();
    // The message could quote a configuration.
    serde_json::from_value(part(answer, "metadata"))
        .map_err(|_| Error::unavailable("incus does not describe its instances as expected"))
}

/// What stands under a key; nothing where there is no such key.
fn part(mut value: Value, key: &str) -> Value {
    value.get_mut(key).map(Value::take).unwrap_or_default()
}
