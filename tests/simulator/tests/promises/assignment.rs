//! Which runner gets a job, and what becomes of both.

use std::{collections::BTreeMap, time::Duration};

use pacer_simulator::github::{self, ConnectError, JobId, NewJob, Session};
use reqwest::Method;
use serde_json::json;

use crate::play::{As, ORG, Play, REPO};

fn job(labels: &[&str]) -> NewJob {
    NewJob::new(REPO, labels, Duration::ZERO)
}

/// What is there first, and waits for the other.
#[derive(Debug, Clone, Copy)]
enum First {
    Jobs,
    Runners,
}

/// Who got what, with as many runners as jobs that all fit each other.
async fn who_got_what(first: First, seed: u64, count: usize) -> BTreeMap<JobId, String> {
    let play = Play::with(github::Settings { seed, ..github::Settings::default() }).await;
    let token = play.token().await;
    let mut configs = Vec::new();
    for number in 0..count {
        let (_, config) = play.jit(&token, &format!("pacer-{number:02}"), &["self-hosted", "linux"]).await;
        configs.push(config);
    }
    let queue = || {
        for _ in 0..count {
            play.simulator.github.queue(job(&["self-hosted"]));
        }
    };
    let connect = || -> Vec<Session> {
        configs.iter().map(|config| play.simulator.github.connect(config).expect("it connects")).collect()
    };
    let sessions = match first {
        First::Jobs => {
            queue();
            connect()
        }
        First::Runners => {
            let sessions = connect();
            queue();
            sessions
        }
    };
    let jobs = play.simulator.github.jobs();
    sessions.into_iter().for_each(|session| session.done("success"));
    assert_eq!(play.simulator.audit(), Vec::<String>::new());
    play.simulator.stop().await;
    jobs.into_iter().map(|job| (job.id, job.runner.expect("every job has a runner"))).collect()
}

#[tokio::test]
async fn jobs_go_to_any_runner_that_fits_and_a_seed_repeats_to_which() {
    for first in [First::Jobs, First::Runners] {
        let pairs = who_got_what(first, 7, 12).await;
        assert_eq!(pairs, who_got_what(first, 7, 12).await, "{first:?} first: the same seed");
        assert_ne!(pairs, who_got_what(first, 8, 12).await, "{first:?} first: another seed");
        let in_order = pairs.values().collect::<Vec<_>>().is_sorted();
        assert!(!in_order, "{first:?} first: pairs are swapped: {pairs:?}");
    }
}

#[tokio::test]
async fn a_runner_fits_when_it_has_every_label_whatever_their_case() {
    let play = Play::start().await;
    let token = play.token().await;
    let (_, config) = play.jit(&token, "pacer-one", &["Self-Hosted", "LINUX", "x64"]).await;
    let mut session = play.simulator.github.connect(&config).expect("it connects");
    let gpu = play.simulator.github.queue(job(&["self-hosted", "gpu"]));
    let fits = play.simulator.github.queue(job(&["SELF-HOSTED", "Linux"]));
    assert_eq!(session.job().await.map(|job| job.id), Some(fits));
    let waiting = play.simulator.github.job(gpu).expect("it is known");
    assert_eq!((waiting.status, waiting.runner), ("queued", None));
    play.simulator.stop().await;
}

#[tokio::test]
async fn runners_of_the_repository_come_before_those_of_its_organisation() {
    let play = Play::start().await;
    let token = play.org_token().await;
    let repo = format!("{ORG}/widgets");
    let mut sessions = BTreeMap::new();
    for (scope, name) in [(format!("/orgs/{ORG}"), "org"), (format!("/repos/{repo}"), "repo")] {
        let body = json!({ "name": name, "runner_group_id": 1, "labels": ["linux"] });
        let made = play.post(As::Bearer(&token), &format!("{scope}/actions/runners/generate-jitconfig"), &body).await;
        let config = made.body["encoded_jit_config"].as_str().expect("a configuration").to_owned();
        sessions.insert(name, play.simulator.github.connect(&config).expect("it connects"));
    }
    let runner = |id| play.simulator.github.job(id).and_then(|job| job.runner);
    let new = || NewJob { repo: repo.clone(), ..job(&["linux"]) };
    let (first, second) = (play.simulator.github.queue(new()), play.simulator.github.queue(new()));
    assert_eq!(runner(first).as_deref(), Some("repo"));
    assert_eq!(runner(second).as_deref(), Some("org"));
    let elsewhere = play.simulator.github.queue(job(&["linux"]));
    assert_eq!(runner(elsewhere), None);
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_runner_is_offline_until_it_connects_busy_with_its_job_and_gone_after_it() {
    let play = Play::start().await;
    let token = play.token().await;
    let who = As::Bearer(&token);
    let (id, config) = play.jit(&token, "pacer-one", &["linux"]).await;
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    let seen = async || {
        let runner = play.get(who, &path).await.body;
        (runner["status"].as_str().unwrap_or("-").to_owned(), runner["busy"] == true)
    };
    assert_eq!(seen().await, ("offline".to_owned(), false));
    let session = play.simulator.github.connect(&config).expect("it connects");
    assert_eq!(seen().await, ("online".to_owned(), false));
    play.simulator.github.queue(job(&["linux"]));
    assert_eq!(seen().await, ("online".to_owned(), true));
    assert_eq!(play.delete(who, &path).await.status, 422, "it is busy");
    session.done("success");
    assert_eq!(play.get(who, &path).await.status, 404, "it was ephemeral");
    assert_eq!(play.simulator.left(), Vec::<String>::new());
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_configuration_is_good_for_one_runner_once() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, config) = play.jit(&token, "pacer-one", &["linux"]).await;
    let github = &play.simulator.github;
    let session = github.connect(&config).expect("it connects");
    assert!(matches!(github.connect(&config), Err(ConnectError::Used)));
    assert!(matches!(github.connect("nonsense"), Err(ConnectError::Garbage)));
    session.leave();
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    assert_eq!(play.delete(As::Bearer(&token), &path).await.status, 204);
    assert!(matches!(github.connect(&config), Err(ConnectError::Unknown)));
    assert_eq!(github.jit_configs(), [config], "every secret is on the list");
    assert!(github.tokens().contains(&token));
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_runner_that_vanishes_idle_leaves_its_record_and_with_a_job_fails_it_after_a_while() {
    let settings = github::Settings { lost_after: Duration::from_millis(20), ..github::Settings::default() };
    let play = Play::with(settings).await;
    let token = play.token().await;
    let (_, config) = play.jit(&token, "pacer-idle", &["linux"]).await;
    drop(play.simulator.github.connect(&config).expect("it connects"));
    let (_, config) = play.jit(&token, "pacer-busy", &["linux"]).await;
    let session = play.simulator.github.connect(&config).expect("it connects");
    let lost = play.simulator.github.queue(job(&["linux"]));
    assert_eq!(play.simulator.github.job(lost).and_then(|job| job.runner).as_deref(), Some("pacer-busy"));
    drop(session);
    play.until("the job fails", |simulator| {
        simulator.github.job(lost).is_some_and(|job| job.conclusion.as_deref() == Some("failure"))
    })
    .await;
    assert_eq!(play.simulator.left(), ["runner record `pacer-idle`"]);
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_deleted_runner_learns_that_there_is_no_job_for_it() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, config) = play.jit(&token, "pacer-one", &["linux"]).await;
    let mut session = play.simulator.github.connect(&config).expect("it connects");
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    let (job, deleted) = tokio::join!(session.job(), play.delete(As::Bearer(&token), &path));
    assert_eq!((job.map(|job| job.id), deleted.status), (None, 204));
    play.simulator.stop().await;
}

/// The promised size: all of them queued at once, and as many runners, by plain look-ups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_jobs_find_ten_thousand_runners() {
    const COUNT: usize = 10_000;
    let play = Play::with(github::Settings { weather: forgetful(), ..github::Settings::default() }).await;
    let token = play.token().await;
    let path = format!("/repos/{REPO}/actions/runners/generate-jitconfig");
    let jobs: Vec<JobId> = (0..COUNT).map(|_| play.simulator.github.queue(job(&["self-hosted", "linux"]))).collect();
    for number in 0..COUNT {
        let body =
            json!({ "name": format!("pacer-{number}"), "runner_group_id": 1, "labels": ["self-hosted", "linux"] });
        let made = play.try_call(As::Bearer(&token), Method::POST, &path, Some(&body)).await.expect("an answer");
        let config = made.body["encoded_jit_config"].as_str().expect("a configuration").to_owned();
        play.simulator.github.connect(&config).expect("it connects").done("success");
    }
    let summary = play.simulator.summary();
    assert_eq!((summary.queued, summary.served), (jobs.len(), COUNT));
    assert_eq!(play.simulator.audit(), Vec::<String>::new());
    assert_eq!(play.simulator.left(), Vec::<String>::new());
    play.simulator.stop().await;
}

/// Nobody listens: this test is about jobs.
fn forgetful() -> github::Weather {
    github::Weather { forgotten: 1.0, ..github::Weather::default() }
}

#[tokio::test]
async fn a_run_is_in_progress_while_the_next_of_its_jobs_is_queued() {
    let play = Play::start().await;
    let token = play.token().await;
    let who = As::Bearer(&token);
    let first = play.simulator.github.queue(job(&["linux"]));
    let run = play.get(who, &format!("/repos/{REPO}/actions/jobs/{first}")).await.body["run_id"].clone();
    let listed = async |status: &str| {
        let runs = play.get(who, &format!("/repos/{REPO}/actions/runs?status={status}")).await.body;
        runs["workflow_runs"].as_array().expect("runs").iter().any(|listed| listed["id"] == run)
    };
    assert!(listed("queued").await);
    let (_, config) = play.jit(&token, "pacer-one", &["linux"]).await;
    let session = play.simulator.github.connect(&config).expect("it connects");
    let next = play.simulator.github.queue(NewJob { beside: Some(first), ..job(&["linux"]) });
    assert!(listed("in_progress").await && !listed("queued").await && !listed("completed").await);
    let jobs = play.get(who, &format!("/repos/{REPO}/actions/runs/{run}/jobs?filter=latest")).await.body;
    let ids: Vec<_> = jobs["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect();
    assert_eq!(ids, [first, next]);
    session.done("success");
    assert!(listed("in_progress").await, "what is queued of it keeps it going");
    let (_, config) = play.jit(&token, "pacer-two", &["linux"]).await;
    play.simulator.github.connect(&config).expect("it connects").done("success");
    assert!(listed("completed").await && listed("success").await);
    play.simulator.stop().await;
}
