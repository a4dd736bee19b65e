//! A credential that somebody else gives out and that ends: fetched once for all who wait, renewed before it ends.
//!
//! One that still holds is used while its successor is fetched, and goes on being used when that fails. What fetches
//! it ends by itself, so that nobody who stops waiting leaves it half done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    clock::SharedClock,
    routing::{BackendName, EndpointName, shown_up_to},
};

/// To fetch one: a chain of two or three requests, each near by or at a provider. Shorter than a call's deadline.
const FETCH: Duration = Duration::from_secs(15);
/// Before the end, when its successor is fetched. AWS has new keys ready 5 minutes before the old ones end.
const EARLY: Duration = Duration::from_secs(300);
/// Before the end, when it is used no more: a request has to arrive, at a server with a clock of its own.
const MARGIN: Duration = Duration::from_secs(10);
/// After which one that does not end is fetched again, in case it was replaced.
const UNDATED: Duration = Duration::from_secs(300);
/// After a failure nobody asks again for so long, so that a burst of calls is one question.
const AGAIN: Duration = Duration::from_secs(5);
/// Of the reason in the log, in characters: chains of errors tend to repeat themselves.
const REASON: usize = 1_000;

/// What was fetched.
pub(super) struct Fetched<T> {
    pub value: T,
    pub until: Option<Timestamp>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Missing {
    /// Somebody has to change something; otherwise it may come by itself.
    pub denied: bool,
    pub reason: Arc<str>,
}

impl Missing {
    pub fn denied(reason: impl Into<String>) -> Self {
        Self { denied: true, reason: reason.into().into() }
    }

    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { denied: false, reason: reason.into().into() }
    }
}

/// Who keeps it, for the log.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub backend: BackendName,
    pub endpoint: EndpointName,
}

type Fetch<T> = Box<dyn Fn() -> BoxFuture<'static, Result<Fetched<T>, Missing>> + Send + Sync>;

pub(super) struct Fresh<T>(Arc<Inner<T>>);

struct Inner<T> {
    fetch: Fetch<T>,
    owner: Owner,
    clock: SharedClock,
    tasks: TaskTracker,
    closing: CancellationToken,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Option<Current<T>>,
    /// What `current` came in the place of: a server may still repeat it.
    previous: Option<Arc<T>>,
    failed: Option<(Timestamp, Missing)>,
    under_way: Option<Shared<oneshot::Receiver<()>>>,
}

struct Current<T> {
    value: Arc<T>,
    since: Timestamp,
    /// When its successor is due.
    renew: Timestamp,
    /// When it is used no more, if ever.
    end: Option<Timestamp>,
}

impl<T> Current<T> {
    /// None if it is over already.
    fn new(fetched: Fetched<T>, now: Timestamp) -> Option<Self> {
        let value = Arc::new(fetched.value);
        let Some(until) = fetched.until else {
            return Some(Self { value, since: now, renew: now.saturating_add(UNDATED).ok()?, end: None });
        };
        let lasts = Duration::try_from(until.duration_since(now)).ok().filter(|lasts| !lasts.is_zero())?;
        // One that lasts for minutes only is not renewed all the time.
        let before = |most: Duration, part: u32| until.saturating_sub(most.min(lasts / part)).ok();
        Some(Self { value, since: now, renew: before(EARLY, 4)?, end: Some(before(MARGIN, 8)?) })
    }
}

impl<T: Send + Sync + 'static> Fresh<T> {
    pub fn new(
        fetch: Fetch<T>,
        owner: Owner,
        clock: SharedClock,
        tasks: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let state = Mutex::new(State { current: None, previous: None, failed: None, under_way: None });
        Self(Arc::new(Inner { fetch, owner, clock, tasks, closing, state }))
    }

    /// One that holds, waited for until `deadline`.
    pub async fn get(&self, deadline: Instant) -> Result<Arc<T>, Missing> {
        let under_way = match self.look() {
            Look::Here(value) => return Ok(value),
            Look::Missing(missing) => return Err(missing),
            Look::Wait(under_way) => under_way,
        };
        match timeout_at(deadline, under_way).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Missing::unavailable("the search for it was broken off")),
            Err(_) => return Err(Missing::unavailable("it was not there before the call's deadline")),
        }
        let state = self.0.state();
        match (&state.current, &state.failed) {
            (Some(current), None) => Ok(current.value.clone()),
            (_, Some((_, missing))) => Err(missing.clone()),
            (None, None) => Err(Missing::unavailable("the search for it was broken off")),
        }
    }

    /// The one it has, and the one before, whether they hold or not.
    pub fn known(&self) -> Vec<Arc<T>> {
        let state = self.0.state();
        state.current.iter().map(|current| &current.value).chain(&state.previous).cloned().collect()
    }

    /// The one it has was not taken, if it is this one: the next who asks gets another. What came just now is kept, so
    /// that a server that takes none is not a reason to fetch one for every request.
    pub fn refused(&self, is: impl FnOnce(&T) -> bool) {
        let now = self.0.clock.now();
        let mut state = self.0.state();
        let refused = state
            .current
            .take_if(|current| now.duration_since(current.since).unsigned_abs() >= AGAIN && is(&current.value));
        if let Some(refused) = refused {
            state.previous = Some(refused.value);
        }
    }

    fn look(&self) -> Look<T> {
        let now = self.0.clock.now();
        let mut state = self.0.state();
        let holds = state.current.as_ref().filter(|current| current.end.is_none_or(|end| now < end));
        let holds = holds.map(|current| (current.value.clone(), now < current.renew));
        let lately = state.failed.as_ref().filter(|(at, _)| now.duration_since(*at).unsigned_abs() < AGAIN);
        match (holds, lately) {
            (Some((value, true)), _) | (Some((value, false)), Some(_)) => Look::Here(value),
            (Some((value, false)), None) => {
                // It goes on by itself.
                drop(self.start(&mut state));
                Look::Here(value)
            }
            (None, Some((_, missing))) => Look::Missing(missing.clone()),
            (None, None) => Look::Wait(self.start(&mut state)),
        }
    }

    /// Fetches it, unless that is under way.
    fn start(&self, state: &mut State<T>) -> Shared<oneshot::Receiver<()>> {
        if let Some(under_way) = &state.under_way
            && !matches!(under_way.peek(), Some(Err(_)))
        {
            return under_way.clone();
        }
        let (done, wait) = oneshot::channel();
        let wait = wait.shared();
        state.under_way = Some(wait.clone());
        let inner = self.0.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                fetched = timeout(FETCH, (inner.fetch)()) => {
                    let late = |_| Err(Missing::unavailable(format!("it did not come within {FETCH:?}")));
                    inner.settle(fetched.unwrap_or_else(late));
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
                () = inner.closing.cancelled() => {}
            }
        });
        wait
    }
}

enum Look<T> {
    Here(Arc<T>),
    Wait(Shared<oneshot::Receiver<()>>),
    Missing(Missing),
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, fetched: Result<Fetched<T>, Missing>) {
        let now = self.clock.now();
        let fetched = fetched.and_then(|fetched| {
            Current::new(fetched, now).ok_or_else(|| {
                Missing::unavailable("what came is over already; the clocks of this machine and of its giver differ")
            })
        });
        let mut state = self.state();
        state.under_way = None;
        match fetched {
            Ok(current) => {
                let previous = state.current.replace(current).map(|previous| previous.value);
                state.previous = previous.or(state.previous.take());
                state.failed = None;
            }
            Err(missing) => {
                let left = state.current.as_ref().is_some_and(|current| current.end.is_none_or(|end| now < end));
                let still = if left { "; the one it has still holds" } else { "" };
                let Owner { backend, endpoint } = &self.owner;
                warn!(
                    backend.name = %backend, endpoint = %endpoint,
                    "backend `{backend}`: there is no credential for endpoint `{endpoint}`: {}{still}",
                    shown_up_to(&missing.reason, REASON)
                );
                state.failed = Some((now, missing));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::clock::Clock;

    #[derive(Debug)]
    struct Hand(Mutex<Timestamp>);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    /// Numbers the values it gives; each lasts as long as `lasts` says, and comes when a permit is given.
    struct Fixture {
        fresh: Arc<Fresh<u64>>,
        clock: Arc<Hand>,
        asked: Arc<AtomicU64>,
        gate: Arc<Semaphore>,
        fails: Arc<Mutex<Option<Missing>>>,
        tasks: TaskTracker,
    }

    fn fixture(lasts: Option<Duration>) -> Fixture {
        let clock = Arc::new(Hand(Mutex::new(Timestamp::from_second(1_900_000_000).unwrap())));
        let (asked, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let fails: Arc<Mutex<Option<Missing>>> = Arc::default();
        let fetch: Fetch<u64> = {
            let (clock, asked, gate, fails) = (clock.clone(), asked.clone(), gate.clone(), fails.clone());
            Box::new(move || {
                let (clock, asked, gate, fails) = (clock.clone(), asked.clone(), gate.clone(), fails.clone());
                async move {
                    let value = asked.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.acquire().await.unwrap().forget();
                    let until = lasts.map(|lasts| clock.now().checked_add(lasts).unwrap());
                    let failure = fails.lock().unwrap().clone();
                    failure.map_or(Ok(Fetched { value, until }), Err)
                }
                .boxed()
            })
        };
        let owner = Owner { backend: "main".parse().unwrap(), endpoint: "cloud".parse().unwrap() };
        let tasks = TaskTracker::new();
        let fresh = Fresh::new(fetch, owner, clock.clone(), tasks.clone(), CancellationToken::new());
        Fixture { fresh: Arc::new(fresh), clock, asked, gate, fails, tasks }
    }

    impl Fixture {
        async fn get(&self) -> Result<u64, Missing> {
            self.fresh.get(Instant::now() + Duration::from_secs(60)).await.map(|value| *value)
        }

        fn pass(&self, by: u64) {
            let mut now = self.clock.0.lock().unwrap();
            *now = now.checked_add(Duration::from_secs(by)).unwrap();
        }

        /// Waits until what was begun is over.
        async fn settled(&self) {
            let under_way = self.fresh.0.state().under_way.clone();
            if let Some(under_way) = under_way {
                under_way.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn who_wait_at_once_share_one_question() {
        let fixture = fixture(Some(Duration::from_secs(3_600)));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let fresh = fixture.fresh.clone();
                fixture.tasks.spawn(async move { *fresh.get(Instant::now() + FETCH).await.unwrap() })
            })
            .collect();
        fixture.gate.add_permits(50);
        for value in waiting {
            assert_eq!(value.await.unwrap(), 1);
        }
        assert_eq!(fixture.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn who_gives_up_harms_nobody() {
        let fixture = fixture(Some(Duration::from_secs(3_600)));
        let missing = fixture.fresh.get(Instant::now()).await.unwrap_err();
        assert!(!missing.denied && missing.reason.contains("deadline"), "{missing}");
        fixture.gate.add_permits(1);
        assert_eq!(fixture.get().await, Ok(1));
    }

    #[tokio::test]
    async fn it_is_renewed_before_it_ends_and_used_until_then() {
        let fixture = fixture(Some(Duration::from_secs(3_600)));
        fixture.gate.add_permits(1);
        assert_eq!(fixture.get().await, Ok(1));
        fixture.pass(3_299);
        assert_eq!(fixture.get().await, Ok(1));
        assert_eq!(fixture.asked.load(Ordering::SeqCst), 1);
        fixture.pass(2);
        assert_eq!(fixture.get().await, Ok(1), "nobody waits for the successor");
        fixture.gate.add_permits(1);
        fixture.settled().await;
        assert_eq!(fixture.get().await, Ok(2));
        // Nobody asked in time.
        fixture.pass(3_591);
        fixture.gate.add_permits(1);
        assert_eq!(fixture.get().await, Ok(3));
        assert_eq!(fixture.fresh.known().iter().map(|value| **value).collect::<Vec<_>>(), [3, 2]);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_not_repeated_at_once() {
        let fixture = fixture(Some(Duration::from_secs(3_600)));
        fixture.gate.add_permits(10);
        let missing = Missing::denied("no role");
        *fixture.fails.lock().unwrap() = Some(missing.clone());
        assert_eq!(fixture.get().await, Err(missing.clone()));
        assert_eq!(fixture.get().await, Err(missing.clone()));
        assert_eq!(fixture.asked.load(Ordering::SeqCst), 1);
        fixture.pass(5);
        assert_eq!(fixture.get().await, Err(missing.clone()));
        assert_eq!(fixture.asked.load(Ordering::SeqCst), 2);
        fixture.pass(5);
        *fixture.fails.lock().unwrap() = None;
        assert_eq!(fixture.get().await, Ok(3));
        // A failed renewal leaves what there is, to its end.
        *fixture.fails.lock().unwrap() = Some(missing.clone());
        fixture.pass(3_400);
        assert_eq!(fixture.get().await, Ok(3));
        fixture.settled().await;
        assert_eq!(fixture.get().await, Ok(3));
        fixture.pass(200);
        assert_eq!(fixture.get().await, Err(missing));
    }

    #[tokio::test]
    async fn one_that_is_over_when_it_comes_is_none() {
        let fixture = fixture(Some(Duration::ZERO));
        fixture.gate.add_permits(1);
        let missing = fixture.get().await.unwrap_err();
        assert!(missing.reason.contains("clocks"), "{missing}");
    }

    #[tokio::test]
    async fn one_without_an_end_is_looked_for_again_and_kept() {
        let fixture = fixture(None);
        fixture.gate.add_permits(1);
        assert_eq!(fixture.get().await, Ok(1));
        fixture.pass(301);
        assert_eq!(fixture.get().await, Ok(1));
        fixture.gate.add_permits(1);
        fixture.settled().await;
        assert_eq!(fixture.get().await, Ok(2));
    }

    #[test]
    fn one_that_lasts_a_minute_is_used_for_most_of_it() {
        let now = Timestamp::from_second(1_000).unwrap();
        let until = Some(Timestamp::from_second(1_060).unwrap());
        let current = Current::new(Fetched { value: (), until }, now).unwrap();
        assert_eq!(current.renew, Timestamp::from_second(1_045).unwrap());
        assert!(current.end.unwrap() > Timestamp::from_second(1_050).unwrap());
    }
}
