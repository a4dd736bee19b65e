//! For tests of backends, natively: a scripted transport, a real endpoint behind a unix socket, a cache in memory, a real engine
//! that a script starts.

mod daemon;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io::{self, BufRead, BufReader, Cursor, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

pub use daemon::{Daemon, Shared, not_run, run, variable};

use crate::{
    Cache, Context, Error,
    connect::{Connection, Connector},
    http::{Request, Response, Transport},
};

/// A cache in memory.
#[derive(Default)]
pub struct Memory(RefCell<HashMap<String, Vec<u8>>>);

impl Cache for Memory {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.borrow().get(key).cloned()
    }
    fn set(&self, key: &str, value: &[u8]) {
        self.0.borrow_mut().insert(key.to_owned(), value.to_owned());
    }
    fn delete(&self, key: &str) {
        self.0.borrow_mut().remove(key);
    }
}

/// A context with these settings and deadline.
pub fn context(settings: &str, deadline: Duration) -> Context {
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    Context {
        operation_id: "test".into(),
        backend: "test".into(),
        settings: settings.into(),
        deadline_ms,
        attributes: vec![],
    }
}

/// Answers in order, and panics when a request is not the one the script expects.
#[derive(Default)]
pub struct Script {
    steps: RefCell<VecDeque<Step>>,
    /// The bodies that were sent.
    pub sent: RefCell<Vec<String>>,
}

struct Step {
    request: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Script {
    /// Expects a request whose `METHOD path?query` starts with `request`, and answers it.
    #[must_use]
    pub fn on(self, request: &str, status: u16, body: impl Into<String>) -> Self {
        self.steps.borrow_mut().push_back(Step { request: request.into(), status, headers: vec![], body: body.into() });
        self
    }

    /// Adds a header to the last answer.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        if let Some(step) = self.steps.borrow_mut().back_mut() {
            step.headers.push((name.into(), value.into()));
        }
        self
    }

    /// Panics when something expected was not asked for.
    pub fn done(&self) {
        let left: Vec<_> = self.steps.borrow().iter().map(|s| s.request.clone()).collect();
        assert!(left.is_empty(), "never asked for: {left:?}");
    }
}

impl Transport for Script {
    fn send(&self, request: &Request, _timeout: Duration) -> Result<Response, Error> {
        let got = format!("{} {}", request.method, request.path);
        let step = self.steps.borrow_mut().pop_front();
        let Some(step) = step else { panic!("unexpected `{got}`") };
        assert!(got.starts_with(&step.request), "expected `{}`, got `{got}`", step.request);
        self.sent.borrow_mut().push(String::from_utf8_lossy(&request.body).into_owned());
        Ok(Response::new(request.to_string(), step.status, step.headers, Box::new(Cursor::new(step.body))))
    }
}

/// A real endpoint behind a unix socket. HTTP/1.0 on purpose: bodies then end with the connection.
pub struct Socket(pub PathBuf);

impl Transport for Socket {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        let broken = |e: std::io::Error| Error::unavailable(format!("`{request}`: {e}"));
        let mut stream = UnixStream::connect(&self.0).map_err(broken)?;
        stream.set_read_timeout(Some(timeout)).map_err(broken)?;
        stream.set_write_timeout(Some(timeout)).map_err(broken)?;
        let mut head = format!("{} {} HTTP/1.0\r\nhost: {}\r\n", request.method, request.path, request.endpoint);
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&request.body)).map_err(broken)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(broken)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| Error::unavailable(format!("`{request}`: not HTTP")))?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).map_err(broken)?;
            match line.trim_end().split_once(':') {
                Some((k, v)) => headers.push((k.to_ascii_lowercase(), v.trim().to_owned())),
                None => break,
            }
        }
        Ok(Response::new(request.to_string(), status, headers, Box::new(reader)))
    }
}

impl Connector for Socket {
    fn connect(&self, endpoint: &str, limit: Duration) -> Result<Box<dyn Connection>, Error> {
        let stream = UnixStream::connect(&self.0).map_err(|e| Error::unavailable(format!("`{endpoint}`: {e}")))?;
        Ok(Box::new(Timed { stream, until: Instant::now() + limit }))
    }
}

/// A stream whose reads and writes fail with `TimedOut` at its end, as the sandbox's do.
pub struct Timed {
    /// The stream.
    pub stream: UnixStream,
    /// Its end.
    pub until: Instant,
}

impl Timed {
    /// What is left; a timeout of zero would mean none to the system.
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

/// The system says `WouldBlock` of a timeout.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from).map_err(timed_out)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
