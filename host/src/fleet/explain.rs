//! Why a job is where it is, and what would unblock it. For the command line, the API and the job's page.
//!
//! A pure function of the job, the configuration and a few counts: the same answer wherever it is asked for.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    job::{Job, JobStatus},
    plan::PlanLimits,
    runner::{Runner, RunnerState, Target},
};
use crate::{
    config::{Config, Pool, Project, Scope},
    routing::{self, Decision, PoolName, ProjectName},
    store::Pause,
};

/// What counts against caps at this moment, the job's own runner included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub pool: u32,
    pub project: u32,
    /// Of the job's repository, within the project.
    pub repo: u32,
    /// Jobs of its repository that have a runner: what counts where runners are an organisation's.
    pub served: u32,
    /// Of its pool's backend, without a machine yet.
    pub starting: u32,
    /// It has one that could still take it.
    pub has_runner: bool,
}

impl Counts {
    /// Counts those among `runners`, of all projects, that hold a place: everything that is not over.
    pub fn of<'a>(job: &Job, config: &Config, runners: impl IntoIterator<Item = &'a Runner>, served: u32) -> Self {
        let place = job.project.as_ref().zip(job.pool.as_ref());
        let backend = place.and_then(|(project, pool)| config.pool(project, pool)).map(|(_, pool)| &pool.backend);
        let mut counts = Self { served, ..Self::default() };
        for runner in runners {
            let is_starting = runner.state.rank() < RunnerState::Booting.rank();
            counts.starting += u32::from(is_starting && backend == Some(&runner.backend));
            if runner.state.is_final() || job.project.as_ref() != Some(&runner.project) {
                continue;
            }
            counts.has_runner |= runner.state.is_supply() && job.runner.as_ref() == Some(&runner.name);
            counts.project += 1;
            counts.pool += u32::from(job.pool.as_ref() == Some(&runner.pool));
            counts.repo += u32::from(runner.target == Target::Repo(job.repo.clone()));
        }
        counts
    }
}

/// The answer. Its texts are safe to show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub job: String,
    pub status: JobStatus,
    /// The answer in a sentence.
    pub headline: String,
    /// Since when it is in its state.
    pub since: Timestamp,
    pub since_seconds: i64,
    /// What else is known, a sentence each.
    pub facts: Vec<String>,
    /// What would move it on; empty when nothing is to be done.
    pub unblock: Vec<String>,
    /// How the configuration in force routes it, pool by pool.
    pub routing: Option<routing::Explanation>,
}

/// Explains a job. `pauses` are those of the pools that are held back; ones that are over do not count.
pub fn explain(
    job: &Job,
    config: &Config,
    counts: Counts,
    pauses: &[(ProjectName, PoolName, Pause)],
    now: Timestamp,
) -> Explanation {
    let decision = routing::route(config, &job.repo, &job.labels);
    let place = job.project.as_ref().zip(job.pool.as_ref());
    let pool = place.and_then(|(project, pool)| config.pool(project, pool));
    let pause = place.and_then(|(project, pool)| {
        let found = pauses.iter().find(|(in_project, of_pool, _)| in_project == project && of_pool == pool)?;
        (found.2.until > now).then_some(&found.2)
    });
    let mut explanation = Explanation {
        job: job.key.to_string(),
        status: job.status,
        headline: String::new(),
        since: since(job),
        since_seconds: now.duration_since(since(job)).as_secs().max(0),
        facts: Vec::new(),
        unblock: Vec::new(),
        routing: decision.tree().cloned(),
    };
    headline(&mut explanation, job, config, pool.map(|(project, pool)| (&**project, &**pool)), counts, pause);
    if let Some(reason) = job.reason.as_ref().filter(|reason| !explanation.headline.contains(reason.as_str())) {
        explanation.facts.push(reason.clone());
    }
    facts(&mut explanation, job, &decision, pool.is_some());
    explanation
}

fn since(job: &Job) -> Timestamp {
    let at = match job.status {
        JobStatus::Waiting | JobStatus::Unmatched | JobStatus::Queued => Some(job.queued_at),
        JobStatus::Claimed => job.claimed_at,
        JobStatus::Starting => job.starting_at,
        JobStatus::Running => job.running_at,
        JobStatus::Failed | JobStatus::Completed | JobStatus::Cancelled => job.completed_at,
    };
    at.unwrap_or(job.updated_at)
}

fn headline(
    explanation: &mut Explanation,
    job: &Job,
    config: &Config,
    place: Option<(&Project, &Pool)>,
    counts: Counts,
    pause: Option<&Pause>,
) {
    let reason = job.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let runner = job.runner.as_ref().map_or_else(|| "its runner".to_owned(), |name| format!("runner `{name}`"));
    let on = job.pool.as_ref().map(|pool| format!(" of pool `{pool}`")).unwrap_or_default();
    let unblock = &mut explanation.unblock;
    explanation.headline = match job.status {
        JobStatus::Waiting => {
            unblock
                .push("approve the deployment on GitHub, or wait until its protection rules let the job go".to_owned());
            "GitHub holds the job back: an approval or a protection rule".to_owned()
        }
        JobStatus::Unmatched => {
            unblock.push("change `runs-on` to labels that one pool has".to_owned());
            unblock.push(
                "or add the missing labels to a pool; the job is matched again when the configuration changes"
                    .to_owned(),
            );
            format!("no pool fits the labels of the job{reason}")
        }
        JobStatus::Queued => queued(unblock, config, place, counts, pause, &reason, job),
        // The one it had is lost: it waits as at the beginning.
        JobStatus::Claimed | JobStatus::Starting if !counts.has_runner => {
            queued(unblock, config, place, counts, pause, &reason, job)
        }
        JobStatus::Claimed => format!("{runner}{on} is being created for the job{reason}"),
        JobStatus::Starting => format!("{runner}{on} boots and has not taken the job yet{reason}"),
        JobStatus::Failed => {
            unblock.push("remove the cause, then run the job again on GitHub".to_owned());
            format!("pacer gave up on a runner for the job{reason}")
        }
        JobStatus::Running => format!("{runner}{on} executes the job{reason}"),
        JobStatus::Completed => match &job.conclusion {
            Some(conclusion) => format!("the job is over: {}", routing::shown(conclusion)),
            None => "the job is over".to_owned(),
        },
        JobStatus::Cancelled => "the job was cancelled".to_owned(),
    };
}

/// The first thing that holds a queued job back is the headline; each has its way out.
fn queued(
    unblock: &mut Vec<String>,
    config: &Config,
    place: Option<(&Project, &Pool)>,
    counts: Counts,
    pause: Option<&Pause>,
    reason: &str,
    job: &Job,
) -> String {
    let Some((project, pool)) = place else {
        unblock.push("restore its pool in the configuration, or wait for the job to be matched again".to_owned());
        return "the pool of the job is not in the configuration any more".to_owned();
    };
    let mut held = Vec::new();
    if !pool.enabled {
        unblock.push(format!("set `enabled: true` for pool `{}`", pool.name));
        held.push(format!("pool `{}` is disabled", pool.name));
    }
    if let Some(pause) = pause {
        unblock.push(format!("remove the cause; the pool is tried again at {}", pause.until));
        held.push(format!(
            "pool `{}` is held back until {} after {} failures in a row: {}",
            pool.name, pause.until, pause.failures, pause.reason
        ));
    }
    let most = PlanLimits::default().starting(config, &pool.backend);
    if counts.starting >= most {
        let backend = &pool.backend;
        unblock.push(format!("wait until backend `{backend}` has made some of its machines"));
        held.push(format!(
            "backend `{backend}` makes {} machines, and at most {most} are asked for at once",
            counts.starting
        ));
    }
    let of_repo = match &project.scope {
        Scope::Repos(_) => counts.repo,
        Scope::Org { .. } => counts.served,
    };
    let caps = [
        (Some(pool.max_runners), counts.pool, format!("pool `{}`", pool.name), "max_runners"),
        (project.max_runners, counts.project, format!("project `{}`", project.name), "max_runners"),
        (project.max_runners_per_repo, of_repo, format!("repository `{}`", job.repo), "max_runners_per_repo"),
    ];
    for (cap, count, whose, key) in caps {
        if let Some(cap) = cap
            && count >= cap
        {
            unblock.push(format!("wait for a runner of {whose} to end, or raise `{key}` above {cap}"));
            held.push(format!("{whose} has {count} of at most {cap} runners"));
        }
    }
    match held.is_empty() {
        true => format!("the job waits for a runner of pool `{}`{reason}", pool.name),
        false => held.join("; "),
    }
}

fn facts(explanation: &mut Explanation, job: &Job, decision: &Decision, in_configuration: bool) {
    let facts = &mut explanation.facts;
    facts.push(format!("queued at {}", job.queued_at));
    let steps = [
        ("claimed", job.claimed_at),
        ("starting", job.starting_at),
        ("running", job.running_at),
        ("over", job.completed_at),
    ];
    for (word, at) in steps {
        if let Some(at) = at {
            facts.push(format!("{word} at {at}"));
        }
    }
    let losses = job.losses.total();
    if losses > 0 {
        let runners = if losses == 1 { "runner was" } else { "runners were" };
        facts.push(format!("{losses} {runners} lost before one took the job: {}", job.losses));
    }
    if job.status.is_final() || job.status == JobStatus::Running {
        return;
    }
    let (project, pool) = match decision {
        Decision::NotOurs => {
            facts.push("its labels do not have `self-hosted`".to_owned());
            return;
        }
        Decision::Unbound { reason } => {
            facts.push(reason.clone());
            return;
        }
        Decision::Matched { project, pool, .. } => (project, Some(pool)),
        Decision::Unmatched { project, reason, .. } => {
            if job.reason.as_ref() != Some(reason) {
                facts.push(reason.clone());
            }
            (project, None)
        }
    };
    if in_configuration && pool.is_some() && (job.project.as_ref() != Some(project) || job.pool.as_ref() != pool) {
        let pool = pool.map(ToString::to_string).unwrap_or_default();
        facts.push(format!("by the configuration in force it would belong to pool `{pool}` of project `{project}`"));
    }
}

/// The answer as lines of text, for a terminal.
pub fn render(explanation: &Explanation) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let _ = writeln!(text, "job {}: {}", explanation.job, explanation.status);
    let _ = writeln!(text, "  {}", explanation.headline);
    let _ = writeln!(text, "  since {} ({} s)", explanation.since, explanation.since_seconds);
    for (title, lines) in [("facts", &explanation.facts), ("what would unblock it", &explanation.unblock)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            for line in lines {
                let _ = writeln!(text, "  - {line}");
            }
        }
    }
    if let Some(tree) = &explanation.routing {
        let _ = write!(text, "\nrouting\n{}", routing::render(tree));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::config::{RunnerGroup, Timeouts, fixture};
    use crate::fleet::{retry::Trouble, runner::RunnerName};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn config() -> Config {
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
        fixture(vec![Arc::new(Project {
            name: "app".parse().unwrap(),
            scope: Scope::Repos(vec!["acme/app".parse().unwrap()]),
            max_runners: Some(5),
            max_runners_per_repo: None,
            pools: vec![Arc::new(pool)],
        })])
    }

    fn job(status: JobStatus) -> Job {
        Job {
            key: "7-1".parse().unwrap(),
            run_id: 1,
            repo: "acme/app".parse().unwrap(),
            installation_id: None,
            name: "build".to_owned(),
            workflow: None,
            branch: None,
            html_url: None,
            labels: vec!["self-hosted".to_owned(), "linux".to_owned()],
            status,
            conclusion: None,
            project: Some("app".parse().unwrap()),
            pool: Some("small".parse().unwrap()),
            runner: None,
            reason: None,
            losses: super::super::job::Losses::default(),
            interruption: None,
            received_at: at(100),
            queued_at: at(100),
            claimed_at: None,
            starting_at: None,
            running_at: None,
            completed_at: None,
            updated_at: at(100),
        }
    }

    #[test]
    fn a_job_that_only_waits() {
        let explanation = explain(&job(JobStatus::Queued), &config(), Counts::default(), &[], at(130));
        assert_eq!(explanation.headline, "the job waits for a runner of pool `small`");
        assert_eq!((explanation.since_seconds, explanation.unblock.len()), (30, 0));
        assert_eq!(explanation.routing.unwrap().chosen.unwrap().as_str(), "small");
    }

    #[test]
    fn caps_and_pauses_are_named_with_the_way_out() {
        use crate::store::Proof;
        let pause =
            Pause { until: at(500), reason: "the engine is down".to_owned(), failures: 3, proof: Proof::Machine };
        let pauses = [("app".parse().unwrap(), "small".parse().unwrap(), pause)];
        let counts = Counts { pool: 2, project: 2, repo: 2, ..Counts::default() };
        let explanation = explain(&job(JobStatus::Queued), &config(), counts, &pauses, at(130));
        assert_eq!(
            explanation.headline,
            "pool `small` is held back until 1970-01-01T00:08:20Z after 3 failures in a row: the engine is down; \
             pool `small` has 2 of at most 2 runners"
        );
        assert_eq!(explanation.unblock.len(), 2);
        let later = explain(&job(JobStatus::Queued), &config(), Counts::default(), &pauses, at(501));
        assert_eq!(later.unblock.len(), 0, "a pause that is over does not count");
    }

    #[test]
    fn a_repository_of_an_organisation_has_its_share_in_jobs() {
        let mut config = config();
        let project = Arc::get_mut(&mut config.projects[0]).unwrap();
        project.scope = Scope::Org { login: "acme".to_owned(), runner_group: RunnerGroup::Default };
        project.max_runners_per_repo = Some(1);
        let counts = Counts { pool: 1, project: 1, served: 1, ..Counts::default() };
        let explanation = explain(&job(JobStatus::Queued), &config, counts, &[], at(130));
        assert_eq!(explanation.headline, "repository `acme/app` has 1 of at most 1 runners");
        assert!(explanation.unblock[0].contains("max_runners_per_repo"), "{:?}", explanation.unblock);
    }

    #[test]
    fn every_status_has_a_headline_and_renders() {
        for status in JobStatus::ALL {
            let explanation = explain(&job(status), &config(), Counts::default(), &[], at(130));
            assert!(!explanation.headline.is_empty());
            assert!(render(&explanation).starts_with(&format!("job 7-1: {status}\n  ")));
            assert!(serde_json::to_string(&explanation).is_ok());
        }
    }

    #[test]
    fn a_job_that_lost_its_runner_waits_for_what_a_queued_one_waits_for() {
        use crate::store::Proof;
        let pause = Pause { until: at(500), reason: "no capacity".to_owned(), failures: 3, proof: Proof::Machine };
        let pauses = [("app".parse().unwrap(), "small".parse().unwrap(), pause)];
        for status in [JobStatus::Queued, JobStatus::Claimed, JobStatus::Starting] {
            let mut job = job(status);
            job.reason = Some("runner `pacer-a` was lost: no capacity here".to_owned());
            job.losses.add(Trouble::Lost);
            let explanation = explain(&job, &config(), Counts { pool: 2, ..Counts::default() }, &pauses, at(130));
            assert_eq!(
                explanation.headline,
                "pool `small` is held back until 1970-01-01T00:08:20Z after 3 failures in a row: no capacity; \
                 pool `small` has 2 of at most 2 runners"
            );
            assert_eq!(explanation.unblock.len(), 2);
            assert_eq!(explanation.facts[0], "runner `pacer-a` was lost: no capacity here");
            assert!(explanation.facts.contains(&"1 runner was lost before one took the job: 1 × lost".to_owned()));
        }
        let mut job = job(JobStatus::Claimed);
        job.runner = Some(RunnerName::new("pacer-a"));
        let counts = Counts { has_runner: true, ..Counts::default() };
        let explanation = explain(&job, &config(), counts, &pauses, at(130));
        assert_eq!(explanation.headline, "runner `pacer-a` of pool `small` is being created for the job");
    }

    #[test]
    fn what_a_backend_is_asked_for_at_once_is_named() {
        let counts = Counts { starting: 64, ..Counts::default() };
        let explanation = explain(&job(JobStatus::Queued), &config(), counts, &[], at(130));
        assert_eq!(explanation.headline, "backend `engine` makes 64 machines, and at most 64 are asked for at once");
        assert_eq!(explanation.unblock.len(), 1);
    }

    #[test]
    fn runners_of_all_projects_count_for_their_backend() {
        let runner = |name: &str, project: &str, state| Runner {
            name: RunnerName::new(name),
            state,
            project: project.parse().unwrap(),
            ..runner()
        };
        let mut job = job(JobStatus::Claimed);
        job.runner = Some(RunnerName::new("pacer-a"));
        let runners = [
            runner("pacer-a", "app", RunnerState::Creating),
            runner("pacer-b", "other", RunnerState::Planned),
            runner("pacer-c", "app", RunnerState::Stopping),
            runner("pacer-d", "app", RunnerState::Gone),
        ];
        let counts = Counts::of(&job, &config(), &runners, 0);
        assert_eq!(counts, Counts { pool: 2, project: 2, repo: 2, served: 0, starting: 2, has_runner: true });
        assert!(!Counts::of(&job, &config(), &runners[1..], 0).has_runner);
    }

    fn runner() -> Runner {
        let place = ("app".parse().unwrap(), "small".parse().unwrap());
        let target = Target::Repo("acme/app".parse().unwrap());
        Runner::planned(RunnerName::new("pacer-a"), place, "engine".parse().unwrap(), target, at(0), at(60))
    }

    #[test]
    fn a_job_of_a_pool_that_was_removed() {
        let mut job = job(JobStatus::Queued);
        job.pool = Some("old".parse().unwrap());
        let explanation = explain(&job, &config(), Counts::default(), &[], at(130));
        assert_eq!(explanation.headline, "the pool of the job is not in the configuration any more");
        assert!(!explanation.unblock.is_empty());
    }
}
