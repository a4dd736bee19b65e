//! The one task that writes.
//!
//! It takes whatever waits, up to [`BATCH_OPS`], into one transaction and answers after the commit. When that fails,
//! nothing of it is applied and everybody waiting hears of it; only if the data of one caller may be at fault are the
//! callers tried one by one. After a failure the connection is made anew, so no half-open transaction is ever carried on.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    Active, Changed, Op, OpOutcome, StoreError, batch, history, jobs,
    lock::Lock,
    prune, runners,
    sqlite::{self, Location},
};
use crate::{clock::SharedClock, fleet::rerun};

/// Ops of one transaction. What several rounds of 64 connections bring; keeps a batch in the low tens of milliseconds.
const BATCH_OPS: usize = 512;

pub type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
pub type Stream = broadcast::Receiver<Arc<[Changed]>>;

pub enum Request {
    Write {
        ops: Vec<Op>,
        reply: Reply<Vec<OpOutcome>>,
    },
    Follow {
        reply: Reply<(Active, Stream)>,
    },
    Prune {
        kind: prune::Kind,
        before: Timestamp,
        reply: Reply<u64>,
    },
    Close,
    /// Lets a test put limits on the connection.
    #[cfg(test)]
    Execute {
        sql: &'static str,
        reply: Reply<()>,
    },
}

pub struct Writer {
    pub location: Location,
    pub clock: SharedClock,
    pub connection: Option<SqliteConnection>,
    pub requests: mpsc::Receiver<Request>,
    pub changes: broadcast::Sender<Arc<[Changed]>>,
    pub commits: Arc<AtomicU64>,
    /// Until the connection is closed.
    #[expect(dead_code, reason = "held for as long as it lives")]
    pub lock: Lock,
}

/// A call that waits for its commit.
type Call = (Vec<Op>, Reply<Vec<OpOutcome>>);

impl Writer {
    pub async fn run(mut self) {
        let mut next = self.requests.recv().await;
        while let Some(request) = next.take() {
            match request {
                Request::Write { ops, reply } => {
                    let (calls, other) = self.gather(ops, reply);
                    self.commit(calls).await;
                    next = other;
                }
                Request::Follow { reply } => answer(reply, self.follow().await),
                Request::Prune { kind, before, reply } => answer(reply, self.prune(kind, before).await),
                Request::Close => self.requests.close(),
                #[cfg(test)]
                Request::Execute { sql, reply } => {
                    let connection = self.connection.as_mut();
                    let result = sqlx::query(sql).execute(connection.unwrap()).await;
                    answer(reply, result.map(drop).map_err(|error| self.error(&error)));
                }
            }
            if next.is_none() {
                next = self.requests.recv().await;
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(database.path = %self.location.path.display(), %error, "the database did not close cleanly");
        }
    }

    /// The call, and the calls that wait behind it. What else comes up ends the batch, to keep the order.
    fn gather(&mut self, ops: Vec<Op>, reply: Reply<Vec<OpOutcome>>) -> (Vec<Call>, Option<Request>) {
        let mut count = ops.len();
        let mut calls = vec![(ops, reply)];
        while count < BATCH_OPS {
            match self.requests.try_recv() {
                Ok(Request::Write { ops, reply }) => {
                    count += ops.len();
                    calls.push((ops, reply));
                }
                Ok(other) => return (calls, Some(other)),
                Err(_) => break,
            }
        }
        (calls, None)
    }

    async fn commit(&mut self, calls: Vec<Call>) {
        match self.try_commit(&calls).await {
            Ok(outcomes) => {
                for ((_, reply), outcomes) in calls.into_iter().zip(outcomes) {
                    answer(reply, Ok(outcomes));
                }
            }
            Err(error) if calls.len() > 1 && sqlite::may_be_one_callers_fault(&error) => {
                for call in calls {
                    let result = self.try_commit(std::slice::from_ref(&call)).await;
                    let result = result.map(|mut outcomes| outcomes.pop().unwrap_or_default());
                    answer(call.1, result.map_err(|error| self.error(&error)));
                }
            }
            Err(error) => {
                let error = self.error(&error);
                tracing::error!(calls = calls.len(), %error, "a commit failed, nothing of it is applied");
                for (_, reply) in calls {
                    answer(reply, Err(error.clone()));
                }
            }
        }
    }

    async fn try_commit(&mut self, calls: &[Call]) -> Result<Vec<Vec<OpOutcome>>, sqlx::Error> {
        let began = Instant::now();
        let ops: Vec<&[Op]> = calls.iter().map(|(ops, _)| ops.as_slice()).collect();
        let now = whole_millis(self.clock.now());
        let mut connection = self.connect().await?;
        let written = batch::commit(&mut connection, &ops, now).await?;
        self.connection = Some(connection);

        self.commits.fetch_add(1, Ordering::Relaxed);
        metrics::histogram!("pacer_store_commit_seconds").record(began.elapsed());
        metrics::histogram!("pacer_store_batch_size").record(ops.iter().map(|ops| ops.len()).sum::<usize>() as f64);
        if !written.changed.is_empty() {
            // Nobody listening is not an error.
            let _ = self.changes.send(written.changed);
        }
        Ok(written.outcomes)
    }

    /// Takes the connection out; whoever succeeds puts it back, so a failure leads to a new one.
    async fn connect(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.location.writer().await,
        }
    }

    /// Reads between two commits: the stream starts exactly where the snapshot ends.
    async fn follow(&mut self) -> Result<(Active, Stream), StoreError> {
        let stream = self.changes.subscribe();
        let since = self.clock.now() - rerun::WINDOW;
        let read = async {
            let mut connection = self.connect().await?;
            let active = Active {
                jobs: jobs::active(&mut connection).await?.into_iter().map(Arc::new).collect(),
                interrupted: jobs::interrupted(&mut connection, since).await?.into_iter().map(Arc::new).collect(),
                runners: runners::active(&mut connection).await?.into_iter().map(Arc::new).collect(),
                pauses: history::pauses(&mut connection).await?,
            };
            self.connection = Some(connection);
            Ok(active)
        };
        let result: Result<Active, sqlx::Error> = read.await;
        match result {
            Ok(active) => Ok((active, stream)),
            Err(error) => Err(StoreError::Read { reason: sqlite::explain(&self.location.path, &error) }),
        }
    }

    async fn prune(&mut self, kind: prune::Kind, before: Timestamp) -> Result<u64, StoreError> {
        let write = async {
            let mut connection = self.connect().await?;
            sqlx::query(batch::BEGIN).execute(&mut connection).await?;
            let count = prune::step(&mut connection, kind, before.as_millisecond()).await?;
            sqlx::query(batch::COMMIT).execute(&mut connection).await?;
            self.connection = Some(connection);
            Ok(count)
        };
        let result: Result<u64, sqlx::Error> = write.await;
        result.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        let path: &PathBuf = &self.location.path;
        StoreError::Write { reason: sqlite::explain(path, error) }
    }
}

/// The database keeps milliseconds: what is published is then what a reader finds.
fn whole_millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// Whoever no longer waits does not want to know.
fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    let _ = reply.send(result);
}
