//! Idle HTTP/1.1 connections of one endpoint of one backend.
//!
//! Never shared further: a connection keeps the identity it was opened with.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::http::Connection;

/// More than the calls of a backend that run at once by default (`limits.concurrency`), with a request or two each.
const IDLE: usize = 32;
/// Shorter than the 60 s and more after which servers and load balancers close what is idle.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// A connection whose answer was read is free as soon as its driver has run once more.
const READY: Duration = Duration::from_millis(100);

pub(super) struct Pool {
    inner: Mutex<Inner>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

#[derive(Default)]
struct Inner {
    /// The longest idle first.
    idle: VecDeque<(Instant, Connection)>,
    swept: bool,
}

impl Pool {
    pub fn new(tasks: TaskTracker, closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), tasks, closing })
    }

    /// A connection that looks alive; the other side may have closed it all the same.
    pub async fn take(&self) -> Option<Connection> {
        loop {
            let (since, mut connection) = self.inner().idle.pop_back()?;
            if since.elapsed() < IDLE_FOR && matches!(timeout(READY, connection.ready()).await, Ok(true)) {
                return Some(connection);
            }
        }
    }

    pub fn put(self: &Arc<Self>, connection: Connection) {
        let mut inner = self.inner();
        if inner.idle.len() >= IDLE {
            inner.idle.pop_front();
        }
        inner.idle.push_back((Instant::now(), connection));
        if !std::mem::replace(&mut inner.swept, true) {
            drop(inner);
            self.tasks.spawn(sweep(Arc::downgrade(self), self.closing.clone()));
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.inner().idle.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to look again, if anything is left.
    pub fn close_expired(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.inner();
        while inner.idle.front().is_some_and(|(since, _)| *since + IDLE_FOR <= now) {
            inner.idle.pop_front();
        }
        let next = inner.idle.front().map(|(since, _)| *since + IDLE_FOR);
        inner.swept = next.is_some();
        next
    }
}

/// Runs while anything is idle.
async fn sweep(pool: Weak<Pool>, closing: CancellationToken) {
    let mut next = Instant::now() + IDLE_FOR;
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            () = closing.cancelled() => return,
        }
        match pool.upgrade().and_then(|pool| pool.close_expired(Instant::now())) {
            Some(at) => next = at,
            None => return,
        }
    }
}
