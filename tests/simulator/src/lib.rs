//! A stateful GitHub, its runners and a small cloud, for tests and for trying pacer out.
//!
//! The fake GitHub is strict: it rejects what GitHub would reject. Every random choice comes from one seed, so that a
//! failure can be replayed. Nothing of pacer depends on this crate.

#![recursion_limit = "256"]

pub mod cloud;
mod dice;
pub mod faults;
pub mod github;
pub mod hetzner;
pub mod simulator;

pub use simulator::{Settings, Simulator};
