//! Decides which runners there should be, and makes it so.

pub mod explain;
pub mod intent;
pub mod job;
mod names;
mod plan;
pub mod retry;
pub mod runner;
#[cfg(test)]
mod tests;
mod world;
pub use plan::{Intent, Names, Plan, PlanLimits, Stranded, plan, targets};
pub use world::{Class, World};
