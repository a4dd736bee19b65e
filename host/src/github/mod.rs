//! GitHub's API as the fleet needs it: one budgeted client per App.
//!
//! Nothing outside this folder knows how GitHub is asked. To the rest of the host it is [`GitHubApi`].

mod model;

pub use model::{
    Deleted, GitHubApi, GitHubError, GitHubErrorKind, GitHubRunner, JitRunner, MissedDelivery, Registration,
};
