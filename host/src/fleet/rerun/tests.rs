use super::*;
use crate::fleet::job::{Assignment, JobChange, JobFact, Phase, apply_change, apply_fact};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn job(id: i64, attempt: i32, phase: Phase, now: Timestamp) -> Job {
    let fact = JobFact {
        key: JobKey { id, attempt },
        run_id: 70,
        repo: "octocat/hello-world".parse().unwrap(),
        installation_id: Some(1),
        name: "build".into(),
        workflow: None,
        branch: None,
        html_url: None,
        labels: vec!["self-hosted".into()],
        phase,
        runner: None,
        created_at: Some(at(0)),
        started_at: None,
        completed_at: None,
    };
    let small = Assignment { project: "my-app".parse().unwrap(), pool: Some("small".parse().unwrap()), reason: None };
    apply_fact(None, &fact, &small, now).job.unwrap()
}

/// A job that lost its machine and was concluded at this second.
fn lost(conclusion: &str, second: i64) -> Job {
    let mut running = job(7, 1, Phase::InProgress, at(second - 10));
    let taken = JobChange::Interrupted { reason: "the price rose".into() };
    apply_change(&mut running, &taken, at(second - 5)).unwrap();
    let end = Phase::Completed { conclusion: Some(conclusion.into()) };
    let end = job(7, 1, end, at(second));
    Job { interruption: running.interruption, ..end }
}

fn keys(jobs: &[Arc<Job>]) -> Vec<JobKey> {
    jobs.iter().map(|job| job.key).collect()
}

#[test]
fn a_lost_job_is_asked_for_once_it_is_over() {
    let mut reruns = Reruns::default();
    reruns.apply(&Arc::new(lost("failure", 100)));
    assert_eq!((reruns.next(), keys(&reruns.due(at(101)))), (Some(at(102)), vec![]));
    assert_eq!(keys(&reruns.due(at(102))), [JobKey { id: 7, attempt: 1 }]);
    assert_eq!((reruns.next(), keys(&reruns.due(at(999)))), (None, vec![]), "not a second time");
}

#[test]
fn one_that_succeeded_in_spite_of_all_is_left_alone() {
    let mut reruns = Reruns::default();
    reruns.apply(&Arc::new(lost("success", 100)));
    assert_eq!(reruns.next(), None);
}

#[test]
fn what_github_puts_off_is_asked_for_again_and_more_and_more_seldom() {
    let mut reruns = Reruns::default();
    let mut job = lost("failure", 100);
    let mut tries = Vec::new();
    let mut now = at(100);
    while !is_too_late(&job, now) {
        reruns.apply(&Arc::new(job.clone()));
        now = reruns.next().unwrap();
        tries.push(now);
        assert_eq!(reruns.due(now).len(), 1);
        apply_change(&mut job, &JobChange::RerunAsked, now).unwrap();
        apply_change(&mut job, &JobChange::RerunPutOff { reason: "its run goes on".into() }, now).unwrap();
    }
    let waits: Vec<i64> = tries.windows(2).map(|two| two[1].duration_since(two[0]).as_secs()).collect();
    assert!(waits.is_sorted() && waits[0] == 2 && waits.last() == Some(&600), "{waits:?}");
    assert!(tries.len() < 200, "{} requests in a day", tries.len());
    assert_eq!(job.reason.as_deref(), Some("its run goes on"));
}

#[test]
fn what_has_a_later_attempt_was_run_again_and_gets_a_machine_that_stays() {
    let mut reruns = Reruns::default();
    reruns.apply(&Arc::new(lost("failure", 100)));
    let again = job(8, 2, Phase::Queued, at(101));
    assert!(reruns.lost_before(&again));
    let other = Job { name: "test".into(), ..again.clone() };
    assert!(!reruns.lost_before(&other));
    reruns.apply(&Arc::new(other));
    assert!(reruns.next().is_some(), "another job of the run");
    reruns.apply(&Arc::new(again.clone()));
    assert_eq!(reruns.next(), None);
    assert!(reruns.lost_before(&again));
    reruns.due(at(100) + WINDOW);
    assert!(!reruns.lost_before(&again), "it is forgotten some day");
}

#[test]
fn an_answer_that_comes_after_a_later_attempt_makes_no_third() {
    let mut reruns = Reruns::default();
    reruns.apply(&Arc::new(lost("failure", 100)));
    let asked = reruns.due(at(200));
    // Somebody else was quicker, and the answer to what was asked meanwhile is that the run goes on.
    reruns.apply(&Arc::new(job(8, 2, Phase::Queued, at(201))));
    assert!(reruns.has_later(&asked[0]));
    reruns.apply(&asked[0]);
    assert_eq!(reruns.next(), None);
}
