//! One transaction's worth of ops: load what they touch, apply them in memory in order, write what became of it.
//!
//! That takes two trips to the database for up to [`MAX_ROWS`] rows of each table: begin and load, write and commit.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use jiff::Timestamp;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    AuditEntry, Changed, Ingest, IngestResult, Op, OpOutcome,
    bulk::{MAX_ROWS, Script, Size, part},
    history::{self, Delivery},
    jobs,
    row::foreign,
    runners,
};
use crate::fleet::{
    job::{self, Assignment, Event, Job, JobFact, JobKey},
    runner::{self, Runner, RunnerName},
};

/// What a batch did; to be told once it is committed.
pub struct Written {
    /// Of each call, of each of its ops.
    pub outcomes: Vec<Vec<OpOutcome>>,
    pub changed: Arc<[Changed]>,
}

/// Applies the ops of several calls, in order, in a transaction of their own. After an error the connection is of no use.
pub async fn commit(
    connection: &mut SqliteConnection,
    calls: &[&[Op]],
    now: Timestamp,
) -> Result<Written, sqlx::Error> {
    let mut batch = Batch::load(connection, calls, now).await?;
    let outcomes = calls.iter().map(|ops| ops.iter().map(|op| batch.apply(op)).collect()).collect();
    batch.save(connection).await?;
    Ok(Written { outcomes, changed: batch.into_changed() })
}

pub const BEGIN: &str = "BEGIN IMMEDIATE";
pub const COMMIT: &str = "COMMIT";

/// How many scripts lists of these lengths need: one at least, which opens or ends the transaction.
fn rounds(lengths: &[usize]) -> usize {
    lengths.iter().max().map_or(1, |longest| longest.div_ceil(MAX_ROWS).max(1))
}

fn size(lengths: &[usize]) -> Size {
    Size::of(lengths.iter().max().copied().unwrap_or_default())
}

/// The rows that the batch touches, as they are before it.
#[derive(Default)]
struct Loaded {
    jobs: HashMap<JobKey, Job>,
    runners: HashMap<RunnerName, Runner>,
    guids: HashSet<String>,
}

impl Loaded {
    fn take(&mut self, row: &SqliteRow) -> Result<(), sqlx::Error> {
        match row.len() {
            jobs::LOADED => {
                let job = jobs::read(row)?;
                self.jobs.insert(job.key, job);
            }
            runners::LOADED => {
                let runner = runners::read(row)?;
                self.runners.insert(runner.name.clone(), runner);
            }
            history::GUID_LOADED => drop(self.guids.insert(row.try_get(0)?)),
            _ => return Err(foreign("a row of the batch")),
        }
        Ok(())
    }
}

/// A row of the batch: as it was loaded, as it is now.
struct Entry<T> {
    before: Option<T>,
    now: Option<T>,
    changed: bool,
}

/// The rows of one table that the batch touches.
struct Rows<K, T> {
    rows: HashMap<K, Entry<T>>,
    /// The changed ones, in the order they first changed.
    order: Vec<K>,
}

impl<K: Clone + Eq + Hash, T: Clone> Rows<K, T> {
    fn new(loaded: HashMap<K, T>) -> Self {
        let entry = |row: T| Entry { before: Some(row.clone()), now: Some(row), changed: false };
        Self { rows: loaded.into_iter().map(|(key, row)| (key, entry(row))).collect(), order: Vec::new() }
    }

    fn get(&self, key: &K) -> Option<&T> {
        self.rows.get(key)?.now.as_ref()
    }

    fn set(&mut self, key: &K, row: T) {
        let entry = self.rows.entry(key.clone()).or_insert(Entry { before: None, now: None, changed: false });
        entry.now = Some(row);
        if !entry.changed {
            entry.changed = true;
            self.order.push(key.clone());
        }
    }

    fn changed(&self) -> impl Iterator<Item = (Option<&T>, &T)> {
        self.order.iter().filter_map(|key| {
            let entry = self.rows.get(key)?;
            Some((entry.before.as_ref(), entry.now.as_ref()?))
        })
    }

    fn into_changed(mut self) -> impl Iterator<Item = T> {
        self.order.into_iter().filter_map(move |key| self.rows.remove(&key)?.now)
    }
}

/// The runner that a job without an assignment names.
fn stray_runner((fact, assignment): &(JobFact, Option<Assignment>)) -> Option<RunnerName> {
    fact.runner.as_deref().filter(|_| assignment.is_none()).map(RunnerName::new)
}

struct Batch<'a> {
    now: Timestamp,
    jobs: Rows<JobKey, Job>,
    runners: Rows<RunnerName, Runner>,
    guids: HashSet<String>,
    deliveries: Vec<Delivery<'a>>,
    events: Vec<Event>,
    audit: Vec<AuditEntry>,
    pauses: Vec<&'a Op>,
}

impl<'a> Batch<'a> {
    async fn load(connection: &mut SqliteConnection, calls: &[&'a [Op]], now: Timestamp) -> Result<Self, sqlx::Error> {
        let mut keys = HashSet::new();
        let mut names = HashSet::new();
        let mut guids = HashSet::new();
        for op in calls.iter().flat_map(|ops| ops.iter()) {
            match op {
                Op::Ingest(ingest) => {
                    guids.extend(ingest.guid.as_deref());
                    keys.extend(ingest.demand.as_ref().map(|(fact, _)| fact.key));
                    names.extend(ingest.demand.as_ref().and_then(stray_runner));
                }
                Op::Job { key, .. } => drop(keys.insert(*key)),
                Op::NewRunner(runner) => drop(names.insert(runner.name.clone())),
                Op::Runner { name, .. } => drop(names.insert(name.clone())),
                Op::Pause { .. } | Op::Audit(_) => {}
            }
        }
        let keys: Vec<_> = keys.into_iter().collect();
        let names: Vec<_> = names.into_iter().collect();
        let guids: Vec<_> = guids.into_iter().collect();
        let mut loaded = Loaded::default();
        for round in 0..rounds(&[keys.len(), names.len(), guids.len()]) {
            let (keys, names, guids) = (part(&keys, round), part(&names, round), part(&guids, round));
            let size = size(&[keys.len(), names.len(), guids.len()]);
            let mut script = Script::default();
            if round == 0 {
                script.statement(BEGIN);
            }
            jobs::load(&mut script, size, keys);
            runners::load(&mut script, size, names);
            history::load_guids(&mut script, size, guids);
            for row in script.fetch(connection).await? {
                loaded.take(&row)?;
            }
        }
        Ok(Self {
            now,
            jobs: Rows::new(loaded.jobs),
            runners: Rows::new(loaded.runners),
            guids: loaded.guids,
            deliveries: Vec::new(),
            events: Vec::new(),
            audit: Vec::new(),
            pauses: Vec::new(),
        })
    }

    fn apply(&mut self, op: &'a Op) -> OpOutcome {
        match op {
            Op::Ingest(ingest) => OpOutcome::Ingested(self.ingest(ingest)),
            Op::Job { key, change } => {
                let Some(mut job) = self.jobs.get(key).cloned() else { return OpOutcome::Applied(false) };
                let Some(events) = job::apply_change(&mut job, change, self.now) else {
                    return OpOutcome::Applied(false);
                };
                self.jobs.set(key, job);
                self.events.extend(events);
                OpOutcome::Applied(true)
            }
            Op::NewRunner(runner) => {
                if self.runners.get(&runner.name).is_some() {
                    return OpOutcome::Applied(false);
                }
                self.events.push(runner::planned_event(runner));
                self.runners.set(&runner.name, Runner::clone(runner));
                OpOutcome::Applied(true)
            }
            Op::Runner { name, change } => {
                let Some(mut runner) = self.runners.get(name).cloned() else { return OpOutcome::Applied(false) };
                let Some(events) = runner::apply_change(&mut runner, change, self.now) else {
                    return OpOutcome::Applied(false);
                };
                self.runners.set(name, runner);
                self.events.extend(events);
                OpOutcome::Applied(true)
            }
            Op::Pause { .. } => {
                self.pauses.push(op);
                OpOutcome::Applied(true)
            }
            Op::Audit(entry) => {
                self.audit.push(entry.clone());
                OpOutcome::Applied(true)
            }
        }
    }

    /// Where a job belongs that routing puts nowhere: to the runner it names, if that is ours and may have been given it.
    fn by_runner(&self, stray: &(JobFact, Option<Assignment>)) -> Option<Assignment> {
        let runner = self.runners.get(&stray_runner(stray)?)?;
        runner.target.covers(&stray.0.repo).then(|| Assignment {
            project: runner.project.clone(),
            pool: Some(runner.pool.clone()),
            reason: None,
        })
    }

    fn ingest(&mut self, ingest: &'a Ingest) -> IngestResult {
        if let Some(guid) = &ingest.guid
            && !self.guids.insert(guid.clone())
        {
            return IngestResult::Duplicate;
        }
        let of_runner;
        let demand = match &ingest.demand {
            Some((fact, Some(assignment))) => Some((fact, assignment)),
            Some(stray @ (fact, None)) => {
                of_runner = self.by_runner(stray);
                of_runner.as_ref().map(|assignment| (fact, assignment))
            }
            None => None,
        };
        let result = match demand {
            None => IngestResult::Ignored(ingest.ignored.clone().unwrap_or_default()),
            Some((fact, assignment)) => {
                let applied = job::apply_fact(self.jobs.get(&fact.key), fact, assignment, ingest.received_at);
                if let Some(job) = applied.job {
                    self.jobs.set(&fact.key, job);
                }
                self.events.extend(applied.events);
                applied.result
            }
        };
        if let IngestResult::Unmatched(key, reason) = &result {
            self.audit.push(AuditEntry {
                at: self.now,
                actor: "github".to_owned(),
                action: "audit.job.no_pool_match".to_owned(),
                subject: key.to_string(),
                detail: Some(reason.clone()),
            });
        }
        if ingest.guid.is_some() {
            self.deliveries.push(Delivery { ingest, result: result.clone() });
        }
        result
    }

    /// Writes what changed and commits.
    async fn save(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let place = |job: &Job| (job.project.clone(), job.pool.clone());
        let (reassigned, course): (Vec<_>, Vec<_>) =
            self.jobs.changed().partition(|(before, now)| before.is_none_or(|before| place(before) != place(now)));
        let reassigned: Vec<&Job> = reassigned.into_iter().map(|(_, job)| job).collect();
        let course: Vec<&Job> = course.into_iter().map(|(_, job)| job).collect();
        let runners: Vec<&Runner> = self.runners.changed().map(|(_, runner)| runner).collect();
        for op in &self.pauses {
            if let Op::Pause { project, pool, pause } = op {
                history::save_pause(connection, project, pool, pause.as_ref()).await?;
            }
        }
        let rounds = rounds(&[
            reassigned.len(),
            course.len(),
            runners.len(),
            self.events.len(),
            self.deliveries.len(),
            self.audit.len(),
        ]);
        for round in 0..rounds {
            let (reassigned, course, runners) = (part(&reassigned, round), part(&course, round), part(&runners, round));
            let (events, deliveries) = (part(&self.events, round), part(&self.deliveries, round));
            let audit = part(&self.audit, round);
            let size =
                size(&[reassigned.len(), course.len(), runners.len(), events.len(), deliveries.len(), audit.len()]);
            let mut script = Script::default();
            jobs::save(&mut script, size, reassigned, true);
            jobs::save(&mut script, size, course, false);
            runners::save(&mut script, size, runners);
            history::save_events(&mut script, size, events);
            history::save_deliveries(&mut script, size, deliveries);
            history::save_audit(&mut script, size, audit);
            if round + 1 == rounds {
                script.statement(COMMIT);
            }
            script.execute(connection).await?;
        }
        Ok(())
    }

    fn into_changed(self) -> Arc<[Changed]> {
        let pauses = self.pauses.into_iter().filter_map(|op| match op {
            Op::Pause { project, pool, pause } => {
                Some(Changed::Pause { project: project.clone(), pool: pool.clone(), pause: pause.clone() })
            }
            Op::Ingest(_) | Op::Job { .. } | Op::NewRunner(_) | Op::Runner { .. } | Op::Audit(_) => None,
        });
        let jobs = self.jobs.into_changed().map(|job| Changed::Job(Arc::new(job)));
        let runners = self.runners.into_changed().map(|runner| Changed::Runner(Arc::new(runner)));
        jobs.chain(runners).chain(pauses).collect()
    }
}
