//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long anything that should happen at once may take on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(30);

/// How often a condition is looked at. Short against what is waited for, long against what a look costs.
const LOOK: Duration = Duration::from_millis(25);

/// Looks until there is something to see. Panics when `deadline` passes, with `what` was waited for.
pub async fn eventually<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    match within(deadline, &mut look).await {
        Some(seen) => seen,
        None => panic!("waited {deadline:?} in vain: {what}"),
    }
}

/// Looks until there is something to see, or `deadline` passes.
pub async fn within<T>(deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return Some(seen);
        }
        if started.elapsed() >= deadline {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Checks that something stays true for as long as `period`.
pub async fn stays(what: &str, period: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let broken = within(period, async || (!holds().await).then_some(())).await;
    assert!(broken.is_none(), "did not stay true: {what}");
}
