//! The tables of what happened: events, deliveries, audit; and the small one: pauses.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    AuditEntry, DeliveryRecord, EventRow, Ingest, IngestResult, Page, Pause,
    bulk::{Bulk, Script, Size, insert_head, insert_tail},
    row::{Columns, millis},
    runners::job_key,
};
use crate::{
    fleet::{
        job::{Event, JobKey},
        runner::RunnerName,
    },
    routing::{PoolName, ProjectName},
};

static SAVE_EVENTS: Bulk =
    Bulk::new(insert_head!("events", "at, job_id, job_attempt, runner, kind, detail"), 6, insert_tail!());
/// One that was ignored is not among them: sent again, it may have become ours.
static LOAD_GUIDS: Bulk =
    Bulk::new("SELECT guid FROM deliveries WHERE result <> 'ignored' AND guid IN (VALUES", 1, ")");
static SAVE_DELIVERIES: Bulk = Bulk::new(
    insert_head!("deliveries", "guid, received_at, event, action, result, reason, job_id, job_attempt, source"),
    9,
    insert_tail!(
        "ON CONFLICT (guid) DO UPDATE SET event = excluded.event, \
     action = excluded.action, result = excluded.result, reason = excluded.reason, job_id = excluded.job_id, \
     job_attempt = excluded.job_attempt, source = excluded.source"
    ),
);
static SAVE_AUDIT: Bulk = Bulk::new(insert_head!("audit", "at, actor, action, subject, detail"), 5, insert_tail!());

pub fn save_events(script: &mut Script, size: Size, events: &[Event]) {
    script.rows(&SAVE_EVENTS, size, events, |event, values| {
        values
            .add(millis(event.at))
            .add(event.job.map(|job| job.id))
            .add(event.job.map(|job| job.attempt))
            .add(event.runner.as_ref().map(|runner| runner.as_str()))
            .add(event.kind)
            .add(event.detail.as_deref());
    });
}

pub async fn events_of_job(connection: &mut SqliteConnection, job: JobKey) -> Result<Vec<EventRow>, sqlx::Error> {
    sqlx::query(
        "SELECT at, job_id, job_attempt, runner, kind, detail FROM events WHERE job_id = $1 AND job_attempt = $2 ORDER BY seq",
    )
    .bind(job.id)
    .bind(job.attempt)
    .fetch_all(connection)
    .await?
    .iter()
    .map(read_event)
    .collect()
}

pub async fn events_of_runner(
    connection: &mut SqliteConnection,
    runner: &RunnerName,
) -> Result<Vec<EventRow>, sqlx::Error> {
    sqlx::query("SELECT at, job_id, job_attempt, runner, kind, detail FROM events WHERE runner = $1 ORDER BY seq")
        .bind(runner.as_str())
        .fetch_all(connection)
        .await?
        .iter()
        .map(read_event)
        .collect()
}

fn read_event(row: &SqliteRow) -> Result<EventRow, sqlx::Error> {
    let mut row = Columns::new(row);
    Ok(EventRow {
        at: row.time("at")?,
        job: job_key(&mut row)?,
        runner: row.take::<Option<String>>()?.map(RunnerName::new),
        kind: row.take()?,
        detail: row.take()?,
    })
}

/// The columns of a row that [`load_guids`] answers with; no other row of a script has so few.
pub const GUID_LOADED: usize = 1;

/// Asks which of these deliveries were taken in.
pub fn load_guids(script: &mut Script, size: Size, guids: &[&str]) {
    script.rows(&LOAD_GUIDS, size, guids, |guid, values| {
        values.add(*guid);
    });
}

/// A delivery and what became of it.
pub struct Delivery<'a> {
    pub ingest: &'a Ingest,
    pub result: IngestResult,
}

pub fn save_deliveries(script: &mut Script, size: Size, deliveries: &[Delivery<'_>]) {
    script.rows(&SAVE_DELIVERIES, size, deliveries, |Delivery { ingest, result }, values| {
        let (word, job, reason) = match result {
            IngestResult::Enqueued(job, _) => ("enqueued", Some(*job), None),
            IngestResult::Updated(job, _) => ("updated", Some(*job), None),
            IngestResult::Unmatched(job, reason) => ("unmatched", Some(*job), Some(reason.as_str())),
            IngestResult::Ignored(_) if ingest.event == "ping" => ("pong", None, None),
            IngestResult::Ignored(reason) => ("ignored", None, Some(reason.as_str())),
            IngestResult::Duplicate => ("duplicate", None, None),
        };
        values
            .add(ingest.guid.as_deref())
            .add(millis(ingest.received_at))
            .add(ingest.event.as_str())
            .add(ingest.action.as_str())
            .add(word)
            .add(reason)
            .add(job.map(|job| job.id))
            .add(job.map(|job| job.attempt))
            .add(ingest.source);
    });
}

/// Newest first, from before `before` on.
pub async fn deliveries(
    connection: &mut SqliteConnection,
    before: Option<i64>,
    limit: u32,
) -> Result<Page<DeliveryRecord>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT seq, guid, received_at, event, action, result, reason, job_id, job_attempt, source \
         FROM deliveries WHERE seq < $1 ORDER BY seq DESC LIMIT $2",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    sequence_page(&rows, limit, |row| {
        Ok(DeliveryRecord {
            guid: row.take()?,
            received_at: row.time("received_at")?,
            event: row.take()?,
            action: row.take()?,
            result: row.take()?,
            reason: row.take()?,
            job: job_key(row)?,
            source: row.take()?,
        })
    })
}

pub fn save_audit(script: &mut Script, size: Size, entries: &[AuditEntry]) {
    script.rows(&SAVE_AUDIT, size, entries, |entry, values| {
        values
            .add(millis(entry.at))
            .add(entry.actor.as_str())
            .add(entry.action.as_str())
            .add(entry.subject.as_str())
            .add(entry.detail.as_deref());
    });
}

/// Newest first, from before `before` on.
pub async fn audit(
    connection: &mut SqliteConnection,
    before: Option<i64>,
    limit: u32,
) -> Result<Page<AuditEntry>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT seq, at, actor, action, subject, detail FROM audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    sequence_page(&rows, limit, |row| {
        Ok(AuditEntry {
            at: row.time("at")?,
            actor: row.take()?,
            action: row.take()?,
            subject: row.take()?,
            detail: row.take()?,
        })
    })
}

/// A page of rows whose first column is their place in the order of arrival.
fn sequence_page<T>(
    rows: &[SqliteRow],
    limit: u32,
    read: impl Fn(&mut Columns<'_>) -> Result<T, sqlx::Error>,
) -> Result<Page<T>, sqlx::Error> {
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = Columns::new(row);
        let seq: i64 = row.take()?;
        items.push((seq, read(&mut row)?));
    }
    let page = super::page(items, limit, |(seq, _)| seq.to_string());
    Ok(Page { items: page.items.into_iter().map(|(_, item)| item).collect(), next: page.next })
}

pub async fn save_pause(
    connection: &mut SqliteConnection,
    project: &ProjectName,
    pool: &PoolName,
    pause: Option<&Pause>,
) -> Result<(), sqlx::Error> {
    let query = match pause {
        Some(pause) => sqlx::query(
            "INSERT INTO pauses (project, pool, until, reason, failures, proof) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (project, pool) DO UPDATE SET until = excluded.until, reason = excluded.reason, \
             failures = excluded.failures, proof = excluded.proof",
        )
        .bind(project.as_str())
        .bind(pool.as_str())
        .bind(millis(pause.until))
        .bind(pause.reason.as_str())
        .bind(i64::from(pause.failures))
        .bind(pause.proof.to_string()),
        None => sqlx::query("DELETE FROM pauses WHERE project = $1 AND pool = $2")
            .bind(project.as_str())
            .bind(pool.as_str()),
    };
    query.execute(connection).await.map(drop)
}

pub async fn pauses(connection: &mut SqliteConnection) -> Result<Vec<(ProjectName, PoolName, Pause)>, sqlx::Error> {
    let rows = sqlx::query("SELECT project, pool, until, reason, failures, proof FROM pauses ORDER BY project, pool")
        .fetch_all(connection)
        .await?;
    let read = |row: &SqliteRow| {
        let mut row = Columns::new(row);
        let (project, pool) = (row.parse("project")?, row.parse("pool")?);
        let pause = Pause {
            until: row.time("until")?,
            reason: row.take()?,
            failures: row.number("failures")?,
            proof: row.parse("proof")?,
        };
        Ok((project, pool, pause))
    };
    rows.iter().map(read).collect()
}
