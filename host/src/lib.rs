//! pacer turns GitHub `workflow_job` webhooks into short-lived self-hosted runners on sandboxed backends.
//!
//! The parts, in the order a job meets them: [`ingest`] takes a delivery in, [`routing`] finds its pool, [`store`]
//! keeps it, [`fleet`] decides and acts, [`github`] registers the runner, [`plugins`] runs the backend that makes
//! the machine, [`bootstrap`] and [`callback`] turn that machine into the runner, [`console`] shows it. `ARCHITECTURE.md` draws the picture and states what must hold.

pub mod bootstrap;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod fleet;
pub mod github;
pub mod ingest;
pub mod plugins;
pub mod routing;
pub mod serve;
pub(crate) mod spelling;
pub mod store;
pub mod telemetry;
