//! Which pool a job belongs to, and why. Pure functions over the configuration.
//!
//! A match here must never be one that GitHub would refuse: GitHub compares the labels of `runs-on` with those a
//! runner registered, without case and otherwise to the letter. So only the labels of the configuration are
//! normalised; those of a job are merely lower-cased, and one that would match after normalising is a near miss.

mod explain;
mod labels;
mod matching;
mod names;

pub use explain::render;
pub use labels::{MOST_LABELS, SELF_HOSTED, normalise, pool_labels, runner_labels};
pub(crate) use labels::{label_count, lower, shown, shown_up_to};
pub use matching::{Binding, Decision, Explanation, MissingLabel, PoolReason, Router, Rule, Standing, route};
pub use names::{BackendName, EndpointName, InvalidName, PoolName, ProjectName, RepoName};
