//! Reading: on connections of their own, which never wait for the writer.

use sqlx::{Sqlite, pool::PoolConnection};

use super::{
    AuditEntry, DeliveryRecord, EventRow, JobFilter, Page, Pause, RunnerFilter, Store, StoreError, history, jobs,
    runners,
};
use crate::{
    fleet::{
        job::{Job, JobKey, JobStatus},
        runner::{Runner, RunnerName, RunnerState},
    },
    routing::{PoolName, ProjectName},
};

/// The most a page has, whatever is asked for.
pub const MAX_PAGE: u32 = 500;

impl Store {
    pub async fn job(&self, key: JobKey) -> Result<Option<Job>, StoreError> {
        let mut connection = self.reader().await?;
        jobs::one(&mut connection, key).await.map_err(|error| self.read_error(&error))
    }

    /// The latest attempt of a GitHub job id.
    pub async fn latest_attempt(&self, id: i64) -> Result<Option<Job>, StoreError> {
        let mut connection = self.reader().await?;
        jobs::latest_attempt(&mut connection, id).await.map_err(|error| self.read_error(&error))
    }

    /// Newest first.
    pub async fn jobs(&self, filter: &JobFilter, cursor: Option<&str>, limit: u32) -> Result<Page<Job>, StoreError> {
        let mut connection = self.reader().await?;
        jobs::list(&mut connection, filter, cursor, page_size(limit)).await.map_err(|error| error.explain(self))
    }

    pub async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        let mut connection = self.reader().await?;
        runners::one(&mut connection, name).await.map_err(|error| self.read_error(&error))
    }

    /// Newest first.
    pub async fn runners(
        &self,
        filter: &RunnerFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Runner>, StoreError> {
        let mut connection = self.reader().await?;
        runners::list(&mut connection, filter, cursor, page_size(limit)).await.map_err(|error| error.explain(self))
    }

    /// Oldest first; what happened to its runners while they were paired is among them.
    pub async fn events_of_job(&self, key: JobKey) -> Result<Vec<EventRow>, StoreError> {
        let mut connection = self.reader().await?;
        history::events_of_job(&mut connection, key).await.map_err(|error| self.read_error(&error))
    }

    /// Oldest first.
    pub async fn events_of_runner(&self, name: &RunnerName) -> Result<Vec<EventRow>, StoreError> {
        let mut connection = self.reader().await?;
        history::events_of_runner(&mut connection, name).await.map_err(|error| self.read_error(&error))
    }

    /// In the order of arrival, newest first.
    pub async fn deliveries(&self, cursor: Option<&str>, limit: u32) -> Result<Page<DeliveryRecord>, StoreError> {
        let before = sequence_cursor(cursor)?;
        let mut connection = self.reader().await?;
        history::deliveries(&mut connection, before, page_size(limit)).await.map_err(|error| self.read_error(&error))
    }

    /// Newest first.
    pub async fn audit(&self, cursor: Option<&str>, limit: u32) -> Result<Page<AuditEntry>, StoreError> {
        let before = sequence_cursor(cursor)?;
        let mut connection = self.reader().await?;
        history::audit(&mut connection, before, page_size(limit)).await.map_err(|error| self.read_error(&error))
    }

    pub async fn pauses(&self) -> Result<Vec<(ProjectName, PoolName, Pause)>, StoreError> {
        let mut connection = self.reader().await?;
        history::pauses(&mut connection).await.map_err(|error| self.read_error(&error))
    }

    /// Of every state, in the order of [`JobStatus::ALL`].
    pub async fn job_counts(&self) -> Result<Vec<(JobStatus, u64)>, StoreError> {
        let mut connection = self.reader().await?;
        jobs::counts(&mut connection).await.map_err(|error| self.read_error(&error))
    }

    /// Of every state, in the order of [`RunnerState::ALL`].
    pub async fn runner_counts(&self) -> Result<Vec<(RunnerState, u64)>, StoreError> {
        let mut connection = self.reader().await?;
        runners::counts(&mut connection).await.map_err(|error| self.read_error(&error))
    }

    /// Oldest first: what a new configuration may find a pool for.
    pub async fn unmatched_jobs(&self, limit: u32) -> Result<Vec<Job>, StoreError> {
        let mut connection = self.reader().await?;
        let found = jobs::in_status(&mut connection, JobStatus::Unmatched, limit).await;
        found.map_err(|error| self.read_error(&error))
    }

    /// Oldest first: what a new configuration may give another try.
    pub async fn failed_jobs(&self, limit: u32) -> Result<Vec<Job>, StoreError> {
        let mut connection = self.reader().await?;
        jobs::in_status(&mut connection, JobStatus::Failed, limit).await.map_err(|error| self.read_error(&error))
    }

    /// Whether the database answers and the writer lives. Takes no lock.
    pub async fn ping(&self) -> Result<(), StoreError> {
        if self.requests.as_ref().is_some_and(|requests| requests.is_closed()) {
            return Err(StoreError::Closed);
        }
        self.pauses().await.map(drop)
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        if self.readers.is_closed() {
            return Err(StoreError::Closed);
        }
        self.readers.acquire().await.map_err(|error| self.read_error(&error))
    }
}

fn page_size(limit: u32) -> u32 {
    limit.clamp(1, MAX_PAGE)
}

fn sequence_cursor(cursor: Option<&str>) -> Result<Option<i64>, StoreError> {
    cursor.map(|text| text.parse().map_err(|_| StoreError::Cursor)).transpose()
}
