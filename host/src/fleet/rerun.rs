//! Jobs that lost their machines to the providers of those: which GitHub is to run again, and when to ask it.
//!
//! GitHub refuses as long as anything of the run still goes on, which can take hours, so it is asked again and again. A job
//! that has a later attempt is not asked for any more, whoever had it run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::job::{Interruption, Job, JobKey, JobStatus};

/// How long after a job's end GitHub is still asked: longer than a run's other jobs take, but for those of many hours.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(24);
/// Between two tries; the longer it has been, the longer.
const WAIT: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(2), SignedDuration::from_mins(10));

/// Later attempts that are remembered: those of a busy day. Each is about 100 bytes.
const MAX_ATTEMPTS: usize = 10_000;

/// What is one job over all its attempts: each has an id of its own.
type Place = (i64, String);

#[derive(Debug, Default)]
pub struct Reruns {
    wanted: BTreeMap<JobKey, Arc<Job>>,
    /// Jobs whose machines were taken away, and when that was last heard of.
    taken: HashMap<Place, Timestamp>,
    /// Later attempts, and when they were last heard of: the highest of each place.
    attempts: HashMap<Place, (i32, Timestamp)>,
}

impl Reruns {
    /// Takes in a job as it is after a commit.
    pub fn apply(&mut self, job: &Arc<Job>) {
        if job.key.attempt > 1 {
            self.make_room();
            let highest = self.attempts.entry(place(job)).or_insert((job.key.attempt, job.updated_at));
            *highest = (highest.0.max(job.key.attempt), job.updated_at);
            self.wanted.retain(|_, earlier| place(earlier) != place(job) || earlier.key.attempt >= job.key.attempt);
        }
        let Some(interruption) = job.interruption else { return };
        if !job.status.is_final() {
            return;
        }
        self.taken.insert(place(job), job.updated_at);
        if interruption == Interruption::RerunWanted && is_lost(job) && !self.has_later(job) {
            self.wanted.insert(job.key, job.clone());
        } else {
            self.wanted.remove(&job.key);
        }
    }

    /// Takes those that GitHub is to be asked for now. What comes of that is taken in as it is written; what is not written
    /// is to be given back.
    pub fn due(&mut self, now: Timestamp) -> Vec<Arc<Job>> {
        self.taken.retain(|_, at| now.duration_since(*at) < WINDOW);
        self.wanted.extract_if(.., |_, job| at(job) <= now).map(|(_, job)| job).collect()
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.wanted.values().map(|job| at(job)).min()
    }

    fn make_room(&mut self) {
        if self.attempts.len() >= MAX_ATTEMPTS
            && let Some(oldest) = self.attempts.iter().min_by_key(|(_, (_, at))| *at).map(|(place, _)| place.clone())
        {
            self.attempts.remove(&oldest);
        }
    }

    /// Whether a later attempt at this job is known: asking for it would make one more.
    pub fn has_later(&self, job: &Job) -> bool {
        self.attempts.get(&place(job)).is_some_and(|(attempt, _)| *attempt > job.key.attempt)
    }

    /// Whether an earlier attempt at this job lost its machine.
    pub fn lost_before(&self, job: &Job) -> bool {
        job.key.attempt > 1 && self.taken.contains_key(&place(job))
    }
}

fn place(job: &Job) -> Place {
    (job.run_id, job.name.clone())
}

/// It ran and did not succeed: one that did in spite of all needs nothing.
pub fn is_lost(job: &Job) -> bool {
    job.status == JobStatus::Completed && !matches!(job.conclusion.as_deref(), Some("success" | "skipped"))
}

fn at(job: &Job) -> Timestamp {
    let age = job.updated_at.duration_since(job.completed_at.unwrap_or(job.updated_at));
    job.updated_at + (age / 2).clamp(WAIT.0, WAIT.1)
}

/// Whether it has been asked for long enough.
pub fn is_too_late(job: &Job, now: Timestamp) -> bool {
    now.duration_since(job.completed_at.unwrap_or(job.updated_at)) > WINDOW
}

#[cfg(test)]
mod tests;
