//! Why a runner did not come to its job, and what the attempt may have left behind.

use std::time::Duration;

use crate::{
    fleet::retry::Trouble,
    github::GitHubError,
    plugins::{BackendError, ErrorKind},
};

/// What an attempt to make a machine may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) enum Trace {
    /// The backend was never asked.
    None,
    /// It refused: one look is enough.
    Refused,
    /// Its answer may have been lost: what it was asked for may still appear.
    Perhaps,
}

/// Why a runner did not come to its job.
#[derive(Debug, thiserror::Error)]
pub(in crate::fleet) enum Failure {
    #[error("{0}")]
    GitHub(GitHubError),
    #[error("{error}")]
    Backend { error: BackendError, trace: Trace },
    #[error("{0}")]
    Lost(String),
    /// Its provider took the machine away.
    #[error("{0}")]
    Interrupted(String),
    /// Nobody's fault: no pause, but counted.
    #[error("{0}")]
    Restart(String),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        let left = match error.kind {
            ErrorKind::Unavailable | ErrorKind::Interrupted | ErrorKind::Internal | ErrorKind::Other => Trace::Perhaps,
            ErrorKind::InvalidRequest
            | ErrorKind::InvalidConfig
            | ErrorKind::Unauthorized
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Capacity
            | ErrorKind::Quota
            | ErrorKind::RateLimited
            | ErrorKind::Unsupported => Trace::Refused,
        };
        let trace = if error.asked { left } else { Trace::None };
        Self::Backend { error, trace }
    }
}

impl Failure {
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::GitHub(error) => Trouble::GitHub(error.kind),
            Self::Backend { error, .. } => Trouble::Backend(error.kind),
            Self::Lost(_) => Trouble::Lost,
            Self::Interrupted(_) => Trouble::Backend(ErrorKind::Interrupted),
            Self::Restart(_) => Trouble::Restart,
        }
    }

    /// What the attempt may have left at the backend.
    pub(super) fn trace(&self) -> Trace {
        match self {
            Self::GitHub(_) => Trace::None,
            Self::Backend { trace, .. } => *trace,
            Self::Lost(_) | Self::Interrupted(_) | Self::Restart(_) => Trace::Perhaps,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::GitHub(error) => error.retry_after,
            Self::Backend { error, .. } => error.retry_after,
            Self::Lost(_) | Self::Interrupted(_) | Self::Restart(_) => None,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::GitHub(_) => "github",
            Self::Backend { error, .. } => match error.kind {
                ErrorKind::Interrupted => "interrupted",
                ErrorKind::InvalidRequest
                | ErrorKind::InvalidConfig
                | ErrorKind::Unauthorized
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Capacity
                | ErrorKind::Quota
                | ErrorKind::RateLimited
                | ErrorKind::Unavailable
                | ErrorKind::Unsupported
                | ErrorKind::Internal
                | ErrorKind::Other => "backend",
            },
            Self::Lost(_) => "ended-early",
            Self::Interrupted(_) => "interrupted",
            Self::Restart(_) => "restart",
        }
    }
}
