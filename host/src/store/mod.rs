//! What must not be forgotten: jobs, runners, deliveries, their history, the audit.
//!
//! Writing goes through one task that takes whatever waits into one transaction (a *group commit*), so that a
//! durable commit of about 2 ms is shared by everything that arrived in the meantime. Each [`Op`] is applied by a
//! pure function of [`crate::fleet`] to the row as it stands in that transaction; no rule lives here. After the
//! commit the changed rows are published, in commit order, to whoever follows [`Store::follow`].
//!
//! Nothing outside this folder knows sqlx.

mod batch;
mod bulk;
mod history;
mod jobs;
mod lock;
mod look;
mod model;
mod prune;
mod reads;
mod row;
mod runners;
mod sqlite;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use self::{
    lock::Lock,
    sqlite::Location,
    writer::{Reply, Request, Writer},
};
use crate::{clock::SharedClock, config::Retention};

pub use look::{DatabaseState, FOREIGN};
pub use model::{
    Active, AuditEntry, Changed, DeliveryRecord, EventRow, Ingest, IngestResult, JobFilter, Op, OpOutcome, Page, Pause,
    Proof, Pruned, RunnerFilter, StoreError,
};
pub use reads::MAX_PAGE;

/// Calls that may wait for the writer; more wait for a place. Far above what the ingest admits at once.
const QUEUE: usize = 1024;

/// Commits that a follower may lag behind before it has to follow anew.
const STREAM: usize = 1024;

/// Connections that read. Enough for a few people and the metrics; each costs a thread and its page cache.
const READERS: u32 = 4;

/// How long a read waits for a connection.
const READ_WAIT: Duration = Duration::from_secs(5);

/// How long a call waits for the writer: GitHub's ten seconds, less the time to say no.
const WRITE_WAIT: Duration = Duration::from_secs(9);

/// The database. Cheap to clone; all clones share the writer.
#[derive(Debug, Clone)]
pub struct Store {
    location: Location,
    readers: SqlitePool,
    /// None when it was opened for reading.
    requests: Option<mpsc::Sender<Request>>,
    changes: broadcast::Sender<Arc<[Changed]>>,
    tasks: TaskTracker,
    commits: Arc<AtomicU64>,
}

impl Store {
    /// Opens `sqlite:` and a path for writing: makes the file (mode 0600) and brings its schema up to date. What another
    /// program keeps there is left alone, and so is what another pacer writes.
    pub async fn open(url: &str, clock: SharedClock) -> Result<Self, StoreError> {
        let location = Location::parse(url)?;
        if Self::look(url).await? == DatabaseState::Foreign {
            return Err(location.open_error(FOREIGN));
        }
        location.create().await?;
        let lock = Lock::take(&location).await?;
        let connected = location.writer().await;
        let mut connection = connected.map_err(|error| location.open_error(sqlite::explain(&location.path, &error)))?;
        location.migrate(&mut connection).await?;

        let (requests, receiver) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(STREAM);
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            location: location.clone(),
            clock,
            connection: Some(connection),
            requests: receiver,
            changes: changes.clone(),
            commits: commits.clone(),
            lock,
        };
        let tasks = TaskTracker::new();
        tasks.spawn(writer.run());
        tasks.close();
        Ok(Self { readers: readers(&location), location, requests: Some(requests), changes, tasks, commits })
    }

    /// Opens a database that a server may be working on, for reading.
    pub async fn open_read_only(url: &str) -> Result<Self, StoreError> {
        let location = Location::parse(url)?;
        if !tokio::fs::try_exists(&location.path).await.unwrap_or(false) {
            return Err(location.open_error("there is no such file; `pacer serve` makes it, check `database.url`"));
        }
        location.check_migrated().await?;
        let (changes, _) = broadcast::channel(1);
        let tasks = TaskTracker::new();
        tasks.close();
        Ok(Self { readers: readers(&location), location, requests: None, changes, tasks, commits: Arc::default() })
    }

    /// Writes the ops, all of them or none, and answers when they are on disk.
    ///
    /// A change that comes too late is no error: its outcome says that it did not apply.
    pub async fn write(&self, ops: Vec<Op>) -> Result<Vec<OpOutcome>, StoreError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|reply| Request::Write { ops, reply }).await
    }

    /// What is not over, and every change from there on, without gap or overlap.
    ///
    /// Whoever lags behind the stream ([`broadcast::error::RecvError::Lagged`]) has to follow anew.
    pub async fn follow(&self) -> Result<(Active, broadcast::Receiver<Arc<[Changed]>>), StoreError> {
        self.ask(|reply| Request::Follow { reply }).await
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[Changed]>> {
        self.changes.subscribe()
    }

    /// Takes away what is over and older than the retention says, with its history, in steps between other writes.
    pub async fn prune(&self, retention: &Retention, now: Timestamp) -> Result<Pruned, StoreError> {
        Ok(Pruned {
            jobs: self.prune_kind(prune::Kind::Jobs, retention.jobs, now).await?,
            runners: self.prune_kind(prune::Kind::Runners, retention.jobs, now).await?,
            deliveries: self.prune_kind(prune::Kind::Deliveries, retention.deliveries, now).await?,
            audit: self.prune_kind(prune::Kind::Audit, retention.audit, now).await?,
        })
    }

    async fn prune_kind(&self, kind: prune::Kind, keep: Duration, now: Timestamp) -> Result<u64, StoreError> {
        let before = now.checked_sub(keep).unwrap_or(Timestamp::MIN);
        let mut total = 0;
        loop {
            let count = self.ask(|reply| Request::Prune { kind, before, reply }).await?;
            total += count;
            if count < u64::from(prune::STEP) {
                return Ok(total);
            }
        }
    }

    /// Commits what waits and closes the file. Later writes are refused.
    pub async fn close(&self) {
        if let Some(requests) = &self.requests {
            // A writer that is gone is closed.
            let _ = requests.send(Request::Close).await;
        }
        self.tasks.wait().await;
        self.readers.close().await;
    }

    /// How many transactions were committed.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let Some(requests) = &self.requests else {
            return Err(StoreError::Write { reason: "it was opened for reading".to_owned() });
        };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            requests.send(request(reply)).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        };
        let late = |_| StoreError::Write {
            reason: format!(
                "`{}` did not answer within {} s; whether it was written is not known; look at the disk",
                self.location.path.display(),
                WRITE_WAIT.as_secs()
            ),
        };
        tokio::time::timeout(WRITE_WAIT, asked).await.map_err(late)?
    }

    fn read_error(&self, error: &sqlx::Error) -> StoreError {
        StoreError::Read { reason: sqlite::explain(self.path(), error) }
    }

    fn path(&self) -> &Path {
        &self.location.path
    }
}

fn readers(location: &Location) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(0)
        .acquire_timeout(READ_WAIT)
        .connect_lazy_with(location.reader())
}

/// Cuts the row that was asked for beyond the limit off; that there is one means there is a next page.
fn page<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = if items.len() > limit { items.get(limit.saturating_sub(1)).map(cursor) } else { None };
    items.truncate(limit);
    Page { items, next }
}
