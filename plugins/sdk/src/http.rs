//! A small blocking HTTP client to granted endpoints. Redirects are not followed.
//!
//! The way out is a [`Transport`]: the sandbox's, a scripted one, or a real engine's socket. Neither `Display` nor
//! `Debug` of a request shows its body.

use std::{fmt, io::Read, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Call, Error, ErrorKind};

/// What a JSON answer may be at most: a listing of thousands of machines stays below.
pub const JSON_MAX: usize = 8 * 1024 * 1024;
/// What is read of an error's body.
const ERROR_MAX: usize = 16 * 1024;

/// What carries a request to its endpoint and the answer back.
pub trait Transport {
    /// Sends, and returns when the answer's head is there. Reading its body ends within `timeout` as well.
    fn send(&self, request: &Request, timeout: Duration) -> Result<Response, Error>;
}

/// A request to an endpoint that the operator granted by name.
pub struct Request {
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// The endpoint's name.
    pub endpoint: String,
    /// Path and query; see [`encode`].
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; may be a secret.
    pub body: Vec<u8>,
    timeout: Option<Duration>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.endpoint, self.path.split('?').next().unwrap_or_default())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! methods {
    ($($name:ident $method:literal),*) => { $(
        #[doc = concat!("A `", $method, "` request.")]
        pub fn $name(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
            Self { method: $method, endpoint: endpoint.into(), path: path.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
        }
    )* };
}

impl Request {
    methods!(get "GET", post "POST", put "PUT", patch "PATCH", delete "DELETE");

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        // The message could quote the body, so it is left out.
        self.body = serde_json::to_vec(body).map_err(|_| Error::internal(format!("`{self}`: body is not JSON")))?;
        Ok(self.header("content-type", "application/json"))
    }

    /// Waits less than the call has left.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it within what is left of the call. Any status is an answer.
    pub fn send<S>(self, call: &Call<'_, S>) -> Result<Response, Error> {
        let left = call.remaining();
        let timeout = self.timeout.map_or(left, |t| t.min(left));
        if timeout.is_zero() {
            return Err(Error::unavailable(format!("`{self}`: the call's time is over")));
        }
        call.transport.send(&self, timeout)
    }
}

/// An answer; its body is read as it comes.
pub struct Response {
    /// The status code.
    pub status: u16,
    what: String,
    headers: Vec<(String, String)>,
    body: Box<dyn Read>,
}

impl Response {
    /// An answer to `what`, for transports.
    pub fn new(what: String, status: u16, headers: Vec<(String, String)>, body: Box<dyn Read>) -> Self {
        Self { status, what, headers, body }
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as a stream, for what is read as it comes.
    pub fn into_reader(self) -> Box<dyn Read> {
        self.body
    }

    /// The whole body; more than `max` bytes are an error.
    pub fn bytes(self, max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.body.take(max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| Error::new(kind_of_failure(&e), format!("`{}`: the answer broke off: {e}", self.what)))?;
        if bytes.len() > max {
            return Err(Error::unavailable(format!("`{}`: the answer is longer than {max} bytes", self.what)));
        }
        Ok(bytes)
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let what = self.what.clone();
        let bytes = self.bytes(JSON_MAX)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            // Only the place: what the endpoint echoes may hold what was sent.
            Error::unavailable(format!(
                "`{what}`: the answer is not the JSON expected, line {} column {}",
                e.line(),
                e.column()
            ))
        })
    }

    /// The answer as an error of `kind`, with `Retry-After` and the endpoint's own message if it is JSON with one.
    pub fn into_error(self, kind: ErrorKind) -> Error {
        self.into_error_by(|_| kind)
    }

    /// The same, the kind chosen by the body; null where the body is not JSON.
    pub fn into_error_by(self, kind: impl FnOnce(&serde_json::Value) -> ErrorKind) -> Error {
        let retry = self.header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let start = format!("`{}`: {}", self.what, self.status);
        let text = self.bytes(ERROR_MAX).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let kind = kind(&said);
        // Where APIs put it: at the top, as the error itself, or in an error object.
        let places = [&said["message"], &said["error"], &said["error"]["message"]];
        let error = match places.into_iter().find_map(serde_json::Value::as_str) {
            Some(message) => Error::new(kind, format!("{start}: {}", message.trim())),
            None => Error::new(kind, start),
        };
        match retry {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    }

    /// Passes 2xx on; anything else is an error of the kind its status usually means.
    pub fn success(self) -> Result<Self, Error> {
        if self.is_success() {
            return Ok(self);
        }
        let kind = kind_of(self.status);
        Err(self.into_error(kind))
    }
}

/// What a body that breaks off means: a limit of the host's is met again, all else may pass.
pub(crate) fn kind_of_failure(error: &std::io::Error) -> ErrorKind {
    if error.kind() == std::io::ErrorKind::QuotaExceeded { ErrorKind::Internal } else { ErrorKind::Unavailable }
}

/// What a status usually means.
pub fn kind_of(status: u16) -> ErrorKind {
    match status {
        400 | 405 | 413 | 415 | 422 => ErrorKind::InvalidRequest,
        401 | 403 | 407 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::RateLimited,
        507 => ErrorKind::Capacity,
        408 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

/// Percent-encodes everything that is not unreserved in a URI, for one path segment or query value.
pub fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|d| char::from(b"0123456789ABCDEF"[usize::from(d)])));
        }
    }
    out
}

/// What [`encode`] was given; none for what is no such text.
pub fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Read};

    use super::{Request, Response, decode, encode};
    use crate::ErrorKind;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Response::new("GET engine/x".to_owned(), status, headers, Box::new(Cursor::new(body.to_owned())))
    }

    #[test]
    fn a_refusal_carries_the_kind_the_endpoints_message_and_when_to_retry() {
        for body in [r#"{"message":" slow down "}"#, r#"{"error":"slow down"}"#, r#"{"error":{"message":"slow down"}}"#]
        {
            let error = answer(429, &[("Retry-After", " 7 ")], body).success().err().unwrap();
            assert!(matches!(error.kind, ErrorKind::RateLimited));
            assert_eq!((error.message.as_str(), error.retry_after_ms), ("`GET engine/x`: 429: slow down", Some(7000)));
        }
    }

    #[test]
    fn a_refusal_that_is_not_json_says_its_status_alone() {
        let error = answer(502, &[("retry-after", "soon")], "<html>").success().err().unwrap();
        assert!(matches!(error.kind, ErrorKind::Unavailable));
        assert_eq!((error.message.as_str(), error.retry_after_ms), ("`GET engine/x`: 502", None));
    }

    #[test]
    fn a_body_may_fill_its_bound_and_not_pass_it() {
        assert_eq!(answer(200, &[], "1234").bytes(4).unwrap(), b"1234");
        assert!(answer(200, &[], "12345").bytes(4).unwrap_err().message.contains("longer than 4 bytes"));
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error_and_not_a_short_answer() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let body = Box::new(Cursor::new("12").chain(Broken));
        let error = Response::new("GET engine/x".to_owned(), 200, Vec::new(), body).bytes(9).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unavailable) && error.message.contains("broke off"));
    }

    #[test]
    fn neither_a_shown_request_nor_an_answer_that_does_not_parse_quotes_what_was_sent() {
        let request = Request::post("engine", "/x?token=hunter2").json(&"hunter2").unwrap();
        assert_eq!(format!("{request} {request:?}"), "POST engine/x POST engine/x");
        let error = answer(200, &[], r#""hunter2""#).json::<u8>().unwrap_err();
        assert!(error.message.contains("line 1") && !error.message.contains("hunter2"), "{}", error.message);
    }

    #[test]
    fn only_unreserved_bytes_stay_as_they_are() {
        let text = "aZ0-._~ /?&ü";
        assert_eq!(encode(text), "aZ0-._~%20%2F%3F%26%C3%BC");
        assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        for broken in ["%", "%4", "%zz", "%+1", "%ü", "%FF"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
