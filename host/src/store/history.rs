//! The tables of what happened: events, deliveries, audit; and the small ones: pauses, meta.

use std::collections::HashSet;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    AuditEntry, DeliveryRecord, EventRow, Ingest, IngestResult, Page, Pause,
    bulk::Bulk,
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
    Bulk::new("INSERT INTO events (at, job_id, job_attempt, runner, kind, detail) VALUES", 6, "");
static LOAD_GUIDS: Bulk = Bulk::new("SELECT guid FROM deliveries WHERE guid IN (VALUES", 1, ")");
static SAVE_DELIVERIES: Bulk = Bulk::new(
    "INSERT INTO deliveries (guid, received_at, event, action, result, reason, job_id, job_attempt, source) VALUES",
    9,
    "",
);
static SAVE_AUDIT: Bulk = Bulk::new("INSERT INTO audit (at, actor, action, subject, detail) VALUES", 5, "");

pub async fn save_events(connection: &mut SqliteConnection, events: &[Event]) -> Result<(), sqlx::Error> {
    for (text, events) in SAVE_EVENTS.chunks(events) {
        let mut query = sqlx::query(text);
        for event in events {
            query = query
                .bind(millis(event.at))
                .bind(event.job.map(|job| job.id))
                .bind(event.job.map(|job| job.attempt))
                .bind(event.runner.as_ref().map(|runner| runner.as_str()))
                .bind(event.kind)
                .bind(event.detail.as_deref());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
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

pub async fn known_guids(connection: &mut SqliteConnection, guids: &[&str]) -> Result<HashSet<String>, sqlx::Error> {
    let mut known = HashSet::new();
    for (text, guids) in LOAD_GUIDS.padded(guids) {
        let mut query = sqlx::query_scalar(text);
        for guid in guids {
            query = query.bind(*guid);
        }
        known.extend(query.fetch_all(&mut *connection).await?);
    }
    Ok(known)
}

/// A delivery and what became of it.
pub struct Delivery<'a> {
    pub ingest: &'a Ingest,
    pub result: IngestResult,
}

pub async fn save_deliveries(
    connection: &mut SqliteConnection,
    deliveries: &[Delivery<'_>],
) -> Result<(), sqlx::Error> {
    for (text, deliveries) in SAVE_DELIVERIES.chunks(deliveries) {
        let mut query = sqlx::query(text);
        for Delivery { ingest, result } in deliveries {
            let (word, job, reason) = match result {
                IngestResult::Enqueued(job, _) => ("enqueued", Some(*job), None),
                IngestResult::Updated(job, _) => ("updated", Some(*job), None),
                IngestResult::Unmatched(job, reason) => ("unmatched", Some(*job), Some(reason.as_str())),
                IngestResult::Ignored(_) if ingest.event == "ping" => ("pong", None, None),
                IngestResult::Ignored(reason) => ("ignored", None, Some(reason.as_str())),
                IngestResult::Duplicate => ("duplicate", None, None),
            };
            query = query
                .bind(ingest.guid.as_deref())
                .bind(millis(ingest.received_at))
                .bind(ingest.event.as_str())
                .bind(ingest.action.as_str())
                .bind(word)
                .bind(reason)
                .bind(job.map(|job| job.id))
                .bind(job.map(|job| job.attempt))
                .bind(ingest.source);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
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

pub async fn save_audit(connection: &mut SqliteConnection, entries: &[AuditEntry]) -> Result<(), sqlx::Error> {
    for (text, entries) in SAVE_AUDIT.chunks(entries) {
        let mut query = sqlx::query(text);
        for entry in entries {
            query = query
                .bind(millis(entry.at))
                .bind(entry.actor.as_str())
                .bind(entry.action.as_str())
                .bind(entry.subject.as_str())
                .bind(entry.detail.as_deref());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
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
            "INSERT INTO pauses (project, pool, until, reason, failures) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (project, pool) DO UPDATE SET until = excluded.until, reason = excluded.reason, \
             failures = excluded.failures",
        )
        .bind(project.as_str())
        .bind(pool.as_str())
        .bind(millis(pause.until))
        .bind(pause.reason.as_str())
        .bind(i64::from(pause.failures)),
        None => sqlx::query("DELETE FROM pauses WHERE project = $1 AND pool = $2")
            .bind(project.as_str())
            .bind(pool.as_str()),
    };
    query.execute(connection).await.map(drop)
}

pub async fn pauses(connection: &mut SqliteConnection) -> Result<Vec<(ProjectName, PoolName, Pause)>, sqlx::Error> {
    let rows = sqlx::query("SELECT project, pool, until, reason, failures FROM pauses ORDER BY project, pool")
        .fetch_all(connection)
        .await?;
    let read = |row: &SqliteRow| {
        let mut row = Columns::new(row);
        let (project, pool) = (row.parse("project")?, row.parse("pool")?);
        let pause = Pause { until: row.time("until")?, reason: row.take()?, failures: row.number("failures")? };
        Ok((project, pool, pause))
    };
    rows.iter().map(read).collect()
}

pub async fn meta(connection: &mut SqliteConnection, key: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(connection).await
}

pub async fn set_meta(connection: &mut SqliteConnection, key: &str, value: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
        .bind(key)
        .bind(value)
        .execute(connection)
        .await
        .map(drop)
}
