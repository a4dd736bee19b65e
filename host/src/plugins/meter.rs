//! What a call computes: the processor's time of the threads that drive it, while they drive it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Read by the call itself, on the thread that drives it.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<Inner>);

/// In nanoseconds.
#[derive(Debug, Default)]
struct Inner {
    before: AtomicU64,
    /// What its thread had used when it began to drive the call.
    since: AtomicU64,
}

impl Meter {
    /// What was computed so far. Only from within the call.
    pub fn computed(&self) -> Duration {
        let now = of_this_thread().saturating_sub(self.0.since.load(Ordering::Relaxed));
        Duration::from_nanos(self.0.before.load(Ordering::Relaxed) + now)
    }

    /// Drives the call once.
    pub fn drive<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.0.since.store(of_this_thread(), Ordering::Relaxed);
        let polled = poll();
        let computed = u64::try_from(self.computed().as_nanos()).unwrap_or(u64::MAX);
        self.0.before.store(computed, Ordering::Relaxed);
        polled
    }
}

fn of_this_thread() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
