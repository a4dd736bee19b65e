use proptest::prelude::*;

use super::*;
use crate::{fleet::retry::Trouble, store::IngestResult};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn fact(phase: Phase, runner: Option<&str>) -> JobFact {
    JobFact {
        key: JobKey { id: 7, attempt: 1 },
        run_id: 70,
        repo: "octocat/hello-world".parse().unwrap(),
        installation_id: Some(1),
        name: "build".into(),
        workflow: Some("CI".into()),
        branch: None,
        html_url: None,
        labels: vec!["self-hosted".into()],
        phase,
        runner: runner.map(str::to_owned),
        created_at: Some(at(0)),
        started_at: Some(at(10)),
        completed_at: None,
    }
}

fn small() -> Assignment {
    Assignment { project: "my-app".parse().unwrap(), pool: Some("small".parse().unwrap()), reason: None }
}

fn nowhere() -> Assignment {
    Assignment {
        project: "my-app".parse().unwrap(),
        pool: None,
        reason: Some("`small` is nearest, but has no label `gpu`".into()),
    }
}

fn completed(conclusion: &str) -> Phase {
    Phase::Completed { conclusion: Some(conclusion.into()) }
}

fn queued() -> Job {
    apply_fact(None, &fact(Phase::Queued, None), &small(), at(1)).job.unwrap()
}

fn name(text: &str) -> RunnerName {
    RunnerName::new(text)
}

#[test]
fn a_new_job_is_enqueued_in_its_pool() {
    let applied = apply_fact(None, &fact(Phase::Queued, Some("")), &small(), at(1));
    let job = applied.job.unwrap();
    assert_eq!(applied.result, IngestResult::Enqueued(job.key, JobStatus::Queued));
    assert_eq!((job.queued_at, job.runner.clone(), job.reason.clone()), (at(0), None, None));
    assert_eq!(applied.events[0].kind, "job.queued");
    assert_eq!(applied.events[0].detail.as_deref(), Some("to pool `small` of project `my-app`"));
}

#[test]
fn a_job_first_heard_of_at_its_end_is_only_recorded() {
    let applied = apply_fact(None, &fact(completed("success"), Some("pacer-a")), &nowhere(), at(1));
    let job = applied.job.unwrap();
    assert_eq!(applied.result, IngestResult::Updated(job.key, JobStatus::Completed));
    assert_eq!((job.running_at, job.completed_at, job.reason), (Some(at(10)), Some(at(1)), None));
}

#[test]
fn a_job_cancelled_before_it_ran_never_ran() {
    let job = apply_fact(Some(&queued()), &fact(completed("cancelled"), None), &small(), at(5)).job.unwrap();
    assert_eq!((job.status, job.running_at, job.completed_at), (JobStatus::Cancelled, None, Some(at(5))));
}

#[test]
fn queued_after_completed_changes_nothing() {
    let done = apply_fact(None, &fact(completed("success"), Some("pacer-a")), &small(), at(1)).job.unwrap();
    let late = apply_fact(Some(&done), &fact(Phase::Queued, None), &small(), at(2));
    assert_eq!((late.job, late.events.len()), (None, 0));
    assert_eq!(late.result, IngestResult::Updated(done.key, JobStatus::Completed));
}

#[test]
fn github_is_right_about_who_runs_a_job() {
    let mut job = queued();
    apply_change(&mut job, &JobChange::Claim { runner: name("pacer-a") }, at(2)).unwrap();
    let applied = apply_fact(Some(&job), &fact(Phase::InProgress, Some("pacer-b")), &small(), at(3));
    assert_eq!(applied.job.unwrap().runner, Some(name("pacer-b")));
    assert_eq!(applied.events[0].detail.as_deref(), Some("on runner `pacer-b` instead of `pacer-a`"));
}

#[test]
fn an_unmatched_job_is_matched_anew_by_a_later_fact() {
    let first = apply_fact(None, &fact(Phase::Queued, None), &nowhere(), at(1));
    let job = first.job.unwrap();
    assert_eq!(first.result, IngestResult::Unmatched(job.key, nowhere().reason.unwrap()));
    let again = apply_fact(Some(&job), &fact(Phase::Queued, None), &nowhere(), at(2));
    assert_eq!(again.result, IngestResult::Updated(job.key, JobStatus::Unmatched), "audited once");
    let fits = apply_fact(Some(&job), &fact(Phase::Queued, None), &small(), at(3)).job.unwrap();
    assert_eq!((fits.status, fits.pool, fits.reason), (JobStatus::Queued, small().pool, None));
}

#[test]
fn a_lost_runner_leaves_the_status_and_is_replaced() {
    let mut job = queued();
    apply_change(&mut job, &JobChange::Claim { runner: name("pacer-a") }, at(2)).unwrap();
    apply_change(&mut job, &JobChange::Starting, at(3)).unwrap();
    let lost =
        |runner| JobChange::RunnerLost { runner: name(runner), reason: "no capacity".into(), trouble: Trouble::Lost };
    assert_eq!(apply_change(&mut job, &lost("pacer-x"), at(4)), None, "not its runner");
    apply_change(&mut job, &lost("pacer-a"), at(4)).unwrap();
    assert_eq!((job.status, job.runner.clone(), job.losses.total()), (JobStatus::Starting, None, 1));
    let events = apply_change(&mut job, &JobChange::Claim { runner: name("pacer-b") }, at(5)).unwrap();
    assert_eq!((events[0].kind, job.status, job.claimed_at), ("job.paired", JobStatus::Starting, Some(at(2))));
    assert_eq!(apply_change(&mut job, &JobChange::Claim { runner: name("pacer-c") }, at(6)), None);
}

#[test]
fn what_became_of_the_runner_explains_a_failure_and_no_success() {
    let mut running = apply_fact(Some(&queued()), &fact(Phase::InProgress, Some("r")), &small(), at(2)).job.unwrap();
    apply_change(&mut running, &JobChange::Note { reason: "its machine stopped".into() }, at(3)).unwrap();
    let reason = |conclusion| {
        apply_fact(Some(&running), &fact(completed(conclusion), Some("r")), &small(), at(4)).job.unwrap().reason
    };
    assert_eq!((reason("failure").as_deref(), reason("success")), (Some("its machine stopped"), None));
}

#[test]
fn what_pacer_gave_up_on_comes_back_by_a_new_configuration_or_by_github() {
    let mut job = queued();
    apply_change(&mut job, &JobChange::Fail { reason: "image not found".into() }, at(2)).unwrap();
    assert_eq!(apply_change(&mut job, &JobChange::Claim { runner: name("pacer-a") }, at(3)), None);
    let running = apply_fact(Some(&job), &fact(Phase::InProgress, Some("other")), &small(), at(3)).job.unwrap();
    assert_eq!((running.status, running.reason), (JobStatus::Running, None));
    let events = apply_change(&mut job, &JobChange::Assign(small()), at(4)).unwrap();
    assert_eq!((job.status, job.reason, job.losses.total()), (JobStatus::Queued, None, 0));
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), ["job.assigned", "job.queued"]);
}

#[test]
fn a_job_that_belongs_elsewhere_moves_there_whatever_became_of_its_runner() {
    let elsewhere = || Assignment { pool: Some("large".parse().unwrap()), ..small() };
    for steps in [0, 1, 2] {
        let mut job = queued();
        for change in [JobChange::Claim { runner: name("pacer-a") }, JobChange::Starting].iter().take(steps) {
            apply_change(&mut job, change, at(2)).unwrap();
        }
        let status = job.status;
        let events = apply_change(&mut job, &JobChange::Assign(elsewhere()), at(3)).unwrap();
        assert_eq!((job.status, job.runner.clone(), job.pool.clone()), (status, None, elsewhere().pool));
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), ["job.assigned"]);
        let events = apply_change(&mut job, &JobChange::Assign(nowhere()), at(4)).unwrap();
        assert_eq!((job.status, job.reason.clone(), job.claimed_at), (JobStatus::Unmatched, nowhere().reason, None));
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), ["job.assigned", "job.unmatched"]);
        apply_change(&mut job, &JobChange::Assign(small()), at(5)).unwrap();
        assert_eq!((job.status, job.pool), (JobStatus::Queued, small().pool));
    }
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Waiting), Just(Phase::Queued), Just(Phase::InProgress), Just(completed("failure"))]
}

fn any_change() -> impl Strategy<Value = JobChange> {
    let runner = || "pacer-[ab]".prop_map(RunnerName::new);
    prop_oneof![
        runner().prop_map(|runner| JobChange::Claim { runner }),
        Just(JobChange::Starting),
        proptest::option::of(runner()).prop_map(|runner| JobChange::Pair { runner }),
        runner().prop_map(|runner| JobChange::RunnerLost { runner, reason: "lost".into(), trouble: Trouble::Lost }),
        Just(JobChange::Fail { reason: "gave up".into() }),
        Just(JobChange::Vanished { reason: "unknown".into() }),
        any::<bool>().prop_map(|fits| JobChange::Assign(if fits { small() } else { nowhere() })),
        Just(JobChange::Note { reason: "note".into() }),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Fact(Phase, bool),
    Change(JobChange),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any_phase(), any::<bool>()).prop_map(|(phase, fits)| Step::Fact(phase, fits)),
        any_change().prop_map(Step::Change)
    ]
}

proptest! {
    /// Whatever the order and however often they repeat, the furthest fact decides.
    #[test]
    fn any_order_of_facts_ends_in_the_same_state(
        phases in proptest::collection::vec(any_phase(), 1..12).prop_flat_map(|phases| (Just(phases.clone()), Just(phases).prop_shuffle())),
        fits: bool,
    ) {
        let assignment = if fits { small() } else { nowhere() };
        let end = |phases: &[Phase]| {
            let mut job: Option<Job> = None;
            for (second, phase) in phases.iter().enumerate() {
                let before = job.as_ref().map_or(0, |job| job.status.rank());
                let runs = matches!(phase, Phase::InProgress | Phase::Completed { .. });
                let applied = apply_fact(job.as_ref(), &fact(phase.clone(), runs.then_some("pacer-a")), &assignment, at(second as i64));
                job = applied.job.or(job);
                assert!(job.as_ref().unwrap().status.rank() >= before);
            }
            let job = job.unwrap();
            (job.status, job.runner, job.conclusion, job.pool, job.running_at)
        };
        let (one, other) = &phases;
        prop_assert_eq!(end(one), end(other));
    }

    /// Only `Assign` goes back; what GitHub concluded stays; a refused change leaves no trace.
    #[test]
    fn steps_go_forward_only(steps in proptest::collection::vec(any_step(), 1..30)) {
        let mut job = queued();
        for (second, step) in steps.into_iter().enumerate() {
            let before = job.clone();
            match &step {
                Step::Fact(phase, fits) => {
                    let assignment = if *fits { small() } else { nowhere() };
                    if let Some(next) = apply_fact(Some(&job), &fact(phase.clone(), None), &assignment, at(second as i64)).job {
                        job = next;
                    }
                }
                Step::Change(change) => {
                    if apply_change(&mut job, change, at(second as i64)).is_none() {
                        prop_assert_eq!(&job, &before);
                    }
                }
            }
            if !matches!(step, Step::Change(JobChange::Assign(_) | JobChange::Vanished { .. })) {
                prop_assert!(job.status.rank() >= before.status.rank());
            }
            if before.status.is_concluded() {
                prop_assert_eq!(job.status, before.status);
            }
            // When a job vanished is pacer's guess, which what GitHub says later takes back.
            let ended_at = before.completed_at.filter(|_| before.status.is_concluded());
            for (was, is) in [(before.running_at, job.running_at), (ended_at, job.completed_at)] {
                prop_assert!(was.is_none() || was == is, "a time once known stays");
            }
            prop_assert!(job.completed_at.is_none() || job.status.is_final());
        }
    }
}
