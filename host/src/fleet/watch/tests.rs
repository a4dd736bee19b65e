use super::*;
use crate::config;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn instance(name: &str, state: InstanceState) -> Instance {
    Instance {
        handle: format!("handle-of-{name}"),
        name: name.to_owned(),
        owner: "app-1".to_owned(),
        state,
        addresses: Vec::new(),
        created_at: None,
        lease_until: None,
        hold: false,
        price: None,
        attributes: Vec::new(),
    }
}

/// A world with one runner, which entered its state at second 100 and has a machine from `booting` on.
fn world(backend: &str, state: RunnerState) -> World {
    let place = ("app".parse().unwrap(), "small".parse().unwrap());
    let target = "org:acme".parse().unwrap();
    let name = RunnerName::new("pacer-a");
    let handle = (state.rank() >= RunnerState::Booting.rank()).then(|| "handle-of-pacer-a".to_owned());
    let planned = Runner::planned(name, place, backend.parse().unwrap(), target, at(100), at(900));
    let mut world = World::new(Arc::new(config::fixture(Vec::new())));
    world.apply(&crate::store::Changed::Runner(Arc::new(Runner { state, handle, ..planned })));
    world
}

#[test]
fn a_machine_is_over_when_the_backend_says_so_of_a_runner_that_should_have_one() {
    let at_work = [RunnerState::Booting, RunnerState::Idle, RunnerState::Busy];
    for state in RunnerState::ALL.into_iter().filter(|state| !state.is_final()) {
        for (listed, expected) in [
            (Some(InstanceState::Creating), None),
            (Some(InstanceState::Running), None),
            (Some(InstanceState::Stopping), Some("its machine is being stopped from outside")),
            (Some(InstanceState::Stopped), Some("its machine stopped")),
            (Some(InstanceState::Failed("no disk".to_owned())), Some("its machine failed: no disk")),
            (Some(InstanceState::Interrupted("spot".to_owned())), Some("its machine was taken away: spot")),
            (None, Some("its machine does not exist any more")),
        ] {
            let listing: Vec<Instance> = listed.iter().map(|listed| instance("pacer-a", listed.clone())).collect();
            let judged =
                |backend: &str, asked_at| judge(&world(backend, state), &"engine".parse().unwrap(), &listing, asked_at);
            let seen = judged("engine", at(101));
            let expected: Vec<_> = expected
                .filter(|_| at_work.contains(&state))
                .map(|how| (RunnerName::new("pacer-a"), how.to_owned()))
                .into_iter()
                .collect();
            assert_eq!((seen.ended, seen.strays), (expected, vec![]), "{state} {listed:?}");
            assert_eq!(judged("engine", at(100)).ended, [], "what is younger may not be in the listing");
            assert_eq!(judged("other", at(101)).ended, [], "another backend knows nothing of it");
        }
    }
}

#[test]
fn a_machine_of_nobody_is_a_stray_unless_an_operator_holds_it() {
    let held = Instance { hold: true, ..instance("pacer-held", InstanceState::Running) };
    let listing = [
        instance("pacer-a", InstanceState::Running),
        instance("pacer-b", InstanceState::Running),
        instance("pacer-c", InstanceState::Failed("x".to_owned())),
        held,
    ];
    for backend in ["engine", "other"] {
        let seen = judge(&world(backend, RunnerState::Planned), &"engine".parse().unwrap(), &listing, at(101));
        assert_eq!(seen.strays, ["pacer-b", "pacer-c"], "a name that is alive is nobody's stray, whatever its backend");
    }
}
