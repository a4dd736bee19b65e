//! The table of runners.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{
    Page, RunnerFilter,
    bulk::{Bulk, Script, Size, insert_head, insert_tail},
    jobs::ListError,
    row::{Columns, foreign, millis, optional_millis},
};
use crate::fleet::{
    Rate,
    job::JobKey,
    runner::{MachinePhase, Runner, RunnerName, RunnerState, Target},
};

macro_rules! columns {
    () => {
        "name, state, project, pool, backend, digest, target, installation_id, github_runner_id, handle, job_id, \
         job_attempt, created_at, state_at, deadline, registered_at, busy_at, exchanged_at, \
         phase, rate_micros, rate_currency, rate_granularity, rate_minimum, rate_since, cost_micros, error"
    };
}

/// As the partial index has it, word for word.
macro_rules! active {
    () => {
        "state IN ('planned', 'registering', 'creating', 'booting', 'idle', 'busy', 'stopping')"
    };
}

/// As the partial index has it, word for word.
macro_rules! failed {
    () => {
        "state = 'failed'"
    };
}

static LOAD: Bulk = Bulk::new(concat!("SELECT ", columns!(), " FROM runners WHERE name IN (VALUES"), 1, ")");
static SAVE: Bulk = Bulk::new(
    insert_head!("runners", concat!(columns!(), ", repo_key")),
    27,
    insert_tail!(
        "ON CONFLICT (name) DO UPDATE SET state = excluded.state, digest = excluded.digest, \
     github_runner_id = excluded.github_runner_id, handle = excluded.handle, job_id = excluded.job_id, \
     job_attempt = excluded.job_attempt, state_at = excluded.state_at, deadline = excluded.deadline, \
     registered_at = excluded.registered_at, busy_at = excluded.busy_at, \
     exchanged_at = excluded.exchanged_at, phase = excluded.phase, \
     rate_micros = excluded.rate_micros, rate_currency = excluded.rate_currency, \
     rate_granularity = excluded.rate_granularity, rate_minimum = excluded.rate_minimum, \
     rate_since = excluded.rate_since, cost_micros = excluded.cost_micros, error = excluded.error"
    ),
);

/// The columns of a row that [`load`] answers with; no other row of a script has so many.
pub const LOADED: usize = 26;

/// Asks for the rows with these names.
pub fn load(script: &mut Script, size: Size, names: &[RunnerName]) {
    script.rows(&LOAD, size, names, |name, values| {
        values.add(name.as_str());
    });
}

pub fn save(script: &mut Script, size: Size, runners: &[&Runner]) {
    script.rows(&SAVE, size, runners, |runner, values| {
        let repo = match &runner.target {
            Target::Repo(repo) => Some(repo.key()),
            Target::Org(_) => None,
        };
        let rate = runner.rate.as_ref();
        values
            .add(runner.name.as_str())
            .add(runner.state.as_str())
            .add(runner.project.as_str())
            .add(runner.pool.as_str())
            .add(runner.backend.as_str())
            .add(runner.digest.as_deref())
            .add(runner.target.to_string())
            .add(runner.installation_id)
            .add(runner.github_runner_id)
            .add(runner.handle.as_deref())
            .add(runner.job.map(|job| job.id))
            .add(runner.job.map(|job| job.attempt))
            .add(millis(runner.created_at))
            .add(millis(runner.state_at))
            .add(millis(runner.deadline))
            .add(optional_millis(runner.registered_at))
            .add(optional_millis(runner.busy_at))
            .add(optional_millis(runner.exchanged_at))
            .add(runner.phase.map(MachinePhase::as_str))
            .add(rate.map(|rate| count(rate.micros_per_hour)))
            .add(rate.map(|rate| rate.currency.as_str()))
            .add(rate.map(|rate| rate.granularity))
            .add(rate.map(|rate| rate.minimum))
            .add(rate.map(|rate| millis(rate.since)))
            .add(runner.cost_micros.map(count))
            .add(runner.error.as_deref())
            .add(repo);
    });
}

pub async fn one(connection: &mut SqliteConnection, name: &RunnerName) -> Result<Option<Runner>, sqlx::Error> {
    let mut script = Script::default();
    load(&mut script, Size::of(1), std::slice::from_ref(name));
    script.fetch(connection).await?.first().map(read).transpose()
}

/// Every runner that is not over, oldest first.
pub async fn active(connection: &mut SqliteConnection) -> Result<Vec<Runner>, sqlx::Error> {
    const TEXT: &str = concat!("SELECT ", columns!(), " FROM runners WHERE ", active!(), " ORDER BY created_at, name");
    sqlx::query(TEXT).fetch_all(connection).await?.iter().map(read).collect()
}

/// How many there are in each state. Only the active ones and the failed are looked at one by one.
pub async fn counts(connection: &mut SqliteConnection) -> Result<Vec<(RunnerState, u64)>, sqlx::Error> {
    const TEXT: &str = concat!(
        "SELECT state, COUNT(*) FROM runners WHERE ",
        active!(),
        " GROUP BY state \
         UNION ALL SELECT 'failed', COUNT(*) FROM runners WHERE ",
        failed!(),
        " UNION ALL SELECT 'all', COUNT(*) FROM runners"
    );
    let rows: Vec<(String, i64)> = sqlx::query_as(TEXT).fetch_all(connection).await?;
    let of = |name: &str| rows.iter().find(|(state, _)| state == name).map_or(0, |(_, count)| *count);
    let others: i64 = rows.iter().filter(|(state, _)| state != "all").map(|(_, count)| count).sum();
    Ok(RunnerState::ALL
        .into_iter()
        .map(|state| match state {
            RunnerState::Gone => (state, (of("all") - others).max(0).unsigned_abs()),
            RunnerState::Planned
            | RunnerState::Registering
            | RunnerState::Creating
            | RunnerState::Booting
            | RunnerState::Idle
            | RunnerState::Busy
            | RunnerState::Stopping
            | RunnerState::Failed => (state, of(state.as_str()).unsigned_abs()),
        })
        .collect())
}

/// A page of the listing, newest first.
pub async fn list(
    connection: &mut SqliteConnection,
    filter: &RunnerFilter,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<Runner>, ListError> {
    let is_active = !filter.state.is_empty() && filter.state.iter().all(|state| !state.is_final());
    // The few rows that are active come first, or else the planner may walk all of a project to find them.
    let mut query = QueryBuilder::<Sqlite>::new(if is_active && filter.project.is_some() {
        concat!(
            "WITH few AS MATERIALIZED (SELECT ",
            columns!(),
            ", repo_key FROM runners WHERE ",
            active!(),
            ") SELECT ",
            columns!(),
            " FROM few AS runners WHERE 1 = 1"
        )
    } else {
        concat!("SELECT ", columns!(), " FROM runners WHERE 1 = 1")
    });
    if !filter.state.is_empty() {
        if is_active {
            query.push(concat!(" AND ", active!()));
        } else if filter.state == [RunnerState::Failed] {
            query.push(concat!(" AND ", failed!()));
        }
        let mut list = query.push(" AND state IN (").separated(", ");
        for state in &filter.state {
            list.push_bind(state.as_str());
        }
        query.push(")");
    }
    if let Some(project) = &filter.project {
        query.push(" AND project = ").push_bind(project.as_str());
    }
    if let Some(repo) = &filter.repo {
        // A runner of an organisation belongs to the repository whose job it has.
        query.push(" AND (repo_key = ").push_bind(repo.key());
        query.push(" OR EXISTS (SELECT 1 FROM jobs WHERE jobs.id = runners.job_id");
        query.push(" AND jobs.attempt = runners.job_attempt AND jobs.repo_key = ").push_bind(repo.key()).push("))");
    }
    if let Some(cursor) = cursor {
        let (at, name) = cursor.split_once('.').ok_or(ListError::Cursor)?;
        let at: i64 = at.parse().map_err(|_| ListError::Cursor)?;
        query.push(" AND (created_at, name) < (").push_bind(at).push(", ").push_bind(name).push(")");
    }
    query.push(" ORDER BY created_at DESC, name DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = query.build().fetch_all(connection).await?;
    let items = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(super::page(items, limit, |runner| format!("{}.{}", millis(runner.created_at), runner.name)))
}

pub fn read(row: &SqliteRow) -> Result<Runner, sqlx::Error> {
    let mut row = Columns::new(row);
    Ok(Runner {
        name: RunnerName::new(row.take::<String>()?),
        state: row.parse("state")?,
        project: row.parse("project")?,
        pool: row.parse("pool")?,
        backend: row.parse("backend")?,
        digest: row.take()?,
        target: row.parse("target")?,
        installation_id: row.take()?,
        github_runner_id: row.take()?,
        handle: row.take()?,
        job: job_key(&mut row)?,
        created_at: row.time("created_at")?,
        state_at: row.time("state_at")?,
        deadline: row.time("deadline")?,
        registered_at: row.optional_time("registered_at")?,
        busy_at: row.optional_time("busy_at")?,
        exchanged_at: row.optional_time("exchanged_at")?,
        phase: row.parse_optional("phase")?,
        rate: rate(&mut row)?,
        cost_micros: row.take::<Option<i64>>()?.map(i64::unsigned_abs),
        error: row.take()?,
    })
}

/// The five columns of an optional rate.
fn rate(row: &mut Columns<'_>) -> Result<Option<Rate>, sqlx::Error> {
    let (micros, currency) = (row.take::<Option<i64>>()?, row.take::<Option<String>>()?);
    let (granularity, minimum) = (row.take::<Option<i64>>()?, row.take::<Option<i64>>()?);
    let since = row.optional_time("rate_since")?;
    let seconds = |column, value: Option<i64>| u32::try_from(value.unwrap_or_default()).map_err(|_| foreign(column));
    let (Some(micros), Some(currency), Some(since)) = (micros, currency, since) else { return Ok(None) };
    Ok(Some(Rate {
        micros_per_hour: micros.unsigned_abs(),
        currency,
        granularity: seconds("rate_granularity", granularity)?,
        minimum: seconds("rate_minimum", minimum)?,
        since,
    }))
}

/// What a column takes; more than that is nobody's price.
fn count(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// The two columns of an optional job.
pub fn job_key(row: &mut Columns<'_>) -> Result<Option<JobKey>, sqlx::Error> {
    match (row.take::<Option<i64>>()?, row.take::<Option<i64>>()?) {
        (Some(id), Some(attempt)) => {
            Ok(Some(JobKey { id, attempt: attempt.try_into().map_err(|_| foreign("job_attempt"))? }))
        }
        (_, _) => Ok(None),
    }
}
