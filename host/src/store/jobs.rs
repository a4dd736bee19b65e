//! The table of jobs.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{
    JobFilter, Page, StoreError,
    bulk::{Bulk, Script, Size, insert_head, insert_tail},
    row::{Columns, foreign, millis, optional_millis},
};
use crate::fleet::job::{Interruption, Job, JobKey, JobStatus, Losses};

macro_rules! columns {
    () => {
        "id, attempt, run_id, repo, installation_id, name, workflow, branch, html_url, labels, status, conclusion, \
         project, pool, runner, reason, losses_by, interruption, received_at, queued_at, claimed_at, starting_at, running_at, completed_at, updated_at"
    };
}

/// As the partial indexes have it, word for word: that is how SQLite recognises them.
macro_rules! active {
    () => {
        "status IN ('waiting', 'unmatched', 'queued', 'claimed', 'starting', 'running')"
    };
}
macro_rules! mishaps {
    () => {
        "status IN ('failed', 'cancelled')"
    };
}

macro_rules! course {
    () => {
        "ON CONFLICT (id, attempt) DO UPDATE SET run_id = excluded.run_id, installation_id = excluded.installation_id, \
         name = excluded.name, workflow = excluded.workflow, branch = excluded.branch, html_url = excluded.html_url, \
         labels = excluded.labels, status = excluded.status, conclusion = excluded.conclusion, runner = excluded.runner, \
         reason = excluded.reason, losses = excluded.losses, losses_by = excluded.losses_by, \
         interruption = excluded.interruption, claimed_at = excluded.claimed_at, \
         starting_at = excluded.starting_at, running_at = excluded.running_at, completed_at = excluded.completed_at, \
         updated_at = excluded.updated_at"
    };
}

const COLUMNS: &str = columns!();
const INSERT: &str = insert_head!("jobs", concat!(columns!(), ", repo_key, losses"));
static LOAD: Bulk = Bulk::new(concat!("SELECT ", columns!(), " FROM jobs WHERE (id, attempt) IN (VALUES"), 2, ")");
static SAVE: Bulk =
    Bulk::new(INSERT, 27, insert_tail!(concat!(course!(), ", project = excluded.project, pool = excluded.pool")));
/// Leaves out what is indexed and has not changed: SQLite rewrites an index for every column that is named.
static SAVE_COURSE: Bulk = Bulk::new(INSERT, 27, insert_tail!(course!()));

/// The columns of a row that [`load`] answers with; no other row of a script has so many.
pub const LOADED: usize = 25;

/// Asks for the rows with these keys.
pub fn load(script: &mut Script, size: Size, keys: &[JobKey]) {
    script.rows(&LOAD, size, keys, |key, values| {
        values.add(key.id).add(key.attempt);
    });
}

/// Writes the rows as they are now; `reassigned` ones are new or have another project or pool than before.
pub fn save(script: &mut Script, size: Size, jobs: &[&Job], reassigned: bool) {
    script.rows(if reassigned { &SAVE } else { &SAVE_COURSE }, size, jobs, |job, values| {
        let losses = job.losses.total();
        let losses_by = if losses == 0 { Ok(None) } else { serde_json::to_string(&job.losses).map(Some) };
        let (labels, losses_by) = match (serde_json::to_string(&job.labels), losses_by) {
            (Ok(labels), Ok(losses_by)) => (labels, losses_by),
            (Err(error), _) | (_, Err(error)) => return values.fail(sqlx::Error::Encode(Box::new(error))),
        };
        values
            .add(job.key.id)
            .add(job.key.attempt)
            .add(job.run_id)
            .add(job.repo.as_str())
            .add(job.installation_id)
            .add(job.name.as_str())
            .add(job.workflow.as_deref())
            .add(job.branch.as_deref())
            .add(job.html_url.as_deref())
            .add(labels)
            .add(job.status.as_str())
            .add(job.conclusion.as_deref())
            .add(job.project.as_ref().map(|name| name.as_str()))
            .add(job.pool.as_ref().map(|name| name.as_str()))
            .add(job.runner.as_ref().map(|name| name.as_str()))
            .add(job.reason.as_deref())
            .add(losses_by)
            .add(job.interruption.map(Interruption::as_str))
            .add(millis(job.received_at))
            .add(millis(job.queued_at))
            .add(optional_millis(job.claimed_at))
            .add(optional_millis(job.starting_at))
            .add(optional_millis(job.running_at))
            .add(optional_millis(job.completed_at))
            .add(millis(job.updated_at))
            .add(job.repo.key())
            .add(losses);
    });
}

/// Every job that is not over, oldest first.
pub async fn active(connection: &mut SqliteConnection) -> Result<Vec<Job>, sqlx::Error> {
    const TEXT: &str =
        concat!("SELECT ", columns!(), " FROM jobs WHERE ", active!(), " ORDER BY queued_at, id, attempt");
    sqlx::query(TEXT).fetch_all(connection).await?.iter().map(read).collect()
}

/// Those that are over, lost their machines and changed after `since`, oldest first. One that has a later attempt was
/// run again, whoever asked for it.
pub async fn interrupted(connection: &mut SqliteConnection, since: Timestamp) -> Result<Vec<Job>, sqlx::Error> {
    const TEXT: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM jobs WHERE interruption IS NOT NULL AND status = 'completed' AND updated_at > $1 ORDER BY updated_at"
    );
    const LATER: &str = "SELECT COUNT(*) FROM jobs WHERE attempt > 1 AND run_id = $1 AND name = $2 AND attempt > $3";
    let rows = sqlx::query(TEXT).bind(millis(since)).fetch_all(&mut *connection).await?;
    let mut jobs: Vec<Job> = rows.iter().map(read).collect::<Result<_, _>>()?;
    for job in jobs.iter_mut().filter(|job| job.interruption == Some(Interruption::RerunWanted)) {
        let later = sqlx::query_scalar::<_, i64>(LATER).bind(job.run_id).bind(&job.name).bind(job.key.attempt);
        if later.fetch_one(&mut *connection).await? > 0 {
            job.interruption = Some(Interruption::RerunAsked);
        }
    }
    Ok(jobs)
}

pub async fn one(connection: &mut SqliteConnection, key: JobKey) -> Result<Option<Job>, sqlx::Error> {
    let mut script = Script::default();
    load(&mut script, Size::of(1), &[key]);
    script.fetch(connection).await?.first().map(read).transpose()
}

pub async fn latest_attempt(connection: &mut SqliteConnection, id: i64) -> Result<Option<Job>, sqlx::Error> {
    const TEXT: &str = concat!("SELECT ", columns!(), " FROM jobs WHERE id = $1 ORDER BY attempt DESC LIMIT 1");
    sqlx::query(TEXT).bind(id).fetch_optional(connection).await?.as_ref().map(read).transpose()
}

/// How many there are in each state. Only the active ones and the mishaps are looked at one by one.
pub async fn counts(connection: &mut SqliteConnection) -> Result<Vec<(JobStatus, u64)>, sqlx::Error> {
    const TEXT: &str = concat!(
        "SELECT status, COUNT(*) FROM jobs WHERE ",
        active!(),
        " GROUP BY status \
         UNION ALL SELECT status, COUNT(*) FROM jobs WHERE ",
        mishaps!(),
        " GROUP BY status \
         UNION ALL SELECT 'all', COUNT(*) FROM jobs"
    );
    let rows: Vec<(String, i64)> = sqlx::query_as(TEXT).fetch_all(connection).await?;
    let of = |name: &str| rows.iter().find(|(status, _)| status == name).map_or(0, |(_, count)| *count);
    let others: i64 = rows.iter().filter(|(status, _)| status != "all").map(|(_, count)| count).sum();
    Ok(JobStatus::ALL
        .into_iter()
        .map(|status| match status {
            JobStatus::Completed => (status, (of("all") - others).max(0).unsigned_abs()),
            JobStatus::Waiting
            | JobStatus::Unmatched
            | JobStatus::Queued
            | JobStatus::Claimed
            | JobStatus::Starting
            | JobStatus::Failed
            | JobStatus::Running
            | JobStatus::Cancelled => (status, of(status.as_str()).unsigned_abs()),
        })
        .collect())
}

/// A page of the listing, newest first.
pub async fn list(
    connection: &mut SqliteConnection,
    filter: &JobFilter,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<Job>, ListError> {
    let mut query = QueryBuilder::<Sqlite>::new("");
    let is_active = !filter.status.is_empty() && filter.status.iter().all(|status| !status.is_final());
    let is_mishap = !filter.status.is_empty()
        && filter.status.iter().all(|status| matches!(status, JobStatus::Failed | JobStatus::Cancelled));
    // The few rows that are active come first, or else the planner may walk all of a project to find them.
    let is_narrowed = filter.project.is_some() || filter.repo.is_some();
    let few = (is_active && is_narrowed).then_some(concat!(
        "WITH few AS MATERIALIZED (SELECT ",
        columns!(),
        ", repo_key FROM jobs WHERE ",
        active!(),
        ") "
    ));
    query.push(few.unwrap_or_default()).push("SELECT ").push(COLUMNS);
    query.push(if few.is_some() { " FROM few WHERE 1 = 1" } else { " FROM jobs WHERE 1 = 1" });
    if is_mishap {
        query.push(concat!(" AND ", mishaps!()));
    } else if is_active && !is_narrowed {
        query.push(concat!(" AND ", active!()));
    }
    if !filter.status.is_empty() {
        let mut list = query.push(" AND status IN (").separated(", ");
        for status in &filter.status {
            list.push_bind(status.as_str());
        }
        query.push(")");
    }
    if let Some(project) = &filter.project {
        query.push(" AND project = ").push_bind(project.as_str());
    }
    if let Some(repo) = &filter.repo {
        query.push(" AND repo_key = ").push_bind(repo.key());
    }
    if let Some(cursor) = cursor {
        let (at, id, attempt) = parse_cursor(cursor).ok_or(ListError::Cursor)?;
        query.push(" AND (queued_at, id, attempt) < (").push_bind(at).push(", ").push_bind(id).push(", ");
        query.push_bind(attempt).push(")");
    }
    query.push(" ORDER BY queued_at DESC, id DESC, attempt DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = query.build().fetch_all(connection).await?;
    let items = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(super::page(items, limit, |job| format!("{}.{}.{}", millis(job.queued_at), job.key.id, job.key.attempt)))
}

/// Jobs in one of the states that a new configuration can help, oldest first.
pub async fn in_status(
    connection: &mut SqliteConnection,
    status: JobStatus,
    limit: u32,
) -> Result<Vec<Job>, sqlx::Error> {
    const ACTIVE: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM jobs WHERE ",
        active!(),
        " AND status = $1 ORDER BY queued_at, id, attempt LIMIT $2"
    );
    const OVER: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM jobs WHERE ",
        mishaps!(),
        " AND status = $1 ORDER BY queued_at, id, attempt LIMIT $2"
    );
    let text = if status.is_final() { OVER } else { ACTIVE };
    sqlx::query(text)
        .bind(status.as_str())
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Why a listing failed.
pub enum ListError {
    Cursor,
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for ListError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl ListError {
    pub fn explain(self, store: &super::Store) -> StoreError {
        match self {
            Self::Cursor => StoreError::Cursor,
            Self::Sql(error) => store.read_error(&error),
        }
    }
}

fn parse_cursor(cursor: &str) -> Option<(i64, i64, i64)> {
    let mut parts = cursor.splitn(3, '.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

pub fn read(row: &SqliteRow) -> Result<Job, sqlx::Error> {
    let mut row = Columns::new(row);
    Ok(Job {
        key: JobKey { id: row.take()?, attempt: row.number("attempt")? },
        run_id: row.take()?,
        repo: row.parse("repo")?,
        installation_id: row.take()?,
        name: row.take()?,
        workflow: row.take()?,
        branch: row.take()?,
        html_url: row.take()?,
        labels: serde_json::from_str(row.take()?).map_err(|_| foreign("labels"))?,
        status: row.parse("status")?,
        conclusion: row.take()?,
        project: row.parse_optional("project")?,
        pool: row.parse_optional("pool")?,
        runner: row.take::<Option<String>>()?.map(crate::fleet::runner::RunnerName::new),
        reason: row.take()?,
        losses: match row.take::<Option<&str>>()? {
            Some(losses) => serde_json::from_str(losses).map_err(|_| foreign("losses_by"))?,
            None => Losses::default(),
        },
        interruption: row.parse_optional("interruption")?,
        received_at: row.time("received_at")?,
        queued_at: row.time("queued_at")?,
        claimed_at: row.optional_time("claimed_at")?,
        starting_at: row.optional_time("starting_at")?,
        running_at: row.optional_time("running_at")?,
        completed_at: row.optional_time("completed_at")?,
        updated_at: row.time("updated_at")?,
    })
}
