//! Decides which runners there should be, and makes it so.

pub mod explain;
pub mod job;
pub mod runner;
