use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;

use super::{log::*, *};
use crate::{
    fleet::runner::RunnerName,
    github::{
        Deleted, DeliveryAttempt, DeliveryPage, GitHubApi, GitHubErrorKind, GitHubRunner, JitRunner, Registration,
        Rerun,
    },
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn refused(kind: GitHubErrorKind) -> GitHubError {
    GitHubError { kind, message: format!("{kind:?}"), retry_after: Some(Duration::from_secs(1)) }
}

fn failed(id: i64, second: i64) -> DeliveryAttempt {
    let guid = format!("guid-{id}");
    let event = "workflow_job".to_owned();
    DeliveryAttempt { id, guid, event, delivered_at: at(second), redelivery: false, arrived: false }
}

type Payloads = dyn Fn(i64, usize) -> Result<Option<Vec<u8>>, GitHubError> + Send + Sync;

/// A log, and what is answered to the n-th question about a delivery.
struct Log {
    attempts: Mutex<Vec<DeliveryAttempt>>,
    payloads: Box<Payloads>,
    asked: Mutex<Vec<i64>>,
}

impl Log {
    fn new(
        attempts: Vec<DeliveryAttempt>,
        payloads: impl Fn(i64, usize) -> Result<Option<Vec<u8>>, GitHubError> + Send + Sync + 'static,
    ) -> Self {
        Self { attempts: Mutex::new(attempts), payloads: Box::new(payloads), asked: Mutex::default() }
    }

    fn asked(&self) -> Vec<i64> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn not_asked<T: Send + 'static>() -> BoxFuture<'static, Result<T, GitHubError>> {
    async { Err(refused(GitHubErrorKind::Rejected)) }.boxed()
}

impl GitHubApi for Log {
    fn register<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<JitRunner, GitHubError>> {
        not_asked()
    }

    fn find_runner<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
        _: &'a RunnerName,
    ) -> BoxFuture<'a, Result<Option<GitHubRunner>, GitHubError>> {
        not_asked()
    }

    fn list_runners<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<GitHubRunner>, GitHubError>> {
        not_asked()
    }

    fn delete_runner<'a>(
        &'a self,
        _: &'a Target,
        _: Option<i64>,
        _: i64,
    ) -> BoxFuture<'a, Result<Deleted, GitHubError>> {
        not_asked()
    }

    /// Pages of ten.
    fn delivery_log<'a>(&'a self, cursor: Option<&'a str>) -> BoxFuture<'a, Result<DeliveryPage, GitHubError>> {
        let from: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let mut attempts = self.attempts.lock().unwrap().clone();
        attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.id));
        let next = (attempts.len() > from + 10).then(|| (from + 10).to_string());
        let attempts = attempts.into_iter().skip(from).take(10).collect();
        async { Ok(DeliveryPage { attempts, next }) }.boxed()
    }

    fn delivery(&self, id: i64) -> BoxFuture<'_, Result<Option<Vec<u8>>, GitHubError>> {
        let before = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(id);
            asked.iter().filter(|known| **known == id).count() - 1
        };
        async move { (self.payloads)(id, before) }.boxed()
    }

    fn repositories<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<Vec<RepoName>, GitHubError>> {
        not_asked()
    }

    fn open_jobs<'a>(&'a self, _: &'a RepoName, _: Option<i64>) -> BoxFuture<'a, Result<Vec<JobFact>, GitHubError>> {
        not_asked()
    }

    fn job<'a>(
        &'a self,
        _: &'a RepoName,
        _: Option<i64>,
        _: i64,
    ) -> BoxFuture<'a, Result<Option<JobFact>, GitHubError>> {
        not_asked()
    }

    fn rerun_job<'a>(&'a self, _: &'a RepoName, _: Option<i64>, _: i64) -> BoxFuture<'a, Result<Rerun, GitHubError>> {
        not_asked()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), GitHubError>> {
        not_asked()
    }
}

/// A store that takes everything, or nothing.
#[derive(Default)]
struct Inbox {
    taken: Mutex<Vec<String>>,
    pauses: Mutex<usize>,
    full: Mutex<bool>,
}

impl Inbox {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

impl Intake for Inbox {
    fn take(&self, missed: MissedDelivery) -> BoxFuture<'_, Taken> {
        let full = *self.full.lock().unwrap();
        let taken = match missed.payload.as_slice() {
            _ if full => Taken::NotNow,
            b"nonsense" => Taken::Unusable("nonsense".to_owned()),
            _ => {
                self.taken.lock().unwrap().push(missed.guid);
                Taken::In
            }
        };
        async { taken }.boxed()
    }

    fn pause(&self, _: Duration) -> BoxFuture<'_, bool> {
        *self.pauses.lock().unwrap() += 1;
        async { true }.boxed()
    }
}

fn payload() -> Result<Option<Vec<u8>>, GitHubError> {
    Ok(Some(b"{}".to_vec()))
}

fn guids(ids: impl IntoIterator<Item = i64>) -> Vec<String> {
    ids.into_iter().map(|id| format!("guid-{id}")).collect()
}

#[tokio::test]
async fn a_large_outage_is_taken_in_to_the_end_however_often_a_limit_is_in_the_way() {
    let attempts = (1..=600).map(|id| failed(id, id)).collect();
    let log = Log::new(attempts, |id, before| match (id % 100, before) {
        (0, 0) => Err(refused(GitHubErrorKind::RateLimited)),
        _ => payload(),
    });
    let (inbox, mut look) = (Inbox::default(), DeliveryLog::new(at(700)));
    look.look(&log, &inbox, at(700)).await.unwrap();
    assert_eq!(inbox.taken(), guids(1..=600), "oldest first");
    assert_eq!(*inbox.pauses.lock().unwrap(), 6);
    log.asked();
    look.look(&log, &inbox, at(800)).await.unwrap();
    assert_eq!(log.asked(), Vec::<i64>::new(), "what was taken in is not read again");
}

#[tokio::test]
async fn what_arrived_after_all_is_left_alone() {
    let again = DeliveryAttempt { id: 9, redelivery: true, arrived: true, delivered_at: at(9), ..failed(1, 1) };
    let twice = DeliveryAttempt { id: 8, redelivery: true, delivered_at: at(8), ..failed(2, 2) };
    let other = DeliveryAttempt { event: "push".to_owned(), ..failed(3, 3) };
    let log = Log::new(vec![failed(1, 1), failed(2, 2), other, again, twice], |_, _| payload());
    let (inbox, mut look) = (Inbox::default(), DeliveryLog::new(at(10)));
    look.look(&log, &inbox, at(10)).await.unwrap();
    assert_eq!(inbox.taken(), guids([2]));
}

#[tokio::test]
async fn one_delivery_that_cannot_be_had_holds_up_nothing_and_is_given_up_in_the_end() {
    let attempts = (1..=8).map(|id| failed(id, id)).collect();
    let log = Log::new(attempts, |id, _| match id {
        2 => Err(refused(GitHubErrorKind::Unavailable)),
        3 => Ok(Some(b"nonsense".to_vec())),
        4 => Ok(None),
        _ => payload(),
    });
    let (inbox, mut look) = (Inbox::default(), DeliveryLog::new(at(10)));
    look.look(&log, &inbox, at(10)).await.unwrap();
    assert_eq!(inbox.taken(), guids([1, 5, 6, 7, 8]));
    log.asked();
    for second in [200, 400] {
        log.attempts.lock().unwrap().push(failed(second, second));
        look.look(&log, &inbox, at(second)).await.unwrap();
        assert_eq!(log.asked(), [2, second], "it is tried again, beside what is new");
    }
    log.attempts.lock().unwrap().push(failed(600, 600));
    look.look(&log, &inbox, at(600)).await.unwrap();
    assert_eq!(log.asked(), [600], "given up");
}

#[tokio::test]
async fn a_github_in_trouble_has_no_delivery_given_up() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let attempts = (1..=100).map(|id| failed(id, id)).collect();
    let log = Log::new(attempts, move |_, _| match is_up.load(Ordering::SeqCst) {
        true => payload(),
        false => Err(refused(GitHubErrorKind::Unavailable)),
    });
    let (inbox, mut look) = (Inbox::default(), DeliveryLog::new(at(100)));
    for now in [1_000, 2_000, 3_000, 4_000] {
        let error = look.look(&log, &inbox, at(now)).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::Unavailable);
        assert_eq!(log.asked(), [1, 2, 3, 4], "it is not asked for all of them");
    }
    up.store(true, Ordering::SeqCst);
    look.look(&log, &inbox, at(5_000)).await.unwrap();
    assert_eq!(inbox.taken(), guids(1..=100));
}

#[tokio::test]
async fn what_the_store_refuses_is_taken_in_by_a_later_look() {
    let attempts = (1..=30).map(|id| failed(id, id)).collect();
    let log = Log::new(attempts, |_, _| payload());
    let (inbox, mut look) = (Inbox::default(), DeliveryLog::new(at(100)));
    *inbox.full.lock().unwrap() = true;
    for now in [1_000, 2_000] {
        look.look(&log, &inbox, at(now)).await.unwrap();
    }
    assert_eq!(inbox.taken(), guids([]));
    *inbox.full.lock().unwrap() = false;
    look.look(&log, &inbox, at(3_000)).await.unwrap();
    assert_eq!(inbox.taken(), guids(1..=30));
}

#[test]
fn at_the_start_every_place_is_to_be_asked_for_its_jobs() {
    let unasked = Unasked::of(&crate::fleet::tests::config(|_, _| {}));
    let repos: Vec<String> = unasked.repos.iter().map(ToString::to_string).collect();
    assert_eq!(repos, ["octocat/app", "octocat/tool"]);
    assert_eq!(unasked.orgs, BTreeSet::from(["acme".to_owned()]));
}
