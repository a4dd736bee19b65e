//! Taking away what is over and old, a bounded step at a time, so that no delivery waits long behind it.

use sqlx::SqliteConnection;

/// Rows of one step: some ten milliseconds of the writer's time.
pub const STEP: u32 = 500;

/// What a step takes away.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Jobs,
    Runners,
    Deliveries,
    Audit,
}

macro_rules! old_jobs {
    () => {
        "(SELECT id, attempt FROM jobs WHERE queued_at < $1 AND updated_at < $1 AND status IN ('failed', 'completed', 'cancelled') \
         ORDER BY queued_at, id, attempt LIMIT $2)"
    };
}
macro_rules! old_runners {
    () => {
        "(SELECT name FROM runners WHERE created_at < $1 AND state_at < $1 AND state IN ('gone', 'failed') \
         ORDER BY created_at, name LIMIT $2)"
    };
}

/// Removes at most [`STEP`] rows from before `before` and answers how many. Runs in the writer's transaction.
pub async fn step(connection: &mut SqliteConnection, kind: Kind, before: i64) -> Result<u64, sqlx::Error> {
    let (history, rows) = match kind {
        Kind::Jobs => (
            Some(concat!("DELETE FROM events WHERE job_id IS NOT NULL AND (job_id, job_attempt) IN ", old_jobs!())),
            concat!("DELETE FROM jobs WHERE (id, attempt) IN ", old_jobs!()),
        ),
        Kind::Runners => (
            // What such an event says of a job is the job's, and goes with it.
            Some(concat!(
                "DELETE FROM events WHERE runner IS NOT NULL AND job_id IS NULL AND runner IN ",
                old_runners!()
            )),
            concat!("DELETE FROM runners WHERE name IN ", old_runners!()),
        ),
        Kind::Deliveries => (
            None,
            "DELETE FROM deliveries WHERE received_at < $1 AND seq IN (SELECT seq FROM deliveries ORDER BY seq LIMIT $2)",
        ),
        Kind::Audit => {
            (None, "DELETE FROM audit WHERE at < $1 AND seq IN (SELECT seq FROM audit ORDER BY seq LIMIT $2)")
        }
    };
    if let Some(history) = history {
        sqlx::query(history).bind(before).bind(i64::from(STEP)).execute(&mut *connection).await?;
    }
    Ok(sqlx::query(rows).bind(before).bind(i64::from(STEP)).execute(connection).await?.rows_affected())
}
