//! Whole lives of jobs and runners under seeded faults; what must hold is checked after every step.

use std::collections::{BTreeMap, HashMap};

use super::{super::Intent, *};
use crate::{
    fleet::{
        intent,
        job::{JobChange, JobStatus},
        retry::Trouble,
        runner::{RunnerChange, RunnerState, Target},
    },
    plugins::ErrorKind,
};

/// A small generator, so that a failing seed can be replayed on any version of any crate (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// What the outside does next to a runner.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Create,
    Online,
    /// The machine ends by itself.
    Die,
    /// The backend says that nothing is left.
    Gone,
}

struct Play {
    sim: Sim,
    dice: Dice,
    /// What is due, in order of time.
    due: BTreeMap<(Timestamp, u64), (RunnerName, Step)>,
    /// Jobs as GitHub has them: the ones nobody took yet, and when the taken ones end.
    open: BTreeMap<i64, (&'static str, (&'static str, &'static str))>,
    ends: BTreeMap<(Timestamp, i64), RunnerName>,
    /// Online and without a job, at GitHub.
    online: Vec<RunnerName>,
    /// Deliveries on their way; they overtake each other.
    mail: BTreeMap<(Timestamp, u64), (i64, Phase, Option<RunnerName>)>,
    places: HashMap<i64, (&'static str, (&'static str, &'static str))>,
    ticket: u64,
    faults: bool,
}

const PLACES: [(&str, (&str, &str)); 4] = [
    ("octocat/app", ("app", "small")),
    ("octocat/tool", ("app", "small")),
    ("octocat/app", ("app", "large")),
    ("acme/one", ("org", "shared")),
];

impl Play {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let warm = dice.roll(3) as u32;
        let config = config(|pool, _| {
            pool.warm = crate::config::Warm::always(warm);
            pool.max_runners = 5;
        });
        Self {
            sim: Sim::new(config),
            dice,
            due: BTreeMap::new(),
            open: BTreeMap::new(),
            ends: BTreeMap::new(),
            online: Vec::new(),
            mail: BTreeMap::new(),
            places: HashMap::new(),
            ticket: 0,
            faults: true,
        }
    }

    fn ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    fn after(&mut self, seconds: u64) -> (Timestamp, u64) {
        let time = self.sim.now + Duration::from_secs(1 + self.dice.roll(seconds));
        (time, self.ticket())
    }

    fn schedule(&mut self, name: &RunnerName, step: Step, seconds: u64) {
        let key = self.after(seconds);
        self.due.insert(key, (name.clone(), step));
    }

    /// A delivery, sometimes twice, in any order.
    fn mail(&mut self, id: i64, phase: Phase, runner: Option<RunnerName>) {
        let copies = if self.faults && self.dice.chance(10) { 2 } else { 1 };
        for _ in 0..copies {
            let key = self.after(20);
            self.mail.insert(key, (id, phase.clone(), runner.clone()));
        }
    }

    fn queue(&mut self, id: i64) {
        let place = PLACES[self.dice.roll(PLACES.len() as u64) as usize];
        self.open.insert(id, place);
        self.places.insert(id, place);
        self.mail(id, Phase::Queued, None);
    }

    /// GitHub hands open jobs to any online runner that fits.
    fn assign(&mut self) {
        for (id, (repo, (project, pool))) in self.open.clone() {
            let fits: Vec<usize> = (0..self.online.len())
                .filter(|index| {
                    let runner = &self.sim.runners[&self.online[*index]];
                    let here = match &runner.target {
                        Target::Repo(target) => target.key() == repo,
                        Target::Org(org) => repo.split('/').next() == Some(org),
                    };
                    here && runner.project.as_str() == project && runner.pool.as_str() == pool
                })
                .collect();
            if fits.is_empty() {
                continue;
            }
            let taken = self.online.swap_remove(fits[self.dice.roll(fits.len() as u64) as usize]);
            self.open.remove(&id);
            let end = self.sim.now + Duration::from_secs(5 + self.dice.roll(300));
            self.ends.insert((end, id), taken.clone());
            self.mail(id, Phase::InProgress, Some(taken));
        }
    }

    /// The executor, in short.
    fn act(&mut self, intents: Vec<Intent>) {
        for intent in intents {
            match intent {
                Intent::Start { runner, .. } => self.schedule(&runner.name, Step::Create, 5),
                Intent::Stop { runner, .. } => self.schedule(&runner, Step::Gone, 30),
                Intent::Retire { runner, error } => self.retire(&runner, error),
                Intent::Resume { runner } => self.schedule(&runner, Step::Gone, 30),
                Intent::Pair { .. }
                | Intent::Unpair { .. }
                | Intent::Busy { .. }
                | Intent::Assign { .. }
                | Intent::Rerun { .. }
                | Intent::Extend { .. } => {}
            }
        }
    }

    fn retire(&mut self, name: &RunnerName, error: Option<String>) {
        let Some(runner) = self.sim.world.runner(name).cloned() else { return };
        let busy = self.ends.values().any(|taken| taken == name);
        let now = self.sim.now;
        if busy {
            let change = RunnerChange::Extend { deadline: now + Duration::from_secs(3600) };
            self.sim.commit(vec![Op::Runner { name: name.clone(), change }]);
            return;
        }
        self.online.retain(|online| online != name);
        let ops = match error {
            Some(error) => intent::stop_failed(&self.sim.world, &runner, &error, Trouble::Lost, now),
            None => intent::stop(&self.sim.world, &runner, now),
        };
        self.sim.commit(ops);
        self.schedule(name, Step::Gone, 30);
    }

    fn fail(&mut self, runner: &Runner, trouble: Trouble) {
        let now = self.sim.now;
        let mut ops = intent::stop_failed(&self.sim.world, runner, "it failed", trouble, now);
        ops.extend(intent::hold_back(&self.sim.world, runner, "it failed", trouble, None, 0.5, now));
        self.sim.commit(ops);
        self.schedule(&runner.name, Step::Gone, 30);
    }

    fn step(&mut self, name: &RunnerName, step: Step) {
        let Some(runner) = self.sim.world.runner(name).cloned() else { return };
        let deadline = self.sim.now + Duration::from_secs(300);
        match step {
            Step::Create if runner.state != RunnerState::Planned => {}
            Step::Create if self.faults && self.dice.chance(15) => {
                let kinds = [ErrorKind::Capacity, ErrorKind::Unavailable, ErrorKind::Internal, ErrorKind::RateLimited];
                let kind = kinds[self.dice.roll(kinds.len() as u64) as usize];
                self.fail(&runner, Trouble::Backend(kind));
            }
            Step::Create => {
                let mut ops = vec![
                    Op::Runner {
                        name: name.clone(),
                        change: RunnerChange::Creating { github_runner_id: Some(1), deadline },
                    },
                    Op::Runner {
                        name: name.clone(),
                        change: RunnerChange::Created { handle: name.to_string(), digest: "d".to_owned(), deadline },
                    },
                ];
                ops.extend(
                    self.sim.world.wanted_by(name).map(|job| Op::Job { key: job.key, change: JobChange::Starting }),
                );
                ops.extend(intent::let_go(&self.sim.world, &runner, Proof::Machine));
                self.sim.commit(ops);
                if self.faults && self.dice.chance(10) {
                    self.schedule(name, Step::Die, 20);
                } else if !self.faults || self.dice.chance(95) {
                    self.schedule(name, Step::Online, 20);
                }
            }
            Step::Online if runner.state == RunnerState::Booting => {
                self.online.push(name.clone());
                let mut ops = vec![Op::Runner { name: name.clone(), change: RunnerChange::Idle { deadline } }];
                ops.extend(intent::let_go(&self.sim.world, &runner, Proof::Runner));
                self.sim.commit(ops);
            }
            Step::Online => {}
            Step::Die if runner.state.is_supply() && !self.ends.values().any(|taken| taken == name) => {
                self.online.retain(|online| online != name);
                self.fail(&runner, Trouble::Lost);
            }
            Step::Die => {}
            Step::Gone => {
                self.sim.commit(vec![Op::Runner { name: name.clone(), change: RunnerChange::Gone }]);
            }
        }
    }

    /// Everything that is due by now, then a pass.
    fn turn(&mut self) {
        let now = self.sim.now;
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let (name, step) = entry.remove();
            self.step(&name, step);
        }
        while let Some(entry) = self.ends.first_entry().filter(|entry| entry.key().0 <= now) {
            let id = entry.key().1;
            let runner = entry.remove();
            self.mail(id, Phase::Completed { conclusion: Some("success".to_owned()) }, Some(runner));
        }
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, phase, runner) = entry.remove();
            let (repo, place) = self.places[&id];
            self.sim.deliver(id, repo, place, phase, runner.as_ref());
        }
        self.assign();
        let intents = self.sim.plan();
        self.act(intents);
        self.check();
    }

    fn check(&self) {
        let config = self.sim.world.config().clone();
        let live: Vec<&Runner> = self.sim.live().collect();
        for project in &config.projects {
            let in_project: Vec<_> = live.iter().filter(|runner| runner.project == project.name).collect();
            assert!(project.max_runners.is_none_or(|cap| in_project.len() <= cap as usize), "project cap");
            for pool in &project.pools {
                let in_pool = in_project.iter().filter(|runner| runner.pool == pool.name).count();
                assert!(in_pool <= pool.max_runners as usize, "pool cap");
            }
        }
        let mut claims: HashMap<&RunnerName, JobKey> = HashMap::new();
        for job in self.sim.jobs.values().filter(|job| job.status.wants_runner()) {
            if let Some(runner) = &job.runner
                && self.sim.world.runner(runner).is_some_and(|runner| runner.state.is_supply())
            {
                assert_eq!(claims.insert(runner, job.key), None, "two jobs count on `{runner}`");
            }
        }
    }

    fn quiet(&self) -> bool {
        self.open.is_empty() && self.ends.is_empty() && self.mail.is_empty()
    }
}

fn play(seed: u64) {
    let mut play = Play::new(seed);
    let mut next = 1;
    for second in 0..4_000 {
        play.sim.now = at(second);
        if second < 1_500 && play.dice.chance(4) {
            play.queue(next);
            next += 1;
        }
        play.faults = second < 2_000;
        play.turn();
    }
    // Without faults everything comes to its end, whatever the faults before left behind.
    let mut second = 4_000;
    while !play.quiet() && second < 40_000 {
        second += 1;
        play.sim.now = at(second);
        play.turn();
    }
    for id in play.places.keys() {
        let job = play.sim.job(*id);
        assert_eq!(
            job.status,
            JobStatus::Completed,
            "seed {seed}: job {id} is {} because {:?}",
            job.status,
            job.reason
        );
    }
    // What is idle goes at its deadline; only what is to be kept warm stays.
    for _ in 0..50 {
        second += 300;
        play.sim.now = at(second);
        play.turn();
    }
    let config = play.sim.world.config().clone();
    for class in play.sim.live().map(World::class_of_runner) {
        let (_, pool) = config.pool(&class.project, &class.pool).unwrap();
        let left = play.sim.live().filter(|runner| World::class_of_runner(runner) == class).count();
        assert!(left <= pool.warm.most() as usize + 1, "seed {seed}: {left} runners are left of {class:?}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn every_job_is_served_within_caps_and_every_surplus_runner_goes(seed: u64) {
        play(seed);
    }
}
