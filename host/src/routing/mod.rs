//! Which pool a job belongs to, and why. Pure functions over the configuration.

mod names;

pub use names::{BackendName, EndpointName, InvalidName, PoolName, ProjectName, RepoName};
