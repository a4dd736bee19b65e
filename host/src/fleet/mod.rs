//! temp
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
