use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn planned() -> Runner {
    let place = ("my-app".parse().unwrap(), "small".parse().unwrap());
    let target = "repo:octocat/hello-world".parse().unwrap();
    Runner::planned(RunnerName::new("pacer-small-a"), place, "engine".parse().unwrap(), target, at(0), at(60))
}

fn created() -> RunnerChange {
    RunnerChange::Created { handle: "c0ffee".into(), digest: "d1".into(), deadline: at(300) }
}

const JOB: JobKey = JobKey { id: 7, attempt: 1 };

#[test]
fn github_may_be_faster_than_the_backend() {
    let mut runner = planned();
    apply_change(&mut runner, &RunnerChange::Busy { job: Some(JOB), deadline: at(900) }, at(5)).unwrap();
    let events = apply_change(&mut runner, &created(), at(6)).unwrap();
    assert_eq!((runner.state, runner.handle.as_deref(), events.len()), (RunnerState::Busy, Some("c0ffee"), 0));
    assert_eq!((runner.deadline, runner.registered_at), (at(900), Some(at(5))));
    assert_eq!(apply_change(&mut runner, &created(), at(7)), None, "known");
}

#[test]
fn the_machine_of_a_runner_that_is_going_is_remembered() {
    let mut runner = planned();
    apply_change(&mut runner, &RunnerChange::Stopping { deadline: at(9), error: None }, at(1)).unwrap();
    apply_change(&mut runner, &created(), at(2)).unwrap();
    assert_eq!((runner.state, runner.handle.is_some(), runner.deadline), (RunnerState::Stopping, true, at(9)));
}

#[test]
fn a_job_that_was_not_known_is_named_later_and_no_pairing_displaces_it() {
    let mut runner = planned();
    let busy = |job| RunnerChange::Busy { job, deadline: at(900) };
    apply_change(&mut runner, &busy(None), at(5)).unwrap();
    assert!(runner.has_unknown_job());
    assert_eq!(apply_change(&mut runner, &RunnerChange::Pair { job: Some(JOB) }, at(6)), None);
    assert_eq!(apply_change(&mut runner, &busy(None), at(7)), None);
    apply_change(&mut runner, &busy(Some(JOB)), at(8)).unwrap();
    assert_eq!((runner.job, runner.busy_at, runner.deadline), (Some(JOB), Some(at(5)), at(900)));
    assert_eq!(apply_change(&mut runner, &busy(Some(JobKey { id: 8, attempt: 1 })), at(9)), None, "it has one");
}

#[test]
fn the_first_error_decides_how_it_ends() {
    let mut runner = planned();
    let stop = |error: &str| RunnerChange::Stopping { deadline: at(9), error: Some(error.into()) };
    apply_change(&mut runner, &stop("no capacity"), at(1)).unwrap();
    assert_eq!(apply_change(&mut runner, &stop("deadline"), at(2)), None);
    let events = apply_change(&mut runner, &RunnerChange::Gone, at(3)).unwrap();
    assert_eq!((runner.state, runner.error.as_deref()), (RunnerState::Failed, Some("no capacity")));
    assert_eq!((events[0].kind, events[0].detail.as_deref()), ("runner.failed", Some("no capacity")));
}

fn any_change() -> impl Strategy<Value = RunnerChange> {
    let deadline = || (60..900_i64).prop_map(at);
    prop_oneof![
        deadline().prop_map(|deadline| RunnerChange::Registering { deadline }),
        deadline().prop_map(|deadline| RunnerChange::Creating { github_runner_id: Some(3), deadline }),
        Just(created()),
        deadline().prop_map(|deadline| RunnerChange::Idle { deadline }),
        (any::<bool>(), deadline())
            .prop_map(|(known, deadline)| RunnerChange::Busy { job: known.then_some(JOB), deadline }),
        any::<bool>().prop_map(|some| RunnerChange::Pair { job: some.then_some(JOB) }),
        (deadline(), proptest::option::of("[a-z]{3}"))
            .prop_map(|(deadline, error)| RunnerChange::Stopping { deadline, error }),
        deadline().prop_map(|deadline| RunnerChange::Extend { deadline }),
        Just(RunnerChange::Gone),
    ]
}

proptest! {
    #[test]
    fn changes_go_forward_only_and_a_refused_one_leaves_no_trace(changes in proptest::collection::vec(any_change(), 1..30)) {
        let mut runner = planned();
        for (second, change) in changes.iter().enumerate() {
            let before = runner.clone();
            let events = apply_change(&mut runner, change, at(second as i64));
            if events.is_none() || before.state.is_final() {
                prop_assert_eq!(&runner, &before);
            }
            prop_assert!(runner.state.rank() >= before.state.rank());
            prop_assert!(before.error.is_none() || before.error == runner.error);
            prop_assert_eq!(runner.state == RunnerState::Failed, runner.state.is_final() && runner.error.is_some());
        }
    }
}
