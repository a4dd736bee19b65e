//! Reading a body that anybody can send: with an end, a deadline, and memory only for what has really come.
//!
//! Memory is taken from one budget of all deliveries in flight, as the bytes arrive: a length that is only stated
//! costs nothing. What is refused unread is drained for a moment, so that the sender gets to read why.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::signature::Verifier;

/// GitHub's own cap: larger events are not delivered.
pub const MAX_BODY: usize = 25 * 1024 * 1024;
/// GitHub gives a delivery up after ten seconds.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Of all bodies in flight: ten of the largest, or more than ten thousand of the usual.
const MAX_BUFFERED: usize = 256 * 1024 * 1024;
/// What memory is counted in.
const BLOCK: usize = 1024;
/// The usual body is 8 to 12 KB: it fits without growing.
const FIRST_CAPACITY: usize = 16 * BLOCK;
/// How long and how much a refused sender is listened to.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 32 * 1024 * 1024;
/// Refused senders that are listened to at once.
const MAX_DRAINS: usize = 16;

/// The memory for bodies, and the tasks that drain refused ones.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    memory: Arc<Semaphore>,
    drains: Arc<Semaphore>,
    tasks: TaskTracker,
    deadline: Duration,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    Truncated,
    TooSlow,
    NoMemory,
}

/// A whole body; its memory is given back when it is dropped.
pub(super) struct Whole {
    pub bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

impl Bodies {
    pub fn new(tasks: TaskTracker, deadline: Duration) -> Self {
        Self {
            memory: Arc::new(Semaphore::new(MAX_BUFFERED / BLOCK)),
            drains: Arc::new(Semaphore::new(MAX_DRAINS)),
            tasks,
            deadline,
        }
    }

    /// Reads and hashes a body.
    pub async fn read(&self, mut body: Body, verifier: &mut Verifier) -> Result<Whole, BodyError> {
        let outcome = match timeout(self.deadline, self.collect(&mut body, verifier)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BodyError::TooSlow),
        };
        if outcome.is_err() {
            self.drain(body);
        }
        outcome
    }

    async fn collect(&self, body: &mut Body, verifier: &mut Verifier) -> Result<Whole, BodyError> {
        let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
        if body.size_hint().lower() > limit {
            return Err(BodyError::TooLarge);
        }
        let mut bytes = Vec::new();
        let mut memory = self.reserve(FIRST_CAPACITY)?;
        bytes.reserve_exact(FIRST_CAPACITY);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Truncated)?.into_data() else { continue };
            let needed = bytes.len() + data.len();
            if needed > MAX_BODY {
                return Err(BodyError::TooLarge);
            }
            if needed > bytes.capacity() {
                let capacity = needed.max(bytes.capacity() * 2).min(MAX_BODY);
                memory.merge(self.reserve(capacity - bytes.capacity())?);
                bytes.reserve_exact(capacity - bytes.len());
            }
            verifier.update(&data);
            bytes.extend_from_slice(&data);
        }
        Ok(Whole { bytes, _memory: memory })
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BodyError> {
        let blocks = u32::try_from(bytes.div_ceil(BLOCK)).map_err(|_| BodyError::NoMemory)?;
        Arc::clone(&self.memory).try_acquire_many_owned(blocks).map_err(|_| BodyError::NoMemory)
    }

    /// Listens to what comes and forgets it. A connection that is closed while its sender still writes is reset, and
    /// the sender may never see the answer.
    pub fn drain(&self, mut body: Body) {
        if body.is_end_stream() {
            return;
        }
        let Ok(slot) = Arc::clone(&self.drains).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            let _slot = slot;
            let mut left = DRAIN_BYTES;
            let listen = async {
                while let Some(Ok(frame)) = body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    if left == 0 {
                        break;
                    }
                }
            };
            let _ = timeout(DRAIN_TIME, listen).await;
        });
    }

    #[cfg(test)]
    pub fn take_memory(&self, bytes: usize) -> OwnedSemaphorePermit {
        self.reserve(bytes).expect("the memory is free")
    }
}
