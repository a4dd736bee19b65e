//! Against real database files, with and without somebody who writes to them.

use std::{path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::SystemClock,
    config::{Pool, Project, RunnerGroup, Scope, Timeouts, fixture},
    fleet::{
        job::{Assignment, JobChange, JobFact, Phase},
        runner::{RunnerName, Target},
    },
    store::{Ingest, Op, Pause, Proof},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Project `app` with the pool `small` of two runners, and a database in `directory`.
fn config(directory: &Path) -> Config {
    let time = Duration::from_secs(60);
    let pool = Pool {
        name: "small".parse().unwrap(),
        backend: "engine".parse().unwrap(),
        enabled: true,
        default: true,
        priority: 100,
        labels: vec!["linux".to_owned()],
        max_runners: 2,
        warm: crate::config::Warm::always(0),
        timeouts: Timeouts { register: time, create: time, boot: time, idle: time, run: time, stop: time },
        bootstrap: crate::config::Bootstrap::default(),
        settings: serde_json::json!({}),
    };
    let mut config = fixture(vec![Arc::new(Project {
        name: "app".parse().unwrap(),
        scope: Scope::Repos(vec!["acme/app".parse().unwrap()]),
        max_runners: None,
        max_runners_per_repo: None,
        pools: vec![Arc::new(pool)],
    })]);
    config.database.url = format!("sqlite:{}/pacer.db", directory.display());
    config
}

fn job(id: i64, attempt: i32, pool: Option<&str>) -> Op {
    let fact = JobFact {
        key: JobKey { id, attempt },
        run_id: 1,
        repo: "acme/app".parse().unwrap(),
        installation_id: Some(9),
        name: "build".to_owned(),
        workflow: None,
        branch: None,
        html_url: None,
        labels: vec!["self-hosted".to_owned(), if pool.is_some() { "linux" } else { "gpu" }.to_owned()],
        phase: Phase::Queued,
        runner: None,
        created_at: Some(at(0)),
        started_at: None,
        completed_at: None,
    };
    let assignment = Assignment {
        project: "app".parse().unwrap(),
        pool: pool.map(|pool| pool.parse().unwrap()),
        reason: pool.is_none().then(|| "no pool has label `gpu`".to_owned()),
    };
    Op::Ingest(Box::new(Ingest {
        guid: Some(format!("guid-{id}-{attempt}")),
        received_at: at(0),
        event: "workflow_job".to_owned(),
        action: "queued".to_owned(),
        demand: Some((fact, Some(assignment))),
        ignored: None,
        source: "webhook",
    }))
}

fn runner(number: usize, state: RunnerState) -> Op {
    let place = ("app".parse().unwrap(), "small".parse().unwrap());
    let target = Target::Repo("acme/app".parse().unwrap());
    let name = RunnerName::new(format!("pacer-small-{number}"));
    Op::NewRunner(Box::new(Runner {
        installation_id: Some(9),
        state,
        ..Runner::planned(name, place, "engine".parse().unwrap(), target, at(0), at(100))
    }))
}

/// A database with these rows; its writer is still there.
fn store(config: &Config, ops: Vec<Op>) -> (tokio::runtime::Runtime, Store) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = runtime.block_on(async {
        let store = Store::open(&config.database.url, Arc::new(SystemClock)).await.unwrap();
        store.write(ops).await.unwrap();
        store
    });
    (runtime, store)
}

fn ask(config: &Config, job: &str, json: bool) -> Result<(String, Outcome), String> {
    let args = ExplainArgs { job: job.parse().unwrap(), json };
    let mut out = Vec::new();
    let outcome = run(config, &args, at(30), &mut out).map_err(|error| format!("{error:#}"))?;
    Ok((String::from_utf8(out).unwrap(), outcome))
}

#[test]
fn it_answers_next_to_a_writer_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let (runtime, store) = store(&config, vec![job(7, 1, Some("small")), job(7, 2, Some("small"))]);
    let beside = ask(&config, "7-1", false).unwrap();
    assert!(beside.0.starts_with("job 7-1: queued\n  the job waits for a runner of pool `small`\n"), "{}", beside.0);
    assert!(beside.0.contains("(30 s)"), "{}", beside.0);
    assert_eq!(beside.1, Outcome::Fine);
    runtime.block_on(store.write(vec![job(8, 1, Some("small"))])).unwrap();
    assert!(ask(&config, "8", false).is_ok(), "what is not yet checkpointed is seen");

    runtime.block_on(store.close());
    drop((store, runtime));
    assert_eq!(ask(&config, "7-1", false).unwrap(), beside);
    assert!(ask(&config, "7", false).unwrap().0.starts_with("job 7-2: "), "the latest attempt");
    let address = "https://github.com/acme/app/actions/runs/1/job/7?pr=3#step:4:1";
    assert!(ask(&config, address, false).unwrap().0.starts_with("job 7-2: "));
    let json: serde_json::Value = serde_json::from_str(&ask(&config, "7", true).unwrap().0).unwrap();
    assert_eq!((&json["job"], &json["status"]), (&"7-2".into(), &"queued".into()));
}

#[test]
fn what_a_killed_server_left_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let copy = tempfile::tempdir().unwrap();
    let (_runtime, _store) = store(&config, vec![job(7, 1, Some("small"))]);
    // As a crash leaves it: the log of writes is there, the one who would have put it back is not.
    for file in ["pacer.db", "pacer.db-wal"] {
        std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
    }
    let mut config = config;
    config.database.url = format!("sqlite:{}/pacer.db", copy.path().display());
    assert!(ask(&config, "7", false).unwrap().0.starts_with("job 7-1: queued\n"));
}

#[test]
fn runners_that_are_not_over_count_against_caps_however_many_pages_they_fill() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let live = usize::try_from(MAX_PAGE).unwrap() + 3;
    let mut ops = vec![job(7, 1, Some("small"))];
    ops.extend((0..live).map(|number| runner(number, RunnerState::Busy)));
    ops.extend((live..live + 9).map(|number| runner(number, RunnerState::Gone)));
    let _open = store(&config, ops);
    let (text, _) = ask(&config, "7", false).unwrap();
    assert!(text.contains(&format!("pool `small` has {live} of at most 2 runners")), "{text}");
    assert!(text.contains("raise `max_runners` above 2"), "{text}");
}

#[test]
fn the_share_of_a_repository_of_an_organisation_is_counted_in_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let project = Arc::get_mut(&mut config.projects[0]).unwrap();
    project.scope = Scope::Org { login: "acme".to_owned(), runner_group: RunnerGroup::Default };
    project.max_runners_per_repo = Some(1);
    let Op::NewRunner(mut booting) = runner(1, RunnerState::Booting) else { unreachable!("it is a new runner") };
    booting.target = Target::Org("acme".to_owned());
    let claim =
        Op::Job { key: JobKey { id: 7, attempt: 1 }, change: JobChange::Claim { runner: booting.name.clone() } };
    let ops = vec![job(7, 1, Some("small")), job(8, 1, Some("small")), Op::NewRunner(booting), claim];
    let _open = store(&config, ops);
    let (text, _) = ask(&config, "8", false).unwrap();
    assert!(text.contains("repository `acme/app` has 1 of at most 1 runners"), "{text}");
    assert!(text.contains("raise `max_runners_per_repo` above 1"), "{text}");
}

#[test]
fn a_pool_that_is_held_back_says_until_when() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let pause = Pause { until: at(60), reason: "the engine is down".to_owned(), failures: 3, proof: Proof::Machine };
    let pause = Op::Pause { project: "app".parse().unwrap(), pool: "small".parse().unwrap(), pause: Some(pause) };
    let _open = store(&config, vec![job(7, 1, Some("small")), pause]);
    let (text, _) = ask(&config, "7", false).unwrap();
    assert!(text.contains("3 failures in a row: the engine is down"), "{text}");
}

#[test]
fn a_job_that_needs_somebody_exits_with_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let _open = store(&config, vec![job(7, 1, None)]);
    let (text, outcome) = ask(&config, "7", false).unwrap();
    assert_eq!(outcome, Outcome::Problem);
    assert!(text.contains("no pool has label `gpu`") && text.contains("what would unblock it"), "{text}");
}

#[test]
fn what_is_not_there_is_told_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let missing = ask(&config, "7", false).unwrap_err();
    assert!(missing.contains("pacer.db` cannot be opened: there is no such file; `pacer serve` makes it"), "{missing}");

    let _open = store(&config, vec![job(7, 2, Some("small"))]);
    let attempt = ask(&config, "7-1", false).unwrap_err();
    assert!(attempt.contains("`7-1`") && attempt.contains("is `7-2`"), "{attempt}");
    let unknown = ask(&config, "9", false).unwrap_err();
    assert!(unknown.contains("`9`") && unknown.contains("which deliveries it sent"), "{unknown}");

    std::fs::write(directory.path().join("text.db"), "x".repeat(4096)).unwrap();
    let mut config = config;
    config.database.url = format!("sqlite:{}/text.db", directory.path().display());
    let wrong = ask(&config, "7", false).unwrap_err();
    assert!(wrong.contains("is damaged or no SQLite database"), "{wrong}");
}

#[test]
fn a_job_is_named_by_its_id_its_attempt_or_its_page() {
    let check = |text: &str, expected: JobReference| assert_eq!(text.parse(), Ok(expected), "{text}");
    check("12", JobReference::Latest(12));
    check(" 12 ", JobReference::Latest(12));
    check("12-3", JobReference::Attempt(JobKey { id: 12, attempt: 3 }));
    for address in [
        "https://github.com/o/r/actions/runs/1/job/123",
        "https://github.com/o/r/actions/runs/1/job/123/",
        "https://github.com/o/r/actions/runs/1/attempts/2/job/123#step:2:9",
        "http://github.example:8443/job/jobs/actions/runs/1/job/123?pr=4",
        "https://api.github.com/repos/o/r/actions/jobs/123",
    ] {
        check(address, JobReference::Latest(123));
    }
}

#[test]
fn what_names_no_job_says_what_would() {
    for wrong in ["", "-1", "0", "x", "1-x", "1-0", "0-1", "1-2-3", "99999999999999999999", "https://github.com/o/r"] {
        let error = wrong.parse::<JobReference>().unwrap_err().to_string();
        assert!(error.contains("is not a job: give GitHub's job id"), "{wrong}: {error}");
    }
    let run = "https://github.com/o/r/actions/runs/1".parse::<JobReference>().unwrap_err().to_string();
    assert!(run.contains("is the address of a run"), "{run}");
    let odd = "https://x/\u{1b}[31m".parse::<JobReference>().unwrap_err().to_string();
    assert!(!odd.contains('\u{1b}'), "{odd}");
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in "(https://)?.{0,60}") {
        let _ = text.parse::<JobReference>();
    }
}
