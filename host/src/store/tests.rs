//! Against real files.

use std::{os::unix::fs::PermissionsExt, sync::Mutex};

use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Clock,
    fleet::{
        job::{Assignment, Interruption, Job, JobChange, JobFact, JobKey, JobStatus, Phase},
        runner::{Runner, RunnerChange, RunnerName, RunnerState},
    },
};

#[derive(Debug)]
struct TestClock(Mutex<Timestamp>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// A store in a directory of its own.
struct Fixture {
    directory: TempDir,
    store: Store,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await.unwrap();
        Self { directory, store }
    }

    async fn reopen(self) -> Self {
        self.store.close().await;
        let store = open(&self.directory).await.unwrap();
        Self { directory: self.directory, store }
    }

    async fn ingest(&self, guid: &str, id: i64, phase: Phase) -> IngestResult {
        ingested(self.store.write(vec![delivery(guid, id, phase)]).await.unwrap())
    }

    /// On the writer's own connection.
    async fn execute(&self, sql: &'static str) {
        self.store.ask(|reply| Request::Execute { sql, reply }).await.unwrap();
    }

    async fn other_connection(&self) -> sqlx::SqliteConnection {
        sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.directory.path().join("pacer.db"))
            .connect()
            .await
            .unwrap()
    }
}

fn url(directory: &TempDir) -> String {
    format!("sqlite:{}", directory.path().join("pacer.db").display())
}

async fn open(directory: &TempDir) -> Result<Store, StoreError> {
    Store::open(&url(directory), Arc::new(TestClock(Mutex::new(at(100))))).await
}

fn ingested(mut outcomes: Vec<OpOutcome>) -> IngestResult {
    match outcomes.pop() {
        Some(OpOutcome::Ingested(result)) => result,
        other => panic!("not an ingest: {other:?}"),
    }
}

fn key(id: i64) -> JobKey {
    JobKey { id, attempt: 1 }
}

fn delivery(guid: &str, id: i64, phase: Phase) -> Op {
    delivery_of(Some(guid), id, phase, Some("small"))
}

fn delivery_of(guid: Option<&str>, id: i64, phase: Phase, pool: Option<&str>) -> Op {
    let fact = JobFact {
        key: key(id),
        run_id: 1,
        repo: "Octocat/Hello-World".parse().unwrap(),
        installation_id: Some(9),
        name: "build".into(),
        workflow: None,
        branch: Some("main".into()),
        html_url: None,
        labels: vec!["self-hosted".into(), "x64".into()],
        phase,
        runner: None,
        created_at: Some(at(id)),
        started_at: None,
        completed_at: None,
    };
    let assignment = Assignment {
        project: "my-app".parse().unwrap(),
        pool: pool.map(|pool| pool.parse().unwrap()),
        reason: pool.is_none().then(|| "no pool has label `gpu`".to_owned()),
    };
    Op::Ingest(Box::new(Ingest {
        guid: guid.map(str::to_owned),
        received_at: at(50),
        event: "workflow_job".into(),
        action: "queued".into(),
        demand: Some((fact, Some(assignment))),
        ignored: None,
        source: "webhook",
    }))
}

fn completed() -> Phase {
    Phase::Completed { conclusion: Some("success".into()) }
}

fn runner(name: &str) -> Runner {
    let place = ("my-app".parse().unwrap(), "small".parse().unwrap());
    let target = "repo:Octocat/Hello-World".parse().unwrap();
    Runner {
        installation_id: Some(9),
        job: Some(key(1)),
        ..Runner::planned(RunnerName::new(name), place, "engine".parse().unwrap(), target, at(100), at(160))
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, IngestResult::Enqueued(key(1), JobStatus::Queued));
    let name = RunnerName::new("pacer-a");
    let pause = Pause { until: at(500), reason: "no capacity".into(), failures: 3, proof: Proof::Runner };
    let outcomes = fixture
        .store
        .write(vec![
            Op::NewRunner(Box::new(runner("pacer-a"))),
            Op::Job { key: key(1), change: JobChange::Claim { runner: name.clone() } },
            Op::NewRunner(Box::new(runner("pacer-a"))),
            Op::Job { key: key(99), change: JobChange::Starting },
            Op::Pause {
                project: "my-app".parse().unwrap(),
                pool: "small".parse().unwrap(),
                pause: Some(pause.clone()),
            },
        ])
        .await
        .unwrap();
    assert_eq!(outcomes, [true, true, false, false, true].map(OpOutcome::Applied));

    let before = fixture.store.job(key(1)).await.unwrap().unwrap();
    let fixture = fixture.reopen().await;
    let after = fixture.store.job(key(1)).await.unwrap().unwrap();
    assert_eq!((after.status, after.runner.as_ref()), (JobStatus::Claimed, Some(&name)));
    assert_eq!((after.repo.as_str(), after.labels.len()), ("Octocat/Hello-World", 2));
    assert_eq!(before, after);
    assert_eq!(fixture.store.runner(&name).await.unwrap(), Some(runner("pacer-a")));
    assert_eq!(fixture.store.pauses().await.unwrap()[0].2, pause);
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, IngestResult::Duplicate, "across restarts");
    let kinds = |events: Vec<EventRow>| events.into_iter().map(|event| event.kind).collect::<Vec<_>>();
    let story = kinds(fixture.store.events_of_job(key(1)).await.unwrap());
    assert_eq!(story, ["job.queued", "runner.planned", "job.claimed"]);
    assert_eq!(kinds(fixture.store.events_of_runner(&name).await.unwrap()), ["runner.planned", "job.claimed"]);
    assert_eq!(fixture.store.latest_attempt(1).await.unwrap(), Some(after));
    fixture.store.ping().await.unwrap();
}

#[tokio::test]
async fn a_delivery_counts_once_even_within_one_commit() {
    let fixture = Fixture::new().await;
    let ops = vec![delivery("g1", 1, Phase::Queued), delivery("g1", 2, Phase::Queued), delivery("g2", 1, completed())];
    let outcomes = fixture.store.write(ops).await.unwrap();
    assert_eq!(
        outcomes,
        [
            IngestResult::Enqueued(key(1), JobStatus::Queued),
            IngestResult::Duplicate,
            IngestResult::Updated(key(1), JobStatus::Completed)
        ]
        .map(OpOutcome::Ingested)
    );
    assert_eq!(fixture.store.job(key(2)).await.unwrap(), None);
    let log = fixture.store.deliveries(None, 10).await.unwrap().items;
    assert_eq!(log.iter().map(|row| row.guid.as_str()).collect::<Vec<_>>(), ["g2", "g1"]);
}

#[tokio::test]
async fn a_job_that_nobody_asked_for_counts_when_a_runner_of_ours_has_it() {
    let fixture = Fixture::new().await;
    fixture.store.write(vec![Op::NewRunner(Box::new(runner("pacer-a")))]).await.unwrap();
    let stray = |guid: &str, id, repo: &str, runner: &str| {
        let mut op = delivery(guid, id, Phase::InProgress);
        if let Op::Ingest(ingest) = &mut op {
            let (fact, assignment) = ingest.demand.as_mut().unwrap();
            fact.repo = repo.parse().unwrap();
            fact.runner = Some(runner.to_owned());
            *assignment = None;
            ingest.ignored = Some("not self-hosted".to_owned());
        }
        op
    };
    let ops = vec![
        stray("g1", 1, "octocat/hello-world", "pacer-b"),
        stray("g2", 2, "stranger/hello-world", "pacer-a"),
        stray("g3", 3, "octocat/hello-world", "pacer-a"),
    ];
    let outcomes = fixture.store.write(ops).await.unwrap();
    let ignored = || IngestResult::Ignored("not self-hosted".to_owned());
    let expected = [ignored(), ignored(), IngestResult::Updated(key(3), JobStatus::Running)];
    assert_eq!(outcomes, expected.map(OpOutcome::Ingested));
    let job = fixture.store.job(key(3)).await.unwrap().unwrap();
    assert_eq!((job.project, job.pool), (Some("my-app".parse().unwrap()), Some("small".parse().unwrap())));
}

#[tokio::test]
async fn a_delivery_that_was_ignored_is_taken_in_when_it_is_sent_again() {
    let fixture = Fixture::new().await;
    let Op::Ingest(mut ignored) = delivery("g1", 1, Phase::Queued) else { unreachable!("a delivery is taken in") };
    ignored.demand = None;
    ignored.ignored = Some("no project names its repository".to_owned());
    let reason = IngestResult::Ignored("no project names its repository".to_owned());
    for _ in 0..2 {
        let outcomes = fixture.store.write(vec![Op::Ingest(ignored.clone())]).await.unwrap();
        assert_eq!(ingested(outcomes), reason);
    }
    assert_eq!(fixture.store.deliveries(None, 10).await.unwrap().items.len(), 1);
    // The project was added meanwhile, and `Redeliver` pressed.
    let enqueued = IngestResult::Enqueued(key(1), JobStatus::Queued);
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, enqueued);
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, IngestResult::Duplicate);
    let log = fixture.store.deliveries(None, 10).await.unwrap().items;
    assert_eq!((log.len(), log[0].result.as_str(), log[0].job), (1, "enqueued", Some(key(1))));
    assert_eq!(log[0].reason, None);
}

#[tokio::test]
async fn an_unmatched_job_is_audited_once() {
    let fixture = Fixture::new().await;
    for guid in ["g1", "g2", "g1"] {
        fixture.store.write(vec![delivery_of(Some(guid), 1, Phase::Queued, None)]).await.unwrap();
    }
    let audit = fixture.store.audit(None, 10).await.unwrap().items;
    assert_eq!(audit.len(), 1);
    assert_eq!((audit[0].action.as_str(), audit[0].subject.as_str()), ("audit.job.no_pool_match", "1-1"));
    assert_eq!(fixture.store.unmatched_jobs(10).await.unwrap().len(), 1);
    let log = fixture.store.deliveries(None, 10).await.unwrap().items;
    assert_eq!(log[1].reason.as_deref(), Some("no pool has label `gpu`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_share_commits() {
    let fixture = Fixture::new().await;
    let before = fixture.store.commits();
    let writes = (0..400).map(|id| {
        let store = fixture.store.clone();
        async move { store.write(vec![delivery(&format!("g{id}"), id, Phase::Queued)]).await }
    });
    for result in futures::future::join_all(writes).await {
        result.unwrap();
    }
    let commits = fixture.store.commits() - before;
    assert!(commits < 100, "{commits} commits for 400 calls");
    assert_eq!(fixture.store.job_counts().await.unwrap()[2], (JobStatus::Queued, 400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_stream_join_without_gap_or_overlap() {
    let fixture = Fixture::new().await;
    let store = fixture.store.clone();
    let writes = async move {
        for id in 0..300 {
            store.write(vec![delivery_of(None, id, Phase::Queued, Some("small"))]).await.unwrap();
        }
    };
    let store = fixture.store.clone();
    let follows = async move {
        let mut stream = store.subscribe();
        for _ in 0..20 {
            stream.recv().await.unwrap();
        }
        store.follow().await.unwrap()
    };
    let ((), (active, mut stream)) = tokio::join!(writes, follows);
    let mut seen: Vec<i64> = active.jobs.iter().map(|job| job.key.id).collect();
    while let Ok(changes) = stream.try_recv() {
        for change in changes.iter() {
            if let Changed::Job(job) = change {
                seen.push(job.key.id);
            }
        }
    }
    assert!(!active.jobs.is_empty());
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_published_is_what_a_reader_finds() {
    let fixture = Fixture::new().await;
    let (_, mut stream) = fixture.store.follow().await.unwrap();
    fixture.ingest("g1", 1, Phase::Queued).await;
    let changes = stream.recv().await.unwrap();
    let [Changed::Job(job)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(Some(Job::clone(job)), fixture.store.job(key(1)).await.unwrap());
}

#[tokio::test]
async fn a_lock_held_elsewhere_is_an_error_that_passes() {
    let fixture = Fixture::new().await;
    let mut other = fixture.other_connection().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = fixture.store.write(vec![delivery("g1", 1, Phase::Queued)]).await.unwrap_err().to_string();
    assert!(refused.contains("another process holds the lock"), "{refused}");
    assert_eq!(fixture.store.job(key(1)).await.unwrap(), None, "readers go on");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, IngestResult::Enqueued(key(1), JobStatus::Queued));
}

#[tokio::test]
async fn a_full_disk_is_an_error_that_passes_and_leaves_nothing_half_done() {
    let fixture = Fixture::new().await;
    fixture.execute("PRAGMA max_page_count = 1").await;
    let many = |from| (from..from + 400).map(|id| delivery(&format!("g{id}"), id, Phase::Queued)).collect::<Vec<_>>();
    let refused = fixture.store.write(many(0)).await.unwrap_err().to_string();
    assert!(refused.contains("no space left") && refused.contains("pacer.db"), "{refused}");
    assert_eq!(fixture.store.jobs(&JobFilter::default(), None, 10).await.unwrap().items.len(), 0);
    // The limit belonged to the connection, and a new one is made after a failure.
    fixture.store.write(many(0)).await.unwrap();
    assert_eq!(fixture.store.job_counts().await.unwrap()[2].1, 400);
}

#[tokio::test]
async fn a_call_that_the_database_refuses_does_not_fail_the_others() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TRIGGER poison BEFORE INSERT ON jobs WHEN new.id = 13 BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )
        .await;
    // One call of two ops, so that nothing of the refused one stays.
    let calls = [10, 12, 14].map(|id| {
        let ops = vec![
            delivery_of(None, id, Phase::Queued, Some("small")),
            delivery_of(None, id + 1, Phase::Queued, Some("small")),
        ];
        fixture.store.write(ops)
    });
    let results = futures::future::join_all(calls).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let jobs = fixture.store.jobs(&JobFilter::default(), None, 10).await.unwrap().items;
    assert_eq!(jobs.iter().map(|job| job.key.id).collect::<Vec<_>>(), [15, 14, 11, 10]);
}

#[tokio::test]
async fn a_database_of_a_newer_pacer_is_refused() {
    let fixture = Fixture::new().await;
    let mut other = fixture.other_connection().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 0)",
    )
    .execute(&mut other)
    .await
    .unwrap();
    other.close().await.unwrap();
    fixture.store.close().await;
    for refused in
        [open(&fixture.directory).await.map(drop), Store::open_read_only(&url(&fixture.directory)).await.map(drop)]
    {
        assert!(matches!(refused, Err(StoreError::Newer { found: 9999, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let fixture = Fixture::new().await;
    fixture.ingest("g1", 1, Phase::Queued).await;
    for file in ["pacer.db", "pacer.db-wal", "pacer.db-shm"] {
        let mode = tokio::fs::metadata(fixture.directory.path().join(file)).await.unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_command_reads_beside_the_server_and_cannot_write() {
    let fixture = Fixture::new().await;
    fixture.ingest("g1", 1, Phase::Queued).await;
    let reader = Store::open_read_only(&url(&fixture.directory)).await.unwrap();
    assert!(reader.job(key(1)).await.unwrap().is_some());
    assert!(matches!(reader.write(vec![delivery("g2", 2, Phase::Queued)]).await, Err(StoreError::Write { .. })));
    fixture.store.close().await;
    assert!(reader.job(key(1)).await.unwrap().is_some(), "after the server has gone, too");
    let nowhere = Store::open_read_only("sqlite:/nonexistent/pacer.db").await.unwrap_err().to_string();
    assert!(nowhere.contains("there is no such file"), "{nowhere}");
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let clock: SharedClock = Arc::new(TestClock(Mutex::new(at(0))));
    for (url, reason) in [
        ("mysql:x".to_owned(), "expected `sqlite:`"),
        (format!("sqlite:{}/missing/pacer.db", directory.path().display()), "directory must exist"),
    ] {
        let error = Store::open(&url, clock.clone()).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let path = directory.path().join("pacer.db");
    tokio::fs::write(&path, "this is not a database, it is a text of some length".repeat(100)).await.unwrap();
    let error = open(&directory).await.unwrap_err().to_string();
    assert!(error.contains("no SQLite database"), "{error}");
}

#[tokio::test]
async fn pages_show_every_row_once_while_rows_come_in() {
    let fixture = Fixture::new().await;
    let ops =
        |range: std::ops::Range<i64>| range.map(|id| delivery_of(None, id, Phase::Queued, Some("small"))).collect();
    fixture.store.write(ops(0..250)).await.unwrap();
    let (mut seen, mut cursor, mut extra) = (Vec::new(), None, 1000);
    loop {
        let page = fixture.store.jobs(&JobFilter::default(), cursor.as_deref(), 40).await.unwrap();
        seen.extend(page.items.iter().map(|job| job.key.id));
        fixture.store.write(ops(extra..extra + 5)).await.unwrap();
        extra += 5;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..250).rev().collect::<Vec<_>>());
    assert!(matches!(fixture.store.jobs(&JobFilter::default(), Some("x.y"), 40).await, Err(StoreError::Cursor)));
}

#[tokio::test]
async fn listings_filter() {
    let fixture = Fixture::new().await;
    fixture.store.write(vec![delivery("g1", 1, Phase::Queued), delivery("g2", 2, completed())]).await.unwrap();
    fixture
        .store
        .write(vec![Op::NewRunner(Box::new(runner("pacer-a"))), Op::NewRunner(Box::new(runner("pacer-b")))])
        .await
        .unwrap();
    let stop = RunnerChange::Stopping { deadline: at(200), error: Some("lost".into()) };
    let name = RunnerName::new("pacer-b");
    let ops = [stop, RunnerChange::Gone].map(|change| Op::Runner { name: name.clone(), change });
    fixture.store.write(ops.to_vec()).await.unwrap();

    let repo = Some("octocat/hello-world".parse().unwrap());
    let project = Some("my-app".parse().unwrap());
    let jobs = async |filter: JobFilter| {
        let page = fixture.store.jobs(&filter, None, 10).await.unwrap();
        page.items.iter().map(|job| job.key.id).collect::<Vec<_>>()
    };
    let filter = JobFilter { repo: repo.clone(), project: project.clone(), ..JobFilter::default() };
    assert_eq!(jobs(filter.clone()).await, [2, 1]);
    assert_eq!(jobs(JobFilter { status: vec![JobStatus::Queued], ..filter.clone() }).await, [1]);
    assert_eq!(
        jobs(JobFilter { status: vec![JobStatus::Completed, JobStatus::Queued], ..filter.clone() }).await,
        [2, 1]
    );
    assert_eq!(jobs(JobFilter { status: vec![JobStatus::Queued], ..JobFilter::default() }).await, [1]);
    assert!(jobs(JobFilter { status: vec![JobStatus::Failed], ..filter }).await.is_empty());
    assert!(jobs(JobFilter { project: Some("other".parse().unwrap()), ..JobFilter::default() }).await.is_empty());

    let filter = RunnerFilter { state: vec![RunnerState::Failed], project, repo };
    let page = fixture.store.runners(&filter, None, 10).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].error.as_deref()), (1, Some("lost")));
    let all = fixture.store.runners(&RunnerFilter::default(), None, 1).await.unwrap();
    let rest = fixture.store.runners(&RunnerFilter::default(), all.next.as_deref(), 1).await.unwrap();
    assert_eq!((all.items[0].name.as_str(), rest.items[0].name.as_str()), ("pacer-b", "pacer-a"));
    assert_eq!(fixture.store.runner_counts().await.unwrap()[8], (RunnerState::Failed, 1));
    let (active, _) = fixture.store.follow().await.unwrap();
    assert_eq!((active.jobs.len(), active.runners.len()), (1, 1));
}

#[tokio::test]
async fn a_job_that_lost_its_machine_is_remembered_until_it_has_a_later_attempt() {
    let fixture = Fixture::new().await;
    let change = |change| Op::Job { key: key(1), change };
    let interrupted = async |fixture: &Fixture| {
        let jobs = fixture.store.follow().await.unwrap().0.interrupted;
        jobs.iter().map(|job| (job.key.attempt, job.interruption)).collect::<Vec<_>>()
    };
    let taken = JobChange::Interrupted { reason: "the price rose".into() };
    let ops = vec![delivery("a", 1, Phase::InProgress), change(taken)];
    fixture.store.write(ops).await.unwrap();
    assert_eq!(interrupted(&fixture).await, [], "it is not over");
    let end = Phase::Completed { conclusion: Some("failure".into()) };
    fixture.store.write(vec![delivery("b", 1, end), delivery("c", 2, completed())]).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(interrupted(&fixture).await, [(1, Some(Interruption::RerunWanted))]);

    let mut again = delivery("d", 3, Phase::Queued);
    if let Op::Ingest(ingest) = &mut again {
        ingest.demand.as_mut().unwrap().0.key.attempt = 2;
    }
    fixture.store.write(vec![again]).await.unwrap();
    assert_eq!(interrupted(&fixture).await, [(1, Some(Interruption::RerunAsked))], "whoever asked for it");
}

#[tokio::test]
async fn pruning_takes_what_is_over_and_old_with_its_history() {
    let fixture = Fixture::new().await;
    let ops =
        (0..700).map(|id| delivery(&format!("g{id}"), id, if id == 0 { Phase::Queued } else { completed() })).collect();
    fixture.store.write(ops).await.unwrap();
    fixture
        .store
        .write(vec![Op::NewRunner(Box::new(runner("pacer-a"))), Op::NewRunner(Box::new(runner("pacer-b")))])
        .await
        .unwrap();
    fixture
        .store
        .write(vec![Op::Runner { name: RunnerName::new("pacer-b"), change: RunnerChange::Gone }])
        .await
        .unwrap();
    let keep = Duration::from_secs(3600);
    let retention = Retention { jobs: keep, deliveries: keep, audit: keep };
    assert_eq!(fixture.store.prune(&retention, at(200)).await.unwrap(), Pruned::default(), "nothing is old");
    let pruned = fixture.store.prune(&retention, at(10_000)).await.unwrap();
    assert_eq!(pruned, Pruned { jobs: 699, runners: 1, deliveries: 700, audit: 0 });
    assert_eq!(fixture.store.jobs(&JobFilter::default(), None, 10).await.unwrap().items.len(), 1, "it still waits");
    assert!(fixture.store.events_of_job(key(5)).await.unwrap().is_empty());
    assert!(!fixture.store.events_of_job(key(0)).await.unwrap().is_empty());
    assert!(fixture.store.runner(&RunnerName::new("pacer-a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_is_gone_and_readers_are_not() {
    let fixture = Fixture::new().await;
    fixture.ingest("g1", 1, Phase::Queued).await;
    let refused = open(&fixture.directory).await.unwrap_err().to_string();
    assert!(refused.contains("pacer.db.lock") && refused.contains("another `pacer serve`"), "{refused}");
    let reader = Store::open_read_only(&url(&fixture.directory)).await.unwrap();
    assert!(reader.job(key(1)).await.unwrap().is_some());
    assert_eq!(Store::look(&url(&fixture.directory)).await.unwrap(), DatabaseState::Current);
    reader.close().await;
    // The file of one that was killed is still there, and holds nobody up.
    let fixture = fixture.reopen().await;
    assert!(fixture.directory.path().join("pacer.db.lock").exists());
    assert_eq!(fixture.ingest("g1", 1, Phase::Queued).await, IngestResult::Duplicate);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let fixture = Fixture::new().await;
    fixture.store.close().await;
    assert!(matches!(fixture.store.write(vec![delivery("g1", 1, Phase::Queued)]).await, Err(StoreError::Closed)));
    assert!(matches!(fixture.store.ping().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn runners_are_counted_and_filtered_by_state_and_project() {
    let fixture = Fixture::new().await;
    let states = [RunnerState::Idle, RunnerState::Idle, RunnerState::Failed, RunnerState::Gone, RunnerState::Gone];
    let mut ops = Vec::new();
    for (index, state) in states.into_iter().enumerate() {
        for project in ["my-app", "other"] {
            let name = format!("pacer-{project}-{index}");
            ops.push(Op::NewRunner(Box::new(Runner { state, project: project.parse().unwrap(), ..runner(&name) })));
        }
    }
    fixture.store.write(ops).await.unwrap();
    let counts = fixture.store.runner_counts().await.unwrap();
    let counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [(RunnerState::Idle, 4), (RunnerState::Gone, 4), (RunnerState::Failed, 2)]);
    for (state, expected) in [(RunnerState::Idle, 2), (RunnerState::Failed, 1), (RunnerState::Gone, 2)] {
        let filter = RunnerFilter { state: vec![state], project: Some("other".parse().unwrap()), repo: None };
        let page = fixture.store.runners(&filter, None, 10).await.unwrap();
        assert_eq!(page.items.len(), expected, "{state}");
        assert!(page.items.iter().all(|runner| runner.state == state && runner.project.as_str() == "other"));
        let repo = Some("octocat/hello-world".parse().unwrap());
        let page = fixture.store.runners(&RunnerFilter { repo, ..filter }, None, 10).await.unwrap();
        assert_eq!(page.items.len(), expected, "{state}, of the repository too");
    }
}

#[tokio::test]
async fn the_statements_of_the_fleet_and_the_pages_use_their_indexes() {
    let fixture = Fixture::new().await;
    let mut other = fixture.other_connection().await;
    for (statement, index) in [
        (
            "SELECT * FROM jobs WHERE status IN ('waiting', 'unmatched', 'queued', 'claimed', 'starting', 'running') ORDER BY queued_at, id, attempt",
            "jobs_active",
        ),
        (
            "SELECT * FROM jobs WHERE status IN ('failed', 'cancelled') AND status IN (?) ORDER BY queued_at DESC, id DESC, attempt DESC",
            "jobs_mishaps",
        ),
        (
            "SELECT * FROM jobs WHERE 1 = 1 AND project = ? ORDER BY queued_at DESC, id DESC, attempt DESC",
            "jobs_by_project",
        ),
        (
            "SELECT * FROM jobs WHERE 1 = 1 AND (queued_at, id, attempt) < (?, ?, ?) ORDER BY queued_at DESC, id DESC, attempt DESC",
            "jobs_listing",
        ),
        ("SELECT * FROM jobs WHERE (id, attempt) IN (VALUES (?, ?), (?, ?))", "sqlite_autoindex_jobs_1"),
        (
            "SELECT * FROM runners WHERE state IN ('planned', 'registering', 'creating', 'booting', 'idle', 'busy', 'stopping') ORDER BY created_at, name",
            "runners_active",
        ),
        (
            "SELECT * FROM runners WHERE 1 = 1 AND state = 'failed' AND state IN (?) ORDER BY created_at DESC, name DESC",
            "runners_failed",
        ),
        ("SELECT 'failed', COUNT(*) FROM runners WHERE state = 'failed'", "runners_failed"),
        (
            "SELECT * FROM runners WHERE 1 = 1 AND state IN (?) AND project = ? ORDER BY created_at DESC, name DESC",
            "runners_by_project",
        ),
        (
            "SELECT * FROM jobs WHERE interruption IS NOT NULL AND status = 'completed' AND updated_at > ? ORDER BY updated_at",
            "jobs_interrupted",
        ),
        (
            "SELECT COUNT(*) FROM jobs WHERE attempt > 1 AND run_id = ? AND name = ? AND attempt > ?",
            "jobs_later_attempts",
        ),
    ] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
                .fetch_all(&mut other)
                .await
                .unwrap();
        let plan: Vec<String> = plan.into_iter().map(|(.., detail)| detail).collect();
        assert!(plan.iter().any(|line| line.contains(&format!("INDEX {index}"))), "{statement}: {plan:?}");
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{statement}: {plan:?}");
    }
}
