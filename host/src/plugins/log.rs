//! What a component says during one call: bounded, without secrets, and never an error for the component.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use secrecy::SecretString;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{bindings::pacer::backend::log::Level, redact::Secrets};

/// Of one line, in bytes.
const LINE: usize = 8 << 10;
/// Lines of one call.
pub(super) const LINES: u32 = 2_000;
/// Of one line.
const FIELDS: usize = 32;
/// Of a field, in bytes.
const KEY: usize = 64;
const VALUE: usize = 1_024;
/// What of the end of standard error goes into the message of a trap.
const TAIL: usize = 1_500;
/// More than the tail, so that where a secret was cut in two is not shown.
const KEPT: usize = 2 * TAIL;

/// The log of one call.
pub(super) struct CallLog {
    pub(super) backend: String,
    pub(super) operation: &'static str,
    pub(super) operation_id: String,
    pub(super) runner: Option<String>,
    secrets: Secrets,
    inner: Mutex<Inner>,
}

struct Inner {
    bytes_left: u64,
    lines_left: u32,
    dropped: u64,
    tail: VecDeque<u8>,
}

impl CallLog {
    pub(super) fn new(
        backend: String,
        operation: &'static str,
        operation_id: String,
        runner: Option<String>,
        secrets: Secrets,
        bytes: u64,
    ) -> Arc<Self> {
        let inner = Inner { bytes_left: bytes, lines_left: LINES, dropped: 0, tail: VecDeque::new() };
        Arc::new(Self { backend, operation, operation_id, runner, secrets, inner: Mutex::new(inner) })
    }

    /// `text` with every secret of this call blanked out.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.redact(text)
    }

    /// As [`CallLog::redact`], of so many bytes of `text` at most.
    pub(super) fn redact_up_to(&self, text: &str, longest: usize) -> String {
        self.secrets.redact_up_to(text, longest)
    }

    /// One more to blank out: a credential that was fetched while the call went on.
    pub(super) fn hide(&self, secret: SecretString) {
        self.secrets.add(secret);
    }

    pub(super) fn emit(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let size = message.len() + fields.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        {
            let mut inner = self.inner();
            if inner.lines_left == 0 || inner.bytes_left < size as u64 {
                inner.dropped += 1;
                return;
            }
            inner.lines_left -= 1;
            inner.bytes_left -= size as u64;
        }
        let message = self.redact_up_to(message, LINE);
        let fields: Vec<String> = fields
            .iter()
            .take(FIELDS)
            .map(|(key, value)| format!("{}={}", self.redact_up_to(key, KEY), self.redact_up_to(value, VALUE)))
            .collect();
        let fields = fields.join(" ");
        let runner = self.runner.as_deref().unwrap_or_default();
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: "pacer::backend",
                    tracing::Level::$level,
                    { backend.name = %self.backend, operation = %self.operation, operation.id = %self.operation_id,
                      runner.name = %runner, fields = %fields.escape_debug() },
                    "{}", message.escape_debug()
                )
            };
        }
        match level {
            Level::Trace => line!(TRACE),
            Level::Debug => line!(DEBUG),
            Level::Info => line!(INFO),
            Level::Warn => line!(WARN),
            Level::Error => line!(ERROR),
        }
    }

    /// The end of standard error, without secrets.
    pub(super) fn tail(&self) -> String {
        let bytes: Vec<u8> = self.inner().tail.iter().copied().collect();
        let text = self.redact(String::from_utf8_lossy(&bytes).trim());
        text[text.ceil_char_boundary(text.len().saturating_sub(TAIL))..].to_owned()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.inner().dropped
    }

    fn wrote(&self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Out => {}
            Stream::Err => {
                let mut inner = self.inner();
                // More than the tail is kept: a secret that is cut at the front is cut off before it is shown.
                inner.tail.extend(bytes.iter().rev().take(KEPT).rev());
                let excess = inner.tail.len().saturating_sub(KEPT);
                inner.tail.drain(..excess);
            }
        }
        let level = match stream {
            Stream::Out => Level::Debug,
            Stream::Err => Level::Warn,
        };
        for line in String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim().is_empty()) {
            self.emit(level, line, &[]);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Standard output or error: takes everything, and keeps the unfinished line until it is finished.
#[derive(Clone)]
pub(super) struct Sink {
    log: Arc<CallLog>,
    stream: Stream,
    line: Arc<Mutex<Vec<u8>>>,
}

impl Sink {
    pub(super) fn new(log: Arc<CallLog>, stream: Stream) -> Self {
        Self { log, stream, line: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.extend_from_slice(bytes);
        let whole = match line.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if line.len() >= LINE => line.len(),
            None => return,
        };
        let lines: Vec<u8> = line.drain(..whole).collect();
        drop(line);
        self.log.wrote(self.stream, &lines);
    }

    /// Hands on what has no line end, when the call is over.
    pub(super) fn finish(&self) {
        let rest = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.log.wrote(self.stream, &rest);
        }
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Pollable for Sink {
    fn ready<'life0, 'async_trait>(&'life0 mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(std::future::ready(()))
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::redact::Patterns, *};

    fn log(bytes: u64) -> Arc<CallLog> {
        let secrets = Secrets::new(Arc::new(Patterns::new(["hunter2-hunter2".into()])), Vec::new());
        CallLog::new("b".into(), "get", "1".into(), None, secrets, bytes)
    }

    #[test]
    fn secrets_are_blanked_out_even_when_written_in_pieces() {
        let log = log(1 << 20);
        let sink = Sink::new(log.clone(), Stream::Err);
        sink.take(b"the token is hunter2-");
        sink.take(b"hunter2, oh no");
        sink.finish();
        assert_eq!(log.tail(), "the token is [secret], oh no");
    }

    #[test]
    fn a_flood_is_taken_and_counted() {
        let log = log(1_000);
        let sink = Sink::new(log.clone(), Stream::Out);
        for _ in 0..1_000 {
            sink.take(b"0123456789\n");
        }
        assert_eq!(log.dropped(), 900);
    }
}
