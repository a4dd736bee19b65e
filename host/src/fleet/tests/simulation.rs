//! Whole lives of jobs and runners under seeded faults; what must hold is checked after every step.

use std::collections::{BTreeMap, HashMap};

use super::{super::Intent, *};
use crate::{
    fleet::{
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
    /// Its provider takes it away.
    Interrupt,
    /// The machine ends after its job.
    Exit,
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
    /// What GitHub would say of a job.
    truth: BTreeMap<i64, (Phase, Option<RunnerName>)>,
    next_job: i64,
    ticket: u64,
    faults: bool,
    /// How often a job was given a runner.
    supplied: HashMap<JobKey, u32>,
    started: u32,
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
        let per_repo = [None, Some(3), Some(4)][dice.roll(3) as usize];
        let config = config(|pool, project| {
            pool.warm = crate::config::Warm::always(warm);
            pool.max_runners = 5;
            project.max_runners_per_repo = per_repo;
            project.max_runners = [None, Some(6)][dice.roll(2) as usize];
        });
        let mut sim = Sim::new(config);
        sim.limits = PlanLimits { starting_per_backend: 3 + dice.roll(4) as u32 };
        Self {
            sim,
            dice,
            due: BTreeMap::new(),
            open: BTreeMap::new(),
            ends: BTreeMap::new(),
            online: Vec::new(),
            mail: BTreeMap::new(),
            places: HashMap::new(),
            truth: BTreeMap::new(),
            next_job: 1,
            ticket: 0,
            faults: true,
            supplied: HashMap::new(),
            started: 0,
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

    /// A delivery, sometimes twice, in any order, or never.
    fn mail(&mut self, id: i64, phase: Phase, runner: Option<RunnerName>) {
        self.truth.insert(id, (phase.clone(), runner.clone()));
        let copies = match self.dice.roll(100) {
            _ if !self.faults => 1,
            0..10 => 2,
            10..18 => 0,
            _ => 1,
        };
        for _ in 0..copies {
            let key = self.after(20);
            self.mail.insert(key, (id, phase.clone(), runner.clone()));
        }
    }

    /// GitHub is asked about a job.
    fn heal(&mut self, id: i64) {
        let (phase, runner) = self.truth[&id].clone();
        let (repo, place) = self.places[&id];
        self.sim.deliver(id, repo, place, phase, runner.as_ref());
    }

    /// What a scan of the repositories finds.
    fn heal_all(&mut self) {
        for id in self.truth.keys().copied().collect::<Vec<_>>() {
            let key = JobKey { id, attempt: 1 };
            let rank = self.sim.jobs.get(&key).map(|job| job.status.rank());
            let is_behind = match self.truth[&id].0 {
                Phase::Waiting | Phase::Queued => rank.is_none(),
                Phase::InProgress => rank < Some(JobStatus::Running.rank()),
                Phase::Completed { .. } => rank < Some(JobStatus::Completed.rank()),
            };
            if is_behind {
                self.heal(id);
            }
        }
    }

    /// The process is killed and comes back: what it was doing is lost, what it had asked for may have been done.
    fn restart(&mut self) {
        let config = self.sim.world.config().clone();
        self.sim.restart(config);
        let creating: Vec<_> =
            self.due.iter().filter(|(_, (_, step))| *step == Step::Create).map(|(at, _)| *at).collect();
        for at in creating {
            if self.dice.chance(50) {
                let (name, _) = self.due.remove(&at).unwrap();
                if let Some(runner) =
                    self.sim.world.runner(&name).filter(|runner| runner.state == RunnerState::Planned).cloned()
                {
                    self.fail(&runner, Trouble::Restart, None);
                }
            }
        }
    }

    fn queue(&mut self) {
        let id = self.next_job;
        self.next_job += 1;
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
            if self.faults && self.dice.chance(8) {
                self.schedule(&taken, Step::Interrupt, 60);
            }
            self.mail(id, Phase::InProgress, Some(taken));
        }
    }

    /// The executor, in short.
    fn act(&mut self, intents: Vec<Intent>) {
        for intent in intents {
            match intent {
                Intent::Start { runner, job } => {
                    self.started += 1;
                    self.supplied(job);
                    self.schedule(&runner.name, Step::Create, 5);
                }
                Intent::Pair { job, .. } => self.supplied(Some(job)),
                // A job that is run again is another one to GitHub.
                Intent::Rerun { .. } => self.queue(),
                Intent::Stop { runner, .. } => self.schedule(&runner, Step::Gone, 30),
                Intent::Retire { runner, error } => self.retire(&runner, error),
                Intent::Resume { runner } => self.resume(&runner),
                Intent::Unpair { .. } | Intent::Busy { .. } | Intent::Assign { .. } | Intent::Extend { .. } => {}
            }
        }
    }

    /// One that nobody drives has no machine, or one that is going.
    fn resume(&mut self, name: &RunnerName) {
        match self.sim.world.runner(name).cloned() {
            Some(runner) if runner.state.is_supply() => self.fail(&runner, Trouble::Restart, None),
            Some(_) | None => self.schedule(name, Step::Gone, 30),
        }
    }

    fn supplied(&mut self, job: Option<JobKey>) {
        if let Some(key) = job {
            *self.supplied.entry(key).or_default() += 1;
        }
    }

    fn retire(&mut self, name: &RunnerName, error: Option<String>) {
        let executes = self.ends.values().any(|taken| taken == name);
        let meant_for = self.sim.world.wanted_by(name).map(|job| job.key.id);
        if let Some(id) = meant_for.filter(|_| executes || !self.online.contains(name)) {
            self.heal(id);
        }
        let Some(runner) = self.sim.world.runner(name).filter(|runner| runner.state.is_supply()).cloned() else {
            return;
        };
        if executes {
            let ops = intent::taken(&self.sim.world, &runner, self.sim.now);
            self.sim.commit(ops);
            return;
        }
        self.online.retain(|online| online != name);
        match error {
            Some(_) => self.fail(&runner, Trouble::Lost, None),
            None => self.stop(&runner),
        }
    }

    fn stop(&mut self, runner: &Runner) {
        let ops = intent::stop(&self.sim.world, runner, self.sim.now);
        self.sim.commit(ops);
        self.schedule(&runner.name, Step::Gone, 30);
    }

    fn fail(&mut self, runner: &Runner, trouble: Trouble, retry_after: Option<Duration>) {
        let now = self.sim.now;
        let mut ops = intent::stop_failed(&self.sim.world, runner, "it failed", trouble, now);
        ops.extend(intent::hold_back(&self.sim.world, runner, "it failed", trouble, retry_after, 0.5, now));
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
                let retry_after = self.dice.chance(20).then(|| Duration::from_secs(self.dice.roll(200)));
                self.fail(&runner, Trouble::Backend(kind), retry_after);
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
                self.fail(&runner, Trouble::Lost, None);
            }
            Step::Die => {}
            Step::Interrupt => self.interrupt(&runner),
            Step::Exit if runner.state.is_supply() => {
                // It did a job that nobody has told of.
                if let Some(id) = self.sim.world.wanted_by(name).map(|job| job.key.id) {
                    self.heal(id);
                }
                self.stop(&runner);
            }
            Step::Exit if runner.state == RunnerState::Busy => self.stop(&runner),
            Step::Exit => {}
            Step::Gone => {
                self.sim.commit(vec![Op::Runner { name: name.clone(), change: RunnerChange::Gone }]);
            }
        }
    }

    /// The machine is taken away under its job: GitHub fails that.
    fn interrupt(&mut self, runner: &Runner) {
        let Some((end, id)) = self.ends.iter().find(|(_, taken)| **taken == runner.name).map(|(end, _)| *end) else {
            return;
        };
        self.ends.remove(&(end, id));
        self.mail(id, Phase::Completed { conclusion: Some("failure".to_owned()) }, Some(runner.name.clone()));
        if runner.state == RunnerState::Busy {
            let mut ops = intent::stop(&self.sim.world, runner, self.sim.now);
            let change = JobChange::Interrupted { reason: "the price rose".to_owned() };
            ops.extend(runner.job.map(|key| Op::Job { key, change }));
            self.sim.commit(ops);
            self.schedule(&runner.name, Step::Gone, 30);
        } else {
            self.schedule(&runner.name, Step::Exit, 20);
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
            self.schedule(&runner, Step::Exit, 20);
            self.mail(id, Phase::Completed { conclusion: Some("success".to_owned()) }, Some(runner));
        }
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, phase, runner) = entry.remove();
            let (repo, place) = self.places[&id];
            self.sim.deliver(id, repo, place, phase, runner.as_ref());
        }
        if now.as_second() % 120 == 0 {
            self.heal_all();
        }
        if self.faults && self.dice.roll(400) == 0 {
            self.restart();
        }
        self.assign();
        let intents = self.sim.plan();
        self.check_shares(&intents);
        self.act(intents);
        self.check();
    }

    /// No repository of an organisation is given more than its share.
    fn check_shares(&self, intents: &[Intent]) {
        for intent in intents {
            let (Intent::Start { job: Some(key), .. } | Intent::Pair { job: key, .. }) = intent else { continue };
            let job = &self.sim.jobs[key];
            let project = self.sim.world.config().project(job.project.as_ref().unwrap()).unwrap();
            if let (Scope::Org { .. }, Some(cap)) = (&project.scope, project.max_runners_per_repo) {
                let has_one = |other: &&Job| {
                    let supply = |name| self.sim.world.runner(name).is_some_and(|runner| runner.state.is_supply());
                    other.repo == job.repo
                        && (other.status == JobStatus::Running
                            || other.status.wants_runner() && other.runner.as_ref().is_some_and(supply))
                };
                let served = self.sim.jobs.values().filter(has_one).count();
                assert!(served <= cap as usize, "{served} jobs of {} are served", job.repo);
            }
        }
    }

    fn check(&self) {
        let config = self.sim.world.config().clone();
        let live: Vec<&Runner> = self.sim.live().collect();
        for project in &config.projects {
            let in_project: Vec<_> = live.iter().filter(|runner| runner.project == project.name).collect();
            assert!(project.max_runners.is_none_or(|cap| in_project.len() <= cap as usize), "project cap");
            if let (Scope::Repos(repos), Some(cap)) = (&project.scope, project.max_runners_per_repo) {
                for repo in repos {
                    let target = Target::Repo(repo.clone());
                    let at_target = in_project.iter().filter(|runner| runner.target == target).count();
                    assert!(at_target <= cap as usize, "repository cap");
                }
            }
            for pool in &project.pools {
                let in_pool = in_project.iter().filter(|runner| runner.pool == pool.name).count();
                assert!(in_pool <= pool.max_runners as usize, "pool cap");
            }
        }
        let starting = live.iter().filter(|runner| runner.state.rank() < RunnerState::Booting.rank()).count();
        assert!(starting <= self.sim.limits.starting_per_backend as usize, "backend limit");
        for (job, supplied) in &self.supplied {
            let most = 1 + self.sim.unpaired.get(job).copied().unwrap_or(0);
            assert!(*supplied <= most, "job {job} was given {supplied} runners, and lost {}", most - 1);
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
    for second in 0..4_000 {
        play.sim.now = at(second);
        if second < 1_500 && play.dice.chance(4) {
            play.queue();
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
    let mut started = 0;
    for step in 0..50 {
        second += 300;
        play.sim.now = at(second);
        play.turn();
        if step == 10 {
            started = play.started;
        }
    }
    assert_eq!(play.started, started, "seed {seed}: machines come and go without a job");
    let config = play.sim.world.config().clone();
    for class in play.sim.live().map(World::class_of_runner) {
        let (_, pool) = config.pool(&class.project, &class.pool).unwrap();
        let left = play.sim.live().filter(|runner| World::class_of_runner(runner) == class).count();
        assert!(left <= pool.warm.most() as usize + 1, "seed {seed}: {left} runners are left of {class:?}");
    }
}

#[test]
fn a_spare_that_github_gives_out_in_the_same_moment_serves_nobody_else() {
    play(14_918_279_205_690_275_364);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn every_job_is_served_within_caps_and_every_surplus_runner_goes(seed: u64) {
        play(seed);
    }
}
