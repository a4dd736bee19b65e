//! What must not be forgotten: jobs, runners, deliveries, their history, the audit.
//!
//! Writing goes through one task that takes whatever waits into one transaction (a *group commit*), so that a
//! durable commit of about 2 ms is shared by everything that arrived in the meantime. Each [`Op`] is applied by a
//! pure function of [`crate::fleet`] to the row as it stands in that transaction; no rule lives here. After the
//! commit the changed rows are published, in commit order, to whoever follows [`Store::follow`].
//!
//! Nothing outside this folder knows sqlx.

mod model;

pub use model::{
    AuditEntry, Changed, DeliveryRecord, EventRow, Ingest, IngestResult, JobFilter, Op, OpOutcome, Page, Pause,
    RunnerFilter, StoreError,
};
