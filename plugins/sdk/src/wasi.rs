//! The sandbox's side: requests over `wasi:http`, streams over `connect`, memory in `cache`.

use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use crate::{
    Cache, Error,
    bindings::{
        pacer::backend::{cache, connect},
        wasi::{
            clocks::monotonic_clock,
            http::{outgoing_handler, types},
            io::{
                error::Error as Failed,
                poll,
                streams::{InputStream, OutputStream, StreamError},
            },
        },
    },
    connect::{Connection, Connector},
    http::{Request, Response, Transport, kind_of_failure},
};

/// What `wasi:io` accepts in one blocking write.
const WRITE_MAX: usize = 4096;
/// What is asked for in one read.
const READ_MAX: usize = 64 * 1024;

pub(crate) struct Wasi;

impl Cache for Wasi {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        cache::get(key)
    }
    fn set(&self, key: &str, value: &[u8]) {
        cache::set(key, value);
    }
    fn delete(&self, key: &str) {
        cache::delete(key);
    }
}

/// The reading half of a stream. Given a deadline it fails with `TimedOut` there.
pub struct Reader {
    // Field order is drop order, and a stream must go before what it was taken from.
    stream: InputStream,
    until: Option<Instant>,
    _owner: Option<Box<dyn std::any::Any>>,
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let ready = self.stream.subscribe();
            wait(&ready, self.until)?;
            drop(ready);
            match self.stream.read(into.len().min(READ_MAX) as u64) {
                // Ready and empty is allowed; only `Closed` is the end.
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    into[..bytes.len()].copy_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                Err(StreamError::Closed) => return Ok(0),
                Err(StreamError::LastOperationFailed(e)) => return Err(failed(&e)),
            }
        }
    }
}

/// The writing half of a stream. It fails with `TimedOut` at its deadline.
pub struct Writer {
    stream: OutputStream,
    until: Option<Instant>,
}

impl Writer {
    /// Waits until the stream takes bytes, and says how many.
    fn room(&self) -> io::Result<usize> {
        loop {
            let room = self.stream.check_write().map_err(broken)?;
            if room > 0 {
                return Ok(usize::try_from(room).unwrap_or(usize::MAX));
            }
            wait(&self.stream.subscribe(), self.until)?;
        }
    }
}

impl Write for Writer {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let part = &from[..from.len().min(WRITE_MAX).min(self.room()?)];
        self.stream.write(part).map_err(broken)?;
        Ok(part.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().map_err(broken)?;
        // There is room again once everything went out.
        self.room().map(drop)
    }
}

fn broken(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(e) => failed(&e),
    }
}

/// A limit of the host's shows as `QuotaExceeded`.
fn failed(error: &Failed) -> io::Error {
    match types::http_error_code(error) {
        Some(code) if is_limit(&code) => io::Error::new(io::ErrorKind::QuotaExceeded, format!("{code:?}")),
        Some(code) => io::Error::other(format!("{code:?}")),
        None => io::Error::other(error.to_debug_string()),
    }
}

/// Whether a code means that the call asked for more than the host's limits allow.
fn is_limit(code: &types::ErrorCode) -> bool {
    matches!(
        code,
        types::ErrorCode::ConnectionLimitReached
            | types::ErrorCode::HttpRequestBodySize(Some(_))
            | types::ErrorCode::HttpResponseBodySize(Some(_))
    )
}

/// Waits until it is ready, or fails with `TimedOut` at the deadline.
fn wait(ready: &poll::Pollable, until: Option<Instant>) -> io::Result<()> {
    let Some(until) = until else {
        ready.block();
        return Ok(());
    };
    let timer = monotonic_clock::subscribe_duration(nanos(until.saturating_duration_since(Instant::now())));
    if poll::poll(&[ready, &timer]).contains(&0) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// An open connection.
pub struct Stream {
    /// What the other side says.
    pub reader: Reader,
    /// What is said to it.
    pub writer: Writer,
    _connection: connect::Connection,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.writer.write(from)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Connector for Wasi {
    fn connect(&self, endpoint: &str, limit: Duration) -> Result<Box<dyn Connection>, Error> {
        Ok(Box::new(stream(endpoint, limit)?))
    }
}

/// Connects to a granted endpoint. Reads and writes end with what is left of the call.
pub fn open<S>(call: &crate::Call<'_, S>, endpoint: &str) -> Result<Stream, Error> {
    stream(endpoint, call.remaining())
}

fn stream(endpoint: &str, limit: Duration) -> Result<Stream, Error> {
    let until = Some(Instant::now() + limit);
    let connection = connect::open(endpoint)?;
    let reader = Reader { stream: connection.input(), until, _owner: None };
    Ok(Stream { reader, writer: Writer { stream: connection.output(), until }, _connection: connection })
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Transport for Wasi {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        let until = Instant::now() + timeout;
        let what = request.to_string();
        let refused = |part: &str| Error::internal(format!("`{what}`: the sandbox refused the request's {part}"));
        let fields: Vec<_> = request.headers.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
        let headers = types::Fields::from_list(&fields).map_err(|_| refused("headers"))?;
        let outgoing = types::OutgoingRequest::new(headers);
        let method = match request.method {
            "GET" => types::Method::Get,
            "POST" => types::Method::Post,
            "PUT" => types::Method::Put,
            "PATCH" => types::Method::Patch,
            "DELETE" => types::Method::Delete,
            other => types::Method::Other(other.to_owned()),
        };
        outgoing.set_method(&method).map_err(|()| refused("method"))?;
        outgoing.set_scheme(Some(&types::Scheme::Http)).map_err(|()| refused("scheme"))?;
        outgoing.set_authority(Some(&request.endpoint)).map_err(|()| refused("endpoint name"))?;
        outgoing.set_path_with_query(Some(&request.path)).map_err(|()| refused("path"))?;
        let body = outgoing.body().map_err(|()| refused("body"))?;

        let options = types::RequestOptions::new();
        let limit = Some(nanos(timeout));
        // A host that cannot keep one of them says so here; the deadline below holds in any case.
        let _ = options.set_connect_timeout(limit);
        let _ = options.set_first_byte_timeout(limit);
        let _ = options.set_between_bytes_timeout(limit);
        let pending = outgoing_handler::handle(outgoing, Some(options)).map_err(|code| failure(&what, &code))?;
        let sent = if request.body.is_empty() {
            Ok(())
        } else {
            let mut writer = Writer { stream: body.write().map_err(|()| refused("body"))?, until: Some(until) };
            writer.write_all(&request.body).and_then(|()| writer.flush())
        };
        let finished = types::OutgoingBody::finish(body, None);
        match sent {
            Ok(()) => finished.map_err(|code| failure(&what, &code))?,
            // The endpoint wants no more of it. What it answered counts, or else why it went away.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(e) => return Err(Error::new(kind_of_failure(&e), format!("`{what}`: sending: {e}"))),
        }

        let ready = pending.subscribe();
        let timer = monotonic_clock::subscribe_duration(nanos(until.saturating_duration_since(Instant::now())));
        if !poll::poll(&[&ready, &timer]).contains(&0) {
            return Err(Error::unavailable(format!("`{what}`: no answer in {} ms", timeout.as_millis())));
        }
        drop(ready);
        let incoming = match pending.get() {
            Some(Ok(Ok(incoming))) => incoming,
            Some(Ok(Err(code))) => return Err(failure(&what, &code)),
            Some(Err(())) | None => return Err(refused("answer")),
        };
        let headers = incoming.headers().entries();
        let headers = headers.into_iter().map(|(k, v)| (k, String::from_utf8_lossy(&v).into_owned())).collect();
        let status = incoming.status();
        let body = incoming.consume().map_err(|()| refused("answer"))?;
        let stream = body.stream().map_err(|()| refused("answer"))?;
        let owner: Box<dyn std::any::Any> = Box::new((body, incoming));
        let reader = Reader { stream, until: Some(until), _owner: Some(owner) };
        Ok(Response::new(what, status, headers, Box::new(reader)))
    }
}

/// The sandbox's codes as kinds: a refused grant is the operator's to fix, a limit is met again, all else may pass.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of forty codes; the rest mean the endpoint failed")]
fn failure(what: &str, code: &types::ErrorCode) -> Error {
    let message = format!("`{what}`: {code:?}");
    match code {
        types::ErrorCode::HttpRequestDenied => Error::unauthorized(message),
        types::ErrorCode::HttpRequestUriInvalid | types::ErrorCode::HttpRequestMethodInvalid => {
            Error::internal(message)
        }
        limit if is_limit(limit) => Error::internal(message),
        _ => Error::unavailable(message),
    }
}
